//! Where a buffer is to go. A clean copy that it does not go to after all is still its clean copy.

use std::ops::Deref;

use super::commit::retire;
use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::memory::Backing;
use crate::sync::Fences;

/// A place for a buffer that is about to move. Dropped, it goes back to whom it is lent from.
#[derive(Debug)]
pub(in crate::buffer) struct Destination<'a> {
    // INVARIANT: there until it is taken, which is the last that is done with it.
    backing: Option<Backing>,
    lender: Option<Lender<'a>>,
}

/// The buffer whose clean copy a place is, and of which generation.
#[derive(Clone, Copy, Debug)]
pub(in crate::buffer) struct Lender<'a> {
    pub(in crate::buffer) buffer: &'a BufferInner,
    pub(in crate::buffer) generation: u32,
}

impl<'a> Destination<'a> {
    /// The clean copy of a buffer, lent from it.
    pub(in crate::buffer) fn lent(backing: Backing, lender: Lender<'a>) -> Self {
        Self { backing: Some(backing), lender: Some(lender) }
    }

    /// Whose clean copy it is, if it is one.
    pub(in crate::buffer) fn lender(&self) -> Option<Lender<'a>> {
        self.lender
    }

    /// For whoever publishes it, or gives it up.
    pub(in crate::buffer) fn take(mut self) -> Backing {
        let Some(backing) = self.backing.take() else { unreachable!("it is taken once") };
        backing
    }

    /// Lets `publish` have it, which may give it back; `None` if it has not.
    pub(in crate::buffer) fn unless(
        self,
        commit: impl FnOnce(Backing) -> Option<Backing>,
    ) -> Option<Self> {
        let lender = self.lender;
        commit(self.take()).map(|backing| Self { backing: Some(backing), lender })
    }
}

impl Lender<'_> {
    /// Gives `place` back that nobody was moved to, when `fences` are over, which may be writing to it: what
    /// they write is noted as written, and not relied on. The reservation of the buffer is held.
    pub(in crate::buffer) fn give_back(
        self,
        state: &mut State,
        backing: Backing,
        mut fences: Fences,
    ) {
        let over = fences.is_idle();
        let left = (fences, backing);
        let left = match state.clean_mut().filter(|_| over) {
            Some(clean) => clean.take_in(self.generation, left),
            None => Some(left),
        };
        self.buffer.retire(left);
    }
}

/// Lets go of a place that nobody was moved to, when `fences` are over. The reservation is held.
pub(in crate::buffer) fn leave(
    buffer: &BufferInner,
    state: &mut State,
    (backing, lender): (Backing, Option<Lender<'_>>),
    fences: Fences,
) {
    match lender {
        Some(lender) => lender.give_back(state, backing, fences),
        None => retire(buffer, backing, fences),
    }
}

impl From<Backing> for Destination<'_> {
    fn from(backing: Backing) -> Self {
        Self { backing: Some(backing), lender: None }
    }
}

impl Deref for Destination<'_> {
    type Target = Backing;

    fn deref(&self) -> &Backing {
        let Some(backing) = &self.backing else { unreachable!("whoever took it, took this") };
        backing
    }
}

impl Drop for Destination<'_> {
    /// No device has begun to write it; the host may have, and left off: only what the buffer wrote since.
    fn drop(&mut self) {
        let (Some(backing), Some(lender)) = (self.backing.take(), self.lender) else { return };
        // Never waits: whoever has the reservation now may be this thread. It is then given up, as any place.
        if let Some(mut state) = lender.buffer.reservation.try_lock(&lender.buffer.core().queues) {
            lender.give_back(&mut state, backing, Fences::default());
        }
    }
}
