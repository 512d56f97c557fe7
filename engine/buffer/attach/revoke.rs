//! Revocation: all use of a buffer ends, until [`SharedBuffer::unrevoke`] allows it again.
//!
//! Kernel counterpart: what `vfio_pci_dma_buf_move` does with a dma-buf (mark it, invalidate its mappings, wait
//! for the fences of every usage, wait for every mapping), and the reverse.

use std::time::Instant;

use crate::buffer::migration::invalidate_importers;
use crate::buffer::object::{BufferInner, SharedBuffer, wait_all};
use crate::buffer::state::{InvalidationCause, State};
use crate::error::{Error, Result};
use crate::observe::StallCause;
use crate::observe::trace::MoveId;
use crate::sync::{Guard, Usage};

impl SharedBuffer {
    /// Revokes the buffer: marks it as revoked, notifies every importer, and waits until no use of it is left.
    ///
    /// It waits for the fences of every usage, and for the drop of all mappings (of every generation), host
    /// accesses and open accesses. When it returns, the bytes are neither mapped nor in use. Their content is
    /// unchanged.
    ///
    /// Once the buffer is marked, every attempt to attach, map, pin, copy, move, export or access it fails, and
    /// existing mappings have no view any more. All these calls return [`Error::Revoked`]. Attachments and pins
    /// stay. A pin does not prevent a revocation.
    ///
    /// Revoking a revoked buffer waits for the same revocation, and notifies no importer again. If the wait
    /// fails, the buffer stays revoked. [`SharedBuffer::unrevoke`] ends the revocation.
    ///
    /// # Errors
    ///
    /// [`Error::Exported`] while the buffer is exported outside this engine, because such an fd cannot be
    /// taken back; nothing has changed then. [`Error::Timeout`] after the engine timeout, with the uses that
    /// are left and their devices; or the error of a wait. A lost device is no error: what it still has under
    /// way is waited for.
    ///
    /// Locks: the reservation, but not while waiting. A thread that holds a mapping or an access of the buffer
    /// itself waits for itself, until the timeout.
    #[doc(alias = "dma_buf_invalidate_mappings")]
    pub fn revoke(&self) -> Result<()> {
        let buffer = &self.0;
        let end = Instant::now() + buffer.core().timeout;
        let mut state = buffer.lock();
        if !buffer.status.is_revoked() {
            begin(buffer, &mut state)?;
        }
        let revocation = state.revocation();
        drop(state);
        wait_for_revocation(buffer, revocation, end).map(|_| ())
    }

    /// Ends a revocation: the buffer can be used again. Its bytes, attachments and pins are unchanged; it must
    /// be mapped again before it is used. Does nothing if the buffer is not revoked.
    ///
    /// The revocation must be complete first (kernel: mappings are allowed again only once their count has
    /// reached zero). While a mapping is left, this waits for it as [`SharedBuffer::revoke`] does. So no
    /// mapping from before a revocation ever becomes valid again.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], or the error of a wait; the buffer is still revoked then.
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "rearm")]
    pub fn unrevoke(&self) -> Result<()> {
        let buffer = &self.0;
        let end = Instant::now() + buffer.core().timeout;
        let revocation = {
            let state = buffer.lock();
            if !buffer.status.is_revoked() {
                return Ok(());
            }
            state.revocation()
        };
        // `None`: another thread has ended this revocation.
        if let Some(_state) = wait_for_revocation(buffer, revocation, end)? {
            buffer.status.set_revoked(false);
            tracing::debug!(buffer = buffer.name(), "revocation ended");
        }
        Ok(())
    }

    /// Returns whether the buffer is revoked.
    pub fn is_revoked(&self) -> bool {
        self.0.status.is_revoked()
    }
}

/// Marks the buffer as revoked and notifies its importers.
fn begin(buffer: &BufferInner, state: &mut State) -> Result<()> {
    if state.exported() > 0 {
        return Err(Error::Exported { buffer: buffer.name(), exports: state.exported() });
    }
    // Before the mark: from here on a pin must take the reservation, and finds the buffer revoked.
    state.close_pins();
    // Before the notifications: an importer that asks must find the buffer revoked.
    buffer.status.set_revoked(true);
    buffer.note_change(state);
    state.begin_revocation();
    tracing::debug!(buffer = buffer.name(), "revoked");
    invalidate_importers(buffer, state, InvalidationCause::Revoke, MoveId::NONE);
    Ok(())
}

/// Waits until no use of the buffer is left, and returns with the reservation locked. `None` if this revocation
/// was completed and the buffer armed again by another thread.
fn wait_for_revocation(
    buffer: &BufferInner,
    revocation: u32,
    end: Instant,
) -> Result<Option<Guard<'_, State>>> {
    loop {
        let mut state = buffer.lock();
        if !buffer.status.is_revoked() || state.revocation() != revocation {
            return Ok(None);
        }
        let mut waits = state.fences().pending(Usage::Bookkeep);
        // A lost device may still be at work.
        let in_use = if waits.is_empty() { state.fences().in_use() } else { vec![] };
        // An access adds a fence when it ends, so the fences are checked again after the wait.
        if waits.is_empty() && in_use.is_empty() && !state.has_users() {
            return Ok(Some(state));
        }
        if Instant::now() >= end {
            let what = remaining_uses(buffer, &state, waits.len() + in_use.len());
            return Err(Error::Timeout { what, after: buffer.core().timeout });
        }
        if waits.is_empty() && in_use.is_empty() {
            waits.push(state.when_drained());
        }
        drop(state);
        let waited = buffer.core().counters.stalls.during(StallCause::Work, || {
            let left = || end.saturating_duration_since(Instant::now());
            wait_all(&waits, end)?;
            in_use.iter().try_for_each(|fence| fence.wait_until_released(left()))
        });
        match waited {
            // The loop finds the timeout itself, under the reservation, where it can list what is left.
            Ok(()) | Err(Error::Timeout { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Describes the uses that a revocation still waits for, for [`Error::Timeout`].
fn remaining_uses(buffer: &BufferInner, state: &State, fences: usize) -> String {
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
