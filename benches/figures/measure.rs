//! Two contenders in one process, in turns: A B B A, and the median of the ratios.
//!
//! Absolute times on a shared machine drift by a factor of two within a run, and so do the ratios of
//! two blocks measured one after the other. The ratio of two times taken side by side does not.

use std::time::{Duration, Instant};

use crate::Outcome;

/// How often, and how long, a comparison is made.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// How many times A B B A.
    rounds: usize,
    /// One time that is taken covers at least this much work.
    batch: Duration,
}

impl Plan {
    /// For what takes microseconds: so many in a batch that reading the clock does not matter.
    pub(crate) const MICROSECONDS: Self = Self { rounds: 201, batch: Duration::from_micros(500) };

    /// For what takes milliseconds.
    pub(crate) const MILLISECONDS: Self = Self { rounds: 101, batch: Duration::ZERO };

    /// For what takes microseconds against what takes many milliseconds: ratios so far from 1 need
    /// fewer rounds.
    pub(crate) const UNEQUAL: Self = Self { rounds: 51, batch: Duration::from_micros(500) };
}

/// What a comparison found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    /// How many times as fast as the baseline: above 1 is faster.
    pub(crate) ratio: Interval,
    /// Seconds per operation, the median.
    pub(crate) ours: f64,
    /// The same for the baseline.
    pub(crate) baseline: f64,
}

/// A median and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) median: f64,
    pub(crate) lo: f64,
    pub(crate) hi: f64,
}

/// Measures `ours` against `baseline`, after a warm-up of each.
pub(crate) fn compare(
    plan: Plan,
    mut ours: impl FnMut() -> Outcome<()>,
    mut baseline: impl FnMut() -> Outcome<()>,
) -> Outcome<Compared> {
    let our_batch = batch_size(plan, &mut ours)?;
    let their_batch = batch_size(plan, &mut baseline)?;
    let mut rounds = Rounds::default();
    for _ in 0..plan.rounds {
        let first = time(&mut ours, our_batch)?;
        let theirs = time(&mut baseline, their_batch)? + time(&mut baseline, their_batch)?;
        let ours = first + time(&mut ours, our_batch)?;
        rounds.add(ours, theirs);
    }
    Ok(rounds.summary())
}

/// What the rounds of a comparison took.
#[derive(Default)]
pub(crate) struct Rounds {
    ratios: Vec<f64>,
    ours: Vec<f64>,
    baseline: Vec<f64>,
}

impl Rounds {
    /// Adds a round: the seconds of two times of each contender.
    pub(crate) fn add(&mut self, ours: f64, theirs: f64) {
        self.ratios.push(theirs / ours);
        self.ours.push(ours / 2.0);
        self.baseline.push(theirs / 2.0);
    }

    pub(crate) fn summary(mut self) -> Compared {
        Compared {
            ratio: bootstrap(&self.ratios),
            ours: median(&mut self.ours),
            baseline: median(&mut self.baseline),
        }
    }
}

/// How many operations fill a batch; finding that out warms them up.
fn batch_size(plan: Plan, operation: &mut impl FnMut() -> Outcome<()>) -> Outcome<u32> {
    // There and back: the first time may do what is done only once, like measuring how fast a device copies,
    // and would fill a batch alone.
    time(operation, 2)?;
    let mut size = 1;
    loop {
        let seconds = time(operation, size)? * f64::from(size);
        if seconds >= plan.batch.as_secs_f64() {
            return Ok(size);
        }
        size *= 2;
    }
}

/// Seconds per operation over a batch.
fn time(operation: &mut impl FnMut() -> Outcome<()>, batch: u32) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..batch {
        operation()?;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(batch))
}

/// The median of `samples` with its 95 % percentile-bootstrap interval.
fn bootstrap(samples: &[f64]) -> Interval {
    const RESAMPLES: usize = 2000;
    let mut random = Random::new(0);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut drawn: Vec<f64> =
                samples.iter().map(|_| samples[random.below(samples.len())]).collect();
            median(&mut drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let cut = RESAMPLES / 40;
    Interval {
        median: median(&mut samples.to_vec()),
        lo: medians[cut],
        hi: medians[RESAMPLES - 1 - cut],
    }
}

/// The middle one. Numbers of rounds are odd, so there is one.
fn median(samples: &mut [f64]) -> f64 {
    let middle = samples.len() / 2;
    *samples.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Marsaglia's xorshift with a fixed seed, so that the same samples give the same interval.
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of a number.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // CAST: the remainder is less than `end`.
        ((self.0 >> 11) % end as u64) as usize
    }
}
