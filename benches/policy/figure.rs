//! A figure with its target, as a line of text and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

/// A measured or counted number.
pub(crate) struct Figure {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    /// Smallest and largest value of all rounds. `None` for counts.
    pub(crate) range: Option<(f64, f64)>,
    /// The target and its direction. `None` for figures without a target.
    pub(crate) target: Option<(Direction, f64)>,
}

/// The direction of the target.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Direction {
    AtLeast,
    AtMost,
}

impl Figure {
    pub(crate) fn json(&self) -> Value {
        json!({
            "id": self.id,
            "value": self.value,
            "lo": self.range.map_or(self.value, |(lo, _)| lo),
            "hi": self.range.map_or(self.value, |(_, hi)| hi),
            "target": self.target.map(|(_, target)| target),
            "direction": self.target.map(|(direction, _)| match direction {
                Direction::AtLeast => "at_least",
                Direction::AtMost => "at_most",
            }),
        })
    }

    fn verdict(&self) -> String {
        let Some((direction, target)) = self.target else {
            return String::new();
        };
        let (sign, met) = match direction {
            Direction::AtLeast => ("≥", self.value >= target),
            Direction::AtMost => ("≤", self.value <= target),
        };
        format!("{sign} {target:<6} {}", if met { "met" } else { "missed" })
    }
}

pub(crate) fn write(out: &mut impl Write, figures: &[Figure]) -> io::Result<()> {
    for figure in figures {
        let Figure { id, what, value, .. } = figure;
        writeln!(out, "{id:18} {value:8.3}  {:16} {what}", figure.verdict())?;
    }
    Ok(())
}
