//! Memory pressure from outside the ledgers: budgets are polled, and a driver that is out of memory gets room
//! and a retry.

use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::tracking::start_tracking;
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::memory::{DomainId, GiveBack, GroupId};
use crate::residency::{self, EvictionLimits, Trigger, World};

/// The unit of room for a driver that is out of memory: round `n` evicts this many bytes times `4^n`.
const OOM_BYTES: u64 = 16 << 20;
/// How often one operation makes room for a driver that is out of memory, before it fails.
const OOM_RETRIES: u32 = 3;

/// Runs `work` for a device. If the device's driver is out of memory, makes room for it and runs `work`
/// again. Room is made by trimming, then also by evicting other buffers than `buffers`. If the device may not import more,
/// waits once for work that keeps its unused views, and runs `work` again if that made room.
///
/// # Errors
///
/// Those of `work`. If the driver is still out of memory after the last round, that error.
///
/// Locks: none may be held, except within `work`.
#[inline]
pub(in crate::buffer) fn retry_on_oom<'a, R>(
    set: &Buffers,
    device: DeviceId,
    buffers: impl IntoIterator<Item = &'a BufferInner> + Clone,
    mut work: impl FnMut() -> Result<R>,
) -> Result<R> {
    // One variable, so that the result is made where it is returned: a copy of it waits for the stores that made it.
    let mut made = work();
    if made.is_err() {
        made = retry_failed(set, device, buffers, made, work);
    }
    made
}

/// [`retry_on_oom`] from the `first` failure on.
#[cold]
fn retry_failed<'a, R>(
    set: &Buffers,
    device: DeviceId,
    buffers: impl IntoIterator<Item = &'a BufferInner> + Clone,
    first: Result<R>,
    mut work: impl FnMut() -> Result<R>,
) -> Result<R> {
    let (mut round, mut has_waited, mut first) = (0, false, Some(first));
    loop {
        match first.take().unwrap_or_else(&mut work) {
            Err(error) if round < OOM_RETRIES && error.is_drivers_out_of_memory() => {
                let protection = set
                    .core
                    .protected
                    .protect(buffers.clone().into_iter().map(BufferInner::id).collect());
                set.make_room_for_driver(device, round);
                drop(protection);
                round += 1;
            }
            // Evictions would make it worse: the device would import the memory that they move buffers to.
            Err(Error::ImportLimit(limit)) if !has_waited => {
                has_waited = true;
                if !set.core.wait_for_import_room(device, limit.requested) {
                    return Err(Error::ImportLimit(limit));
                }
            }
            other => return other,
        }
    }
}

impl Buffers {
    /// Checks whether other programs use more or less of a device's memory than before. If the budget has
    /// shrunk, evicts what no longer fits. Then trims unused memory and memory already released, so that the
    /// driver has it back. Polls at most every half second. Also gives back views that were unused for long.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn poll_budget(&self, device: DeviceId) {
        let (member, domain) = (self.core.member(device), DomainId::Vram(device));
        let age = self.core.age();
        self.core.give_back_views_due_at(|| age);
        member.poll_budget(age, &self.core.imports);
        let Some(_turn) = member.take_polled() else { return };
        let imports = self.core.imports.usage(&member.device);
        if imports.system > imports.limit {
            // A submission while its imports exceed what is left may lose the device (Mesa), and is not tried again.
            self.core.give_back_views(Some(device), GiveBack::All);
        }
        if member.vram.comes_under_pressure(0) {
            start_tracking(self, domain);
        }
        let ledger = &member.vram.ledger;
        if ledger.used() > ledger.driver_budget() {
            let trigger = Trigger::Room { bytes: ledger.excess(), by: None };
            let limits = EvictionLimits { wait: None, ..self.core.eviction_limits(trigger) };
            let evicted = residency::fit(self, domain, GroupId::NONE, &limits).moved;
            tracing::debug!(%device, ledger = ?ledger.usage(), evicted, "budget of the driver exceeded");
        }
        if ledger.usage().held > ledger.driver_budget() {
            let mut trimmed = self.trim_in(domain);
            if ledger.usage().held > ledger.driver_budget() {
                trimmed += self.compact(domain, Trigger::All);
            }
            tracing::debug!(%device, trimmed, "budget of the driver exceeded by unused memory");
        }
    }

    /// Makes room for a driver that is out of memory for something other than an allocation of peerbuf. Each
    /// round evicts more.
    ///
    /// Locks: none may be held.
    pub(super) fn make_room_for_driver(&self, device: DeviceId, round: u32) {
        let bytes = OOM_BYTES << (2 * round);
        let limits = self.core.eviction_limits(Trigger::Room { bytes, by: None });
        // The first round only trims unused memory.
        let trimmed = self.trim();
        let evicted = match round {
            0 => 0,
            _ => residency::evict_bytes(self, DomainId::Vram(device), bytes, &limits).moved,
        };
        tracing::warn!(%device, evicted, trimmed, "driver out of memory; retrying");
    }
}
