//! The choice among the buffers of one client group.

use std::collections::HashSet;

use super::choice::{Adaptive, NOWHERE};
use super::shortlist::Rank;
use crate::residency::policy::interface::Slot;

/// The members that are looked at together, and how many of them are taken.
const LOOK: usize = 64;
const TAKE: usize = 4;
/// With at most this many members, or if the samples were not enough, it looks at all.
const FEW: usize = 256;

/// The golden ratio's fraction, in 65536ths: steps of this part of a cycle are spread evenly.
const GOLDEN: usize = 40503;

impl Adaptive {
    pub(super) fn choose_among(
        &mut self,
        members: &[Slot],
        wanted: u64,
        skip: &dyn Fn(Slot) -> bool,
        into: &mut Vec<Slot>,
    ) {
        let mut missing = wanted;
        let start = into.len();
        if members.len() > FEW {
            self.sample_members(members, &mut missing, skip, into);
        }
        if missing == 0 {
            return;
        }
        let named: HashSet<_> = into[start..].iter().copied().collect();
        let others = members.iter().filter(|slot| !named.contains(slot));
        let mut ranks = self.ranks(others, skip);
        ranks.sort_unstable();
        self.take(ranks, &mut missing, into);
    }

    /// Looks at each member once, some at a time, in an order that is unrelated to the order of joining.
    fn sample_members(
        &mut self,
        members: &[Slot],
        missing: &mut u64,
        skip: &dyn Fn(Slot) -> bool,
        into: &mut Vec<Slot>,
    ) {
        let len = members.len();
        let first = self.random.below(len);
        let mut step = ((len * GOLDEN) >> 16) | 1;
        // Without a common divisor the steps reach every member once.
        while greatest_common_divisor(step, len) > 1 {
            step += 2;
        }
        let mut at = first;
        for _ in 0..len / LOOK {
            let mut look = [Slot(0); LOOK];
            for slot in &mut look {
                *slot = members[at];
                at = (at + step) % len;
            }
            let mut ranks = self.ranks(look.iter(), skip);
            // If few of them are resident, few are taken.
            let take = (ranks.len() * TAKE).div_ceil(LOOK);
            ranks.sort_unstable();
            ranks.truncate(take);
            self.take(ranks, missing, into);
            if *missing == 0 {
                return;
            }
        }
    }

    /// The ranks of the slots that are resident and not skipped.
    fn ranks<'a>(
        &self,
        slots: impl Iterator<Item = &'a Slot>,
        skip: &dyn Fn(Slot) -> bool,
    ) -> Vec<Rank> {
        let is_resident = |slot: &Slot| {
            self.entries.get(slot.index()).is_some_and(|entry| entry.position != NOWHERE)
        };
        let named = slots.filter(|slot| is_resident(slot) && !skip(**slot));
        named.map(|slot| self.rank(slot.0)).collect()
    }

    fn take(&self, ranks: Vec<Rank>, missing: &mut u64, into: &mut Vec<Slot>) {
        for rank in ranks {
            if *missing == 0 {
                return;
            }
            into.push(Slot(rank.slot()));
            *missing = missing.saturating_sub(self.entry(rank.slot()).bytes.bytes());
        }
    }
}

fn greatest_common_divisor(mut a: usize, mut b: usize) -> usize {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}
