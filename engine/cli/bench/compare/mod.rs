//! Two runs beside each other: what became faster, what slower, and what cannot be told.
//!
//! Something *changed* only if the intervals of both runs do not touch, and the ratio is outside of what noise explains:
//! that of the runs themselves, and that of two runs of one program, which differ by more than each one's own samples
//! show. Where a run is so noisy that a change of the size asked for could hide in it, the answer is "cannot tell".

mod item;
mod machine;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::run::{Run, Verdict};
use crate::outcome::Outcome;
use item::{Item, items};
pub(crate) use machine::{differences, remarks};

/// Two runs of one program on one machine differ by up to so much, whatever each one's intervals say: where memory
/// lies is chance, and stays for the whole run (BENCHMARKS.md, "The protocol, and why": 2 % either way, in each run).
const BETWEEN_RUNS: f64 = 0.04;

/// How likely it may be that two runs of one program have a change anywhere.
const FALSE_ALARM: f64 = 0.001;

/// The result of a comparison.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) schema: u32,
    /// The ratio below which a change fails.
    pub(crate) fail_below: f64,
    /// What differs and may be the reason: driver, kernel, version.
    pub(crate) remarks: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// What the first run has measured and the second one could not, each with the reason.
    pub(crate) lost: Vec<String>,
    /// What only the first run has, and what only the second one has.
    pub(crate) only_before: Vec<String>,
    pub(crate) only_after: Vec<String>,
    /// Wrong bytes and impossible speeds of the second run.
    pub(crate) faults: Vec<String>,
}

/// What was measured by both.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) before: f64,
    pub(crate) after: f64,
    /// Above 1 is better: a speed's ratio, or the inverse of a time's.
    pub(crate) ratio: f64,
    pub(crate) ratio_lo: f64,
    pub(crate) ratio_hi: f64,
    /// The ratio nearest to 1 that would have been found to be a change.
    pub(crate) least_visible: f64,
    pub(crate) change: Change,
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    Slower,
    CannotTell,
    Faster,
    Same,
}

/// Compares two runs.
pub(crate) fn compare(before: &Run, after: &Run, fail_below: f64) -> Comparison {
    let (old, new) = (items(before), items(after));
    let find = |items: &[Item], key: &str| items.iter().position(|item| item.key == key);
    let pairs: Vec<(&Item, &Item)> =
        old.iter().filter_map(|item| Some((item, &new[find(&new, &item.key)?]))).collect();
    let judge = Judge { pairs: pairs.len(), fail_below, noises: [before, after] };
    let notes = item::unmeasured(after);
    let note = |key: &str| notes.iter().find(|(unmeasured, _)| unmeasured == key);
    let gone = old.iter().filter(|item| find(&new, &item.key).is_none());
    let (lost, only_before): (Vec<&Item>, Vec<_>) = gone.partition(|it| note(&it.key).is_some());
    let lost_because = |item: &Item| {
        let why = note(&item.key).map_or("", |(_, why)| why.as_str());
        format!("{}: {why}", item.name)
    };
    let added = new.iter().filter(|item| find(&old, &item.key).is_none());
    let faults = after
        .cells
        .iter()
        .filter(|cell| matches!(cell.verdict, Verdict::WrongBytes | Verdict::MoreThanPossible));
    let mut rows: Vec<Row> = pairs.into_iter().map(|(old, new)| judge.row(old, new)).collect();
    rows.sort_by(|first, second| {
        (first.change, first.ratio)
            .partial_cmp(&(second.change, second.ratio))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    Comparison {
        schema: super::run::SCHEMA,
        fail_below,
        remarks: remarks(before, after),
        rows,
        lost: lost.into_iter().map(lost_because).collect(),
        only_before: only_before.into_iter().map(|item| item.name.clone()).collect(),
        only_after: added.map(|item| item.name.clone()).collect(),
        faults: faults.map(|cell| super::verdict::name(&cell.key)).collect(),
    }
}

impl Comparison {
    /// What the comparison found out. With `strict`, a row that cannot be told is as if nothing had been measured, unless
    /// another one is slower than asked or no longer measured.
    pub(crate) fn outcome(&self, strict: bool) -> Outcome {
        let is_passed = self.failing().next().is_none() && self.lost.is_empty();
        let is_told = !strict || self.count(Change::CannotTell) == 0;
        match () {
            () if !self.faults.is_empty() => Outcome::Faulty,
            () if self.rows.is_empty() || is_passed && !is_told => Outcome::Nothing,
            () => Outcome::of(is_passed),
        }
    }

    /// The rows that are slower than asked.
    pub(crate) fn failing(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.change == Change::Slower && row.ratio < self.fail_below)
    }

    pub(crate) fn count(&self, change: Change) -> usize {
        self.rows.iter().filter(|row| row.change == change).count()
    }
}

/// What all rows have in common.
struct Judge<'a> {
    pairs: usize,
    fail_below: f64,
    noises: [&'a Run; 2],
}

impl Judge<'_> {
    fn row(&self, old: &Item, new: &Item) -> Row {
        let ratio = better(old.value, new.value, new.more_is_better);
        let (mut lo, mut hi) = (
            better(old.worst_of_new(new).0, old.worst_of_new(new).1, new.more_is_better),
            better(old.best_of_new(new).0, old.best_of_new(new).1, new.more_is_better),
        );
        if lo > hi {
            std::mem::swap(&mut lo, &mut hi);
        }
        let visible = if old.is_exact && new.is_exact { 0.0 } else { self.visible(old, new) };
        let apart = lo > 1.0 || hi < 1.0;
        let distance = ratio.ln().abs();
        let hides = -self.fail_below.ln() < visible;
        let change = match (apart && distance > visible, ratio < 1.0) {
            (true, true) => Change::Slower,
            (true, false) => Change::Faster,
            (false, _) if hides => Change::CannotTell,
            (false, _) => Change::Same,
        };
        Row {
            name: new.name.clone(),
            unit: new.unit,
            before: old.value,
            after: new.value,
            ratio,
            ratio_lo: lo,
            ratio_hi: hi,
            least_visible: (-visible).exp(),
            change,
        }
    }

    /// How far a ratio must be from 1, as a logarithm, so that it is a change: beyond the noise, and so far beyond both
    /// intervals that among all rows chance has no such ratio.
    fn visible(&self, old: &Item, new: &Item) -> f64 {
        // A normal value is beyond √(2 ln (2 / p)) with a probability of at most p.
        // CAST: the number of rows is small.
        let deviations = (2.0 * (2.0 * self.pairs.max(1) as f64 / FALSE_ALARM).ln()).sqrt();
        let error = old.deviation().hypot(new.deviation());
        let noise = self.noises.iter().map(|run| noise(run, new)).fold(BETWEEN_RUNS, f64::max);
        noise.max(deviations * error)
    }
}

/// The noise of a run for operations that take about as long, as a logarithm.
fn noise(run: &Run, item: &Item) -> f64 {
    let apart = |ns: f64| item.ns.map_or(0.0, |of_item| (ns / of_item).ln().abs());
    let usable = run.noise.iter().filter(|it| it.ratio_lo > 0.0 && it.median_ns > 0.0);
    let nearest =
        usable.min_by(|first, second| apart(first.median_ns).total_cmp(&apart(second.median_ns)));
    nearest.map_or(0.0, |it| it.ratio_lo.ln().abs().max(it.ratio_hi.ln().abs()))
}

/// How many times as good the new value is.
fn better(old: f64, new: f64, more_is_better: bool) -> f64 {
    match (old == new, more_is_better) {
        (true, _) => 1.0,
        (false, true) => new / old,
        (false, false) => old / new,
    }
}
