//! How a generator writes down its uses.

use std::collections::HashSet;
use std::ops::Range;

use super::super::{Slot, Trace, Use};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;

/// About how many uses a trace has.
const USES: usize = 40_000;

/// Name, capacity as a part of the working set, and generator of a trace.
pub(super) type Maker = (&'static str, f64, fn(&mut Recorder));

/// The uses so far.
pub(super) struct Recorder {
    state: u64,
    sizes: Vec<u64>,
    uses: Vec<usize>,
}

/// Runs a generator.
pub(super) fn trace(seed: u64, &(name, part, make): &Maker) -> Trace {
    let mut recorder = Recorder { state: seed, sizes: Vec::new(), uses: Vec::new() };
    make(&mut recorder);
    let Recorder { sizes, uses, .. } = recorder;
    let windows = uses.chunks(uses.len() / 10).take(10);
    let mut distinct: Vec<u64> = windows
        .map(|window| window.iter().collect::<HashSet<_>>().into_iter().map(|&n| sizes[n]).sum())
        .collect();
    distinct.sort_unstable();
    // CAST: a part of a size, which is far below 2⁵³.
    let capacity = (distinct[5] as f64 * part) as u64;
    // CAST: traces have far fewer than 2³² buffers.
    let uses = uses.iter().map(|&n| Use { slot: Slot(n as u32), bytes: sizes[n] }).collect();
    Trace { name: name.into(), capacity, uses }
}

impl Recorder {
    /// A new buffer. Nothing is used yet.
    pub(super) fn buffer(&mut self, bytes: u64) -> usize {
        self.sizes.push(bytes.next_multiple_of(4 * KIB));
        self.sizes.len() - 1
    }

    /// New buffers of one size.
    pub(super) fn buffers(&mut self, count: usize, bytes: u64) -> Range<usize> {
        let first = self.sizes.len();
        (0..count).for_each(|_| _ = self.buffer(bytes));
        first..self.sizes.len()
    }

    /// New buffers of `least` to `most` bytes, each doubling equally likely.
    pub(super) fn mixed(&mut self, count: usize, least: u64, most: u64) -> Range<usize> {
        let first = self.sizes.len();
        for _ in 0..count {
            let bytes = self.size(least, most);
            self.buffer(bytes);
        }
        first..self.sizes.len()
    }

    /// A size from `least` to `most`, each doubling equally likely.
    pub(super) fn size(&mut self, least: u64, most: u64) -> u64 {
        // CAST: sizes far below 2⁵³; rounded up to pages later.
        (least as f64 * (most as f64 / least as f64).powf(self.unit())) as u64
    }

    pub(super) fn touch(&mut self, buffer: usize) {
        self.uses.push(buffer);
    }

    pub(super) fn all(&mut self, buffers: impl IntoIterator<Item = usize>) {
        self.uses.extend(buffers);
    }

    /// Uses a new buffer that is not used again.
    pub(super) fn once(&mut self, bytes: u64) {
        let buffer = self.buffer(bytes);
        self.touch(buffer);
    }

    /// Whether the trace is long enough.
    pub(super) fn full(&self) -> bool {
        self.uses.len() >= USES
    }

    /// How much of the trace is written, from 0 to 1.
    pub(super) fn progress(&self) -> f64 {
        // CAST: small numbers.
        self.uses.len() as f64 / USES as f64
    }

    /// A number from 0 to 1, excluding 1 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators").
    pub(super) fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        // CAST: 53 bits, which an `f64` holds exactly.
        (word >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        // CAST: rounded down, below `end`.
        (self.unit() * end as f64) as usize
    }

    /// Whether something of this probability happens.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number below `end`; the n-th is about as likely as n to the power of `-exponent` (not 1), from the
    /// inverse of the integral.
    pub(super) fn popular(&mut self, end: usize, exponent: f64) -> usize {
        let rest = 1.0 - exponent;
        // CAST: small numbers, rounded down.
        let drawn = ((((end + 1) as f64).powf(rest) - 1.0) * self.unit() + 1.0).powf(1.0 / rest);
        (drawn as usize).clamp(1, end) - 1
    }

    /// One step of a walk: `at` moves by at most `step` and stays below `end`.
    pub(super) fn walk(&mut self, at: &mut usize, step: usize, end: usize) {
        let to = (*at + self.below(2 * step + 1)).saturating_sub(step);
        *at = to.min(end - 1);
    }

    pub(super) fn shuffle(&mut self, list: &mut [usize]) {
        for end in (1..list.len()).rev() {
            let other = self.below(end + 1);
            list.swap(end, other);
        }
    }
}
