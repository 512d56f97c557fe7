//! Medians, their intervals, and percentiles.
//!
//! The interval of a median is made of order statistics: it supposes nothing about the distribution, so that outliers and
//! two modes do not matter. It does suppose that the samples are independent, and samples taken one after the other are
//! not: the machine drifts. So the medians of the rounds are samples as well, and the interval covers both intervals.

use super::run::{Noise, Percentiles, Summary};

/// Drift below this part of the median is not reported.
const DRIFT: f64 = 0.01;

/// The quantiles of Student's distribution for an interval of 95 %, by degrees of freedom from 1 on.
const STUDENT: [f64; 4] = [12.71, 4.303, 3.182, 2.776];

/// How often a median may be below its interval, and how often above.
const TAIL: f64 = 0.025;

/// The same for rounds: a machine that drifts moves the median of their medians beside that of all samples.
const ROUND_TAIL: f64 = 0.0125;

/// Fewer samples have no interval of 95 % that is made of order statistics.
const FEW: usize = 6;

/// The median of the samples of all rounds, with its interval; `None` without samples. Times in nanoseconds.
pub(crate) fn summary(rounds: &[Vec<f64>]) -> Option<Summary> {
    let mut all: Vec<f64> = rounds.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let (&min_ns, &max_ns) = (all.first()?, all.last()?);
    let median_ns = median_of_sorted(&all);
    let mut of_rounds: Vec<f64> = rounds.iter().filter_map(|round| median(round)).collect();
    let drift = drift(rounds, &of_rounds, median_ns);
    of_rounds.sort_by(f64::total_cmp);
    let (lo, hi) = order_interval(&all, TAIL);
    let (round_lo, round_hi) = round_interval(&of_rounds, median_ns);
    Some(Summary {
        samples: all.len() as u64,
        rounds: of_rounds.len() as u64,
        median_ns,
        lo_ns: lo.min(round_lo).max(0.0),
        hi_ns: hi.max(round_hi),
        min_ns,
        max_ns,
        drift,
    })
}

/// Whether the interval is one of 95 %: of one round it says nothing about the next one, since the machine drifts.
pub(crate) fn is_sound(summary: &Summary) -> bool {
    summary.samples >= FEW as u64 && summary.rounds > 1
}

/// Whether the interval is within `part` of the median, above and below, and is one of 95 %.
pub(crate) fn is_narrow(summary: &Summary, part: f64) -> bool {
    let within = summary.median_ns * part;
    is_sound(summary)
        && summary.hi_ns - summary.median_ns <= within
        && summary.median_ns - summary.lo_ns <= within
}

/// The distribution of the samples of all rounds, with the interval of its median as in [`summary`]; `None` without samples.
pub(crate) fn percentiles(rounds: &[Vec<f64>]) -> Option<Percentiles> {
    let Summary { samples, median_ns, lo_ns, hi_ns, max_ns, .. } = summary(rounds)?;
    let mut sorted: Vec<f64> = rounds.iter().flatten().copied().collect();
    sorted.sort_by(f64::total_cmp);
    Some(Percentiles {
        samples,
        p50_ns: median_ns,
        p50_lo_ns: lo_ns,
        p50_hi_ns: hi_ns,
        p90_ns: rank(&sorted, 90),
        p99_ns: rank(&sorted, 99),
        max_ns,
    })
}

/// The noise of this run: `pairs` are times of the same operation, measured as both contenders of a comparison.
pub(crate) fn noise(what: &str, size_bytes: Option<u64>, pairs: &[(f64, f64)]) -> Option<Noise> {
    let mut ratios: Vec<f64> = pairs.iter().map(|(first, second)| second / first).collect();
    ratios.sort_by(f64::total_cmp);
    let median_ns = median(&pairs.iter().map(|(first, _)| *first).collect::<Vec<_>>())?;
    let (ratio_lo, ratio_hi) = order_interval(&ratios, TAIL);
    let ratio = median_of_sorted(&ratios);
    Some(Noise { what: what.to_owned(), size_bytes, ratio, ratio_lo, ratio_hi, median_ns })
}

/// The median; `None` without samples.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| median_of_sorted(&sorted))
}

/// The middle one, or the mean of both.
fn median_of_sorted(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest sample that is not below `percent` of them.
fn rank(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

/// The interval of the median; with few samples, all that they span.
fn order_interval(sorted: &[f64], tail: f64) -> (f64, f64) {
    let below = outside(sorted.len(), tail);
    (sorted[below], sorted[sorted.len() - 1 - below])
}

/// How many of `count` samples are left out on each side: so many that the median lies below the rest in at most `tail`
/// of all cases.
fn outside(count: usize, tail: f64) -> usize {
    // The number of samples below the median is binomial: p(k) = C(n, k) / 2ⁿ, summed from k = 0. Logarithms, since 2ⁿ
    // is soon too large.
    // CAST: numbers of samples are far below 2⁵³, here and below.
    let mut term = -(count as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..count / 2 {
        sum += term.exp();
        if sum > tail {
            return k.saturating_sub(1);
        }
        term += ((count - k) as f64 / (k + 1) as f64).ln();
    }
    // One or two samples.
    0
}

/// The interval by the medians of the rounds, which are sorted.
fn round_interval(of_rounds: &[f64], median: f64) -> (f64, f64) {
    let count = of_rounds.len();
    if count >= FEW {
        return order_interval(of_rounds, ROUND_TAIL);
    }
    // Between rounds the machine's speed is about normal; within them it need not be. A steady drift is not normal: the
    // interval is half as wide again, and covers that as well.
    let Some(student) = count.checked_sub(2).and_then(|index| STUDENT.get(index)) else {
        return (median, median);
    };
    let mean = of_rounds.iter().sum::<f64>() / count as f64;
    let squares: f64 = of_rounds.iter().map(|it| (it - mean).powi(2)).sum();
    let error = (squares / (count - 1) as f64 / count as f64).sqrt();
    let within = 1.5 * student * error;
    (median - within, median + within)
}

/// How far the rounds' medians spread beyond what the samples within rounds explain.
fn drift(rounds: &[Vec<f64>], of_rounds: &[f64], median_ns: f64) -> Option<f64> {
    let samples: usize = rounds.iter().map(Vec::len).sum();
    if of_rounds.len() < 3 || samples < 3 * of_rounds.len() {
        return None;
    }
    let with_samples = rounds.iter().filter(|round| !round.is_empty());
    let apart: Vec<f64> = with_samples
        .zip(of_rounds)
        .flat_map(|(round, middle)| round.iter().map(move |sample| (sample - middle).abs()))
        .collect();
    // Of a normal distribution: σ is 1.48 × the median distance, and a median of m samples has an error of 1.25 σ / √m.
    let deviation = 1.4826 * median(&apart)?;
    let per_round = samples as f64 / of_rounds.len() as f64;
    let explained = 1.2533 * deviation / per_round.sqrt();
    let highest = of_rounds.iter().copied().fold(f64::MIN, f64::max);
    let lowest = of_rounds.iter().copied().fold(f64::MAX, f64::min);
    let spread = highest - lowest;
    // 30 values of a normal distribution seldom span 6 standard deviations; the estimate of one has an error as well.
    (spread > 7.0 * explained && spread > DRIFT * median_ns).then(|| spread / median_ns)
}

#[cfg(test)]
mod tests {
    use super::super::made::Random;
    use super::*;

    /// Kinds of made samples.
    #[derive(Clone, Copy, Debug, Default)]
    struct Kind {
        /// The speed changes by a tenth from the start of the run to its end.
        drift: bool,
        /// Every tenth operation takes up to twenty times as long.
        outliers: bool,
        /// Two in five operations take a quarter longer.
        modes: bool,
    }

    impl Kind {
        /// One sample, at a moment of the run between 0 and 1.
        fn sample(self, random: &mut Random, at: f64) -> f64 {
            let mut time = 1000.0 * (1.0 + 0.01 * random.normal());
            if self.drift {
                time *= 1.0 + 0.1 * at;
            }
            if self.modes && random.unit() < 0.4 {
                time *= 1.25;
            }
            if self.outliers && random.unit() < 0.1 {
                time *= 1.0 + 19.0 * random.unit();
            }
            time
        }

        /// The median of what is sampled.
        fn truth(self) -> f64 {
            let mut random = Random::new(4711);
            let many = (0..200_000).map(|_| {
                let at = random.unit();
                self.sample(&mut random, at)
            });
            median(&many.collect::<Vec<_>>()).expect("there are samples")
        }
    }

    /// How many of 100 seeds have the truth in their interval.
    fn covered(kind: Kind, rounds: usize, samples: usize) -> usize {
        let truth = kind.truth();
        let holds = |seed: &u64| {
            let mut random = Random::new(*seed);
            let round = |_| {
                // The order of cells is shuffled in each round, so a cell's moment is chance.
                let at = random.unit();
                (0..samples).map(|_| kind.sample(&mut random, at)).collect()
            };
            let rounds: Vec<Vec<f64>> = (0..rounds).map(round).collect();
            let summary = summary(&rounds).expect("there are samples");
            (summary.lo_ns..=summary.hi_ns).contains(&truth)
        };
        (0..100).filter(holds).count()
    }

    #[test]
    fn the_interval_covers_the_median_whatever_the_samples_are_like() {
        for index in 0..8 {
            let (drift, outliers, modes) = (index & 1 > 0, index & 2 > 0, index & 4 > 0);
            let kind = Kind { drift, outliers, modes };
            for (rounds, samples) in [(2, 3), (2, 100), (3, 30), (5, 9), (9, 20), (25, 5)] {
                let covered = covered(kind, rounds, samples);
                assert!(covered >= 93, "{covered} of 100: {kind:?}, {rounds} rounds of {samples}");
            }
        }
    }

    #[test]
    fn the_interval_becomes_narrow_with_more_samples() {
        let kind = Kind { outliers: true, ..Kind::default() };
        let mut random = Random::new(1);
        let mut measured = |samples| {
            let round = |_| (0..samples).map(|_| kind.sample(&mut random, 0.0)).collect();
            summary(&(0..10).map(round).collect::<Vec<_>>()).expect("there are samples")
        };
        assert!(!is_narrow(&measured(1), 0.005) && is_narrow(&measured(50), 0.005));
        let steady = summary(&[vec![5.0; 300]]).expect("one round");
        assert!(!is_sound(&steady), "one round says nothing about the next one");
        let one = summary(&[vec![5.0]]).expect("one sample");
        assert!(!is_narrow(&one, 0.01), "one sample says nothing about its neighbours");
    }

    #[test]
    fn drift_is_found_and_noise_is_none() {
        let measured = |kind: Kind, seed| {
            let mut random = Random::new(seed);
            let mut round =
                |at: u32| (0..20).map(|_| kind.sample(&mut random, f64::from(at) / 9.0)).collect();
            summary(&(0..10).map(&mut round).collect::<Vec<_>>()).and_then(|it| it.drift)
        };
        let drifting = Kind { drift: true, ..Kind::default() };
        let steady = Kind { outliers: true, ..Kind::default() };
        for seed in 0..100 {
            let drift = measured(drifting, seed).expect("a tenth is much");
            assert!((0.08..0.12).contains(&drift), "{drift}");
            assert_eq!(measured(steady, seed), None, "seed {seed}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let samples: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        let found = percentiles(&[samples]).expect("there are samples");
        assert_eq!(
            (found.p50_ns, found.p90_ns, found.p99_ns, found.max_ns),
            (500.5, 900.0, 990.0, 1000.0)
        );
        assert!((465.0..475.0).contains(&found.p50_lo_ns), "{found:?}");
        assert!((526.0..536.0).contains(&found.p50_hi_ns), "{found:?}");
        assert_eq!(percentiles(&[]), None);
        // Rounds that differ make the interval wider than their samples do.
        let apart = |at: f64| (0..100).map(|_| 500.0 + at).collect::<Vec<_>>();
        let found = percentiles(&[apart(0.0), apart(20.0), apart(40.0)]).expect("samples");
        assert!(found.p50_lo_ns < 490.0 && found.p50_hi_ns > 550.0, "{found:?}");
    }

    #[test]
    fn the_same_operation_twice_is_noise_around_one() {
        let mut random = Random::new(7);
        let pairs: Vec<_> =
            (0..101).map(|_| (100.0 + random.normal(), 100.0 + random.normal())).collect();
        let noise = noise("a copy", Some(64), &pairs).expect("there are pairs");
        assert!(noise.ratio_lo < 1.0 && noise.ratio_hi > 1.0, "{noise:?}");
        assert!(noise.ratio_hi - noise.ratio_lo < 0.02, "{noise:?}");
    }
}
