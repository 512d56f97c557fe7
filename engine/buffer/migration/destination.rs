//! The destination of a move. An unused destination that was lent from a clean copy is returned to it.

use std::ops::Deref;

use super::commit::retire;
use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::memory::Backing;
use crate::sync::Fences;

/// The backing that a buffer is about to move to. If it is dropped, it is freed, or returned to the buffer
/// whose clean copy it is.
#[derive(Debug)]
pub(in crate::buffer) struct Destination<'a> {
    // INVARIANT: `Some` until `take`, which consumes the destination.
    backing: Option<Backing>,
    lender: Option<Lender<'a>>,
}

/// The buffer whose clean copy a backing is, and the generation that the copy was left at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lender<'a> {
    pub(super) buffer: &'a BufferInner,
    pub(super) generation: u32,
}

impl<'a> Destination<'a> {
    /// Makes a destination of the clean copy of a buffer.
    pub(super) fn lent(backing: Backing, lender: Lender<'a>) -> Self {
        Self { backing: Some(backing), lender: Some(lender) }
    }

    /// The buffer whose clean copy it is, if it is one.
    pub(super) fn lender(&self) -> Option<Lender<'a>> {
        self.lender
    }

    /// Takes the backing, to commit or to release it. The lender no longer applies.
    pub(super) fn take(mut self) -> Backing {
        let Some(backing) = self.backing.take() else {
            unreachable!("`take` consumes the destination")
        };
        backing
    }

    /// Gives the backing to `commit`. If `commit` returns it unused, this returns the destination again.
    pub(super) fn commit_or_keep(
        self,
        commit: impl FnOnce(Backing) -> Option<Backing>,
    ) -> Option<Self> {
        let lender = self.lender;
        commit(self.take()).map(|backing| Self { backing: Some(backing), lender })
    }
}

impl Lender<'_> {
    /// Returns an unused `backing` to the clean copy, if `fences`, which may be writing it, have signalled.
    /// They have written dirty ranges only, which the clean copy does not rely on. If they are pending, the
    /// backing is freed once they have signalled. The reservation of the buffer is held.
    pub(super) fn give_back(self, state: &mut State, backing: Backing, mut fences: Fences) {
        let idle = fences.is_idle();
        let unused = (fences, backing);
        let unused = match state.clean_mut().filter(|_| idle) {
            Some(clean) => clean.put_back(self.generation, unused),
            None => Some(unused),
        };
        self.buffer.retire(unused);
    }
}

/// Releases an unused destination once `fences` have signalled. Bytes of the buffer may be in it. The reservation is
/// held.
pub(super) fn release_unused(
    buffer: &BufferInner,
    state: &mut State,
    (mut backing, lender): (Backing, Option<Lender<'_>>),
    fences: Fences,
) {
    match lender {
        Some(lender) => lender.give_back(state, backing, fences),
        None => {
            backing.mark_stale();
            retire(buffer, backing, fences);
        }
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
        let Some(backing) = &self.backing else { unreachable!("`take` consumes the destination") };
        backing
    }
}

impl Drop for Destination<'_> {
    /// Returns the backing to its lender, or frees it. No device has begun to write it. The host may have written it:
    /// of a lent one only ranges that the buffer has dirtied since. Another one is stale, so that its next owner does not
    /// see these bytes.
    fn drop(&mut self) {
        let Some(mut backing) = self.backing.take() else { return };
        let Some(lender) = self.lender else { return backing.mark_stale() };
        // This never waits, since this thread may hold the reservation. If the reservation is taken, the
        // backing is freed as any other.
        if let Some(mut state) = lender.buffer.reservation.try_lock(&lender.buffer.core().queues) {
            lender.give_back(&mut state, backing, Fences::default());
        }
    }
}
