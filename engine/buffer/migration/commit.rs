//! Commits a move: the destination becomes the buffer's backing, and the old backing is kept until its fences
//! have signalled and its mappings are gone.

use super::request::MoveRequest;
use crate::buffer::inspect::MoveSpan;
use crate::buffer::object::BufferInner;
use crate::buffer::placement::home_after_move;
use crate::buffer::state::{Location, State};
use crate::device::DeviceInner;
use crate::memory::Backing;
use crate::observe::MoveCause;
use crate::sync::{Fence, Fences, Retired, Usage};

/// What a move was and copied, for counters and traces.
pub(in crate::buffer) struct MoveSummary<'a> {
    pub(in crate::buffer) request: MoveRequest,
    pub(in crate::buffer) span: &'a MoveSpan,
    /// Bytes that were copied, or are being copied.
    pub(in crate::buffer) copied: u64,
}

/// Commits a move whose copy, with `fence`, is still running. The copy waits for all work that the buffer's
/// fences stand for.
pub(super) fn commit_with_copy(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    mut new: Backing,
    fence: Fence,
    summary: &MoveSummary<'_>,
) {
    new.make_valid();
    commit_behind(buffer, state, home, new, (fence.clone(), Some(fence)), summary);
}

/// Commits a move to `new`. Nothing can fail from here. `copied` signals when the copy has ended. The
/// reservation is held.
pub(in crate::buffer) fn commit(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    new: Backing,
    copied: Fence,
    summary: &MoveSummary<'_>,
) {
    commit_behind(buffer, state, home, new, (copied, None), summary);
}

/// As [`commit`]. `writing` is the fence of the copy if that is still writing the new backing.
fn commit_behind(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    new: Backing,
    (copied, writing): (Fence, Option<Fence>),
    summary: &MoveSummary<'_>,
) {
    let old_generation = buffer.generation();
    let MoveRequest { cause, trigger, .. } = summary.request;
    let evicted = matches!(cause, MoveCause::Evicted | MoveCause::Promoted);
    let (from, to) = (state.location().domain(), new.domain());
    // The old backing waits for all pending work, and not only for the copy. The copy waits for that work,
    // too, but not if its device is lost first; and a move without content has no copy. A lost device may
    // still be at work there.
    let mut last = fences_of(copied.clone());
    state.fences().in_use().into_iter().for_each(|f| last.add(Usage::Bookkeep, f));
    let writers = state.fences().pending(Usage::Write);
    // Checked after `pending`: work that has failed by now has left a backing with unknown content.
    let failed = state.fences().failure().is_some();
    let keeps = !failed && buffer.keeps_clean_copy(state, to);
    let home = home_after_move(buffer, state, home);
    buffer.drop_clean_copy(state);
    // From here to the new generation no code of the application runs, `tracing` included: a panic there would
    // free memory that the copy uses.
    let old_backing = state.replace_backing(Location::Resident(new), old_generation, last, evicted);
    if let Some(fence) = writing {
        // After the replacement, so that the copy is no writer of the old backing, which it reads.
        state.fences().add(Usage::Move, fence);
    }
    if keeps {
        buffer.keep_clean_copy(state, old_generation, old_backing, writers);
    } else {
        buffer.retire(old_backing);
    }
    buffer.next_generation(state, home);
    tracing::debug!(buffer = buffer.name(), %from, %to, "moved");
    buffer.core().counters.moved.add(cause, buffer.size, summary.copied);
    summary.span.moved(buffer.core(), &copied);
    buffer.note_move(state, from, cause);
    buffer.record_move(state, from, cause, trigger);
}

/// Releases a backing once its fences have signalled.
pub(super) fn retire(buffer: &BufferInner, backing: Backing, fences: Fences) {
    buffer.core().retire.push(fences, Retired::Backing(backing));
}

/// A set of one fence.
pub(super) fn fences_of(fence: Fence) -> Fences {
    let mut fences = Fences::default();
    // A set without any takes no memory.
    if !Fence::signalled().covers(&fence) {
        fences.add(Usage::Bookkeep, fence);
    }
    fences
}
