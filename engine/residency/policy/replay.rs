//! Replays a list of uses and counts what a policy would have moved, without real buffers.

use super::interface::{Policy, Slot};

/// One use of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The buffer.
    pub slot: Slot,
    /// The buffer's size; the same in all of its uses.
    pub bytes: u64,
}

/// What a policy moved for a list of uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The number of uses.
    pub accesses: u64,
    /// The number of uses of a buffer that was not resident.
    pub misses: u64,
    /// Bytes brought in, including the first time of each buffer.
    pub bytes_in: u64,
    /// Bytes evicted.
    pub bytes_out: u64,
}

/// Which buffers are resident, and what was moved: shared by [`replay`] and [`belady`](super::belady()).
#[derive(Debug)]
pub(super) struct Stage {
    resident: Vec<bool>,
    bytes: Vec<u64>,
    capacity: u64,
    used: u64,
    pub(super) counts: Replay,
}

impl Stage {
    pub(super) fn new(uses: &[Use], capacity: u64) -> Self {
        let slots = uses.iter().map(|each| each.slot.index() + 1).max().unwrap_or(0);
        Self {
            resident: vec![false; slots],
            bytes: vec![0; slots],
            capacity,
            used: 0,
            counts: Replay::default(),
        }
    }

    pub(super) fn is_resident(&self, slot: Slot) -> bool {
        self.resident[slot.index()]
    }

    /// Counts a use. `None` if the buffer is resident, or larger than the domain. Otherwise the number of bytes
    /// to evict first.
    pub(super) fn access(&mut self, each: Use) -> Option<u64> {
        self.counts.accesses += 1;
        if self.is_resident(each.slot) {
            return None;
        }
        self.counts.misses += 1;
        let free = self.capacity - self.used;
        (each.bytes <= self.capacity).then(|| each.bytes.saturating_sub(free))
    }

    pub(super) fn bring_in(&mut self, each: Use) {
        self.used += each.bytes;
        assert!(self.used <= self.capacity, "the domain holds more than its capacity");
        self.counts.bytes_in += each.bytes;
        self.resident[each.slot.index()] = true;
        self.bytes[each.slot.index()] = each.bytes;
    }

    pub(super) fn evict(&mut self, slot: Slot) {
        assert!(self.is_resident(slot), "{slot:?} was evicted but is not resident");
        let bytes = self.bytes[slot.index()];
        self.used -= bytes;
        self.counts.bytes_out += bytes;
        self.resident[slot.index()] = false;
    }
}

/// Replays `uses` in order on a domain of `capacity` bytes, with `policy` choosing what to evict.
///
/// Every use of a buffer that is not resident brings it in. Buffers larger than the domain are never resident;
/// their uses are misses that move nothing.
///
/// # Panics
///
/// If the policy names a buffer that is not resident, or does not make room although it could.
pub fn replay(policy: &mut dyn Policy, uses: &[Use], capacity: u64) -> Replay {
    let mut stage = Stage::new(uses, capacity);
    let mut victims = Vec::new();
    policy.capacity(capacity);
    for &each in uses {
        policy.access(each.slot, each.bytes, stage.is_resident(each.slot));
        let Some(wanted) = stage.access(each) else {
            continue;
        };
        if wanted > 0 {
            policy.victims(wanted, &|_| false, &mut victims);
            for victim in victims.drain(..) {
                stage.evict(victim);
                policy.leave(victim);
            }
        }
        stage.bring_in(each);
        policy.admit(each.slot, each.bytes);
    }
    stage.counts
}
