//! A driver that is out of memory for something that is no buffer's, or for taking one in: it is given some, and
//! asked again.

use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::tracking::start_tracking;
use crate::device::DeviceId;
use crate::error::Result;
use crate::memory::{DomainId, GroupId};
use crate::residency::{self, EvictionLimits, Trigger};

/// Bytes that are given to a driver that is out of memory, at first.
const OOM_BYTES: u64 = 16 << 20;
/// How often a driver that is out of memory is given some, for one operation.
const OOM_RETRIES: u32 = 3;

/// Does `work` for a device; an event, not an end: if its driver is out of memory others make room, but for
/// `buffers`, and it is tried again.
///
/// # Errors
///
/// What `work` says, the driver's word at last.
///
/// Locks: none may be held, but within `work`.
pub(in crate::buffer) fn retry_on_oom<'a, R>(
    set: &Buffers,
    device: DeviceId,
    buffers: impl IntoIterator<Item = &'a BufferInner> + Clone,
    mut work: impl FnMut() -> Result<R>,
) -> Result<R> {
    for round in 0..OOM_RETRIES {
        match work() {
            Err(error) if error.is_drivers_out_of_memory() => {
                let protection = set
                    .core
                    .protected
                    .protect(buffers.clone().into_iter().map(BufferInner::id).collect());
                set.make_room_for_driver(device, round);
                drop(protection);
            }
            other => return other,
        }
    }
    work()
}

impl Buffers {
    /// Looks whether others have taken some of a device's memory, or given it back: whoever does not fit any
    /// more is told to go, and what is out by then, and what nobody uses, goes back to the driver. At most
    /// every half second.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn poll_budget(&self, device: DeviceId) {
        let (member, domain) = (self.core.member(device), DomainId::Vram(device));
        member.ask_budget(self.core.age());
        if !member.has_news() {
            return;
        }
        if member.vram.comes_under_pressure(0) {
            start_tracking(self, domain);
        }
        let ledger = &member.vram.ledger;
        if ledger.used() > ledger.driver_budget() {
            let trigger = Trigger::Room { bytes: ledger.excess(), by: None };
            let limits = EvictionLimits { wait: None, ..self.core.eviction_limits(trigger) };
            let evicted = residency::fit(self, domain, GroupId::NONE, &limits).moved;
            tracing::debug!(%device, ledger = ?ledger.usage(), evicted, "others need memory");
        }
        if ledger.usage().held > ledger.driver_budget() {
            let trimmed = self.trim_in(domain);
            tracing::debug!(%device, trimmed, "others need memory");
        }
    }

    /// A driver has no memory left for something that is none of our allocations: gives it some, more each
    /// round.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn make_room_for_driver(&self, device: DeviceId, round: u32) {
        let bytes = OOM_BYTES << (2 * round);
        let limits = self.core.eviction_limits(Trigger::Room { bytes, by: None });
        // At first what nobody uses.
        let trimmed = self.trim();
        let evicted = match round {
            0 => 0,
            _ => residency::evict_bytes(self, DomainId::Vram(device), bytes, &limits).moved,
        };
        tracing::warn!(%device, evicted, trimmed, "the driver is out of memory");
    }
}
