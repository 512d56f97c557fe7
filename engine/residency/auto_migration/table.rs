//! The table of access counters, of bounded size, and the decision to migrate.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::access_costs::{AccessCost, AccessCosts};
use super::counters::{BufferCounters, BufferUse};
use crate::device::DeviceId;
use crate::memory::DomainId;

/// The number of sets of the table, and the entries of each.
pub(super) const SETS: usize = 512;
pub(super) const WAYS: usize = 8;

/// Counters are halved after this many milliseconds.
pub(super) const PERIOD_MS: u64 = 8192;

/// The first migration must have saved this many times its cost.
const FACTOR: u64 = 2;

/// The limit on doublings of the threshold.
const MOST_DOUBLINGS: u8 = 20;

/// The access counters of all buffers, and the access costs.
#[derive(Debug)]
pub(crate) struct AutoMigration {
    on: bool,
    access_costs: AccessCosts,
    /// The number of entries in use. Relaxed: a use that reads an old value is not counted.
    pub(super) live: AtomicUsize,
    /// The period of the last sweep. Relaxed: a sweep may happen twice.
    swept: AtomicU32,
    // Innermost locks; held for a few look-ups of access costs.
    pub(super) sets: OnceLock<Box<[Mutex<Set>]>>,
}

pub(super) type Set = [BufferCounters; WAYS];

/// How often a device and the others have used a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccessCounts {
    /// Uses by the device.
    pub(crate) times: u32,
    /// Uses by all other devices.
    pub(crate) others: u32,
}

impl AutoMigration {
    pub(crate) fn new(on: bool) -> Self {
        Self {
            on,
            access_costs: AccessCosts::new(),
            live: AtomicUsize::new(0),
            swept: AtomicU32::new(0),
            sets: OnceLock::new(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) fn access_costs(&self) -> &AccessCosts {
        &self.access_costs
    }

    /// Whether no buffer has counters.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.live.load(Ordering::Relaxed) == 0
    }

    /// Whether a use `by` a device of a buffer in domain `at` has to be counted.
    #[inline]
    pub(crate) fn concerns(
        &self,
        by: DeviceId,
        at: DomainId,
        access_cost: impl Fn(DeviceId, DomainId) -> Option<AccessCost>,
    ) -> bool {
        self.on && (!self.is_idle() || would_gain(by, at, access_cost))
    }

    /// Counts a use. `age` is the time since the engine was created.
    pub(crate) fn note(
        &self,
        used: &BufferUse,
        age: Duration,
        access_cost: impl Fn(DeviceId, DomainId) -> Option<AccessCost>,
    ) {
        let period = period(age);
        let counts = would_gain(used.by, used.at, &access_cost);
        if !counts && self.is_idle() {
            return;
        }
        self.sweep(period);
        let mut set = self.set(used.buffer);
        let before = live(&set);
        if let Some(entry) = claim(&mut set, used, period, counts) {
            entry.note(used, counts, &access_cost);
            entry.vacate_if_idle();
        }
        self.count(before, live(&set));
    }

    /// Whether it pays to move a buffer of `size` bytes into the memory of the device that uses it. With
    /// `reluctant` twice as much must have been saved.
    pub(crate) fn pays(
        &self,
        used: &BufferUse,
        size: u64,
        reluctant: bool,
        access_cost: impl Fn(DeviceId, DomainId) -> Option<AccessCost>,
    ) -> bool {
        let own = DomainId::Vram(used.by);
        if self.is_idle() || used.at == own {
            return false;
        }
        let (Some(here), Some(there)) = (access_cost(used.by, used.at), access_cost(used.by, own))
        else {
            return false;
        };
        let set = self.set(used.buffer);
        let Some(entry) = set.iter().find(|entry| entry.is_of(used.buffer)) else { return false };
        let doublings = entry.moves.saturating_add(u8::from(reluctant)).min(MOST_DOUBLINGS);
        let cost = here.of(size).saturating_add(there.of(size)).saturating_mul(FACTOR);
        let needed = cost.saturating_mul(1 << doublings);
        let counters = entry.counters().filter(|_| entry.generation == used.generation);
        counters.into_iter().any(|counter| counter.by == used.by && counter.gain >= needed)
    }

    /// The uses of a buffer since counting began.
    pub(crate) fn access_counts(&self, buffer: u64, by: DeviceId) -> AccessCounts {
        if self.is_idle() {
            return AccessCounts { times: 0, others: 0 };
        }
        let set = self.set(buffer);
        let entry =
            set.iter().find(|entry| entry.is_of(buffer)).copied().unwrap_or(BufferCounters::NONE);
        let times =
            entry.counters().find(|counter| counter.by == by).map_or(0, |counter| counter.times);
        AccessCounts { times, others: entry.uses.saturating_sub(times) }
    }

    /// The buffer was migrated for a device, and is at `generation` now.
    pub(crate) fn moved(&self, buffer: u64, generation: u32) {
        self.change(buffer, |entry| {
            entry.restart(generation);
            entry.moves = (entry.moves + 1).min(MOST_DOUBLINGS);
        });
    }

    /// The buffer could not be migrated for that device, whose gain starts anew.
    pub(crate) fn refused(&self, buffer: u64, by: DeviceId) {
        self.change(buffer, |entry| {
            let counters = entry.counters.iter_mut().filter(|counter| counter.by == by);
            counters.for_each(|counter| counter.gain = 0);
        });
    }

    /// The buffer was used without a known access cost: what that user would lose by a migration is unknown.
    pub(crate) fn clear_gains(&self, buffer: u64) {
        if !self.is_idle() {
            self.change(buffer, |entry| {
                entry.counters.iter_mut().for_each(|counter| counter.gain = 0);
            });
        }
    }

    fn change(&self, buffer: u64, change: impl FnOnce(&mut BufferCounters)) {
        let mut set = self.set(buffer);
        let before = live(&set);
        if let Some(entry) = set.iter_mut().find(|entry| entry.is_of(buffer)) {
            change(entry);
            entry.vacate_if_idle();
        }
        self.count(before, live(&set));
    }

    /// Halves all counters once per period. Entries without gain become vacant and cost nothing.
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
        let make = || (0..SETS).map(|_| Mutex::new([BufferCounters::NONE; WAYS])).collect();
        lock(&self.sets.get_or_init(make)[set_of(buffer)])
    }
}

/// Fibonacci hashing, because the numbers of buffers of one kind often have a common stride.
pub(super) fn set_of(buffer: u64) -> usize {
    let mixed = buffer.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // CAST: as many bits as a number of a set has.
    (mixed >> (u64::BITS - SETS.ilog2())) as usize
}

pub(super) fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn live(set: &Set) -> usize {
    set.iter().filter(|entry| entry.buffer != 0).count()
}

fn period(age: Duration) -> u32 {
    // CAST: a thousand years.
    (age.as_millis() / u128::from(PERIOD_MS)) as u32
}

/// Whether a device would read so much faster in its own memory that its use is counted.
fn would_gain(
    by: DeviceId,
    at: DomainId,
    access_cost: impl Fn(DeviceId, DomainId) -> Option<AccessCost>,
) -> bool {
    let own = DomainId::Vram(by);
    let better =
        |here: AccessCost| access_cost(by, own).is_some_and(|there| here.is_worse_than(there));
    at != own && access_cost(by, at).is_some_and(better)
}

/// The entry of a buffer, aged. A buffer without one gets one if its use is counted and the set has a vacant
/// entry. Otherwise the counters of the least used entry are halved; when nothing is left of them, the entry
/// goes to the new buffer.
fn claim<'a>(
    set: &'a mut Set,
    used: &BufferUse,
    period: u32,
    counts: bool,
) -> Option<&'a mut BufferCounters> {
    let known = set.iter().position(|entry| entry.is_of(used.buffer));
    let at = match known {
        Some(at) => at,
        None if counts => {
            let (at, least) = set.iter_mut().enumerate().min_by_key(|(_, entry)| entry.weight())?;
            least.age(period);
            if least.buffer != 0 {
                least.moves = least.moves.saturating_sub(1);
                least.halve(1);
                if least.buffer != 0 {
                    return None;
                }
            }
            let BufferUse { buffer, generation, .. } = *used;
            *least =
                BufferCounters { buffer: buffer + 1, generation, period, ..BufferCounters::NONE };
            at
        }
        None => return None,
    };
    let entry = &mut set[at];
    if known.is_some() {
        entry.age(period);
        // Ageing may have made it vacant.
        entry.buffer = used.buffer + 1;
    }
    if entry.generation != used.generation {
        entry.restart(used.generation);
    }
    Some(entry)
}
