//! Implements [`World`], which residency calls, for the buffers of one engine.
//!
//! Kernel counterparts: `ttm_bo_evict`, `ttm_bo_evict_cb`.

use std::time::Instant;

use smallvec::SmallVec;

use super::compact::{COMPACTED_AT_ONCE, Compacted, compact};
use super::victims::evict_chunk;
use crate::buffer::migration::MAX_BATCH;
use crate::buffer::object::Buffers;
use crate::buffer::placement::drop_clean_copies;
use crate::buffer::tracking::start_tracking;
use crate::core::SlotId;
use crate::error::Error;
use crate::memory::{DomainId, GroupId};
use crate::observe::{PinReport, StallCause};
use crate::residency::{
    CapReached, DomainState, EvictionFailures, EvictionLimits, Outcomes, ReleaseWait, SkipReason,
    Trigger, Victim, World,
};

impl World for Buffers {
    type Key = SlotId;
    type Error = Error;

    fn domain_state(&self, domain: DomainId) -> &DomainState<SlotId> {
        self.core.domain_state(domain)
    }

    fn sharing_memory_with(&self, domain: DomainId) -> SmallVec<[DomainId; 4]> {
        self.beside(domain).skip(1).collect()
    }

    fn start_tracking(&self, domain: DomainId) {
        start_tracking(self, domain);
    }

    fn reclaim(&self, domain: DomainId, of: GroupId, enough: &dyn Fn() -> bool) {
        self.core.retire.collect();
        if domain == DomainId::System {
            drop_clean_copies(self, of, enough);
        }
    }

    /// If the domain has no unused memory, that of all domains is freed: a driver also limits the number of
    /// allocations, and imports of system memory count. Clean copies of other domains stay.
    fn trim(&self, domain: DomainId) -> u64 {
        match self.trim_in(domain) {
            0 => self.core.domains().map(|other| self.core.trim_pools(other)).sum(),
            freed => freed,
        }
    }

    fn compact(&self, domain: DomainId, trigger: Trigger) -> u64 {
        let except = match trigger {
            Trigger::Room { by, .. } => by,
            _ => None,
        };
        let which = Compacted { budget: COMPACTED_AT_ONCE, domain: Some(domain), except };
        compact(self, which).freed
    }

    fn evict(
        &self,
        from: DomainId,
        victims: &[Victim<SlotId>],
        limits: &EvictionLimits,
    ) -> Outcomes {
        // At most this many reservations are held at once.
        let chunks = victims.chunks(MAX_BATCH);
        chunks.flat_map(|victims| evict_chunk(self, from, victims, limits)).collect()
    }

    fn in_flight(&self, from: DomainId, of: GroupId) -> u64 {
        // Parts of system memory are charged there as well, without a group.
        let with_parts = of == GroupId::NONE && from == DomainId::System;
        let parts = with_parts.then(|| self.core.parts()).into_iter().flatten();
        parts.chain([from]).map(|domain| self.core.retire.bytes_of(of, domain)).sum()
    }

    fn wait_for_release(
        &self,
        from: DomainId,
        limits: &EvictionLimits,
        enough: &dyn Fn() -> bool,
    ) -> ReleaseWait {
        let Some(until) = limits.wait else {
            return if self.beside(from).any(|domain| self.core.retire.bytes_in(domain) > 0) {
                ReleaseWait::TimedOut
            } else {
                ReleaseWait::NothingInFlight
            };
        };
        let start = Instant::now();
        let mut waited = Ok(false);
        for domain in self.beside(from) {
            match self.core.retire.wait_for(domain, until, enough) {
                Ok(any) => waited = waited.map(|before| before || any),
                Err(error) => waited = Err(error),
            }
            if waited.is_err() || matches!(waited, Ok(true)) && enough() {
                break;
            }
        }
        if !matches!(waited, Ok(false)) {
            self.core.counters.stalls.add(StallCause::Room, start.elapsed());
        }
        match waited {
            Ok(true) => ReleaseWait::Released,
            Ok(false) => ReleaseWait::NothingInFlight,
            Err(error) => {
                tracing::warn!(%error, %from, "evictions still in flight after the timeout");
                ReleaseWait::TimedOut
            }
        }
    }

    fn name_kept(&self, key: SlotId, why: SkipReason, failures: &mut EvictionFailures) {
        let Some(buffer) = self.live.get(key) else { return };
        if !failures.names_enough() {
            failures.name(why, buffer.name());
        }
        if why != SkipReason::Pinned {
            return;
        }
        let state = buffer.lock();
        for counter in state.pin_counters().iter().filter(|counter| counter.pins() > 0) {
            let device = &self.core.member(counter.device()).device;
            failures.pinned_by(format!("{}: {}", device.name(), counter.reason()));
            failures.pins(counter.device(), buffer.size, counter.pins());
        }
        if state.exported() > 0 {
            failures.pinned_by(PinReport::EXPORTED.into());
        }
        drop(state);
    }

    fn no_room(
        &self,
        domain: DomainId,
        bytes: u64,
        capped: Option<GroupId>,
        mut failures: EvictionFailures,
    ) -> Error {
        let ledger = &self.core.domain_state(domain).ledger;
        if let Some(group) = capped.and_then(|id| self.core.groups.get(id)) {
            let usage = ledger.group(group.id);
            let (group, cap) = (group.name.to_string(), usage.cap.unwrap_or(u64::MAX));
            failures.capped(CapReached { group, asked: bytes, cap, used: usage.used });
        }
        Error::OutOfMemory {
            domain,
            requested: bytes,
            budget: ledger.budget(),
            used: ledger.used(),
            code: None,
            failures: Box::new(failures),
        }
    }
}

impl Buffers {
    /// A domain, and those whose releases make room in it: the memory of integrated devices and system memory are one.
    fn beside(&self, domain: DomainId) -> impl Iterator<Item = DomainId> {
        let is_shared =
            domain == DomainId::System || self.core.domain_state(domain).ledger.is_part();
        let shared = self.core.parts().chain([DomainId::System]);
        let others = shared.filter(move |&other| is_shared && other != domain);
        std::iter::once(domain).chain(others)
    }
}
