//! A policy over a list of uses, without any buffers: what it would have moved.

use super::{Policy, Slot};

/// One use of one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Which buffer.
    pub slot: Slot,
    /// How large it is; the same in all of its uses.
    pub bytes: u64,
}

/// What a policy did with a list of uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// How many uses there were.
    pub accesses: u64,
    /// How many of them found the buffer elsewhere.
    pub misses: u64,
    /// Bytes brought in, the first time of each buffer included.
    pub bytes_in: u64,
    /// Bytes evicted.
    pub bytes_out: u64,
}

/// Who is where, and what that has cost: what [`replay`] and [`belady`](super::belady()) have in common.
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

    /// Counts a use. `None` if nothing has to be done for it, because the buffer is here or can never be;
    /// else how many bytes have to go first.
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
        assert!(self.used <= self.capacity, "more is here than fits");
        self.counts.bytes_in += each.bytes;
        self.resident[each.slot.index()] = true;
        self.bytes[each.slot.index()] = each.bytes;
    }

    pub(super) fn evict(&mut self, slot: Slot) {
        assert!(self.is_resident(slot), "{slot:?} is evicted and is not here");
        let bytes = self.bytes[slot.index()];
        self.used -= bytes;
        self.counts.bytes_out += bytes;
        self.resident[slot.index()] = false;
    }
}

/// Lets `policy` choose for a domain of `capacity` bytes that serves `uses`, one after the other.
///
/// Every use of a buffer that is elsewhere brings it in. Buffers larger than the domain stay where they
/// are; their uses are misses that move nothing.
///
/// # Panics
///
/// If the policy names somebody who is not here, or does not make room although there is somebody to evict.
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
