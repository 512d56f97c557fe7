//! Moving a buffer on request.

use super::execute::{no_path, relocate};
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::SharedBuffer;
use crate::buffer::placement::{home_at, retry_on_oom};
use crate::error::Result;
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::residency::Trigger;

/// What [`SharedBuffer::migrate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Nothing: it was there already. Nobody was told anything.
    None,
    /// It has moved, and is at this generation now.
    Done {
        /// The new generation.
        generation: u32,
    },
}

impl SharedBuffer {
    /// Moves the buffer: into a device's own memory, which then is its home (the kernel cannot change the
    /// exporter), or into system memory. Every importer is told once; what devices do with it is waited
    /// for; the copy runs on the GPU, and everybody waits for that before the next use. Where no device
    /// sees both places, the host carries the bytes, through staging memory that it shares with each, and this
    /// returns when they are there.
    ///
    /// A driver that has no memory left for it is given some, and the move begins again, at most three times;
    /// importers are then told again.
    ///
    /// The request overrides the buffer's [`SharedBuffer::placement`] until it has to move again.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while it is pinned, under host access, mapped statically, or handed out;
    /// [`Error::Unreachable`] if somebody attached cannot reach it there; [`Error::OutOfMemory`],
    /// [`Error::FdLimit`], [`Error::Timeout`], [`Error::DeviceLost`], [`Error::Revoked`], [`Error::Purged`],
    /// [`Error::Poisoned`]; [`Error::Unsupported`] for a stranger's memory; [`Error::ForeignEngine`] for a
    /// device that does not take part. None of them changes anything.
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "ttm_bo_validate")]
    pub fn migrate(&self, to: DomainId) -> Result<Migration> {
        let moved = self.move_to(MoveCause::Asked, |now| (now != to).then_some(to))?;
        if moved == Migration::None {
            // Nobody wants to be on a device that was given up, wherever it is.
            home_at(&self.0, to)?;
            self.0.want(&mut self.0.lock(), to);
        }
        Ok(moved)
    }

    /// Moves the buffer to other memory of the place where it is: out of a slab that is to become empty, or
    /// away from an fd that was handed out, once that guard is gone. Importers are told as for any move.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`].
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn relocate(&self) -> Result<Migration> {
        self.move_to(MoveCause::Asked, Some)
    }

    /// Moves it to what `choose` makes of where it is.
    pub(in crate::buffer) fn move_to(
        &self,
        cause: MoveCause,
        choose: impl Fn(DomainId) -> Option<DomainId>,
    ) -> Result<Migration> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        // Each turn ends with a move or an error, unless somebody else was faster.
        const TURNS: u32 = 100;
        for _ in 0..TURNS {
            buffer.check_there()?;
            let now = buffer.lock().location.domain();
            let Some(to) = choose(now) else { return Ok(Migration::None) };
            let home = home_at(buffer, to)?;
            let once = || {
                let limits = buffer.core().eviction_limits(buffer.trigger());
                let Some(plan) = Plan::new(buffer, &home, to.kind(), &limits)? else {
                    return Ok(MoveOutcome::Retry);
                };
                let request =
                    MoveRequest { clean: plan.clean, ..MoveRequest::to_new(cause, Trigger::Asked) };
                relocate(buffer, &home, &plan.seats, plan.new, request)
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
