//! The blocks of a run: each way alone, several copies at once, and other sizes.

use std::time::{Duration, Instant};

use super::super::run::{Cell, End, HostSpeed, Key, Pattern};
use super::bed::Bed;
use super::job::{Job, Spec};
use super::label;
use super::leg::Leg;
use super::plan::{Best, Planned, both, together};
use super::plant::Planted;
use super::progress::Progress;
use super::yardsticks;

/// Bytes of one copy in the tables of pairs.
pub(super) const SIZE: u64 = 64 << 20;

/// Sizes at which the best ways are measured as well.
const SIZES: [u64; 9] =
    [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 256 << 20, 1 << 30];
const QUICK_SIZES: [u64; 4] = [4 << 10, 64 << 10, 1 << 20, 16 << 20];

/// From this size on the buffers of one size are given back before those of the next one are made.
const LARGE: u64 = 256 << 20;

/// How many ways of each pair are measured at other sizes.
const SWEPT: usize = 2;

/// How often each cell of a block is visited, if its time lets it.
const VISITS: u32 = 5;

/// Time for a cell: at most so much, however few there are.
const LONGEST: Duration = Duration::from_secs(5);
const QUICK_LONGEST: Duration = Duration::from_millis(300);

/// Parts of the time that is left, in percent, that the blocks may use: each way alone, several at once, other sizes. A
/// cell's preparation and its check need about as much again as its times.
const SHARES: [u32; 3] = [30, 25, 35];

/// Measures all cells. After each block the host's memory is measured again, since the machine may have been busy before:
/// what is possible is the best that was seen.
pub(super) fn measure(
    bed: &mut Bed<'_>,
    host: &mut [HostSpeed],
    planned: Planned,
    wants: &dyn Fn(&Key) -> bool,
    progress: &Progress,
) -> Vec<Cell> {
    let Planned { specs, missing } = planned;
    let plans = specs.clone();
    let (mut cells, medians) = block(bed, specs, SHARES[0], progress);
    cells.extend(missing);
    yardsticks::again(bed, host);
    let best = best_of(&plans, &medians);
    let is_wanted = |spec: &Spec| spec.cells.iter().any(|(key, _)| wants(key));
    let at_once = at_once(&best, bed.devices.len()).into_iter().filter(is_wanted).collect();
    cells.extend(block(bed, at_once, SHARES[1], progress).0);
    yardsticks::again(bed, host);
    bed.pool.clear();
    let sizes = if bed.quick { &QUICK_SIZES[..] } else { &SIZES[..] };
    let (large, small): (Vec<_>, Vec<_>) = sizes.iter().partition(|size| **size >= LARGE);
    let swept = |sizes: &[u64]| -> Vec<Spec> {
        let at =
            |size: u64| best.iter().flat_map(move |best| best.iter().map(move |it| it.at(size)));
        sizes.iter().flat_map(|size| at(*size)).filter(is_wanted).collect()
    };
    cells.extend(block(bed, swept(&small), SHARES[2], progress).0);
    yardsticks::again(bed, host);
    for size in large {
        bed.pool.clear();
        cells.extend(block(bed, swept(&[size]), SHARES[2], progress).0);
    }
    cells
}

/// How many other sizes are measured, with `--quick` and without.
pub(super) fn sizes() -> (usize, usize) {
    (QUICK_SIZES.len(), SIZES.len())
}

/// How long each of so many latencies is measured.
pub(super) fn latency_time(bed: &Bed<'_>, count: usize) -> Duration {
    let most = Duration::from_millis(if bed.quick { 150 } else { 1000 });
    // CAST: there are few.
    most.min(bed.stop.left() / (2 * count.max(1)) as u32)
}

impl Best {
    /// The same way at another size.
    fn at(&self, size: u64) -> Spec {
        let key = Key { size_bytes: size, ..self.key.clone() };
        let cells = vec![(key, super::job::Part::One(0))];
        Spec { cells, plans: vec![self.plan.clone()], size }
    }
}

/// The best ways of each ordered pair of ends, the fastest first. Ways that were not measured are last, in their order.
fn best_of(specs: &[Spec], medians: &[Option<f64>]) -> Vec<Vec<Best>> {
    /// The ways of one pair, each with its time.
    type Timed = Vec<(f64, Best)>;
    let mut pairs: Vec<((End, End), Timed)> = Vec::new();
    for (spec, median) in specs.iter().zip(medians) {
        let key = &spec.cells[0].0;
        let best = Best { key: key.clone(), plan: spec.plans[0].clone() };
        let timed = (median.unwrap_or(f64::INFINITY), best);
        match pairs.iter_mut().find(|(ends, _)| *ends == (key.from, key.to)) {
            Some((_, ways)) => ways.push(timed),
            None => pairs.push(((key.from, key.to), vec![timed])),
        }
    }
    let ordered = |(_, mut ways): (_, Timed)| {
        ways.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        ways.into_iter().map(|(_, best)| best).take(SWEPT).collect()
    };
    pairs.into_iter().map(ordered).collect()
}

/// Both directions of each pair; and with three devices or more, one to all, all to one, and all pairs.
fn at_once(best: &[Vec<Best>], devices: usize) -> Vec<Spec> {
    let first: Vec<&Best> = best.iter().filter_map(|ways| ways.first()).collect();
    let back = |of: &Best| {
        let found = first.iter().find(|it| (it.key.from, it.key.to) == (of.key.to, of.key.from));
        found.copied()
    };
    let pairs = first.iter().filter(|there| there.key.from < there.key.to);
    let mut all: Vec<_> = pairs.filter_map(|there| Some(both(there, back(there)?, SIZE))).collect();
    let is_device = |end: End| matches!(end, End::Device(_));
    let between: Vec<_> = first
        .iter()
        .copied()
        .filter(|it| is_device(it.key.from) && is_device(it.key.to) && it.key.from != it.key.to)
        .collect();
    if devices < 3 || between.is_empty() {
        return all;
    }
    for device in (0..devices).map(super::place::end) {
        let from: Vec<_> = between.iter().copied().filter(|it| it.key.from == device).collect();
        if from.len() > 1 {
            all.push(together(Pattern::OneToAll, (device, End::All), &from, SIZE));
        }
        let to: Vec<_> = between.iter().copied().filter(|it| it.key.to == device).collect();
        if to.len() > 1 {
            all.push(together(Pattern::AllToOne, (End::All, device), &to, SIZE));
        }
    }
    all.push(together(Pattern::AllPairs, (End::All, End::All), &between, SIZE));
    all
}

/// Measures the cells of a block in rounds; it may use a part of the time that is left, in percent. Returns the cells, and
/// the median of each spec.
fn block(
    bed: &mut Bed<'_>,
    specs: Vec<Spec>,
    percent: u32,
    progress: &Progress,
) -> (Vec<Cell>, Vec<Option<f64>>) {
    if specs.is_empty() {
        return (vec![], vec![]);
    }
    let start = Instant::now();
    let part = bed.stop.left() * percent / 100;
    let longest = if bed.quick { QUICK_LONGEST } else { LONGEST };
    // CAST: there are few cells.
    let budget = longest.min(part / 2 / specs.len() as u32);
    let mut jobs: Vec<_> = specs.into_iter().map(|spec| open(bed, spec)).collect();
    let mut order: Vec<_> = (0..jobs.len()).collect();
    let mut shuffle = Shuffle(u64::from(bed.next_seed()));
    while bed.stop.reason().is_none() && jobs.iter().any(Job::is_open) {
        shuffle.apply(&mut order);
        for &index in &order {
            let job = &mut jobs[index];
            if bed.stop.reason().is_some() || !job.is_open() {
                continue;
            }
            let name = label::of_cell(&job.spec.cells[0].0);
            if job.is_new() {
                Planted::of(bed.plants, &name).begin(bed.engine);
            }
            progress.measure(&name, part.saturating_sub(start.elapsed()));
            let seed = bed.next_seed();
            let bed = &*bed;
            job.visit(seed, (budget / VISITS, budget), &|| bed.hops());
        }
    }
    let stopped = bed.stop.reason();
    let medians = jobs.iter().map(Job::median).collect();
    let cells = jobs.into_iter().flat_map(|job| job.into_cells(stopped.as_deref())).collect();
    (cells, medians)
}

/// A job with its buffers.
fn open<'a>(bed: &mut Bed<'a>, spec: Spec) -> Job<'a> {
    let planted = Planted::of(bed.plants, &label::of_cell(&spec.cells[0].0));
    let legs = match bed.stop.reason() {
        // Nothing of it will be measured.
        Some(_) => Ok(vec![]),
        None => {
            let numbered = spec.plans.iter().enumerate();
            let delayed = |mut leg: Leg<'a>| {
                leg.delay = planted.delay;
                leg
            };
            numbered.map(|(at, plan)| bed.leg(plan, spec.size, at).map(delayed)).collect()
        }
    };
    Job::new(spec, legs, planted.wrong_byte)
}

/// Orders of visits, by Marsaglia's xorshift.
struct Shuffle(u64);

impl Shuffle {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // CAST: the remainder is less than `end`.
        ((self.0 >> 11) % end as u64) as usize
    }

    /// A random order (Fisher and Yates).
    fn apply(&mut self, order: &mut [usize]) {
        // A seed of 0 would stay 0.
        self.0 |= 1 << 40;
        for last in (1..order.len()).rev() {
            order.swap(last, self.below(last + 1));
        }
    }
}
