//! What an operation checks before it uses a buffer.

use std::ops::Range;

use super::buffer::BufferInner;
use crate::buffer::state::State;
use crate::error::{Error, Result};
use crate::memory::{Backing, Provider};

impl BufferInner {
    /// Checks that the buffer is still where a mapping of `mapped` shows it, and may be used.
    #[inline]
    pub(in crate::buffer) fn check_generation(&self, mapped: u32) -> Result<()> {
        if self.status.is_good(mapped) { Ok(()) } else { self.why_not(mapped) }
    }

    #[cold]
    fn why_not(&self, mapped: u32) -> Result<()> {
        self.check_there()?;
        let current = self.generation();
        if current == mapped {
            return self.check_poisoned();
        }
        Err(Error::Stale { buffer: self.name(), mapped, current })
    }

    /// Checks a range of bytes.
    pub(in crate::buffer) fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.size);
        if fits {
            return Ok(());
        }
        Err(Error::OutOfBounds { buffer: self.name(), offset, len, size: self.size })
    }

    /// The same for a range, which may end before it begins: then it has more bytes than fit anywhere.
    pub(in crate::buffer) fn check_part(&self, part: &Range<u64>) -> Result<()> {
        self.check_range(part.start, part.end.wrapping_sub(part.start))
    }

    /// Whether peerbuf may move it.
    pub(in crate::buffer) fn can_move(&self) -> bool {
        !matches!(self.lock().location.provider(), Provider::Foreign(_))
    }

    pub(in crate::buffer) fn busy(&self, state: &State) -> Error {
        self.held_by(state, state.pinned())
    }

    fn held_by(&self, state: &State, pins: u64) -> Error {
        Error::Busy {
            buffer: self.name(),
            mapped: state.static_mappings(),
            host: state.host(),
            // CAST: nobody has 2^32 pins.
            pinned: pins as u32,
        }
    }

    /// Checks that nobody relies on the bytes being where they are. If so, nobody can pin them any more
    /// without the reservation, and then sees what has become of them: whoever moves asks this first.
    pub(in crate::buffer) fn check_not_held(&self, state: &State) -> Result<()> {
        let held = state.host() > 0 || state.static_mappings() > 0;
        // Counted once: a pin goes without the reservation, and the error tells of those that were met.
        let pins = if held { state.pinned() } else { state.close_pins() };
        if held || pins > 0 { Err(self.held_by(state, pins)) } else { Ok(()) }
    }

    /// Where its bytes are.
    ///
    /// # Errors
    ///
    /// [`Error::Purged`] if it has none, and [`Error::Revoked`] if it has none and was taken away as well.
    pub(in crate::buffer) fn backing<'s>(&self, state: &'s State) -> Result<&'s Backing> {
        state.location.backing().ok_or_else(|| self.nowhere())
    }

    /// The same.
    pub(in crate::buffer) fn backing_mut<'s>(
        &self,
        state: &'s mut State,
    ) -> Result<&'s mut Backing> {
        state.location.backing_mut().ok_or_else(|| self.nowhere())
    }

    #[cold]
    fn nowhere(&self) -> Error {
        let purged = Error::Purged { buffer: self.name() };
        self.check_not_revoked().err().unwrap_or(purged)
    }

    /// Checks that the buffer was not taken away, and has bytes. What was found holds only as long as the
    /// reservation is held.
    pub(in crate::buffer) fn check_there(&self) -> Result<()> {
        self.check_not_revoked()?;
        if self.status.is_purged() { Err(self.nowhere()) } else { Ok(()) }
    }

    /// Checks that the buffer was not taken away. What was found holds only as long as the reservation is
    /// held.
    pub(in crate::buffer) fn check_not_revoked(&self) -> Result<()> {
        if self.status.is_revoked() {
            return Err(Error::Revoked { buffer: self.name() });
        }
        Ok(())
    }

    /// Checks that the buffer was not taken away, that it has bytes, and that those are what its writers
    /// wrote. What was found holds only as long as the reservation is held.
    pub(in crate::buffer) fn check_usable(&self, state: &mut State) -> Result<()> {
        self.check_not_revoked()?;
        self.backing(state)?;
        self.check_content(state)
    }

    pub(in crate::buffer) fn check_content(&self, state: &mut State) -> Result<()> {
        match self.poison(state) {
            Some(cause) => Err(Error::Poisoned { buffer: self.name(), cause }),
            None => Ok(()),
        }
    }

    /// Why its bytes are not what anybody thinks, if so. Mappings and pins know it from now on.
    pub(in crate::buffer) fn poison(&self, state: &mut State) -> Option<String> {
        let cause = state.fences.failure()?;
        self.note_poison(state, &cause);
        Some(cause)
    }

    #[cold]
    fn note_poison(&self, state: &State, cause: &str) {
        // From here on a pin takes the reservation, and finds it poisoned.
        state.close_pins();
        if self.status.set_poisoned(true) {
            tracing::error!(
                buffer = self.name(),
                cause,
                "poisoned: its bytes are not what was written"
            );
        }
    }

    /// [`BufferInner::check_usable`] for those who may hold the reservation themselves, or somebody else
    /// may. For a buffer that was found to be poisoned before.
    #[cold]
    pub(in crate::buffer) fn check_poisoned(&self) -> Result<()> {
        if !self.status.is_poisoned() {
            return Ok(());
        }
        if let Some(mut state) = self.reservation.try_lock(&self.core().queues) {
            return self.check_content(&mut state);
        }
        let cause = "work on it failed; the log says which".to_owned();
        Err(Error::Poisoned { buffer: self.name(), cause })
    }
}
