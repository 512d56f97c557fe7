//! What residency asks of the engine.
//!
//! Kernel counterparts: `ttm_bo_evict`, `ttm_bo_evict_cb`.

use std::time::Instant;

use super::victims::evict_some;
use crate::buffer::migration::TOGETHER;
use crate::buffer::object::Buffers;
use crate::buffer::placement::drop_clean_copies;
use crate::buffer::tracking::tighten;
use crate::core::SlotId;
use crate::error::Error;
use crate::memory::{DomainId, GroupId};
use crate::observe::StallCause;
use crate::residency::{CapReached, Obstacles, Outcomes, Settled, Store, Terms, Victim, World};

impl World for Buffers {
    type Key = SlotId;
    type Error = Error;

    fn store(&self, domain: DomainId) -> &Store<SlotId> {
        self.core.store(domain)
    }

    fn line_up(&self, domain: DomainId) {
        tighten(self, domain);
    }

    fn reap(&self, domain: DomainId, of: GroupId, enough: &dyn Fn() -> bool) {
        self.core.retire.collect();
        if domain == DomainId::System {
            drop_clean_copies(self, of, enough);
        }
    }

    fn trim(&self, domain: DomainId) -> u64 {
        self.trim_in(domain)
    }

    fn evict(&self, from: DomainId, victims: &[Victim<SlotId>], terms: &Terms) -> Outcomes {
        // So many reservations are held at once, and no more.
        let some = victims.chunks(TOGETHER);
        some.flat_map(|victims| evict_some(self, from, victims, terms)).collect()
    }

    fn leaving(&self, from: DomainId, of: GroupId) -> u64 {
        self.core.retire.bytes_of(of, from)
    }

    fn settle(&self, from: DomainId, terms: &Terms, enough: &dyn Fn() -> bool) -> Settled {
        let Some(until) = terms.wait else {
            return if self.core.retire.bytes_in(from) > 0 {
                Settled::Late
            } else {
                Settled::Nothing
            };
        };
        let start = Instant::now();
        let waited = self.core.retire.wait_for(from, until, enough);
        if !matches!(waited, Ok(false)) {
            self.core.counters.stalls.add(StallCause::Room, start.elapsed());
        }
        match waited {
            Ok(true) => Settled::Out,
            Ok(false) => Settled::Nothing,
            Err(error) => {
                tracing::warn!(%error, %from, "what leaves is not out in time");
                Settled::Late
            }
        }
    }

    fn name_pins(&self, key: SlotId, obstacles: &mut Obstacles) {
        let Some(buffer) = self.live.get(key) else { return };
        let state = buffer.lock();
        for line in state.pin_lines().iter().filter(|line| line.pins() > 0) {
            let device = &self.core.member(line.device()).device;
            obstacles.pinned_by(format!("{}: {}", device.name(), line.reason()));
            obstacles.pins(line.device(), buffer.size, line.pins());
        }
        if state.exported() > 0 {
            obstacles.pinned_by("handed out".into());
        }
        drop(state);
    }

    fn no_room(
        &self,
        domain: DomainId,
        bytes: u64,
        capped: Option<GroupId>,
        mut obstacles: Obstacles,
    ) -> Error {
        let ledger = &self.core.store(domain).ledger;
        if let Some(group) = capped.and_then(|id| self.core.groups.get(id)) {
            let usage = ledger.group(group.id);
            let (group, cap) = (group.name.to_string(), usage.cap.unwrap_or(u64::MAX));
            obstacles.capped(CapReached { group, asked: bytes, cap, used: usage.used });
        }
        Error::OutOfMemory {
            domain,
            requested: bytes,
            budget: ledger.budget(),
            used: ledger.used(),
            code: None,
            obstacles: Box::new(obstacles),
        }
    }
}
