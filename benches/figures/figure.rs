//! A figure: one number with its target, as a row of the table and as JSON.

use std::fmt::{self, Write};

use serde_json::{Value, json};

use crate::measure::Compared;

/// The direction of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    AtLeast,
    AtMost,
}

/// One of the project's figures.
pub(crate) struct Figure {
    pub(crate) id: &'static str,
    /// Description of the measurement.
    what: &'static str,
    value: f64,
    lo: f64,
    hi: f64,
    unit: &'static str,
    /// Description of the baseline; `None` for counts.
    baseline: Option<&'static str>,
    /// `None` for a figure without a target.
    target: Option<f64>,
    direction: Direction,
    /// Seconds per operation: ours and the baseline's.
    seconds: Option<(f64, f64)>,
    /// Lines for below the table: what the value was chosen from.
    detail: Vec<String>,
}

impl Figure {
    /// A speed, as a multiple of the baseline's.
    pub(crate) fn speed(
        id: &'static str,
        what: &'static str,
        baseline: &'static str,
        target: Option<f64>,
        compared: Compared,
    ) -> Self {
        let Compared { ratio, ours, baseline: theirs } = compared;
        Self {
            id,
            what,
            value: ratio.median,
            lo: ratio.lo,
            hi: ratio.hi,
            unit: "times as fast",
            baseline: Some(baseline),
            target,
            direction: Direction::AtLeast,
            seconds: Some((ours, theirs)),
            detail: Vec::new(),
        }
    }

    /// A time, as a part of the baseline's.
    pub(crate) fn part(
        id: &'static str,
        what: &'static str,
        baseline: &'static str,
        target: f64,
        compared: Compared,
    ) -> Self {
        let speed = Self::speed(id, what, baseline, Some(target), compared);
        Self {
            value: speed.value.recip(),
            lo: speed.hi.recip(),
            hi: speed.lo.recip(),
            unit: "of the time",
            direction: Direction::AtMost,
            ..speed
        }
    }

    /// A count, the same in every run.
    pub(crate) fn count(
        id: &'static str,
        what: &'static str,
        unit: &'static str,
        target: Option<f64>,
        value: f64,
    ) -> Self {
        let direction = Direction::AtMost;
        Self {
            id,
            what,
            value,
            lo: value,
            hi: value,
            unit,
            baseline: None,
            target,
            direction,
            seconds: None,
            detail: Vec::new(),
        }
    }

    /// A count with a direction, or one that lies between `lo` and `hi`.
    pub(crate) fn within(self, direction: Direction, (lo, hi): (f64, f64)) -> Self {
        Self { direction, lo, hi, ..self }
    }

    pub(crate) fn with_detail(self, detail: Vec<String>) -> Self {
        Self { detail, ..self }
    }

    pub(crate) fn json(&self) -> Value {
        let direction = match self.direction {
            Direction::AtLeast => "at_least",
            Direction::AtMost => "at_most",
        };
        json!({
            "id": self.id,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.baseline,
            "target": self.target,
            "direction": direction,
            "lo": self.lo,
            "hi": self.hi,
            "seconds": self.seconds.map(|(ours, _)| ours),
            "baseline_seconds": self.seconds.map(|(_, baseline)| baseline),
        })
    }

    /// Says whether the interval's worse end meets the target, or only the value does.
    fn met(&self) -> &'static str {
        let Some(target) = self.target else {
            return "";
        };
        let met = match self.direction {
            Direction::AtLeast => [self.lo, self.value].map(|value| value >= target),
            Direction::AtMost => [self.hi, self.value].map(|value| value <= target),
        };
        match met {
            [true, _] => "yes",
            [false, true] => "barely",
            [false, false] => "no",
        }
    }

    fn cells(&self) -> [String; COLUMNS] {
        let number = |value: f64| match value {
            0.0 => "0".into(),
            value if value < 0.1 => format!("{value:.6}"),
            value if value < 10.0 => format!("{value:.3}"),
            value => format!("{value:.1}"),
        };
        let sign = if self.direction == Direction::AtLeast { "≥" } else { "≤" };
        let (ours, theirs) =
            self.seconds.map_or_else(Default::default, |(ours, theirs)| (time(ours), time(theirs)));
        [
            self.id.into(),
            format!("{} {}", number(self.value), self.unit),
            format!("{} … {}", number(self.lo), number(self.hi)),
            self.target.map_or_else(String::new, |target| format!("{sign} {target}")),
            self.met().into(),
            ours,
            theirs,
            self.baseline.map_or(self.what.into(), |by| format!("{}, against {by}", self.what)),
        ]
    }
}

const COLUMNS: usize = 8;
const HEADINGS: [&str; COLUMNS] =
    ["id", "value", "95 % interval", "target", "met", "ours", "baseline", "what"];

/// Figures as aligned text. What a figure stands for comes last, because it is longest.
pub(crate) struct Table<'a>(pub(crate) &'a [Figure]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = std::iter::once(HEADINGS.map(String::from))
            .chain(self.0.iter().map(Figure::cells))
            .collect();
        let mut widths = [0; COLUMNS];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let mut line = String::new();
            for (cell, &width) in row.iter().zip(&widths) {
                write!(line, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        for figure in self.0.iter().filter(|figure| !figure.detail.is_empty()) {
            writeln!(f, "\n{}:", figure.id)?;
            for line in &figure.detail {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// Formats seconds in a suitable unit.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-7 => format!("{:.1} ns", s * 1e9),
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.2} µs", s * 1e6),
        s => format!("{:.2} ms", s * 1e3),
    }
}
