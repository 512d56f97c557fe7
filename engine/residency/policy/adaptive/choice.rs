//! The history of each buffer, and the choice of a victim among all residents.

use super::outlook::{Habit, Outlook};
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
/// One choice is made ahead for this many residents.
const PER_CHOICE: usize = 64;

/// Half of what was learned fades within this many uses per resident.
const MEMORY: u32 = 8;
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
/// Neither the size of the domain nor that of a buffer matters: a resident buffer takes room in proportion to
/// its bytes, and saves moving as many.
#[derive(Clone, Debug)]
pub struct Adaptive {
    pub(super) entries: Vec<Entry>,
    /// The slots that may be chosen, in no order.
    pub(super) residents: Vec<u32>,
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
    /// The slot's position in `residents`.
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
    /// Whether it is among the first `eligible` residents.
    fn is_among(&self, eligible: usize) -> bool {
        // CAST: there is no platform with less than 32 bits.
        self.position != NOWHERE && (self.position as usize) < eligible
    }

    /// Records a use, `age` after the last one, and returns the new habit.
    pub(super) fn used_again(&mut self, habit: Habit, age: u32) -> Habit {
        let usual = if habit == Habit::NEW {
            u64::from(age)
        } else {
            (Intervals::shortest(u32::from(self.interval)) * 3 + u64::from(age)) / 4
        };
        // CAST: a mean of numbers below 2³² is below it too.
        let usual = usual as u32;
        // CAST: the steps of 32 bits are below 2¹¹.
        self.interval = Intervals::step(usual) as u16;
        Habit::of(usual, age)
    }
}

impl Adaptive {
    /// A policy without buffers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            residents: Vec::new(),
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
        Rank::new(self.outlook.worth(entry.habit.unwrap_or(Habit::NEW), age), slot)
    }

    pub(super) fn candidate(&self, rank: Rank) -> Candidate {
        Candidate { rank, last: self.entry(rank.slot()).last }
    }

    /// Chooses one of the first `eligible` residents that is worth little.
    pub(super) fn choose(&mut self, eligible: usize) -> Option<u32> {
        self.take_ahead(eligible).or_else(|| {
            let batch = (eligible / PER_CHOICE).clamp(1, BATCH);
            self.look_around(eligible, batch * HEATS);
            self.ahead = batch;
            self.take_ahead(eligible)
        })
    }

    /// A candidate of an earlier choice that was not used since.
    fn take_ahead(&mut self, eligible: usize) -> Option<u32> {
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

    /// Reviews the shortlist and adds the winners of new heats. If there are few residents, it looks at all.
    fn look_around(&mut self, eligible: usize, heats: usize) {
        let mut shortlist = std::mem::take(&mut self.shortlist);
        shortlist.review(|slot| {
            let entry = self.entry(slot);
            entry.is_among(eligible).then(|| self.candidate(self.rank(slot)))
        });
        if eligible <= heats * HEAT {
            for &slot in &self.residents[..eligible] {
                shortlist.offer(self.candidate(self.rank(slot)));
            }
        } else {
            let drawn = self.draw(eligible, heats);
            for heat in drawn[..heats * HEAT].chunks(HEAT) {
                let ranks = heat.iter().map(|&(slot, entry)| self.rank_of(&entry, slot));
                shortlist.offer(self.candidate(ranks.fold(Rank::LAST, Rank::min)));
            }
        }
        self.shortlist = shortlist;
    }

    /// Draws residents at random, with their histories.
    ///
    /// It loads all slots first and then all entries, so that the cache misses of each step overlap.
    fn draw(&mut self, eligible: usize, heats: usize) -> [(u32, Entry); HEAT * HEATS * BATCH] {
        let mut drawn = [(0, Entry::default()); HEAT * HEATS * BATCH];
        let drawing = &mut drawn[..heats * HEAT];
        for (slot, _) in &mut *drawing {
            *slot = self.residents[self.random.below(eligible)];
        }
        for (slot, entry) in drawing {
            *entry = self.entries[Slot(*slot).index()];
        }
        drawn
    }

    /// Swaps a resident with the one at `position`.
    pub(super) fn move_to(&mut self, slot: u32, position: usize) {
        // CAST: there is no platform with less than 32 bits.
        let from = self.entry(slot).position as usize;
        self.residents.swap(from, position);
        for at in [from, position] {
            let slot = Slot(self.residents[at]);
            // CAST: there are no more residents than slots.
            self.entries[slot.index()].position = at as u32;
        }
    }

    /// The number of uses within which half of what was learned fades.
    pub(super) fn memory(&self) -> f32 {
        // CAST: there are no more residents than slots; and the last bits do not matter.
        (self.residents.len().max(FEW) as u32).saturating_mul(MEMORY) as f32
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        Self::new()
    }
}
