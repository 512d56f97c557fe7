//! Bytes moved, for every trace and every policy.

use std::io::{self, Write};

use peerbuf::residency::policy::traces::Trace;
use peerbuf::residency::policy::{Adaptive, Clock, Lru, Policy, belady, replay};
use serde_json::{Value, json};

use super::figure::{Direction, Figure};

/// The trace that shows how badly LRU handles a frame loop.
const LOOP: &str = "frame loop 1.1";

/// Bytes brought in for one trace.
pub(crate) struct Row {
    name: String,
    /// Bytes used: a policy that keeps nothing brings in all of them.
    used: u64,
    belady: u64,
    lru: u64,
    clock: u64,
    adaptive: u64,
}

impl Row {
    fn ratio(&self, bytes: u64) -> f64 {
        // CAST: a ratio; the last bits do not matter. Buffers larger than the domain are not moved.
        if self.belady == 0 { 1.0 } else { bytes as f64 / self.belady as f64 }
    }

    pub(crate) fn json(&self) -> Value {
        let Self { name, used, belady, lru, clock, adaptive } = self;
        json!({
            "name": name, "used": used, "belady": belady,
            "lru": lru, "clock": clock, "adaptive": adaptive,
        })
    }
}

pub(crate) fn rows(traces: impl IntoIterator<Item = Trace>) -> Vec<Row> {
    traces
        .into_iter()
        .map(|trace| {
            let bytes =
                |policy: &mut dyn Policy| replay(policy, &trace.uses, trace.capacity).bytes_in;
            Row {
                used: trace.uses.iter().map(|each| each.bytes).sum(),
                belady: belady(&trace.uses, trace.capacity).bytes_in,
                lru: bytes(&mut Lru::new()),
                clock: bytes(&mut Clock::new()),
                adaptive: bytes(&mut Adaptive::new()),
                name: trace.name,
            }
        })
        .collect()
}

pub(crate) fn figures(rows: &[Row]) -> Vec<Figure> {
    let ratios: Vec<_> = rows.iter().map(|row| row.ratio(row.adaptive)).collect();
    let against_lru = rows
        .iter()
        .filter(|row| row.name == LOOP)
        .map(|row| row.lru as f64 / row.adaptive as f64)
        .fold(f64::INFINITY, f64::min);
    vec![
        Figure {
            id: "policy_worst",
            what: "bytes brought in over Belady's, the worst of all traces",
            value: ratios.iter().copied().fold(0.0, f64::max),
            range: None,
            target: Some((Direction::AtMost, 1.8)),
        },
        Figure {
            id: "policy_geomean",
            what: "the same, geometric mean",
            value: geomean(&ratios),
            range: None,
            target: Some((Direction::AtMost, 1.35)),
        },
        Figure {
            id: "policy_vs_lru",
            what: "times fewer bytes than LRU in a frame loop over 1.1 times what fits",
            value: against_lru,
            range: None,
            target: Some((Direction::AtLeast, 5.0)),
        },
    ]
}

pub(crate) fn geomean(ratios: &[f64]) -> f64 {
    // CAST: a few.
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}

pub(crate) fn write(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    const GIB: f64 = (1u64 << 30) as f64;
    let names = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    writeln!(out, "Brought in, GiB; and times Belady's")?;
    writeln!(
        out,
        "{:names$} {:>8} {:>7} {:>8} {:>8} {:>8} {:>7} {:>7} {:>8}",
        "", "used", "Belady", "LRU", "Clock", "Adaptive", "LRU", "Clock", "Adaptive"
    )?;
    for row in rows {
        // CAST: for display.
        let gib = |bytes: u64| bytes as f64 / GIB;
        writeln!(
            out,
            "{:names$} {:8.1} {:7.1} {:8.1} {:8.1} {:8.1} {:7.3} {:7.3} {:8.3}",
            row.name,
            gib(row.used),
            gib(row.belady),
            gib(row.lru),
            gib(row.clock),
            gib(row.adaptive),
            row.ratio(row.lru),
            row.ratio(row.clock),
            row.ratio(row.adaptive),
        )?;
    }
    let all = |bytes: fn(&Row) -> u64| -> Vec<f64> {
        rows.iter().map(|row| row.ratio(bytes(row))).collect()
    };
    let columns = [all(|row| row.lru), all(|row| row.clock), all(|row| row.adaptive)];
    let worst = columns.each_ref().map(|column| column.iter().copied().fold(0.0, f64::max));
    let mean = columns.each_ref().map(|column| geomean(column));
    for (name, [lru, clock, adaptive]) in [("worst", worst), ("geometric mean", mean)] {
        let wide = names + 44;
        writeln!(out, "{name:wide$} {lru:7.3} {clock:7.3} {adaptive:8.3}")?;
    }
    writeln!(out)
}
