//! Attraction: a device that uses a buffer all the time while it lives elsewhere draws it to itself, when the
//! time that this saves pays for the move.
//!
//! Kernel counterparts: the fault counts of automatic NUMA balancing (`task_numa_fault`), amdgpu's threshold
//! for moves; the access counters of CUDA's managed memory.
//!
//! A *price* is how long a device takes to read a byte in a place, as it was measured when the route was
//! proved. What is not measured has no price, and nothing is decided by it. A use by device U draws only if U
//! would read the buffer in its own memory at two thirds of the price or less; what software devices have is
//! the same memory everywhere, and they have no prices.
//!
//! For each buffer that somebody draws, and each device D that does, a counter says what would have been
//! saved had it been in D's memory: a use by U of so many bytes adds `bytes × (U's price here - U's price at
//! D)`. So uses by those who would lose take away from it, and it does not fall below nothing. A move costs
//! `M = size × (D's price here + D's price at home)`, since D reads each byte here and writes it there. D
//! gets the buffer when its counter has reached `T = 2 M`; every counter then starts anew, and `T` doubles
//! with each move that came before, until that is a while ago.
//!
//! # What that is worth
//!
//! Let all uses be small against `T`, and time short against [`PERIOD_MS`], within which nothing is
//! forgotten.
//!
//! *Two places, no doubling.* The counter, cut off at nothing, is the difference of the work functions of the
//! two places plus `M`, so moving at `2 M` is the work function algorithm, which pays at most 3 times what is
//! paid by somebody who knows all uses beforehand and moves when it suits him. Nobody who does not know them
//! can do better (Borodin, Linial, Saks: metrical task systems, with two states).
//!
//! *Ski rental.* A buffer that moves once has cost at most `2 M` too much before, and `M` for the move,
//! against `M` for whoever moves it at once: 3 times as much, and less the longer it is used.
//!
//! *Doubling.* Let `T₀, T₁, …` be the thresholds of a buffer that goes to and fro. While it was where it
//! should not have been it has paid at most `Tₖ` more than if it had been in the other place, and `2 M` for
//! coming and going; somebody who had it stay there has paid at least `Tₖ₋₁` during the stay before, because
//! that is what it left for. `(Tₖ + 2 M) / Tₖ₋₁` is at most 3, so the whole is at most 4 times what the best
//! place costs, however it is used; and of `n` moves the last one was preceded by a saving of `2ⁿ M`, so
//! there are at most as many as the logarithm of the time that is spent. Fewer moves are worth that: each one
//! is told to importers, and makes mappings old.
//!
//! *One use more.* A counter goes beyond `T` by at most what one use adds, which for a use of all bytes is
//! less than `M`; that makes it 4.5.
//!
//! *Ageing.* After [`PERIOD_MS`] counters are halved, and one doubling is forgotten. So whoever draws slower
//! than `M` in such a time never gets it, and pays at most that share of its time.
//!
//! # What it costs
//!
//! Nothing in a buffer. A table with a bound, made when somebody draws first; while nobody does, a use pays a
//! comparison or two. Where the table is full, the newcomer halves the counts of whoever was used least, and
//! takes its entry when nothing is left.

mod entry;
mod prices;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use entry::Entry;
pub(crate) use prices::{Price, Prices};

use crate::device::DeviceId;
use crate::memory::DomainId;

/// The table has at most so many sets, of so many entries each.
const SETS: usize = 512;
const WAYS: usize = 8;

/// After so many milliseconds counts are worth half.
pub(crate) const PERIOD_MS: u64 = 8192;

/// How many times the cost of a move must have been saved at first.
const FACTOR: u64 = 2;

/// How often the threshold doubles at most.
const MOST_DOUBLINGS: u8 = 20;

/// Who draws which buffer, and the prices.
#[derive(Debug)]
pub(crate) struct Attraction {
    on: bool,
    prices: Prices,
    /// How many entries are somebody's. Relaxed: a use that sees it late is not counted.
    live: AtomicUsize,
    /// In which period the table was looked through last. Relaxed: it may happen twice.
    swept: AtomicU32,
    // Innermost; held for a few look-ups of prices.
    sets: OnceLock<Box<[Mutex<Set>]>>,
}

type Set = [Entry; WAYS];

/// A use of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    /// Its number.
    pub(crate) buffer: u64,
    pub(crate) generation: u32,
    pub(crate) at: DomainId,
    pub(crate) by: DeviceId,
    pub(crate) bytes: u64,
}

/// How strongly a device draws a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// Its uses.
    pub(crate) times: u32,
    /// Those of all others.
    pub(crate) others: u32,
}

impl Attraction {
    pub(crate) fn new(on: bool) -> Self {
        Self {
            on,
            prices: Prices::new(),
            live: AtomicUsize::new(0),
            swept: AtomicU32::new(0),
            sets: OnceLock::new(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) fn prices(&self) -> &Prices {
        &self.prices
    }

    /// Whether nobody draws anything.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.live.load(Ordering::Relaxed) == 0
    }

    /// Whether a use `by` a device of a buffer that is `at` a place has to be counted.
    #[inline]
    pub(crate) fn concerns(
        &self,
        by: DeviceId,
        at: DomainId,
        price: impl Fn(DeviceId, DomainId) -> Option<Price>,
    ) -> bool {
        self.on && (!self.is_idle() || draws(by, at, price))
    }

    /// Counts a use. `age` is how long the engine has been there.
    pub(crate) fn note(
        &self,
        used: &Used,
        age: Duration,
        price: impl Fn(DeviceId, DomainId) -> Option<Price>,
    ) {
        let period = period(age);
        let draws = draws(used.by, used.at, &price);
        if !draws && self.is_idle() {
            return;
        }
        self.sweep(period);
        let mut set = self.set(used.buffer);
        let before = live(&set);
        if let Some(entry) = claim(&mut set, used, period, draws) {
            entry.note(used, draws, &price);
            entry.vacate_if_idle();
        }
        self.count(before, live(&set));
    }

    /// Whether it pays to move a buffer of `size` bytes from where `used` finds it into the memory of the
    /// device that uses it; `reluctant` where it has to pay twice as much as that.
    pub(crate) fn pays(
        &self,
        used: &Used,
        size: u64,
        reluctant: bool,
        price: impl Fn(DeviceId, DomainId) -> Option<Price>,
    ) -> bool {
        let own = DomainId::Vram(used.by);
        if self.is_idle() || used.at == own {
            return false;
        }
        let (Some(here), Some(there)) = (price(used.by, used.at), price(used.by, own)) else {
            return false;
        };
        let set = self.set(used.buffer);
        let Some(entry) = set.iter().find(|entry| entry.is_of(used.buffer)) else { return false };
        let doublings = entry.moves.saturating_add(u8::from(reluctant)).min(MOST_DOUBLINGS);
        let cost = here.of(size).saturating_add(there.of(size)).saturating_mul(FACTOR);
        let needed = cost.saturating_mul(1 << doublings);
        let pulls = entry.pulls().filter(|_| entry.generation == used.generation);
        pulls.into_iter().any(|pull| pull.by == used.by && pull.gain >= needed)
    }

    /// Who uses a buffer how often, since counting began.
    pub(crate) fn drawn(&self, buffer: u64, by: DeviceId) -> Drawn {
        if self.is_idle() {
            return Drawn { times: 0, others: 0 };
        }
        let set = self.set(buffer);
        let entry = set.iter().find(|entry| entry.is_of(buffer)).copied().unwrap_or(Entry::NONE);
        let times = entry.pulls().find(|pull| pull.by == by).map_or(0, |pull| pull.times);
        Drawn { times, others: entry.uses.saturating_sub(times) }
    }

    /// It has been moved for somebody, and is at `generation` now.
    pub(crate) fn moved(&self, buffer: u64, generation: u32) {
        self.change(buffer, |entry| {
            entry.restart(generation);
            entry.moves = (entry.moves + 1).min(MOST_DOUBLINGS);
        });
    }

    /// It could not be moved for that device, which has to draw anew.
    pub(crate) fn refused(&self, buffer: u64, by: DeviceId) {
        self.change(buffer, |entry| {
            entry.pulls.iter_mut().filter(|pull| pull.by == by).for_each(|pull| pull.gain = 0);
        });
    }

    /// It is used by somebody who has no prices: nobody knows what he would lose.
    pub(crate) fn lets_go(&self, buffer: u64) {
        if !self.is_idle() {
            self.change(buffer, |entry| entry.pulls.iter_mut().for_each(|pull| pull.gain = 0));
        }
    }

    fn change(&self, buffer: u64, change: impl FnOnce(&mut Entry)) {
        let mut set = self.set(buffer);
        let before = live(&set);
        if let Some(entry) = set.iter_mut().find(|entry| entry.is_of(buffer)) {
            change(entry);
            entry.vacate_if_idle();
        }
        self.count(before, live(&set));
    }

    /// Once a period: whoever was not used for long makes room, so that nobody pays for it.
    fn sweep(&self, period: u32) {
        if self.swept.swap(period, Ordering::Relaxed) == period {
            return;
        }
        for set in self.sets.get().into_iter().flatten() {
            let mut set = lock(set);
            let before = live(&set);
            set.iter_mut().for_each(|entry| entry.age(period));
            self.count(before, live(&set));
        }
    }

    fn count(&self, before: usize, after: usize) {
        if after > before {
            self.live.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.live.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    fn set(&self, buffer: u64) -> MutexGuard<'_, Set> {
        let make = || (0..SETS).map(|_| Mutex::new([Entry::NONE; WAYS])).collect();
        lock(&self.sets.get_or_init(make)[set_of(buffer)])
    }
}

/// Fibonacci hashing: buffers of one kind are often made in turns.
fn set_of(buffer: u64) -> usize {
    let mixed = buffer.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // CAST: as many bits as a number of a set has.
    (mixed >> (u64::BITS - SETS.ilog2())) as usize
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

fn live(set: &Set) -> usize {
    set.iter().filter(|entry| entry.buffer != 0).count()
}

fn period(age: Duration) -> u32 {
    // CAST: a thousand years.
    (age.as_millis() / u128::from(PERIOD_MS)) as u32
}

/// Whether a device would have it so much better at home that its use counts.
fn draws(by: DeviceId, at: DomainId, price: impl Fn(DeviceId, DomainId) -> Option<Price>) -> bool {
    let own = DomainId::Vram(by);
    let better = |here: Price| price(by, own).is_some_and(|there| here.is_worse_than(there));
    at != own && price(by, at).is_some_and(better)
}

/// The entry of a buffer, aged; a vacant one, or that of somebody else whose counts are used up, for one who
/// is drawn and has none.
fn claim<'a>(set: &'a mut Set, used: &Used, period: u32, draws: bool) -> Option<&'a mut Entry> {
    let known = set.iter().position(|entry| entry.is_of(used.buffer));
    let at = match known {
        Some(at) => at,
        None if draws => {
            let (at, least) = set.iter_mut().enumerate().min_by_key(|(_, entry)| entry.weight())?;
            least.age(period);
            if least.buffer != 0 {
                least.moves = least.moves.saturating_sub(1);
                least.halve(1);
                if least.buffer != 0 {
                    return None;
                }
            }
            let Used { buffer, generation, .. } = *used;
            *least = Entry { buffer: buffer + 1, generation, period, ..Entry::NONE };
            at
        }
        None => return None,
    };
    let entry = &mut set[at];
    if known.is_some() {
        entry.age(period);
        // Nothing may be left of it.
        entry.buffer = used.buffer + 1;
    }
    if entry.generation != used.generation {
        entry.restart(used.generation);
    }
    Some(entry)
}
