//! Compares two contenders in one process, in the order A B B A, by the median of their ratios.
//!
//! Absolute times on a shared machine drift by a factor of two within a run, and so do the ratios of
//! two blocks measured one after the other. The ratio of two times taken side by side does not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Number and length of the measurements of a comparison.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Number of rounds A B B A.
    rounds: usize,
    /// Minimum duration of one measured batch.
    batch: Duration,
}

impl Plan {
    /// For operations of microseconds: a batch is so long that reading the clock does not matter.
    pub(crate) const MICROSECONDS: Self = Self { rounds: 201, batch: Duration::from_micros(500) };

    /// For operations of milliseconds.
    pub(crate) const MILLISECONDS: Self = Self { rounds: 101, batch: Duration::ZERO };

    /// For one of many sizes, of operations of microseconds.
    pub(crate) const SHORT: Self = Self { rounds: 51, batch: Duration::from_micros(300) };

    /// For operations of up to a tenth of a second.
    pub(crate) const LONG: Self = Self { rounds: 11, batch: Duration::from_millis(3) };

    /// For operations of microseconds against operations of many milliseconds: ratios so far from 1 need fewer
    /// rounds.
    pub(crate) const UNEQUAL: Self = Self { rounds: 51, batch: Duration::from_micros(500) };
}

/// Whether rounds are few: `--quick`.
static QUICK: AtomicBool = AtomicBool::new(false);

/// Makes all further measurements quick.
pub(crate) fn be_quick() {
    QUICK.store(true, Ordering::Relaxed);
}

/// Whether rounds are few.
pub(crate) fn is_quick() -> bool {
    QUICK.load(Ordering::Relaxed)
}

/// How many of `rounds` are measured: an eighth with `--quick`. Odd, as medians need.
pub(crate) fn rounds_of(rounds: usize) -> usize {
    if is_quick() { (rounds / 8).max(5) | 1 } else { rounds }
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    /// Speed as a multiple of the baseline's: above 1 is faster.
    pub(crate) ratio: Interval,
    /// Median seconds per operation.
    pub(crate) ours: f64,
    /// Median seconds per operation of the baseline.
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
    for _ in 0..rounds_of(plan.rounds) {
        let first = time(&mut ours, our_batch)?;
        let theirs = time(&mut baseline, their_batch)? + time(&mut baseline, their_batch)?;
        let ours = first + time(&mut ours, our_batch)?;
        rounds.add(ours, theirs);
    }
    Ok(rounds.summary())
}

/// A contender of [`compare_all`].
pub(crate) type Contender<'a> = &'a mut dyn FnMut() -> Outcome<()>;

/// Measures `ours` against each of `baselines`, in the order A B C C B A, so that one run of ours serves all. Further
/// rounds begin only within `time`, but there are a few.
pub(crate) fn compare_all(
    plan: Plan,
    within: Duration,
    mut ours: impl FnMut() -> Outcome<()>,
    mut baselines: [Contender<'_>; 3],
) -> Outcome<Vec<Compared>> {
    const FEW: usize = 5;
    let our_batch = batch_size(plan, &mut ours)?;
    let their_batches =
        baselines.iter_mut().map(|it| batch_size(plan, it)).collect::<Outcome<Vec<_>>>()?;
    let mut all: Vec<Rounds> = baselines.iter().map(|_| Rounds::default()).collect();
    let start = Instant::now();
    let mut done = 0;
    while done < FEW || done < rounds_of(plan.rounds) && start.elapsed() < within {
        let first = time(&mut ours, our_batch)?;
        let mut theirs = vec![0.0; baselines.len()];
        let there = 0..baselines.len();
        for at in there.clone().chain(there.rev()) {
            theirs[at] += time(&mut baselines[at], their_batches[at])?;
        }
        let ours = first + time(&mut ours, our_batch)?;
        all.iter_mut().zip(theirs).for_each(|(rounds, theirs)| rounds.add(ours, theirs));
        done += 1;
    }
    Ok(all.into_iter().map(Rounds::summary).collect())
}

/// Times of the rounds of a comparison.
#[derive(Default)]
pub(crate) struct Rounds {
    ratios: Vec<f64>,
    ours: Vec<f64>,
    baseline: Vec<f64>,
}

impl Rounds {
    /// Adds a round: two times of each contender, in seconds.
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

/// Number of operations that fill a batch. The search also warms up the operation.
fn batch_size(plan: Plan, operation: &mut impl FnMut() -> Outcome<()>) -> Outcome<u32> {
    // Two operations first: the first one may do work that is done only once, such as measuring copy speeds, and
    // would fill a batch alone.
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

/// The middle sample. Numbers of rounds are odd, so there is one.
fn median(samples: &mut [f64]) -> f64 {
    let middle = samples.len() / 2;
    *samples.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Marsaglia's xorshift. Its seed is fixed, so that the same samples give the same interval.
pub(crate) struct Random(u64);

impl Random {
    /// The sequence with this seed.
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
