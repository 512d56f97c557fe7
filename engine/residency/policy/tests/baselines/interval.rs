//! A predictor by intervals: a buffer is expected back after its mean interval.

use std::collections::HashMap;

use super::{Policy, Slot};

/// How many residents are looked at for a victim.
const SAMPLES: u64 = 64;

/// Last use, mean interval, and place among the residents.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    last: u64,
    interval: Option<u64>,
    place: usize,
}

/// Evicts, of some residents, the one that is expected last. One that is overdue is expected to stay away as long
/// again; one that was used once, as long as it has been away, after the mean of all.
#[derive(Debug, Default)]
pub(super) struct Interval {
    now: u64,
    state: u64,
    mean: u64,
    known: HashMap<Slot, Known>,
    residents: Vec<(Slot, u64)>,
}

impl Interval {
    fn expected(&self, slot: Slot) -> u64 {
        let Known { last, interval, .. } = self.known.get(&slot).copied().unwrap_or_default();
        let age = self.now - last;
        match interval {
            Some(interval) if interval >= age => interval - age,
            Some(_) => age,
            None => age + self.mean,
        }
    }
}

impl Policy for Interval {
    fn name(&self) -> &'static str {
        "interval"
    }

    fn capacity(&mut self, _: u64) {}

    fn access(&mut self, slot: Slot, _: u64, _: bool) {
        self.now += 1;
        let now = self.now;
        let known = self.known.entry(slot).or_default();
        if known.last > 0 {
            let seen = now - known.last;
            known.interval = Some(known.interval.map_or(seen, |mean| (mean + seen) / 2));
            self.mean = (self.mean * 63 + seen) / 64;
        }
        known.last = now;
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        self.known.entry(slot).or_default().place = self.residents.len();
        self.residents.push((slot, bytes));
    }

    fn leave(&mut self, slot: Slot) {
        let Some(place) = self.known.get(&slot).map(|known| known.place) else {
            return;
        };
        if self.residents.get(place).is_some_and(|&(at, _)| at == slot) {
            self.residents.swap_remove(place);
            if let Some(&(moved, _)) = self.residents.get(place) {
                self.known.entry(moved).or_default().place = place;
            }
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        while missing > 0 && into.len() < self.residents.len() {
            let mut best = None;
            let all = self.residents.len() as u64;
            for n in 0..all.min(SAMPLES) {
                // Knuth's linear congruential generator (MMIX).
                self.state = self
                    .state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = if all <= SAMPLES { n } else { (self.state >> 33) % all };
                // CAST: below the number of residents.
                let (slot, bytes) = self.residents[at as usize];
                if !into.contains(&slot) && !skip(slot) {
                    best = best.max(Some((self.expected(slot), slot, bytes)));
                }
            }
            // All samples may be victims already.
            let rest =
                || self.residents.iter().find(|(slot, _)| !into.contains(slot) && !skip(*slot));
            let found = best.or_else(|| rest().map(|&(slot, bytes)| (0, slot, bytes)));
            let Some((_, slot, bytes)) = found else { break };
            into.push(slot);
            missing = missing.saturating_sub(bytes);
        }
    }

    fn footprint(&self) -> usize {
        size_of::<Self>()
    }
}
