//! The part of a large copy that the host makes while a device copies the rest.
//!
//! A part that takes the host long is copied without the reservations: a host fence in both buffers keeps other users away,
//! and an access that counts as one of the host keeps both in place.
#![expect(unsafe_code, reason = "copying between mapped memory that is not in use")]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pair::{CopyRegion, Pair, speeds};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::state::State;
use crate::device::{DeviceId, DeviceInner, Waits};
use crate::error::Result;
use crate::memory::{Allocation, Content, HostWait, View, copy_by_host};
use crate::sync::{Fence, RejectionWatch, Usage};
use crate::transfer::path::{self, PAUSE};
use crate::transfer::{self, Span};

/// The longest time that the calling thread copies. The device copies what is left.
const LONGEST: Duration = Duration::from_millis(100);

/// Bytes that the host copies before it looks at the clock.
const PIECE: u64 = 16 << 20;

/// Other users wait for the host's part, so it takes at most this part of the engine timeout.
const OF_TIMEOUT: u32 = 8;

/// The last bytes of a copy, which the host copies.
pub(super) struct HostShare {
    pub(super) bytes: u64,
    /// Whether that takes so long that the reservations are released meanwhile.
    is_long: bool,
    ends: [End; 2],
}

/// An allocation, where the host's part begins in it, and the device's view.
struct End {
    allocation: Arc<Allocation>,
    offset: u64,
    view: Arc<View>,
}

impl End {
    /// `None` if the device has no view.
    fn new(state: &State, device: DeviceId, offset: u64) -> Option<Self> {
        let backing = state.location().backing()?;
        let allocation = Arc::clone(backing.allocation());
        let view = allocation.existing_view(device)?;
        Some(Self { allocation, offset: backing.offset() + offset, view })
    }
}

impl Pair<'_> {
    /// The last bytes of a copy by `device`, as many as the host is to copy. `None` where it may not, or where that does not
    /// pay. The border is a multiple of [`path::PART`] from the first byte on.
    pub(super) fn host_share(
        &mut self,
        to_buffer: &BufferInner,
        region: CopyRegion,
        device: DeviceId,
    ) -> Option<HostShare> {
        let suits = |state: &mut State| {
            state.location().backing().is_some_and(|backing| {
                let allocation = backing.allocation();
                let mapped = allocation.host().is_ok_and(|host| host.is_some());
                // Fresh memory counts as written once the submission that writes all of it was made.
                backing.content() == Content::Valid
                    && allocation.is_coherent_and_fast_for_host()
                    && !allocation.is_dma_buf()
                    && mapped
            })
        };
        let (len, speeds) = (region.len, speeds(to_buffer));
        let share = path::host_share(len, speeds, longest(to_buffer));
        let first = (len - share.min(len)).next_multiple_of(path::PART);
        let bytes = len.checked_sub(first).filter(|bytes| *bytes > 0)?;
        if !self.is_idle() || !suits(self.from()) || !suits(self.to()) {
            return None;
        }
        let source = End::new(self.from(), device, region.from + first)?;
        let target = End::new(self.to(), device, region.to + first)?;
        let is_long = speeds.host(bytes) > PAUSE;
        Some(HostShare { bytes, is_long, ends: [source, target] })
    }

    /// Copies the host's part of a copy by `device`, whose other part was submitted after [`Pair::host_share`] under the same
    /// locks. If the host cannot, submits this part to the device as well, and returns the fence of that, which is behind the
    /// first one.
    pub(super) fn copy_share(
        mut self,
        set: &Buffers,
        (from, to): (&BufferInner, &BufferInner),
        (device, HostShare { bytes, is_long, ends }): (&Arc<DeviceInner>, HostShare),
        written: Range<u64>,
        writers: &[Fence],
    ) -> Result<Option<Fence>> {
        to.note_write(self.to(), written);
        // What was measured is an estimate: the machine may be slower now.
        let end = Instant::now() + longest(to);
        if !is_long {
            // SAFETY: both reservations are held.
            let done = unsafe { by_host(&ends, bytes, end) };
            if done == bytes {
                return Ok(None);
            }
            return self.submit_share(device, &ends, done..bytes, writers).map(Some);
        }
        let (fence, signal) = Fence::host();
        self.begin_host_copy(from, to, &fence)?;
        drop(self);
        let accesses = Accesses([from, to]);
        // SAFETY: the accesses keep both buffers in place, and the fence, which signals after this, keeps other users away.
        let done = unsafe { by_host(&ends, bytes, end) };
        let rest = if done == bytes {
            Ok(None)
        } else {
            Pair::lock(set, from, to)
                .and_then(|mut pair| pair.submit_share(device, &ends, done..bytes, writers))
                .map(Some)
        };
        // Before the signal: threads that wait for the fence take the reservations next.
        drop(accesses);
        drop(signal);
        rest
    }

    /// Submits a part of the host's part to the device.
    fn submit_share(
        &mut self,
        device: &Arc<DeviceInner>,
        ends: &[End; 2],
        part: Range<u64>,
        writers: &[Fence],
    ) -> Result<Fence> {
        let watch = RejectionWatch::main(device);
        let [from, to] = ends.each_ref().map(|end| Span {
            view: &end.view,
            offset: end.offset + part.start,
            len: part.end - part.start,
        });
        let submitted = transfer::copy(device, Waits::default(), from, to);
        let submitted = submitted.map(|fence| fence.depends_on(writers));
        let fence = submitted.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
        self.from().fences().add(Usage::Read, fence.clone());
        self.to().fences().add(Usage::Write, fence);
        submitted
    }
}

/// How long the calling thread may copy. Other users of the buffers wait for it.
fn longest(to: &BufferInner) -> Duration {
    LONGEST.min(to.core().timeout / OF_TIMEOUT)
}

/// Copies by the host, from the first byte on, until `end` is over. Returns how many bytes it has copied: a multiple of
/// [`PIECE`], or all.
///
/// # Safety
///
/// No other user may come to the bytes, and both buffers stay where they are.
unsafe fn by_host([source, target]: &[End; 2], len: u64, end: Instant) -> u64 {
    let mut done = 0;
    while done < len && (done == 0 || Instant::now() < end) {
        let from = (&*source.allocation, source.offset + done);
        let to = (&*target.allocation, target.offset + done);
        let piece = PIECE.min(len - done);
        // SAFETY: the region lies within both buffers, which by their invariants have so many bytes there, and does not
        // overlap. Both were idle before the device's part was submitted (`host_share`). Of the region, which that part
        // neither reads nor writes, there is no other user, by the caller's contract.
        let copied = unsafe { copy_by_host(from, to, piece, HostWait::Never) };
        if !matches!(copied, Ok(true)) {
            break;
        }
        done += piece;
    }
    done
}

/// Accesses that [`Pair::begin_host_copy`] has begun. Dropping them ends them.
pub(super) struct Accesses<'a>(pub(super) [&'a BufferInner; 2]);

impl Drop for Accesses<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|buffer| buffer.end_access());
    }
}
