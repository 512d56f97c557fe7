//! The candidates that are worth least, of all that were looked at recently.

/// How many candidates are kept from one choice to the next.
const LEN: usize = 6;

/// A candidate for eviction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidate {
    /// What it is worth; the least is evicted first.
    pub(super) rank: Rank,
    /// The time of its last use. After another use it is no longer a candidate.
    pub(super) last: u32,
}

/// A slot and what it is worth. Ordered by worth, then by slot, with one integer comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64);

impl Rank {
    pub(super) const LAST: Self = Self(u64::MAX);

    /// `worth` must not be negative: the bit patterns of such numbers are in the order of the numbers.
    pub(super) fn new(worth: f32, slot: u32) -> Self {
        Self(u64::from(worth.to_bits()) << 32 | u64::from(slot))
    }

    pub(super) fn slot(self) -> u32 {
        // CAST: the lower half.
        self.0 as u32
    }
}

/// Candidates; the one that is worth least comes first.
#[derive(Clone, Debug, Default)]
pub(super) struct Shortlist {
    candidates: [Candidate; LEN],
    len: usize,
}

impl Shortlist {
    /// Adds a candidate, if it is among those that are worth least and not in the list yet.
    pub(super) fn offer(&mut self, candidate: Candidate) {
        let listed = &self.candidates[..self.len];
        if self.len == LEN && listed[LEN - 1].rank <= candidate.rank
            || listed.iter().any(|other| other.rank.slot() == candidate.rank.slot())
        {
            return;
        }
        let mut at = self.len.min(LEN - 1);
        self.len = at + 1;
        while at > 0 && self.candidates[at - 1].rank > candidate.rank {
            self.candidates[at] = self.candidates[at - 1];
            at -= 1;
        }
        self.candidates[at] = candidate;
    }

    /// Evaluates all candidates again: `look` returns the current one of a slot, or `None` to remove it.
    pub(super) fn review(&mut self, look: impl Fn(u32) -> Option<Candidate>) {
        let Self { candidates, len } = std::mem::take(self);
        for candidate in candidates[..len].iter().filter_map(|old| look(old.rank.slot())) {
            self.offer(candidate);
        }
    }

    /// Removes the candidate that is worth least.
    pub(super) fn take(&mut self) -> Option<Candidate> {
        let first = *self.candidates[..self.len].first()?;
        self.candidates.copy_within(1..self.len, 0);
        self.len -= 1;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(worth: u8, slot: u32) -> Candidate {
        Candidate { rank: Rank::new(f32::from(worth), slot), last: 0 }
    }

    fn taken(list: &mut Shortlist) -> Vec<u32> {
        std::iter::from_fn(|| list.take()).map(|each| each.rank.slot()).collect()
    }

    #[test]
    fn the_candidates_that_are_worth_least_are_kept_in_order() {
        let mut list = Shortlist::default();
        for (slot, worth) in (0..).zip([9, 3, 7, 1, 8, 2, 6, 4, 5, 0]) {
            list.offer(candidate(worth, slot));
        }
        assert_eq!(taken(&mut list), [9, 3, 5, 1, 7, 8]);
    }

    #[test]
    fn no_slot_is_in_the_list_twice() {
        let mut list = Shortlist::default();
        list.offer(candidate(1, 4));
        list.offer(candidate(1, 4));
        list.offer(candidate(0, 4));
        assert_eq!(taken(&mut list), [4]);
    }

    #[test]
    fn a_review_drops_and_reorders() {
        let mut list = Shortlist::default();
        (0..5).for_each(|slot| list.offer(candidate(1, slot)));
        list.review(|slot| (slot != 2).then(|| candidate(if slot == 3 { 0 } else { 1 }, slot)));
        assert_eq!(taken(&mut list), [3, 0, 1, 4]);
    }
}
