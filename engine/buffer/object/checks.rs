//! The checks that an operation makes before it uses a buffer.

use std::ops::Range;

use super::buffer::BufferInner;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{Backing, DomainKind, Provider};

impl BufferInner {
    /// Checks that a mapping of generation `mapped` is current, and that the buffer may be used.
    #[inline]
    pub(in crate::buffer) fn check_generation(&self, mapped: u32) -> Result<()> {
        if self.status.is_good(mapped) { Ok(()) } else { self.generation_error(mapped) }
    }

    #[cold]
    fn generation_error(&self, mapped: u32) -> Result<()> {
        self.check_resident()?;
        let current = self.generation();
        if current == mapped {
            return self.check_poisoned();
        }
        Err(Error::Stale { buffer: self.name(), mapped, current })
    }

    /// Checks that `len` bytes from `offset` are inside the buffer.
    pub(in crate::buffer) fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.size);
        if fits {
            return Ok(());
        }
        Err(Error::OutOfBounds { buffer: self.name(), offset, len, size: self.size })
    }

    /// Checks that a range is inside the buffer. A range that ends before it begins fails: its length wraps
    /// to more than any buffer has.
    pub(in crate::buffer) fn check_part(&self, part: &Range<u64>) -> Result<()> {
        self.check_range(part.start, part.end.wrapping_sub(part.start))
    }

    /// Whether peerbuf can move the buffer.
    pub(in crate::buffer) fn can_move(&self) -> bool {
        !matches!(self.lock().location().provider(), Provider::Foreign(_))
    }

    /// Checks that peerbuf can move the buffer. The error names `home`, the device that was to have it.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for external memory.
    ///
    /// Locks: the reservation.
    pub(in crate::buffer) fn check_can_move(&self, home: &DeviceInner) -> Result<()> {
        if self.can_move() {
            return Ok(());
        }
        Err(Error::Unsupported {
            device: home.name().to_owned(),
            missing: "a way to move external memory".into(),
        })
    }

    /// Whether the buffer may be used only in its preferred domain, and is kept elsewhere. A move that the
    /// application has requested changes the preferred domain, and so ends this. The reservation must be held.
    ///
    /// **Invariant:** no mapping of the current generation, pin or export of such a buffer exists. Each is made under
    /// the reservation, after this check, and an eviction begins the next generation.
    #[inline]
    pub(in crate::buffer) fn needs_restore(&self, state: &State) -> bool {
        let preferred = state.entry().preferred();
        self.is_vram_only()
            && preferred.kind() == DomainKind::Vram
            && state.location().domain() != preferred
    }

    pub(in crate::buffer) fn busy(&self, state: &State) -> Error {
        self.held_by(state, state.pinned())
    }

    fn held_by(&self, state: &State, pins: u64) -> Error {
        Error::Busy {
            buffer: self.name(),
            mapped: state.static_mappings(),
            host: state.host(),
            // CAST: a buffer has fewer than 2^32 pins.
            pinned: pins as u32,
        }
    }

    /// Checks that nothing keeps the bytes in place: no host access, no static mapping, no pin. Every move
    /// checks this first.
    ///
    /// Unless there is an access or a mapping, this closes all pin counters. Later pins then take the
    /// reservation, and see the result of the move.
    pub(in crate::buffer) fn check_not_held(&self, state: &State) -> Result<()> {
        let held = state.host() > 0 || state.static_mappings() > 0;
        // The pins are counted once: a pin may end without the reservation, and the error names those that
        // were found.
        let pins = if held { state.pinned() } else { state.close_pins() };
        if held || pins > 0 { Err(self.held_by(state, pins)) } else { Ok(()) }
    }

    /// The backing.
    ///
    /// # Errors
    ///
    /// [`Error::Purged`] if there is none; [`Error::Revoked`] if the buffer is revoked as well.
    pub(in crate::buffer) fn backing<'s>(&self, state: &'s State) -> Result<&'s Backing> {
        state.location().backing().ok_or_else(|| self.no_backing())
    }

    /// The backing, to be changed.
    ///
    /// # Errors
    ///
    /// As [`BufferInner::backing`].
    pub(in crate::buffer) fn backing_mut<'s>(
        &self,
        state: &'s mut State,
    ) -> Result<&'s mut Backing> {
        state.location_mut().backing_mut().ok_or_else(|| self.no_backing())
    }

    #[cold]
    fn no_backing(&self) -> Error {
        let purged = Error::Purged { buffer: self.name() };
        self.check_not_revoked().err().unwrap_or(purged)
    }

    /// Checks that the buffer is not revoked and has a backing. The result holds only while the reservation
    /// is held.
    pub(in crate::buffer) fn check_resident(&self) -> Result<()> {
        self.check_not_revoked()?;
        if self.status.is_purged() { Err(self.no_backing()) } else { Ok(()) }
    }

    /// Checks that the buffer is not revoked. The result holds only while the reservation is held.
    pub(in crate::buffer) fn check_not_revoked(&self) -> Result<()> {
        if self.status.is_revoked() {
            return Err(Error::Revoked { buffer: self.name() });
        }
        Ok(())
    }

    /// Checks that the buffer is not revoked, has a backing, and is not poisoned. The result holds only while
    /// the reservation is held.
    pub(in crate::buffer) fn check_usable(&self, state: &mut State) -> Result<()> {
        self.check_not_revoked()?;
        self.backing(state)?;
        self.check_content(state)
    }

    /// Checks that the buffer is not poisoned.
    pub(in crate::buffer) fn check_content(&self, state: &mut State) -> Result<()> {
        match self.poison(state) {
            Some(cause) => Err(Error::Poisoned { buffer: self.name(), cause }),
            None => Ok(()),
        }
    }

    /// The reason why the buffer is poisoned, if it is. Sets the status flag, so that mappings and pins check
    /// it from now on.
    pub(in crate::buffer) fn poison(&self, state: &mut State) -> Option<String> {
        let cause = state.fences().failure()?;
        self.note_poison(state, &cause);
        Some(cause)
    }

    #[cold]
    fn note_poison(&self, state: &State, cause: &str) {
        // From here on a pin takes the reservation, and fails because the buffer is poisoned.
        state.close_pins();
        if self.status.set_poisoned(true) {
            self.note_change(state);
            tracing::error!(
                buffer = self.name(),
                cause,
                "a writer failed; buffer poisoned until its content is accepted"
            );
        }
    }

    /// [`BufferInner::check_content`] for callers that may hold the reservation themselves, or while another
    /// thread holds it. To be called for a buffer that was found to be poisoned before.
    #[cold]
    pub(super) fn check_poisoned(&self) -> Result<()> {
        if !self.status.is_poisoned() {
            return Ok(());
        }
        if let Some(mut state) = self.reservation.try_lock(&self.core().queues) {
            return self.check_content(&mut state);
        }
        let cause = "a writer failed; see the log for which".to_owned();
        Err(Error::Poisoned { buffer: self.name(), cause })
    }
}
