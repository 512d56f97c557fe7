//! The history of each buffer, and the choice of a victim among all residents.

use super::outlook::{Habit, Outlook};
use super::residents::{Eligible, Residents};
use super::scale::Scale;
use super::shortlist::{Candidate, Rank, Shortlist};
use crate::residency::policy::interface::Slot;
use crate::residency::policy::random::Random;
use crate::residency::policy::size::Size;

/// Intervals are stored in 64 steps per doubling.
type Intervals = Scale<6>;

/// The number of residents in a heat. Only the one that is worth least becomes a candidate, because keeping
/// several in order takes most of the time.
const HEAT: usize = 8;
/// The number of heats for one choice.
const HEATS: usize = 2;
/// The most choices that are made at once: among many buffers, a few are chosen ahead.
const BATCH: usize = 4;
/// The rounds of heats that a call makes for all its victims, beyond one round for each batch of them. The eviction
/// list is locked meanwhile, and submissions wait for it.
const MORE_ROUNDS: usize = 6;
/// For each so many bytes that a choice frees, one resident is looked at, within these rounds. A look takes some
/// nanoseconds, and copying as many bytes about a thousand times as long.
const BYTES_PER_LOOK: u64 = 64 << 10;
/// Victims of at least this size are not chosen ahead for later calls.
const LARGE: u64 = 2 << 20;
/// One choice is made ahead for this many residents.
const PER_CHOICE: usize = 64;

/// Half of what was learned fades within this many uses per resident.
const MEMORY: u32 = 8;
/// The longest memory: an `f32` counts up to 2²⁴, and what is known is at most one and a half times the memory.
const LONGEST_MEMORY: u32 = 1 << 23;
/// With fewer residents, the memory is as long as with this many.
const FEW: usize = 64;

/// The position of a slot that may not be chosen.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Evicts the buffer with the fewest expected uses per time.
///
/// The expectation is learned from all uses, also of buffers in other domains: after how long a buffer with
/// this history is used again. Nothing is assumed about frames or popularity. To choose, it looks at some
/// buffers at random, and at the best candidates of earlier choices.
///
/// A large buffer is worth as much per byte as a small one: it takes room in proportion to its bytes, and saves
/// moving as many. After one use its size is all that is known of it. Buffers are looked at in proportion to their
/// bytes, and more of them if they are large. A fifth of the looks is in proportion to their number.
#[derive(Clone, Debug)]
pub struct Adaptive {
    pub(super) entries: Vec<Entry>,
    /// The slots that may be chosen.
    pub(super) residents: Residents,
    pub(super) outlook: Outlook,
    pub(super) shortlist: Shortlist,
    /// How many candidates may still be taken from the shortlist before it is reviewed.
    ahead: usize,
    pub(super) random: Random,
    /// The number of uses so far. It wraps: a buffer that was used 2³² uses ago seems to have been used just
    /// now.
    pub(super) now: u32,
}

/// The history of a slot: a quarter of a cache line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The time of the last use.
    pub(super) last: u32,
    /// The slot's position in its size class of `residents`.
    pub(super) position: u32,
    pub(super) bytes: Size,
    /// The usual interval between uses, as a step of [`Intervals`].
    pub(super) interval: u16,
    /// `None` if the buffer was never used.
    pub(super) habit: Option<Habit>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { last: 0, position: NOWHERE, bytes: Size::ZERO, interval: 0, habit: None }
    }
}

impl Entry {
    fn is_among(&self, eligible: &Eligible) -> bool {
        eligible.contains(self.position, self.bytes)
    }

    /// Records a use of `bytes`, `age` after the last one, and returns the new habit.
    pub(super) fn used_again(&mut self, habit: Habit, age: u32, bytes: u64) -> Habit {
        let usual = if habit.is_new() {
            u64::from(age)
        } else {
            (Intervals::shortest(u32::from(self.interval)) * 3 + u64::from(age)) / 4
        };
        // CAST: a mean of numbers below 2³² is below it too.
        let usual = usual as u32;
        // CAST: the steps of 32 bits are below 2¹¹.
        self.interval = Intervals::step(usual) as u16;
        Habit::of(usual, age, bytes)
    }
}

impl Adaptive {
    /// A policy without buffers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            residents: Residents::default(),
            outlook: Outlook::new(),
            shortlist: Shortlist::default(),
            ahead: 0,
            random: Random::new(0),
            now: 0,
        }
    }

    pub(super) fn entry(&self, slot: u32) -> &Entry {
        &self.entries[Slot(slot).index()]
    }

    pub(super) fn rank(&self, slot: u32) -> Rank {
        self.rank_of(self.entry(slot), slot)
    }

    pub(super) fn rank_of(&self, entry: &Entry, slot: u32) -> Rank {
        let age = self.now.wrapping_sub(entry.last);
        Rank::new(
            self.outlook.worth(entry.habit.unwrap_or_else(|| Habit::new(entry.bytes.bytes())), age),
            slot,
        )
    }

    pub(super) fn candidate(&self, rank: Rank) -> Candidate {
        Candidate { rank, last: self.entry(rank.slot()).last }
    }

    /// Begins a call that wants so many bytes. Returns the rounds of heats that it may make beyond one for each batch.
    pub(super) fn begin(&mut self, eligible: &Eligible, wanted: u64) -> usize {
        if wanted.min(eligible.mean_bytes()) >= LARGE {
            self.ahead = 0;
        }
        MORE_ROUNDS
    }

    /// Chooses one of the eligible residents that is worth little; `missing` bytes are wanted. `rounds` are those of
    /// [`Self::begin`] that are left.
    pub(super) fn choose(
        &mut self,
        eligible: &Eligible,
        missing: u64,
        rounds: &mut usize,
    ) -> Option<u32> {
        self.take_ahead(eligible).or_else(|| {
            let batch = (eligible.len() / PER_CHOICE).clamp(1, BATCH);
            let mean = eligible.mean_bytes().max(1);
            let most = (HEATS * HEAT * (1 + MORE_ROUNDS)) as u64;
            // CAST: at most `most`.
            let looks = (missing.min(mean) / BYTES_PER_LOOK).min(most) as usize;
            let batches = missing.div_ceil(mean).div_ceil(batch as u64).max(1);
            // CAST: at most `MORE_ROUNDS`.
            let share = (*rounds as u64 / batches) as usize;
            let more = (looks / (HEATS * HEAT)).saturating_sub(1).min(share);
            *rounds -= more;
            self.look_around(eligible, batch * HEATS, 1 + more);
            self.ahead = batch;
            self.take_ahead(eligible)
        })
    }

    /// A skipped candidate is replaced by the next one of the same look.
    pub(super) fn skipped(&mut self) {
        self.ahead += 1;
    }

    /// A candidate of an earlier choice that was not used since.
    fn take_ahead(&mut self, eligible: &Eligible) -> Option<u32> {
        while self.ahead > 0 {
            self.ahead -= 1;
            let candidate = self.shortlist.take()?;
            let slot = candidate.rank.slot();
            let entry = self.entry(slot);
            if entry.is_among(eligible) && entry.last == candidate.last {
                return Some(slot);
            }
        }
        None
    }

    /// Reviews the shortlist and adds the winners of new heats, in some rounds. If there are few residents, it looks at
    /// all.
    fn look_around(&mut self, eligible: &Eligible, heats: usize, rounds: usize) {
        let mut shortlist = std::mem::take(&mut self.shortlist);
        shortlist.review(|slot| {
            let entry = self.entry(slot);
            entry.is_among(eligible).then(|| self.candidate(self.rank(slot)))
        });
        let drawn_at_once = heats * HEAT;
        if eligible.len() <= rounds * drawn_at_once {
            for slot in self.residents.each(eligible) {
                shortlist.offer(self.candidate(self.rank(slot)));
            }
        } else {
            for _ in 0..rounds {
                let mut best = [Rank::LAST; HEATS * BATCH];
                let drawn = self.draw(eligible, drawn_at_once);
                // The draws are in the order of size, and each heat gets some of all sizes.
                for each in drawn[..drawn_at_once].chunks(heats) {
                    for (best, (slot, entry)) in best.iter_mut().zip(each) {
                        *best = self.rank_of(entry, *slot).min(*best);
                    }
                }
                for &rank in &best[..heats] {
                    shortlist.offer(self.candidate(rank));
                }
            }
        }
        self.shortlist = shortlist;
    }

    /// Draws residents at random, with their histories.
    ///
    /// It loads all slots first and then all entries, so that the cache misses of each step overlap.
    fn draw(&mut self, eligible: &Eligible, count: usize) -> [(u32, Entry); HEAT * HEATS * BATCH] {
        let mut slots = [0; HEAT * HEATS * BATCH];
        let slots = &mut slots[..count];
        self.residents.draw(eligible, &mut self.random, slots);
        let mut drawn = [(0, Entry::default()); HEAT * HEATS * BATCH];
        for (drawn, &slot) in drawn.iter_mut().zip(&*slots) {
            *drawn = (slot, self.entries[Slot(slot).index()]);
        }
        drawn
    }

    /// Swaps a resident with the one of its class at `position`.
    pub(super) fn move_to(&mut self, slot: u32, position: u32) {
        let &Entry { position: from, bytes, .. } = self.entry(slot);
        let swapped = self.residents.swap(bytes, from, position);
        for (slot, at) in swapped.into_iter().zip([from, position]) {
            self.entries[Slot(slot).index()].position = at;
        }
    }

    /// The number of uses within which half of what was learned fades.
    pub(super) fn memory(&self) -> f32 {
        // CAST: there are no more residents than slots; and the last bits do not matter.
        (self.residents.len().max(FEW) as u32).saturating_mul(MEMORY).min(LONGEST_MEMORY) as f32
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::residency::policy::Policy;

    /// How many numbers are drawn while victims of `wanted` bytes are chosen among 2,000 buffers of 2 MiB, the first ones of
    /// which are skipped. Also how many were named or skipped.
    fn drawn(wanted: u64, skipped: u32) -> (usize, usize) {
        let mut policy = Adaptive::new();
        for slot in (0..2000).map(Slot) {
            policy.access(slot, 2 << 20, false);
            policy.admit(slot, 2 << 20);
        }
        let (mut random, asked) = (policy.random.clone(), Cell::new(0));
        let skip = |slot: Slot| {
            asked.set(asked.get() + 1);
            slot.0 < skipped
        };
        policy.victims(wanted, &skip, &mut Vec::new());
        let drawn = (0..1_000_000).take_while(|_| {
            let more = random != policy.random;
            random.next();
            more
        });
        (drawn.count(), asked.get())
    }

    #[test]
    fn a_call_draws_few_buffers_for_each_victim_and_each_skipped_one() {
        // A round draws 64, and a number for the stride.
        const ROUND: usize = HEAT * HEATS * BATCH + 1;
        for (victims, skipped) in [(1, 0), (4, 0), (128, 0), (1, 1000), (32, 1900)] {
            let (drawn, asked) = drawn(victims * (2 << 20), skipped);
            let most = ROUND * (asked.div_ceil(BATCH) + MORE_ROUNDS);
            assert!((1..=most).contains(&drawn), "{drawn} of {most}: {victims}, {skipped}");
        }
    }
}
