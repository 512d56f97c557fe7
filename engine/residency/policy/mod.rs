//! Eviction policies: who leaves a full domain.
//!
//! Kernel counterpart: `ttm_lru_bulk_move` and the `lru` lists of `ttm_resource_manager`; there it is
//! always the least recently used. A [`Policy`] says whom to evict and evicts nobody. It hears of every
//! use, also of buffers that are elsewhere, so it may know how soon each of them tends to come back.
//!
//! There are [`Lru`], [`Clock`], and [`Adaptive`], the default. [`replay`] runs one over recorded or
//! made-up uses ([`traces`]), and [`belady`] says what somebody who knows the future would have moved.

mod adaptive;
mod belady;
mod clock;
mod list;
mod lru;
mod replay;
#[cfg(test)]
mod tests;
pub mod traces;

use std::fmt;

pub use adaptive::Adaptive;
pub use belady::belady;
pub use clock::Clock;
pub use lru::Lru;
pub use replay::{Replay, Use, replay};

/// A buffer's number in its domain: dense, and given again after [`Policy::forget`]. Policies keep
/// arrays by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    fn index(self) -> usize {
        // CAST: there is no platform with less than 32 bits.
        self.0 as usize
    }
}

/// The default: [`Adaptive`].
pub(crate) fn adaptive() -> Box<dyn Policy> {
    Box::new(Adaptive::new())
}

/// The simplest that there is: [`Lru`].
pub(crate) fn lru() -> Box<dyn Policy> {
    Box::new(Lru::new())
}

/// Says whom to evict from one domain.
///
/// Everything is a plain answer to plain calls: no policy looks at a clock, and one that hears the same
/// calls in the same order gives the same answers. None of the calls fails, or waits for anything.
/// Calls that make no sense (a buffer that leaves and was not there) do nothing.
pub trait Policy: fmt::Debug + Send {
    /// What it is called in reports.
    fn name(&self) -> &'static str;

    /// How many bytes the domain holds at most, from now on. Budgets change while things run.
    fn capacity(&mut self, bytes: u64);

    /// Somebody uses a buffer of `bytes`, once per use; `resident` says whether it is here now.
    fn access(&mut self, slot: Slot, bytes: u64, resident: bool);

    /// The buffer is here from now on, and may be chosen.
    fn admit(&mut self, slot: Slot, bytes: u64);

    /// It may not be chosen any more: it has left, or is pinned. What is remembered of its use stays.
    fn leave(&mut self, slot: Slot);

    /// The buffer is gone; its slot may be somebody else's next.
    fn forget(&mut self, slot: Slot);

    /// Appends to `into` whom to evict, best first, until their bytes reach `wanted` or there is nobody
    /// else; nobody twice, and none of those that `skip` says yes to. Evicts nobody: who is still here
    /// may be named again by the next call.
    ///
    /// The cost grows with those who are named and those who are skipped, not with those who are here.
    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>);

    /// The same, where only `members` are meant, and `skip` says yes to all others: whom to evict of one
    /// client group. Who is not here may be among them.
    ///
    /// Unless the policy knows better it walks past the others. Of lists that is exact, and quick where the
    /// group's own are among the oldest; where they are the youngest of 10⁵ it took 13 ms, of 10⁶ 0.4 s.
    /// [`Adaptive`] looks at some of the group's own: 2 to 12 µs, however many are here and of whatever
    /// group.
    fn victims_among(
        &mut self,
        members: &[Slot],
        wanted: u64,
        skip: &dyn Fn(Slot) -> bool,
        into: &mut Vec<Slot>,
    ) {
        let _ = members;
        self.victims(wanted, skip, into);
    }

    /// Bytes of bookkeeping, for the report.
    fn footprint(&self) -> usize;
}

/// A buffer's size in four bytes: exact below 2 GiB, from there on in steps of 64 KiB, rounded down, so
/// that too much is evicted rather than too little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size(u32);

impl Size {
    const STEP_BITS: u32 = 16;
    const IN_STEPS: u32 = 1 << 31;

    fn new(bytes: u64) -> Self {
        if bytes < u64::from(Self::IN_STEPS) {
            // CAST: below 2³¹.
            return Self(bytes as u32);
        }
        let steps = (bytes >> Self::STEP_BITS).min(u64::from(Self::IN_STEPS - 1));
        // CAST: below 2³¹.
        Self(steps as u32 | Self::IN_STEPS)
    }

    fn bytes(self) -> u64 {
        if self.0 < Self::IN_STEPS {
            return u64::from(self.0);
        }
        u64::from(self.0 & !Self::IN_STEPS) << Self::STEP_BITS
    }
}

/// Makes `list` long enough to have `index`. It grows by a thirty-second, not to the double: the
/// bookkeeping of a million buffers is counted.
fn grow<T: Clone + Default>(list: &mut Vec<T>, index: usize) {
    if index < list.len() {
        return;
    }
    let len = index + 1;
    if len > list.capacity() {
        list.reserve_exact(len + len / 32 + 16 - list.len());
    }
    list.resize(len, T::default());
}

/// Marsaglia's xorshift, with a fixed seed: the same calls give the same numbers.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        // A multiplication instead of a division: Lemire, "Fast random integer generation in an interval".
        // CAST: below `end`, of which there are fewer than 2³².
        (((self.next() >> 32) * end as u64) >> 32) as usize
    }

    /// A number from 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        // CAST: 53 bits, which an `f64` holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
