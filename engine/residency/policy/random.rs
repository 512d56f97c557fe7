//! Pseudo-random numbers.

/// Marsaglia's xorshift with a fixed seed, so that every run gives the same numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        // A multiplication instead of a division: Lemire, "Fast random integer generation in an interval".
        // CAST: below `end`, of which there are fewer than 2³².
        (((self.next() >> 32) * end as u64) >> 32) as usize
    }

    /// A number from 0 to 1, excluding 1.
    pub(super) fn unit(&mut self) -> f64 {
        // CAST: 53 bits, which an `f64` holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
