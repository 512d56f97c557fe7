//! The end of a move: the new place is the buffer's, and the old one is kept until nobody needs it.

use super::request::MoveRequest;
use crate::buffer::inspect::MoveSpan;
use crate::buffer::object::BufferInner;
use crate::buffer::placement::home_after_move;
use crate::buffer::state::{Location, State};
use crate::device::DeviceInner;
use crate::memory::Backing;
use crate::observe::MoveCause;
use crate::sync::{Fence, Fences, Retired, Usage};

/// What a move was, for those who count.
pub(in crate::buffer) struct MoveSummary<'a> {
    pub(in crate::buffer) request: MoveRequest,
    pub(in crate::buffer) slice: &'a MoveSpan,
    /// Bytes that were copied, or are being.
    pub(in crate::buffer) copied: u64,
}

/// Publishes the place that a copy goes to, which is under way and waits for everything that the buffer's
/// fences stand for.
pub(in crate::buffer) fn copied(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    mut new: Backing,
    fence: Fence,
    done: &MoveSummary<'_>,
) {
    new.make_valid();
    commit(buffer, state, home, new, fence.clone(), done);
    // After it: the copy is none of those that write the place that it reads.
    state.fences.add(Usage::Move, fence);
}

/// From here on nothing can fail.
pub(in crate::buffer) fn commit(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    new: Backing,
    copied: Fence,
    done: &MoveSummary<'_>,
) {
    tracing::debug!(
        buffer = buffer.name(),
        from = %state.location.domain(),
        to = %new.domain(),
        "moved"
    );
    let old_generation = buffer.generation();
    let MoveRequest { cause, trigger, .. } = done.request;
    buffer.core().counters.moved.add(cause, buffer.size, done.copied);
    done.slice.moved(buffer.core(), &copied);
    let evicted = matches!(cause, MoveCause::Evicted | MoveCause::Promoted);
    let from = state.location.domain();
    // Behind everything that is under way, and not only behind the copy: that waits for all of it, but not
    // if its device is lost first, and there is none where nobody wanted the bytes.
    let mut last = after(copied);
    state.fences.pending(Usage::Bookkeep).into_iter().for_each(|f| last.add(Usage::Bookkeep, f));
    let writers = state.fences.pending(Usage::Write);
    // After that look: what is over by now and has failed has left a place that nobody can vouch for.
    let failed = state.fences.failure().is_some();
    let keeps = !failed && buffer.keeps_clean_copy(state, new.domain());
    buffer.drop_clean_copy(state);
    let left = state.leave_for(Location::Resident(new), old_generation, last, evicted);
    if keeps {
        buffer.keep_clean_copy(state, old_generation, left, writers);
    } else {
        buffer.retire(left);
    }
    buffer.next_generation(home_after_move(buffer, state, home));
    buffer.note_move(state, cause);
    buffer.record_move(state, from, cause, trigger);
}

/// Lets go of a backing when its fences have signalled.
pub(in crate::buffer) fn retire(buffer: &BufferInner, backing: Backing, fences: Fences) {
    buffer.core().retire.push(fences, Retired::Backing(backing));
}

pub(in crate::buffer) fn after(fence: Fence) -> Fences {
    let mut fences = Fences::default();
    fences.add(Usage::Bookkeep, fence);
    fences
}
