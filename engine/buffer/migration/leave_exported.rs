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
            // The domain has no second place for it; its placement may have another one.
            Err(error) if error.is_out_of_memory() && self.may_be_in_system() => {
                buffer.move_to(MoveCause::Exported, |_| Some(DomainId::System))
            }
            other => other,
        };
        match moved {
            Ok(_) => self.set.ended_exports.remove(self),
            // A hold began meanwhile.
            Err(Error::Busy { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn may_be_in_system(&self) -> bool {
        self.placement().kinds().contains(&DomainKind::System)
    }
}
