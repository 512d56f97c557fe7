//! The end of a device that leaves the engine: its work ends, what the engine made on it is destroyed.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::Core;
use crate::device::{DeviceInner, Leaving};
use crate::error::{DeviceUsers, Error, Result};
use crate::memory::GiveBack;

/// How often it is looked whether other threads have ended what they were doing with the device, and the pause between.
const ROUNDS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

impl Core {
    /// Waits until nothing that was submitted to the device is in use, while there is progress within the engine
    /// timeout.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`]; [`Error::DeviceLost`] if it is lost and may be at work all the same.
    ///
    /// Locks: none may be held.
    pub(crate) fn wait_for_removal(&self, device: &DeviceInner) -> Result<()> {
        let ended = match device.is_lost() {
            true => device.settle(self.timeout),
            false => device.wait_while_in_progress(self.timeout),
        };
        if ended { Ok(()) } else { Err(self.still_at_work(device)) }
    }

    fn still_at_work(&self, device: &DeviceInner) -> Error {
        if device.is_lost() {
            return device.lost_in("vkWaitSemaphores");
        }
        Error::Timeout { what: format!("the work of {}", device.name()), after: self.timeout }
    }

    /// Destroys what the engine has on the device, and the device itself if the engine has opened it, once nothing else
    /// refers to it. Waits a moment for other threads to end what they were doing.
    ///
    /// `let_go` makes the buffers drop their references to the device. `homes` counts the buffers whose home it is; it
    /// takes no reservation, because a thread that has one may wait for the end of the count ([`super::DeviceTable`]).
    /// The references that it counts by come with its result, and are dropped after the count: the last one of a buffer
    /// drops importers, whose code may look the device up.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceInUse`] with the number of other references or of buffers; those of [`Core::wait_for_removal`] if
    /// another thread has submitted work that does not end. The device then remains, unplugged.
    ///
    /// Locks: none may be held.
    #[expect(unsafe_code, reason = "the count of references says that nothing uses the device")]
    pub(crate) fn close<T>(
        &self,
        device: &Arc<DeviceInner>,
        leaving: Leaving,
        let_go: impl Fn(),
        homes: impl Fn() -> (u64, T),
    ) -> Result<()> {
        self.bridges.forget(device);
        let mut rounds = 0..ROUNDS;
        let counted_by = loop {
            let_go();
            self.give_back_views(Some(device.id()), GiveBack::All);
            self.retire.collect();
            self.retire.forget_succeeded();
            self.domains().for_each(|domain| {
                self.trim_pools(domain);
            });
            drop(self.member(device.id()).take_tools());
            // Before the count, too: a pool that is made in between is counted as a user, and is none in the next round.
            let own = self.own(device);
            // Before the count: a thread that takes a reference from the table either is counted, or sees the mark, drops
            // it, and waits for the result (`DeviceTable::device`).
            leaving.begin_count();
            fence(Ordering::SeqCst);
            let Some(others) = (Arc::strong_count(device) as u64).checked_sub(own) else {
                unreachable!(
                    "the references of the table, of the pools and of this thread are counted"
                )
            };
            // What other threads did with the references that they have dropped is visible to this one.
            fence(Ordering::Acquire);
            let (buffers, counted_by) = (others == 0).then(&homes).unzip();
            let buffers = buffers.unwrap_or(0);
            let unused = others == 0 && buffers == 0;
            // Work that was submitted since the wait for it may be running without a reference.
            if unused && has_ended(device) {
                break counted_by;
            }
            leaving.end_count();
            drop(counted_by);
            if unused {
                self.wait_for_removal(device)?;
            }
            if rounds.next().is_none() {
                let mut users = DeviceUsers::of(device.name());
                (users.handles, users.buffers) = (others, buffers);
                users.check()?;
                return Err(self.still_at_work(device));
            }
            std::thread::sleep(PAUSE);
        };
        leaving.complete();
        // SAFETY: all objects that were made on the device, all fences on its timelines, and all handles hold a
        // reference to it; none is left, and the table gives no more away, nor does a buffer whose home it is. Its
        // submitted work has ended, and nothing was submitted since, for want of a reference.
        unsafe { device.close() };
        self.imports.forget(device.id());
        self.devices.devices().for_each(|other| other.forget_removed());
        tracing::debug!(device = device.name(), "device removed");
        // Last, since code of the application may run.
        drop(counted_by);
        Ok(())
    }

    /// How many references to the device are no users: that of the table, that of the caller, that of the mark, and those
    /// of the pools of memory that it would export.
    fn own(&self, device: &DeviceInner) -> u64 {
        3 + self.member(device.id()).pools.iter().count() as u64
    }
}

/// Whether nothing that was submitted to the device is in use. Waits for nothing.
fn has_ended(device: &DeviceInner) -> bool {
    match device.is_lost() {
        true => device.settle(Duration::ZERO),
        false => device.wait_until_unused(Duration::ZERO),
    }
}
