//! Cost of a policy's bookkeeping and of its choices.

use std::hint::black_box;
use std::io::{self, Write};
use std::time::Instant;

use peerbuf::residency::policy::{Adaptive, Lru, Policy, Slot, traces};
use serde_json::{Value, json};

use super::bytes::geomean;
use super::figure::{Direction, Figure};

/// Rounds of a comparison: odd, so that the median is one of them.
const ROUNDS: usize = 7;
const MANY: u32 = 1_000_000;
const FEW: u32 = 100;
/// The size of each buffer where a policy is timed among many: as in most traces. The adaptive policy looks the longer for
/// a victim the larger buffers are.
const EACH: u64 = 1 << 20;

/// Cost of one use, with the bookkeeping, choice, eviction and insertion that it causes.
pub(crate) struct Cost {
    name: String,
    /// Nanoseconds per use.
    lru: f64,
    adaptive: f64,
    /// The median of the ratios, which is not the ratio of the medians.
    ratio: f64,
    /// The smallest and the largest ratio.
    range: (f64, f64),
}

impl Cost {
    pub(crate) fn json(&self) -> Value {
        let Self { name, lru, adaptive, ratio, .. } = self;
        json!({ "name": name, "lru_ns": lru, "adaptive_ns": adaptive, "ratio": ratio })
    }
}

/// Runs both policies over all traces of buffers of one size that are long enough to be timed.
pub(crate) fn costs() -> Vec<Cost> {
    const LONG: usize = 10_000;
    traces::catalogue()
        .filter(|trace| trace.uses.len() >= LONG)
        .filter(|trace| trace.uses.iter().all(|each| each.bytes == trace.uses[0].bytes))
        .map(|trace| {
            let slots: Vec<_> = trace.uses.iter().map(|each| each.slot).collect();
            let each_bytes = trace.uses[0].bytes;
            // CAST: a thousand.
            let fit = (trace.capacity / each_bytes) as usize;
            let known = slots.iter().map(|slot| slot.0 as usize + 1).max().unwrap_or(0);
            let compared = compare(
                || drive(&mut Adaptive::new(), &slots, each_bytes, fit, known),
                || drive(&mut Lru::new(), &slots, each_bytes, fit, known),
            );
            let each = 1e9 / slots.len() as f64;
            Cost {
                name: trace.name,
                lru: compared.theirs * each,
                adaptive: compared.ours * each,
                ratio: compared.ratio,
                range: compared.range,
            }
        })
        .collect()
}

/// Runs a policy with as little around it as possible, so that its own cost dominates. All buffers have `bytes`, as in
/// the trace, and so many `fit`.
fn drive(policy: &mut impl Policy, slots: &[Slot], bytes: u64, fit: usize, known: usize) {
    let mut resident = vec![false; known];
    let (mut count, mut victims) = (0, Vec::new());
    for &slot in slots {
        let at = slot.0 as usize;
        policy.access(slot, bytes, resident[at]);
        if resident[at] {
            continue;
        }
        if count == fit {
            policy.victims(bytes, &|_| false, &mut victims);
            for victim in victims.drain(..) {
                policy.leave(victim);
                resident[victim.0 as usize] = false;
                count -= 1;
            }
        }
        policy.admit(slot, bytes);
        resident[at] = true;
        count += 1;
    }
    black_box(resident);
}

pub(crate) fn figures(costs: &[Cost]) -> Vec<Figure> {
    let all = |ratio: fn(&Cost) -> f64| -> Vec<f64> { costs.iter().map(ratio).collect() };
    let ratios = all(|cost| cost.ratio);
    let range = (geomean(&all(|cost| cost.range.0)), geomean(&all(|cost| cost.range.1)));
    let mut many = crowd(Adaptive::new(), MANY);
    let mut few = crowd(Adaptive::new(), FEW);
    // An upper bound: memory that does not depend on the number of buffers counts too.
    let bytes = |policy: &dyn Policy| policy.footprint() as f64 / f64::from(MANY);
    let bytes = [bytes(&many), bytes(&crowd(Lru::new(), MANY))];
    let picks = compare(|| pick(&mut many), || pick(&mut few));
    vec![
        Figure {
            id: "policy_cost",
            what: "time per use, evictions included, over that of an LRU list; geometric mean of traces",
            value: geomean(&ratios),
            range: Some(range),
            target: Some((Direction::AtMost, 10.0)),
        },
        Figure {
            id: "policy_cost_worst",
            what: "the same, the worst trace",
            value: ratios.iter().copied().fold(0.0, f64::max),
            range: None,
            target: None,
        },
        Figure {
            id: "policy_bytes",
            what: "bookkeeping per buffer with 1e6 of them, bytes",
            value: bytes[0],
            range: None,
            target: Some((Direction::AtMost, 24.0)),
        },
        Figure {
            id: "lru_bytes",
            what: "the same for LRU",
            value: bytes[1],
            range: None,
            target: None,
        },
        Figure {
            id: "pick_scaling",
            what: "time of a choice among 1e6 buffers over that among 1e2",
            value: picks.ratio,
            range: Some(picks.range),
            target: Some((Direction::AtMost, 4.0)),
        },
    ]
}

/// A policy with `buffers` resident buffers, each used some times at random.
fn crowd<P: Policy>(mut policy: P, buffers: u32) -> P {
    const USES: u32 = 4;
    (0..buffers).for_each(|number| policy.admit(Slot(number), EACH));
    let mut random: u64 = 1;
    for _ in 0..buffers * USES {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // CAST: below the number of buffers.
        policy.access(Slot((random % u64::from(buffers)) as u32), EACH, true);
    }
    policy
}

/// Makes many choices of one buffer each.
fn pick(policy: &mut Adaptive) {
    const PICKS: usize = 10_000;
    let mut victims = Vec::new();
    for _ in 0..PICKS {
        victims.clear();
        policy.victims(EACH, &|_| false, &mut victims);
        black_box(&victims);
    }
}

struct Compared {
    /// Ratio of our time to the baseline's: the median, the smallest and the largest.
    ratio: f64,
    range: (f64, f64),
    /// Median seconds.
    ours: f64,
    theirs: f64,
}

/// Times ours, the baseline, the baseline, ours: a drift in speed affects both alike.
fn compare(mut ours: impl FnMut(), mut theirs: impl FnMut()) -> Compared {
    let (mut ratios, mut our_times, mut their_times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut our_time = time(&mut ours);
        let their_time = time(&mut theirs) + time(&mut theirs);
        our_time += time(&mut ours);
        ratios.push(our_time / their_time);
        our_times.push(our_time / 2.0);
        their_times.push(their_time / 2.0);
    }
    let range = ratios
        .iter()
        .fold((f64::INFINITY, 0.0), |(lo, hi): (f64, f64), ratio| (lo.min(*ratio), hi.max(*ratio)));
    Compared {
        ratio: median(&mut ratios),
        range,
        ours: median(&mut our_times),
        theirs: median(&mut their_times),
    }
}

fn time(work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(samples: &mut [f64]) -> f64 {
    let middle = samples.len() / 2;
    *samples.select_nth_unstable_by(middle, f64::total_cmp).1
}

pub(crate) fn write(out: &mut impl Write, costs: &[Cost]) -> io::Result<()> {
    writeln!(out, "Time per use, ns; and times LRU's")?;
    writeln!(out, "{:28} {:>8} {:>8} {:>8}", "", "LRU", "Adaptive", "ratio")?;
    for Cost { name, lru, adaptive, ratio, .. } in costs {
        writeln!(out, "{name:28} {lru:8.1} {adaptive:8.1} {ratio:8.2}")?;
    }
    writeln!(out)
}
