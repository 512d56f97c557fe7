//! Revoking: nobody uses a buffer any more, until it is armed again.
//!
//! Kernel counterpart: what `vfio_pci_dma_buf_move` does with a dma-buf (mark, invalidate, wait for the
//! fences of every usage, wait for every mapping), and the same in reverse.

use std::time::Instant;

use crate::buffer::migration::invalidate_importers;
use crate::buffer::object::{BufferInner, SharedBuffer, wait_all};
use crate::buffer::state::{InvalidationCause, State};
use crate::error::{Error, Result};
use crate::observe::StallCause;
use crate::observe::trace::MoveId;
use crate::sync::{Guard, Usage};

impl SharedBuffer {
    /// Takes the buffer away from everybody: marks it as revoked, tells every importer, waits for the
    /// fences of every usage, and waits until the last mapping of every generation, the last host access
    /// and the last open access is dropped. When it returns, nobody looks at the bytes and nothing works
    /// on them; they are what they were.
    ///
    /// From the mark on nobody can attach, map, pin, copy, move, export or access the buffer, and mappings
    /// that are there have no view any more: all that is [`Error::Revoked`]. Attachments and pins stay;
    /// a pin does not keep a buffer from being revoked.
    ///
    /// Revoking what is revoked waits for the same end again and tells nobody a second time. After an
    /// error of the wait the buffer stays revoked. [`SharedBuffer::rearm`] ends it.
    ///
    /// # Errors
    ///
    /// [`Error::HandedOut`] while a stranger has an fd of it, which nobody can take back; nothing has
    /// changed then. [`Error::Timeout`] when the engine's bound is over, with what is still held and by
    /// which devices; or what a wait said. A device that is lost uses nothing any more, and is no error.
    ///
    /// Locks: the reservation, but not while waiting. A thread that holds a mapping or an access of the
    /// buffer itself waits for itself, up to the bound.
    #[doc(alias = "dma_buf_invalidate_mappings")]
    pub fn revoke(&self) -> Result<()> {
        let buffer = &self.0;
        let end = Instant::now() + buffer.core().timeout;
        let mut state = buffer.lock();
        if !buffer.status.is_revoked() {
            mark(buffer, &mut state)?;
        }
        let revocation = state.revocation();
        drop(state);
        wait_for_the_end(buffer, revocation, end).map(|_| ())
    }

    /// Lets a revoked buffer be used again. Its bytes, its attachments and its pins are what they were;
    /// whoever wants to use it maps it again. Of a buffer that is not revoked: nothing.
    ///
    /// A revocation comes to its end first (kernel: the count of mappings is armed again only when it was
    /// down to nothing): while somebody still holds a mapping this waits for it, as
    /// [`SharedBuffer::revoke`] does. So no mapping from before a revocation is ever good again.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], or what a wait said; the buffer is still revoked then.
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn rearm(&self) -> Result<()> {
        let buffer = &self.0;
        let end = Instant::now() + buffer.core().timeout;
        let revocation = {
            let state = buffer.lock();
            if !buffer.status.is_revoked() {
                return Ok(());
            }
            state.revocation()
        };
        // `None`: somebody else was faster.
        if let Some(_state) = wait_for_the_end(buffer, revocation, end)? {
            buffer.status.set_revoked(false);
            tracing::debug!(buffer = buffer.name(), "armed again");
        }
        Ok(())
    }

    /// Whether it is revoked.
    pub fn is_revoked(&self) -> bool {
        self.0.status.is_revoked()
    }
}

/// Marks the buffer and tells its importers.
fn mark(buffer: &BufferInner, state: &mut State) -> Result<()> {
    if state.exported() > 0 {
        return Err(Error::HandedOut { buffer: buffer.name(), exports: state.exported() });
    }
    // Before the mark, so that whoever sees that does not pin any more: from here on a pin takes the
    // reservation, and finds it revoked.
    state.close_pins();
    // Before anybody is told: an importer that asks finds it revoked.
    buffer.status.set_revoked(true);
    state.begin_revocation();
    tracing::debug!(buffer = buffer.name(), "revoked");
    invalidate_importers(buffer, state, InvalidationCause::Revoke, MoveId::NONE);
    Ok(())
}

/// Waits until nobody uses the buffer. Returns with the reservation, or with `None` if the revocation
/// has come to its end and the buffer was armed again since.
fn wait_for_the_end(
    buffer: &BufferInner,
    revocation: u32,
    end: Instant,
) -> Result<Option<Guard<'_, State>>> {
    loop {
        let mut state = buffer.lock();
        if !buffer.status.is_revoked() || state.revocation() != revocation {
            return Ok(None);
        }
        let mut waits = state.fences.pending(Usage::Bookkeep);
        // An access enters a fence when it ends, so the fences are looked at again after it.
        if waits.is_empty() && !state.has_users() {
            return Ok(Some(state));
        }
        if Instant::now() >= end {
            let what = still_held(buffer, &state, waits.len());
            return Err(Error::Timeout { what, after: buffer.core().timeout });
        }
        if waits.is_empty() {
            waits.push(state.when_drained());
        }
        drop(state);
        match buffer.core().counters.stalls.during(StallCause::Work, || wait_all(&waits, end)) {
            // Found above, where it is known what is still held.
            Ok(()) | Err(Error::Timeout { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

fn still_held(buffer: &BufferInner, state: &State, fences: usize) -> String {
    let mappings = state.mappings();
    let by: Vec<String> = mappings
        .iter()
        .map(|&(device, mapped)| {
            format!("{mapped} by {}", buffer.core().member(device).device.name())
        })
        .collect();
    let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
    let mapped: u32 = mappings.iter().map(|(_, mapped)| mapped).sum();
    format!(
        "the revocation of {}: {mapped} mappings{by}, {} host and open accesses and {fences} fences",
        buffer.name(),
        state.host()
    )
}
