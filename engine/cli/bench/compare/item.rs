//! What can be compared: the time of a cell, the median of a latency, the value of a figure.

use super::super::csv::name;
use super::super::run::{Key, LatencyKey, Run, Target};
use super::super::stats;
use super::super::units::bytes;

/// One value that both runs may have.
#[derive(Debug)]
pub(super) struct Item {
    /// Equal for two values of the same thing.
    pub(super) key: String,
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) value: f64,
    /// The 95 % interval.
    pub(super) lo: f64,
    pub(super) hi: f64,
    pub(super) more_is_better: bool,
    /// Whether it is a count, which has no noise.
    pub(super) is_exact: bool,
    /// Whether the interval is one of 95 %, also where the machine drifts.
    is_sound: bool,
    /// How long one operation takes; unknown for counts.
    pub(super) ns: Option<f64>,
}

impl Item {
    /// The deviation of the value, as a logarithm: half the interval is 1.96 of it.
    pub(super) fn deviation(&self) -> f64 {
        if self.is_sound && self.lo > 0.0 {
            (self.hi / self.lo).ln() / 2.0 / 1.96
        } else {
            f64::INFINITY
        }
    }

    /// An old and a new value, each at the end of its interval that is worst for the new one.
    pub(super) fn worst_of_new(&self, new: &Self) -> (f64, f64) {
        if self.more_is_better { (self.hi, new.lo) } else { (self.lo, new.hi) }
    }

    /// The same at the ends that are best for it.
    pub(super) fn best_of_new(&self, new: &Self) -> (f64, f64) {
        if self.more_is_better { (self.lo, new.hi) } else { (self.hi, new.lo) }
    }
}

/// Everything that was measured in a run.
pub(super) fn items(run: &Run) -> Vec<Item> {
    let time = |key: String, name: String, (lo, value, hi): (f64, f64, f64)| Item {
        key,
        name,
        unit: "ns",
        value,
        lo,
        hi,
        more_is_better: false,
        is_exact: false,
        is_sound: true,
        ns: Some(value),
    };
    let cells = run.cells.iter().filter_map(|cell| {
        let summary = cell.summary.filter(|it| it.median_ns > 0.0)?;
        let name = cell_name(&cell.key);
        let times = (summary.lo_ns, summary.median_ns, summary.hi_ns);
        let item = time(cell_key(&cell.key), name, times);
        Some(Item { is_sound: stats::is_sound(&summary), ..item })
    });
    let latency = run.latency.iter().filter_map(|latency| {
        let of = latency.percentiles.filter(|it| it.p50_ns > 0.0)?;
        let key = &latency.key;
        let way = key.way.as_ref().map_or(String::new(), |way| format!(" by {way}"));
        let name = format!("{}, {} → {}{way}", key.operation, key.from, key.to);
        Some(time(latency_key(key), name, (of.p50_lo_ns, of.p50_ns, of.p50_hi_ns)))
    });
    let figures = run.figures.iter().map(|figure| Item {
        key: format!("figure {}", figure.id),
        name: figure.id.clone(),
        unit: "",
        value: figure.value,
        lo: figure.lo,
        hi: figure.hi,
        more_is_better: figure.direction == Target::AtLeast,
        is_sound: true,
        is_exact: figure.baseline.is_none() && figure.lo == figure.hi,
        ns: figure.seconds.map(|seconds| seconds * 1e9),
    });
    cells.chain(latency).chain(figures).collect()
}

/// The keys of what a run wanted to measure and could not, each with the reason.
pub(super) fn unmeasured(run: &Run) -> Vec<(String, String)> {
    let cells = run.cells.iter().filter(|cell| cell.summary.is_none());
    let cells = cells.map(|cell| (cell_key(&cell.key), &cell.note));
    let latency = run.latency.iter().filter(|latency| latency.percentiles.is_none());
    let latency = latency.map(|latency| (latency_key(&latency.key), &latency.note));
    let all = cells.chain(latency);
    all.filter_map(|(key, note)| Some((key, note.clone()?))).collect()
}

fn cell_key(key: &Key) -> String {
    format!("cell {key:?}")
}

fn latency_key(key: &LatencyKey) -> String {
    format!("latency {key:?}")
}

/// A key in words, with everything that tells it from another one.
fn cell_name(key: &Key) -> String {
    let processes = if key.processes > 1 { ", two processes" } else { "" };
    format!(
        "{} → {}, {}, {}, {}, {}, {}, {}{processes}",
        key.from,
        key.to,
        bytes(key.size_bytes),
        key.way,
        name(&key.engine),
        name(&key.direction),
        name(&key.actor),
        name(&key.pattern),
    )
}
