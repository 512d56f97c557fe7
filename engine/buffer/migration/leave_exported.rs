//! Moves a buffer out of memory whose fd has left the process, once its last export has ended.

use std::sync::Arc;

use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::error::{Error, Result};
use crate::memory::{DomainId, DomainKind};
use crate::observe::MoveCause;

impl BufferInner {
    /// Moves the buffer to other memory if its last export has ended, so that external users do not see what the
    /// use that is about to begin writes. A buffer that is kept in place stays.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::relocate`], except [`Error::Busy`].
    ///
    /// Locks: none may be held; takes the reservation, but not while waiting.
    #[inline]
    pub(in crate::buffer) fn leave_exported(self: &Arc<Self>) -> Result<()> {
        if self.set.ended_exports.is_empty() { Ok(()) } else { self.leave_exported_memory() }
    }

    #[cold]
    fn leave_exported_memory(self: &Arc<Self>) -> Result<()> {
        let held = {
            let state = self.lock();
            if !state.must_leave_exported() {
                self.set.ended_exports.remove(self);
                return Ok(());
            }
            state.host() > 0 || state.static_mappings() > 0 || state.pinned() > 0
        };
        if held {
            return Ok(());
        }
        let buffer = SharedBuffer(Arc::clone(self));
        let moved = match buffer.move_to(MoveCause::Exported, Some) {
            // The domain has no second place for it. Its preferred domain stays, so that a later use restores it, into
            // other memory; where its placement requires that, the use that is about to begin.
            Err(error) if error.is_out_of_memory() && self.is_in_vram() => {
                let evicted = buffer.move_to(MoveCause::Evicted, |_| Some(DomainId::System));
                // Any other failure is a consequence of this one.
                evicted.map_err(|other| match other {
                    Error::Busy { .. } => other,
                    _ => error,
                })
            }
            other => other,
        };
        match moved {
            Ok(_) => self.note_left(),
            // A hold began meanwhile.
            Err(Error::Busy { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes the buffer from the list of ended exports, unless another export has ended since.
    fn note_left(self: &Arc<Self>) {
        // Under the reservation: the end of an export adds the buffer under it.
        let state = self.lock();
        if !state.must_leave_exported() {
            self.set.ended_exports.remove(self);
        }
    }

    fn is_in_vram(&self) -> bool {
        self.lock().location().domain().kind() == DomainKind::Vram
    }
}
