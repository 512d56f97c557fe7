//! Bytes moved on the second catalogue, which no policy here was made with, beside six other policies.

use std::io::{self, Write};

use peerbuf::residency::policy::traces::Trace;
use peerbuf::residency::policy::{Adaptive, Lru, Policy, Slot, Use, belady, replay};
use serde_json::{Value, json};

use super::bytes::geomean;
use super::figure::{Direction, Figure};

#[path = "../../engine/residency/policy/tests/baselines/mod.rs"]
mod baselines;
#[path = "../../engine/residency/policy/tests/unseen/mod.rs"]
mod catalogue;

/// Bytes brought in for one trace, over Belady's.
pub(crate) struct Row {
    name: String,
    adaptive: f64,
    others: Vec<f64>,
}

impl Row {
    fn of(trace: Trace) -> Self {
        let least = belady(&trace.uses, trace.capacity).bytes_in as f64;
        let over = |policy: &mut dyn Policy| {
            // CAST: a ratio; the last bits do not matter.
            replay(policy, &trace.uses, trace.capacity).bytes_in as f64 / least
        };
        let others = baselines::baselines().iter_mut().map(|policy| over(&mut **policy)).collect();
        Self { adaptive: over(&mut Adaptive::new()), others, name: trace.name }
    }

    fn regret(&self) -> f64 {
        self.adaptive / self.others.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn json(&self) -> Value {
        let Self { name, adaptive, others } = self;
        json!({ "name": name, "adaptive": adaptive, "others": others })
    }
}

/// The part to learn from.
pub(crate) fn learnt() -> Vec<Row> {
    catalogue::learn().map(Row::of).collect()
}

/// The part that is only measured.
pub(crate) fn measured() -> Vec<Row> {
    catalogue::measured().map(Row::of).collect()
}

/// The figures of the measured part.
pub(crate) fn figures(rows: &[Row]) -> Vec<Figure> {
    let ratios: Vec<_> = rows.iter().map(|row| row.adaptive).collect();
    vec![
        Figure {
            id: "policy_unseen_geomean",
            what: "bytes brought in over Belady's on unseen traces, geometric mean",
            value: geomean(&ratios),
            range: None,
            target: Some((Direction::AtMost, 1.32)),
        },
        Figure {
            id: "policy_unseen_worst_regret",
            what: "the same over the best of six other policies, the worst trace",
            value: rows.iter().map(Row::regret).fold(0.0, f64::max),
            range: None,
            target: Some((Direction::AtMost, 1.3)),
        },
    ]
}

pub(crate) fn write(out: &mut impl Write, title: &str, rows: &[Row]) -> io::Result<()> {
    let names = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    write!(out, "{title:names$} {:>8} {:>7}", "adaptive", "regret")?;
    for policy in baselines::baselines() {
        write!(out, " {:>8}", policy.name())?;
    }
    writeln!(out)?;
    for row in rows {
        write!(out, "{:names$} {:8.3} {:7.3}", row.name, row.adaptive, row.regret())?;
        for other in &row.others {
            write!(out, " {other:8.3}")?;
        }
        writeln!(out)?;
    }
    let all = |column: &dyn Fn(&Row) -> f64| geomean(&rows.iter().map(column).collect::<Vec<_>>());
    let (mean, regret) = (all(&|row| row.adaptive), all(&Row::regret));
    write!(out, "{:names$} {mean:8.3} {regret:7.3}", "geometric mean")?;
    for number in 0..rows.first().map_or(0, |row| row.others.len()) {
        write!(out, " {:8.3}", all(&|row| row.others[number]))?;
    }
    writeln!(out, "\n")
}
