//! The default: learns from every use how soon buffers of its kind come back.

mod among;
mod hull;
mod outlook;
mod scale;
mod shortlist;

use self::outlook::{Habit, Outlook};
use self::scale::Scale;
use self::shortlist::{Candidate, Rank, Shortlist};
use super::{Policy, Random, Size, Slot, grow};

/// Intervals are remembered in 64 steps per doubling.
type Intervals = Scale<6>;

/// How many are drawn at a time. Only the one that is worth least gets further: to keep several in order is
/// what takes time.
const HEAT: usize = 8;
/// How many heats there are for one choice.
const HEATS: usize = 2;
/// Choices that are made together, at most: of many buffers a few may be chosen ahead.
const BATCH: usize = 4;
/// One choice is made ahead for so many buffers.
const PER_CHOICE: usize = 64;

/// Half of what was learned has faded when everybody who is here could have been used so many times.
const MEMORY: u32 = 8;
/// Of fewer buffers as much is remembered as of so many.
const FEW: usize = 64;

/// The position of those who may not be chosen.
const NOWHERE: u32 = u32::MAX;

/// Evicts whoever is expected to be worth least: of whom the fewest uses per time are to come.
///
/// What to expect is learned from all uses, also of buffers that are elsewhere: after how long those come
/// back that were used like this one. Nothing is assumed about frames or popularity. To choose, it looks at
/// some buffers at random, and at the best candidates that it saw before.
///
/// Neither the size of the domain nor that of a buffer matters to it: to keep a buffer takes place in
/// proportion to its bytes, and saves moving as many.
#[derive(Clone, Debug)]
pub struct Adaptive {
    entries: Vec<Entry>,
    /// Who may be chosen, in no order.
    residents: Vec<u32>,
    outlook: Outlook,
    shortlist: Shortlist,
    /// How many more may be taken from the shortlist before it is looked at again.
    ahead: usize,
    random: Random,
    /// Uses until now. It wraps; who was used 2³² uses ago seems to have been used just now.
    now: u32,
}

/// What is known of a slot: a quarter of a cache line.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When it was last used.
    last: u32,
    /// Where it is in `residents`.
    position: u32,
    bytes: Size,
    /// How long it usually takes until it is used again: a step of [`Intervals`].
    interval: u16,
    /// `None` if it was never used.
    habit: Option<Habit>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { last: 0, position: NOWHERE, bytes: Size(0), interval: 0, habit: None }
    }
}

impl Entry {
    /// Whether it is among the first `eligible` residents.
    fn is_among(&self, eligible: usize) -> bool {
        // CAST: there is no platform with less than 32 bits.
        self.position != NOWHERE && (self.position as usize) < eligible
    }

    /// It is used again, `age` after it was used last: its habit from now on.
    fn used_again(&mut self, habit: Habit, age: u32) -> Habit {
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
    /// One that knows nobody yet.
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

    fn entry(&self, slot: u32) -> &Entry {
        &self.entries[Slot(slot).index()]
    }

    fn rank(&self, slot: u32) -> Rank {
        self.rank_of(self.entry(slot), slot)
    }

    fn rank_of(&self, entry: &Entry, slot: u32) -> Rank {
        let age = self.now.wrapping_sub(entry.last);
        Rank::new(self.outlook.worth(entry.habit.unwrap_or(Habit::NEW), age), slot)
    }

    fn candidate(&self, rank: Rank) -> Candidate {
        Candidate { rank, last: self.entry(rank.slot()).last }
    }

    /// Of the first `eligible` residents one that is worth little.
    fn choose(&mut self, eligible: usize) -> Option<u32> {
        self.take_ahead(eligible).or_else(|| {
            let batch = (eligible / PER_CHOICE).clamp(1, BATCH);
            self.look_around(eligible, batch * HEATS);
            self.ahead = batch;
            self.take_ahead(eligible)
        })
    }

    /// One that was found worth little before, and has not been used since.
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

    /// Looks at the shortlist again, and at so many heats of others; at all if there are no more.
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

    /// Draws residents for so many heats, with what is known of them.
    ///
    /// One thing for all, then the next: what memory is slow to give is asked for at once, not one by one.
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

    /// Moves a resident to a position, and whoever is there to its own.
    fn move_to(&mut self, slot: u32, position: usize) {
        // CAST: there is no platform with less than 32 bits.
        let from = self.entry(slot).position as usize;
        self.residents.swap(from, position);
        for at in [from, position] {
            let slot = Slot(self.residents[at]);
            // CAST: there are no more residents than slots.
            self.entries[slot.index()].position = at as u32;
        }
    }

    /// Within how many uses half of what is known fades.
    fn memory(&self) -> f32 {
        // CAST: there are no more residents than slots; and the last bits do not matter.
        (self.residents.len().max(FEW) as u32).saturating_mul(MEMORY) as f32
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn capacity(&mut self, _: u64) {}

    fn access(&mut self, slot: Slot, _: u64, _: bool) {
        grow(&mut self.entries, slot.index());
        self.now = self.now.wrapping_add(1);
        let (now, memory) = (self.now, self.memory());
        let entry = &mut self.entries[slot.index()];
        let habit = match entry.habit {
            None => Habit::NEW,
            Some(habit) => {
                let age = now.wrapping_sub(entry.last);
                self.outlook.came_back(habit, age, now, memory);
                entry.used_again(habit, age)
            }
        };
        entry.habit = Some(habit);
        entry.last = now;
        self.outlook.starts(habit);
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        grow(&mut self.entries, slot.index());
        let end = self.residents.len();
        let entry = &mut self.entries[slot.index()];
        entry.bytes = Size::new(bytes);
        if entry.habit.is_none() {
            // Nobody has used it yet: it is as old as its arrival.
            entry.last = self.now;
        }
        if entry.position == NOWHERE {
            // CAST: there are no more residents than slots.
            entry.position = end as u32;
            grow(&mut self.residents, end);
            self.residents[end] = slot.0;
        }
    }

    fn leave(&mut self, slot: Slot) {
        if self.entries.get(slot.index()).is_some_and(|entry| entry.position != NOWHERE) {
            self.move_to(slot.0, self.residents.len() - 1);
            self.residents.pop();
            self.entries[slot.index()].position = NOWHERE;
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
        if let Some(habit) =
            self.entries.get_mut(slot.index()).and_then(|entry| std::mem::take(entry).habit)
        {
            self.outlook.ends(habit);
        }
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        let mut eligible = self.residents.len();
        while let Some(slot) = Some(eligible)
            .filter(|&eligible| missing > 0 && eligible > 0)
            .and_then(|eligible| self.choose(eligible))
        {
            if !skip(Slot(slot)) {
                into.push(Slot(slot));
                missing = missing.saturating_sub(self.entry(slot).bytes.bytes());
            }
            if missing > 0 {
                // Behind the eligible ones this walk does not see it again.
                eligible -= 1;
                self.move_to(slot, eligible);
            }
        }
    }

    fn victims_among(
        &mut self,
        members: &[Slot],
        wanted: u64,
        skip: &dyn Fn(Slot) -> bool,
        into: &mut Vec<Slot>,
    ) {
        self.choose_among(members, wanted, skip, into);
    }

    fn footprint(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.residents.capacity() * size_of::<u32>()
            + self.outlook.footprint()
    }
}
