//! Who copies a moving buffer: the way that [`crate::transfer::path`] chooses, behind the buffer's fences.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::commit::{MoveSummary, commit, copied};
use super::copy_path::CopyPath;
use super::request::MoveRequest;
use crate::buffer::inspect::MoveSpan;
use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::core::DeviceEntry;
use crate::device::{DeviceInner, Waits};
use crate::error::{Error, Result};
use crate::memory::{Allocation, Backing, Content, DomainId, Provider, copy_by_host, zero_by_host};
use crate::sync::{Fence, Usage, waits_of_move};
use crate::transfer::path::{self, CopyChoice, CopyConditions};
use crate::transfer::{self, CopySpeeds, Span, Unfinished};

/// What moves a buffer: a device that sees the old place and the new one, and copies; or else the host.
pub(in crate::buffer) struct Copier {
    /// That device; where there is none, the new home.
    pub(in crate::buffer) device: Arc<DeviceInner>,
    means: CopyPath,
    old: Arc<Allocation>,
    /// Where the buffer's bytes begin in that.
    offset: u64,
    /// Whose own memory the new place is.
    owner: Option<Arc<DeviceEntry>>,
    pub(in crate::buffer) request: MoveRequest,
    pub(in crate::buffer) slice: MoveSpan,
}

impl Copier {
    /// By the means that there are. Without the reservation, because it may prove a route, and measure.
    pub(in crate::buffer) fn find(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        new: &Backing,
        request: MoveRequest,
    ) -> Result<Option<Self>> {
        let (old, offset, empty) = {
            let state = buffer.lock();
            let backing = buffer.backing(&state)?;
            let empty = !state.location.has_content();
            (Arc::clone(backing.allocation()), backing.offset(), empty)
        };
        let found =
            if empty && owner(buffer, old.provider()).is_some_and(|owner| owner.device.is_lost()) {
                Some((Arc::clone(home), CopyPath::Nothing))
            } else {
                CopyPath::find(buffer, home, &old, new.allocation())?
            };
        let Some((device, means)) = found else { return Ok(None) };
        if request.waits && buffer.size > FEW && is_quick(&old, new) {
            // Measures if nobody has: under the reservation it would be too late, and where a use of the buffer
            // brings the move with it, it would be that use which has to wait.
            buffer.core().speeds(device.id());
        }
        let owner = owner(buffer, new.allocation().provider());
        let slice = MoveSpan::new(buffer.core());
        Ok(Some(Self { device, means, old, offset, owner, request, slice }))
    }

    /// Whether no device sees both places, so that whoever moves the buffer may have to wait until the bytes
    /// are there.
    pub(in crate::buffer) fn has_no_device(&self) -> bool {
        matches!(self.means, CopyPath::BouncePath(_))
    }

    /// Whether the bytes are where they were, and the new place is still one to go to.
    pub(in crate::buffer) fn still_fits(&self, state: &State) -> bool {
        let unplug_report = self.owner.as_ref().is_some_and(|member| member.is_unplugged());
        let nothing = !matches!(self.means, CopyPath::Nothing) || !state.location.has_content();
        state.location.is_at(&self.old, self.offset) && !unplug_report && nothing
    }

    /// Moves the bytes, pipelined behind the buffer's fences: the copy is submitted, not waited for. Of much
    /// the host may copy a part meanwhile.
    pub(in crate::buffer) fn copy(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
    ) -> Result<(), Box<NotCopied>> {
        let idle = state.fences.is_idle();
        let mut pause = self.request.pause();
        new = match self.without_device(buffer, state, home, new, idle, &mut pause) {
            Some(new) => new,
            None => return Ok(()),
        };
        let pending = state.fences.pending(Usage::Bookkeep);
        let mut copies = self.spans(buffer, state, &new);
        let bytes = bytes_of(&copies);
        let parts = self.parts(buffer, state);
        let own = match self.way(buffer, &parts, &new, idle, pause) {
            CopyChoice::Device { host } if host > 0 => split(&mut copies, host),
            _ => None,
        };
        let waits = waits_of_move(&buffer.core().bridges, &self.device, &pending);
        self.slice.copying();
        let tail = self.tail(buffer, &new);
        let submitted = waits
            .and_then(|waits| transfer::copy_many(&self.device, waits, &copies, tail.as_slice()));
        let copied_by = match (submitted, own) {
            (Ok(fence), Some(own)) => self
                .copy_beside(&new, own)
                .map_err(|error| (error, fence.clone()))
                .map(|late| late.unwrap_or(fence)),
            (submitted, _) => submitted.map_err(|error| (error, Fence::signalled())),
        };
        drop(copies);
        match copied_by {
            Ok(fence) => {
                let writers = state.fences.pending(Usage::Write);
                let done = self.done(bytes);
                copied(buffer, state, home, new, fence.depends_on(&writers), &done);
                Ok(())
            }
            Err((error, cleared)) => Err(Box::new(NotCopied { error, new, cleared })),
        }
    }

    /// The host copies its part while the device is at work on the others. If it cannot after all, the device
    /// does, and then that is the fence to wait for.
    #[expect(unsafe_code, reason = "copying between mapped memory that nobody else uses")]
    fn copy_beside(&self, new: &Backing, own: [Span<'_>; 2]) -> Result<Option<Fence>> {
        let [from, to] = own;
        let (source, target) = ((&*self.old, from.offset), (&**new.allocation(), to.offset));
        // SAFETY: as in `copy_by_host`; and the device, which reads the old place and writes the new one,
        // does so where this part is not.
        match unsafe { copy_by_host(source, target, from.len) } {
            Ok(true) => Ok(None),
            _ => transfer::copy_many(&self.device, Waits::default(), &[[from, to]], &[]).map(Some),
        }
    }

    /// Moves what needs no device: nothing at all, or what the host copies sooner, which it does in what is
    /// left of `pause`. `idle` says whether nothing is under way. Gives `new` back if a device is needed.
    pub(in crate::buffer) fn without_device(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
        idle: bool,
        pause: &mut Duration,
    ) -> Option<Backing> {
        let mut bytes = 0;
        if state.location.has_content() && !self.is_clean(state) {
            let parts = self.parts(buffer, state);
            let way = self.way(buffer, &parts, &new, idle, *pause);
            if way != CopyChoice::Host || !self.copy_by_host(buffer, &parts, &new).unwrap_or(false)
            {
                return Some(new);
            }
            bytes = sum(&parts);
            *pause = pause.saturating_sub(self.speeds(buffer).host(bytes));
            new.make_valid();
        }
        commit(buffer, state, home, new, Fence::signalled(), &self.done(bytes));
        None
    }

    /// Which way the bytes should go, if the host may spend `pause` on it.
    fn way(
        &self,
        buffer: &BufferInner,
        parts: &[Range<u64>],
        new: &Backing,
        idle: bool,
        pause: Duration,
    ) -> CopyChoice {
        let allocations = [&*self.old, &**new.allocation()];
        let conditions = CopyConditions {
            bytes: sum(parts),
            one_device: !self.has_no_device(),
            quick: is_quick(&self.old, new),
            idle,
            // Both would be at work on one dma-buf, of which the kernel is told as a whole who uses it; or
            // on the word where the buffer ends and the tail begins.
            divisible: parts.len() == 1
                && !allocations.iter().any(|allocation| allocation.is_dma_buf())
                && tail_of(buffer, new).is_none(),
        };
        path::choose(conditions, self.speeds(buffer), pause)
    }

    fn speeds<'a>(&self, buffer: &'a BufferInner) -> &'a CopySpeeds {
        buffer.core().known_speeds(self.device.id()).unwrap_or(path::assumed())
    }

    /// Carries the bytes to where no device could copy them from, and returns when they are there.
    ///
    /// Nothing is under way in either place, nobody is let in, and the reservation need not be held.
    #[expect(unsafe_code, reason = "copying between memory that nobody else uses")]
    pub(in crate::buffer) fn carry(
        &self,
        buffer: &BufferInner,
        parts: &[Range<u64>],
        new: &Backing,
    ) -> Result<(), Unfinished> {
        let CopyPath::BouncePath(carrier) = &self.means else {
            unreachable!("a device that sees both places copies")
        };
        let tail = tail_of(buffer, new).unwrap_or(0..0);
        let from = (&*self.old, self.offset);
        let to = (&**new.allocation(), new.offset());
        // SAFETY: both backings have so many bytes, the old one by the buffer's invariant, the new one because
        // it was allocated for them. Nothing is under way, as the caller says, and whoever wants to begin
        // something waits for the move; nobody knows the new one yet.
        unsafe { carrier.carry(from, to, parts, tail, buffer.core().timeout) }
    }

    /// What is copied: everything, or what the clean copy does not have. There is something.
    pub(in crate::buffer) fn parts(
        &self,
        buffer: &BufferInner,
        state: &State,
    ) -> SmallVec<[Range<u64>; 1]> {
        match state.clean().filter(|_| self.request.clean) {
            Some(clean) => clean.dirty().ranges().iter().cloned().collect(),
            None => std::iter::once(0..buffer.size).collect(),
        }
    }

    /// The same as a device sees it, and where it goes.
    pub(in crate::buffer) fn spans(
        &self,
        buffer: &BufferInner,
        state: &State,
        new: &Backing,
    ) -> SmallVec<[[Span<'_>; 2]; 1]> {
        let CopyPath::Device { from, to } = &self.means else {
            unreachable!("a device that copies sees both places")
        };
        let both = |range: Range<u64>| {
            let len = range.end - range.start;
            let span = |view, offset: u64| Span { view, offset: offset + range.start, len };
            [span(&**from, self.offset), span(&**to, new.offset())]
        };
        self.parts(buffer, state).into_iter().map(both).collect()
    }

    /// What a move that copies so many bytes is.
    pub(in crate::buffer) fn done(&self, copied: u64) -> MoveSummary<'_> {
        MoveSummary { request: self.request, slice: &self.slice, copied }
    }

    /// Whether there is nothing to copy: the new place is the clean copy, and nothing was written since.
    fn is_clean(&self, state: &State) -> bool {
        self.request.clean && state.clean().is_some_and(|clean| clean.dirty().is_clean())
    }

    /// Copies `parts` by the host, and clears what an old owner may have left behind them. Nothing is
    /// under way in either place. `Ok(false)` if the host does not see both.
    #[expect(unsafe_code, reason = "copying between mapped memory that nobody else uses")]
    pub(in crate::buffer) fn copy_by_host(
        &self,
        buffer: &BufferInner,
        parts: &[Range<u64>],
        new: &Backing,
    ) -> Result<bool> {
        self.slice.copying();
        let (old, target, size) = (&*self.old, &**new.allocation(), buffer.size);
        for part in parts {
            let from = (old, self.offset + part.start);
            let to = (target, new.offset() + part.start);
            // SAFETY: both backings have so many bytes, the old one by the buffer's invariant, the new one
            // because it was allocated for them. All fences of the old place have signalled and the
            // reservation is held; nobody knows the new one yet.
            if !unsafe { copy_by_host(from, to, part.end - part.start) }? {
                return Ok(false);
            }
        }
        if new.content() == Content::Stale {
            let tail = new.extent(size) - size;
            // SAFETY: as above: the rest of the new backing.
            unsafe { zero_by_host((target, new.offset() + size), tail) }?;
        }
        Ok(true)
    }

    /// What is to be cleared of the new place, as the device that copies sees it.
    pub(in crate::buffer) fn tail(&self, buffer: &BufferInner, new: &Backing) -> Option<Span<'_>> {
        let tail = tail_of(buffer, new)?;
        let CopyPath::Device { to, .. } = &self.means else {
            unreachable!("where no device copies, none clears")
        };
        let len = tail.end - tail.start;
        Some(Span { view: to, offset: new.offset() + tail.start, len })
    }
}

/// How many bytes there are in all parts.
pub(in crate::buffer) fn sum(parts: &[Range<u64>]) -> u64 {
    parts.iter().map(|part| part.end - part.start).sum()
}

/// The device whose own memory a place is.
fn owner(buffer: &BufferInner, provider: Provider) -> Option<Arc<DeviceEntry>> {
    match provider.domain() {
        DomainId::Vram(device) => Some(Arc::clone(buffer.core().member(device))),
        DomainId::System => None,
    }
}

/// How many bytes are copied.
pub(in crate::buffer) fn bytes_of(copies: &[[Span<'_>; 2]]) -> u64 {
    copies.iter().map(|[from, _]| from.len).sum()
}

/// A copy that was not submitted.
pub(in crate::buffer) struct NotCopied {
    pub(in crate::buffer) error: Error,
    pub(in crate::buffer) new: Backing,
    /// What was submitted of it all the same, and writes the new place.
    pub(in crate::buffer) cleared: Fence,
}

/// Where in a backing an old owner may have left bytes beyond the buffer's end, which the copy does not reach:
/// whole words, the first of which may begin with bytes of the buffer's, which the copy overwrites.
fn tail_of(buffer: &BufferInner, new: &Backing) -> Option<Range<u64>> {
    let extent = new.extent(buffer.size);
    (new.content() == Content::Stale && extent != buffer.size).then_some(buffer.size & !3..extent)
}

/// Up to how many bytes are over before anybody could say whose they should be.
const FEW: u64 = 4 << 10;

/// Whether the host reads and writes both places at full speed.
fn is_quick(old: &Allocation, new: &Backing) -> bool {
    old.is_fast_for_host() && new.allocation().is_fast_for_host()
}

/// Takes the last `host` bytes out of a copy of one piece, for the host; a few less, so that the border is one
/// of every memory's units of flushing.
fn split<'a>(copies: &mut [[Span<'a>; 2]], host: u64) -> Option<[Span<'a>; 2]> {
    let [[from, to]] = copies else { return None };
    let rest = from.len.checked_sub(host)?.next_multiple_of(path::PART);
    let host = from.len.checked_sub(rest).filter(|host| *host > 0 && rest > 0)?;
    let own = [from.slice(rest, host), to.slice(rest, host)];
    (from.len, to.len) = (rest, rest);
    Some(own)
}
