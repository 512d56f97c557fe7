//! The end of a move: the new place is the buffer's, and the old one is kept until nobody needs it.

use super::shared::BufferInner;
use super::state::State;
use crate::device::DeviceInner;
use crate::memory::Backing;
use crate::sync::{Fence, Fences, Retired, Usage};

/// Publishes the place that a copy goes to, which is under way and waits for everything that the buffer's
/// fences stand for.
pub(super) fn copied(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    mut new: Backing,
    fence: Fence,
) {
    new.own();
    state.fences.add(Usage::Move, fence.clone());
    publish(buffer, state, home, new, fence);
}

/// From here on nothing can fail.
pub(super) fn publish(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    new: Backing,
    copied: Fence,
) {
    tracing::debug!(
        buffer = buffer.name(),
        from = %state.backing.domain(),
        to = %new.domain(),
        "moved"
    );
    let old_generation = buffer.generation();
    // Behind everything that is under way, and not only behind the copy: that waits for all of it, but not
    // if its device is lost first, and there is none where nobody wanted the bytes.
    let mut last = after(copied);
    state.fences.pending(Usage::Bookkeep).into_iter().for_each(|f| last.add(Usage::Bookkeep, f));
    if let Some((fences, old)) = state.leave_for(new, old_generation, last) {
        buffer.core.retire.push(fences, Retired::Backing(old));
    }
    buffer.next_generation(home.id());
}

/// Lets go of a backing when its fences have signalled.
pub(super) fn retire(buffer: &BufferInner, backing: Backing, fences: Fences) {
    buffer.core.retire.push(fences, Retired::Backing(backing));
}

pub(super) fn after(fence: Fence) -> Fences {
    let mut fences = Fences::default();
    fences.add(Usage::Bookkeep, fence);
    fences
}
