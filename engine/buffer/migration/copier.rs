//! Copies the bytes of a moving buffer, by the path that [`crate::transfer::path`] chooses, behind the
//! buffer's fences.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::commit::{MoveSummary, commit, commit_with_copy};
use super::copy_path::{CopyPath, CopyWay};
use super::request::MoveRequest;
use super::shared::Shared;
use crate::buffer::inspect::MoveSpan;
use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::core::DeviceEntry;
use crate::device::{DeviceInner, Waits};
use crate::error::{Error, Result};
use crate::memory::{
    Allocation, Backing, Content, DomainId, HostWait, Provider, copy_by_host, zero_by_host,
};
use crate::sync::{Fence, RejectionWatch, Usage, waits_of_move};
use crate::transfer::path::{self, CopyChoice, CopyConditions};
use crate::transfer::{self, CopySpeeds, Span, Unfinished};

/// Copies a buffer from its backing to another one: by a device that sees both, or through the host.
pub(in crate::buffer) struct Copier {
    pub(super) way: Shared<CopyWay>,
    /// The offset of the buffer's bytes in the old allocation.
    pub(super) offset: u64,
    pub(super) request: MoveRequest,
    pub(super) span: MoveSpan,
}

impl Copier {
    /// Finds a copy path for a request. `Ok(None)` if there is none.
    ///
    /// Call without the reservation, because this may prove a route, and may measure copy speeds.
    pub(in crate::buffer) fn find(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        new: &Backing,
        request: MoveRequest,
    ) -> Result<Option<Self>> {
        let (old, offset, empty) = {
            let state = buffer.lock();
            let backing = buffer.backing(&state)?;
            let empty = !state.location().has_content();
            (Arc::clone(backing.allocation()), backing.offset(), empty)
        };
        let found =
            if empty && owner(buffer, old.provider()).is_some_and(|owner| owner.device.is_lost()) {
                Some((Arc::clone(home), CopyPath::Nothing))
            } else {
                CopyPath::find(buffer, home, &old, new.allocation())?
            };
        let Some((device, copy_path)) = found else { return Ok(None) };
        if request.may_wait && buffer.size > TRIVIAL_BYTES && both_fast_for_host(&old, new) {
            // Measure copy speeds now, if they are unknown. Under the reservation it would be too late. A
            // move that is a side effect of a use does not measure, because that use would have to wait.
            buffer.core().speeds(device.id());
        }
        let owner = owner(buffer, new.allocation().provider());
        let span = MoveSpan::new(buffer.core());
        let way = Shared::Own(CopyWay { device, copy_path, old, owner });
        Ok(Some(Self { way, offset, request, span }))
    }

    /// A copier for another buffer in the same allocation, at `offset`, whose destination is in the same allocation as well.
    pub(super) fn like(
        buffer: &BufferInner,
        way: Arc<CopyWay>,
        offset: u64,
        request: MoveRequest,
    ) -> Self {
        Self { way: Shared::All(way), offset, request, span: MoveSpan::new(buffer.core()) }
    }

    /// Whether a device sees both backings.
    pub(super) fn is_by_device(&self) -> bool {
        matches!(self.way.copy_path, CopyPath::Device { .. })
    }

    /// Whether no device sees both backings, so that a bounce copy is needed. The caller may then have to
    /// wait until it is complete.
    pub(in crate::buffer) fn needs_bounce(&self) -> bool {
        matches!(self.way.copy_path, CopyPath::BouncePath(_))
    }

    /// Whether the copier still applies: the bytes are where they were, and the device of the destination is
    /// not unplugged.
    pub(super) fn is_current(&self, state: &State) -> bool {
        let unplugged = self.way.owner.as_ref().is_some_and(|owner| owner.is_unplugged());
        let still_empty =
            !matches!(self.way.copy_path, CopyPath::Nothing) || !state.location().has_content();
        state.location().is_at(&self.way.old, self.offset) && !unplugged && still_empty
    }

    /// Copies and commits. The copy is submitted behind the buffer's fences, and is not waited for. Meanwhile
    /// the host may copy a part of it.
    pub(super) fn copy(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
    ) -> Result<(), Box<SubmitFailed>> {
        if let Some(tiled) = self.tiles_to_leave(state, &new) {
            return self.copy_to_rows(buffer, state, home, new, &*tiled);
        }
        let idle = state.fences().is_idle();
        let mut host_time = self.request.host_time();
        new = match self.copy_without_device(buffer, state, home, new, idle, &mut host_time) {
            Some(new) => new,
            None => return Ok(()),
        };
        let pending = state.fences().pending(Usage::Bookkeep);
        let mut copies = self.copies(buffer, state, &new);
        let bytes = copied_bytes(&copies);
        let parts = self.parts(buffer, state);
        let host_part = match self.choose(buffer, &parts, &new, idle, host_time) {
            CopyChoice::Device { host } if host > 0 => split_host_part(&mut copies, host),
            _ => None,
        };
        let waits = waits_of_move(&buffer.core().bridges, &self.way.device, &pending);
        self.span.copying();
        let tail = self.tail(buffer, &new);
        let watch = RejectionWatch::new(&self.way.device, self.way.device.queue_for_moves());
        let submitted = waits.and_then(|waits| {
            transfer::copy_many(&self.way.device, waits, &copies, tail.as_slice())
        });
        let copied_by = match (submitted, host_part) {
            (Ok(fence), Some(host_part)) => self
                .copy_host_part(&new, host_part)
                .map_err(|error| {
                    // Of the second submission, which is behind the first, if it may run.
                    let rejected = watch.fence();
                    (error, if rejected.covers(&fence) { rejected } else { fence.clone() })
                })
                .map(|second| second.unwrap_or(fence)),
            (submitted, _) => submitted.map_err(|error| (error, watch.fence())),
        };
        drop(copies);
        match copied_by {
            Ok(fence) => {
                let writers = state.fences().pending(Usage::Write);
                let summary = self.summary(bytes);
                commit_with_copy(buffer, state, home, new, fence.depends_on(&writers), &summary);
                Ok(())
            }
            Err((error, submitted_part)) => {
                Err(Box::new(SubmitFailed { error, new, submitted_part }))
            }
        }
    }

    /// Copies the host's part while the device copies the rest. If the host cannot, submits this part to the
    /// device as well, and returns the fence of that.
    #[expect(unsafe_code, reason = "copying between mapped memory that no other thread uses")]
    fn copy_host_part(&self, new: &Backing, host_part: [Span<'_>; 2]) -> Result<Option<Fence>> {
        let [from, to] = host_part;
        let (source, target) = ((&*self.way.old, from.offset), (&**new.allocation(), to.offset));
        // SAFETY: as in `copy_by_host`. The device, which reads the old backing and writes the new one, does
        // so outside of this part.
        match unsafe { copy_by_host(source, target, from.len, HostWait::Never) } {
            Ok(true) => Ok(None),
            _ => transfer::copy_many(&self.way.device, Waits::default(), &[[from, to]], &[])
                .map(Some),
        }
    }

    /// Copies and commits if no device is needed: there is nothing to copy, or the host copies faster.
    /// Returns `new` if a device is needed.
    ///
    /// The host may use up to `host_time`, from which the time of its copy is subtracted. `idle` says whether
    /// no work is pending on the buffer.
    pub(super) fn copy_without_device(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
        idle: bool,
        host_time: &mut Duration,
    ) -> Option<Backing> {
        let mut bytes = 0;
        *host_time = host_time.saturating_sub(zeroing_time(state));
        if let Some(old) = state.location_mut().backing_mut() {
            // What the host has not touched is zeroed: no access is open, and all of it is copied. If it is much, that was
            // done without the reservation.
            old.finish_scrub();
        }
        if state.location().has_content() && !self.is_clean(state) {
            let parts = self.parts(buffer, state);
            let choice = self.choose(buffer, &parts, &new, idle, *host_time);
            if choice != CopyChoice::Host
                || !self.copy_by_host(buffer, &parts, &new, HostWait::Never).unwrap_or(false)
            {
                return Some(new);
            }
            bytes = total_bytes(&parts);
            *host_time = host_time.saturating_sub(self.speeds(buffer).host(bytes));
            new.make_valid();
        }
        commit(buffer, state, home, new, Fence::signalled(), &self.summary(bytes));
        None
    }

    /// Chooses how to copy, if the host may spend `host_time` on it.
    fn choose(
        &self,
        buffer: &BufferInner,
        parts: &[Range<u64>],
        new: &Backing,
        idle: bool,
        host_time: Duration,
    ) -> CopyChoice {
        let allocations = [&*self.way.old, &**new.allocation()];
        let conditions = CopyConditions {
            bytes: total_bytes(parts),
            one_device: !self.needs_bounce(),
            quick: both_fast_for_host(&self.way.old, new),
            idle,
            // Not for a dma-buf, because the kernel tracks access to it as a whole. Not with a tail to clear,
            // because the host's part and the tail would share a word.
            divisible: parts.len() == 1
                && !allocations.iter().any(|allocation| allocation.is_dma_buf())
                && tail_of(buffer, new).is_none(),
        };
        path::choose(conditions, self.speeds(buffer), host_time)
    }

    /// The measured copy speeds of the device, or assumed ones.
    pub(super) fn speeds<'a>(&self, buffer: &'a BufferInner) -> &'a CopySpeeds {
        buffer.core().known_speeds(self.way.device.id()).unwrap_or(path::assumed())
    }

    /// Makes a bounce copy, and returns when it is complete.
    ///
    /// No work is pending on either backing, and the move fence keeps new work away, so the reservation need
    /// not be held.
    #[expect(unsafe_code, reason = "copying between memory that no other thread uses")]
    pub(super) fn bounce_copy(
        &self,
        buffer: &BufferInner,
        parts: &[Range<u64>],
        new: &Backing,
    ) -> Result<(), Unfinished> {
        let CopyPath::BouncePath(bounce) = &self.way.copy_path else {
            unreachable!("only called without a device that sees both backings")
        };
        let tail = tail_of(buffer, new).unwrap_or(0..0);
        let from = (&*self.way.old, self.offset);
        let to = (&**new.allocation(), new.offset());
        // SAFETY: both backings have so many bytes, the old one by the buffer's invariant, the new one because
        // it was allocated for them. No work is pending, as the caller guarantees, and new work waits for the
        // move fence. Nothing else refers to the new backing yet.
        unsafe { bounce.carry(from, to, parts, tail, buffer.core().timeout) }
    }

    /// The ranges to copy: the whole buffer, or what is dirty in the clean copy. Not empty.
    pub(super) fn parts(&self, buffer: &BufferInner, state: &State) -> SmallVec<[Range<u64>; 1]> {
        match state.clean().filter(|_| self.request.clean) {
            Some(clean) => clean.dirty().ranges().iter().cloned().collect(),
            None => std::iter::once(0..buffer.size).collect(),
        }
    }

    /// The same ranges as pairs of spans in the device's views of both backings.
    pub(super) fn copies(
        &self,
        buffer: &BufferInner,
        state: &State,
        new: &Backing,
    ) -> SmallVec<[[Span<'_>; 2]; 1]> {
        let CopyPath::Device { from, to } = &self.way.copy_path else {
            unreachable!("the copying device sees both backings")
        };
        let both = |range: Range<u64>| {
            let len = range.end - range.start;
            let span = |view, offset: u64| Span { view, offset: offset + range.start, len };
            [span(&**from, self.offset), span(&**to, new.offset())]
        };
        self.parts(buffer, state).into_iter().map(both).collect()
    }

    /// The summary of a move that copies so many bytes.
    pub(super) fn summary(&self, copied: u64) -> MoveSummary<'_> {
        MoveSummary { request: self.request, span: &self.span, copied }
    }

    /// Whether there is nothing to copy: the destination is the clean copy, and nothing was written since.
    fn is_clean(&self, state: &State) -> bool {
        self.request.clean && state.clean().is_some_and(|clean| clean.dirty().is_clean())
    }

    /// Copies `parts` by the host, and clears bytes of an earlier buffer behind them. No work is pending on
    /// either backing. `Ok(false)` if the host does not see both, or may not wait for the fences of a dma-buf.
    #[expect(unsafe_code, reason = "copying between mapped memory that no other thread uses")]
    pub(super) fn copy_by_host(
        &self,
        buffer: &BufferInner,
        parts: &[Range<u64>],
        new: &Backing,
        wait: HostWait,
    ) -> Result<bool> {
        self.span.copying();
        let (old, target, size) = (&*self.way.old, &**new.allocation(), buffer.size);
        for part in parts {
            let from = (old, self.offset + part.start);
            let to = (target, new.offset() + part.start);
            // SAFETY: both backings have so many bytes, the old one by the buffer's invariant, the new one
            // because it was allocated for them. All fences of the old backing have signalled and the
            // reservation is held. Nothing else refers to the new backing yet.
            if !unsafe { copy_by_host(from, to, part.end - part.start, wait) }? {
                return Ok(false);
            }
        }
        if new.content() == Content::Stale {
            let tail = new.extent(size) - size;
            // SAFETY: as above: the rest of the new backing.
            return unsafe { zero_by_host((target, new.offset() + size), tail, wait) };
        }
        Ok(true)
    }

    /// The span of the destination to clear, in the view of the device that copies.
    pub(super) fn tail(&self, buffer: &BufferInner, new: &Backing) -> Option<Span<'_>> {
        let tail = tail_of(buffer, new)?;
        let CopyPath::Device { to, .. } = &self.way.copy_path else {
            unreachable!("the copying device sees both backings")
        };
        let len = tail.end - tail.start;
        Some(Span { view: to, offset: new.offset() + tail.start, len })
    }
}

/// How long the host will zero what it has not touched of a buffer that is zeroed in parts, before a move copies all of
/// it. An estimate: 8 bytes per nanosecond, as processors zero memory that is in no cache.
pub(super) fn zeroing_time(state: &State) -> Duration {
    Duration::from_nanos(state.location().backing().map_or(0, Backing::left_to_zero) / 8)
}

/// The number of bytes in all parts.
pub(super) fn total_bytes(parts: &[Range<u64>]) -> u64 {
    parts.iter().map(|part| part.end - part.start).sum()
}

/// The device whose own memory a provider allocates.
fn owner(buffer: &BufferInner, provider: Provider) -> Option<Arc<DeviceEntry>> {
    match provider.domain() {
        DomainId::Vram(device) => Some(Arc::clone(buffer.core().member(device))),
        DomainId::System => None,
    }
}

/// The number of bytes in all pairs of spans.
pub(super) fn copied_bytes(copies: &[[Span<'_>; 2]]) -> u64 {
    copies.iter().map(|[from, _]| from.len).sum()
}

/// A copy of which some or all could not be submitted.
pub(super) struct SubmitFailed {
    pub(super) error: Error,
    pub(super) new: Backing,
    /// The fence of the part that was submitted, and writes the new backing.
    pub(super) submitted_part: Fence,
}

/// The range behind the end of the buffer to clear, since it may hold bytes of an earlier buffer. It consists
/// of whole words. The first word may begin with bytes of the buffer, which the copy overwrites.
fn tail_of(buffer: &BufferInner, new: &Backing) -> Option<Range<u64>> {
    let extent = new.extent(buffer.size);
    (new.content() == Content::Stale && extent != buffer.size).then_some(buffer.size & !3..extent)
}

/// Copies up to this size finish faster than the choice of a path would.
const TRIVIAL_BYTES: u64 = 4 << 10;

/// Whether the host reads and writes both backings at full speed.
fn both_fast_for_host(old: &Allocation, new: &Backing) -> bool {
    old.is_fast_for_host() && new.allocation().is_fast_for_host()
}

/// Splits the last `host` bytes off a copy of one range, for the host. The host may get a few bytes less, so
/// that the border is a multiple of [`path::PART`], and no unit of flushing is shared.
fn split_host_part<'a>(copies: &mut [[Span<'a>; 2]], host: u64) -> Option<[Span<'a>; 2]> {
    let [[from, to]] = copies else { return None };
    let rest = from.len.checked_sub(host)?.next_multiple_of(path::PART);
    let host = from.len.checked_sub(rest).filter(|host| *host > 0 && rest > 0)?;
    let host_part = [from.slice(rest, host), to.slice(rest, host)];
    (from.len, to.len) = (rest, rest);
    Some(host_part)
}
