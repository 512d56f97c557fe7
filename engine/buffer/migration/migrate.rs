//! Moves a buffer on request of the application.

use super::execute::{no_path, relocate};
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::SharedBuffer;
use crate::buffer::placement::{home_at, retry_on_oom};
use crate::error::Result;
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::residency::Trigger;

/// The result of [`SharedBuffer::migrate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migration {
    /// Nothing: the buffer was in that domain already. No importer was notified.
    #[doc(alias = "None")]
    Unchanged,
    /// The buffer has moved, and has this generation now.
    Done {
        /// The new generation.
        generation: u32,
    },
}

impl SharedBuffer {
    /// Moves the buffer into a device's own memory, which makes that device its home (the kernel cannot
    /// change the exporter), or into system memory.
    ///
    /// Every importer is notified once. The copy waits for the work of devices on the buffer, and runs on the
    /// GPU; every later use waits for the copy. If no device sees both backings, the host copies the bytes
    /// through staging memory that it shares with each device. This then returns when the copy is complete.
    ///
    /// If a driver is out of memory, this makes room for it, and the move begins again, at most three times.
    /// Importers are then notified again.
    ///
    /// The request overrides the buffer's [`SharedBuffer::placement`] until the buffer has to move again.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Busy`] while it is pinned, under host access, mapped statically, or exported;
    /// [`crate::Error::Unreachable`] if an attached device cannot reach it there;
    /// [`crate::Error::OutOfMemory`], [`crate::Error::FdLimit`], [`crate::Error::Timeout`],
    /// [`crate::Error::DeviceLost`], [`crate::Error::Revoked`], [`crate::Error::Purged`],
    /// [`crate::Error::Poisoned`]; [`crate::Error::Unsupported`] for external memory;
    /// [`crate::Error::ForeignEngine`] for a device that does not take part. None of them changes anything.
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "ttm_bo_validate")]
    pub fn migrate(&self, to: DomainId) -> Result<Migration> {
        let moved = self.move_to(MoveCause::Asked, |current| (current != to).then_some(to))?;
        if moved == Migration::Unchanged {
            // A lost device cannot become the preferred domain, even if the buffer is elsewhere.
            home_at(&self.0, to)?;
            self.0.set_preferred(&mut self.0.lock(), to);
        }
        Ok(moved)
    }

    /// Moves the buffer to other memory of the domain where it is: out of a slab that is to become empty, or
    /// away from memory whose fd was exported, once the export is dropped. Importers are notified as for any
    /// move.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`].
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn relocate(&self) -> Result<Migration> {
        self.move_to(MoveCause::Asked, Some)
    }

    /// Moves the buffer to the domain that `choose` returns for the current one; `None` leaves it there.
    pub(in crate::buffer) fn move_to(
        &self,
        cause: MoveCause,
        choose: impl Fn(DomainId) -> Option<DomainId>,
    ) -> Result<Migration> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        // Each attempt ends with a move or an error, unless another thread changes the buffer meanwhile.
        const ATTEMPTS: u32 = 100;
        for _ in 0..ATTEMPTS {
            buffer.check_resident()?;
            // Also if it would not have to move: a caller that may move it elsewhere learns that it cannot.
            buffer.check_can_move(&buffer.home())?;
            let current = buffer.lock().location().domain();
            let Some(to) = choose(current) else { return Ok(Migration::Unchanged) };
            let home = home_at(buffer, to)?;
            let once = || {
                let limits = buffer.core().eviction_limits(buffer.trigger());
                let Some(plan) = Plan::new(buffer, &home, to.kind(), &limits)? else {
                    return Ok(MoveOutcome::Retry);
                };
                let request =
                    MoveRequest { clean: plan.clean, ..MoveRequest::to_new(cause, Trigger::Asked) };
                relocate(buffer, &home, &plan.matrix, plan.new, request)
            };
            match retry_on_oom(&buffer.set, home.id(), [&**buffer], once)? {
                MoveOutcome::Moved => {
                    return Ok(Migration::Done { generation: buffer.generation() });
                }
                MoveOutcome::Retry | MoveOutcome::WouldBlock => {}
                MoveOutcome::NoPath => return Err(no_path(&home)),
            }
        }
        Err(buffer.busy(&buffer.lock()))
    }
}
