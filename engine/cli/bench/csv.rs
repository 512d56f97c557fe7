//! The cells as comma-separated values: one row for each combination of what was varied, and one header.

use std::fmt::{Display, Write};

use serde::Serialize;
use serde_json::Value;

use super::run::{Cell, Run};
use super::verdict::{share, speed};

const COLUMNS: [&str; 27] = [
    "from",
    "to",
    "way",
    "engine",
    "direction",
    "actor",
    "size_bytes",
    "pattern",
    "processes",
    "bytes",
    "samples",
    "rounds",
    "median_ns",
    "lo_ns",
    "hi_ns",
    "min_ns",
    "max_ns",
    "drift",
    "device_median_ns",
    "queued_median_ns",
    "bytes_per_second",
    "bound_bytes_per_second",
    "share",
    "verdict",
    "causes",
    "wrong_bytes",
    "note",
];

/// All cells. What was not measured is an empty field.
pub(crate) fn csv(run: &Run) -> String {
    let mut text = COLUMNS.join(",") + "\n";
    for cell in &run.cells {
        text += &row(cell).join(",");
        text.push('\n');
    }
    text
}

fn row(cell: &Cell) -> [String; COLUMNS.len()] {
    let key = &cell.key;
    let summary = cell.summary.as_ref();
    let of = |value: fn(&super::run::Summary) -> f64| field(summary.map(value));
    let bound = cell.bound_at_best.as_ref().or(cell.bound.as_ref());
    let causes = cell.causes.iter().fold(String::new(), |mut text, cause| {
        let between = if text.is_empty() { "" } else { "; " };
        write!(text, "{between}{}", name(&cause.kind)).expect("writing to a string cannot fail");
        text
    });
    [
        field(Some(key.from)),
        field(Some(key.to)),
        field(Some(&key.way)),
        name(&key.engine),
        name(&key.direction),
        name(&key.actor),
        field(Some(key.size_bytes)),
        name(&key.pattern),
        field(Some(key.processes)),
        field(cell.bytes),
        field(summary.map(|it| it.samples)),
        field(summary.map(|it| it.rounds)),
        of(|it| it.median_ns),
        of(|it| it.lo_ns),
        of(|it| it.hi_ns),
        of(|it| it.min_ns),
        of(|it| it.max_ns),
        field(summary.and_then(|it| it.drift)),
        field(cell.device_summary.map(|it| it.median_ns)),
        field(cell.queued_summary.map(|it| it.median_ns)),
        field(speed(cell)),
        field(bound.map(|it| it.bytes_per_second)),
        field(share(cell)),
        name(&cell.verdict),
        field(Some(causes)),
        field(cell.verified.map(|it| it.wrong_bytes)),
        field(cell.note.as_ref()),
    ]
}

/// A value as a field, quoted where it must be (RFC 4180).
fn field(value: Option<impl Display>) -> String {
    let text = value.map_or(String::new(), |value| value.to_string());
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

/// The name that the value has in JSON.
pub(crate) fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::run::rich;
    use super::*;

    /// The fields of each line. A quoted field may have commas, and two quotes for one.
    fn parse(text: &str) -> Vec<Vec<String>> {
        let mut rows = vec![];
        let mut row = vec![String::new()];
        let mut quoted = false;
        for letter in text.chars() {
            match letter {
                '"' => quoted = !quoted,
                ',' if !quoted => row.push(String::new()),
                '\n' if !quoted => rows.push(std::mem::replace(&mut row, vec![String::new()])),
                other => row.last_mut().expect("it has a field").push(other),
            }
        }
        rows
    }

    #[test]
    fn there_is_one_row_for_each_cell() {
        let mut run = rich(1);
        run.cells[0].note = Some("a comma, a \"quote\"\nand a line".into());
        let rows = parse(&csv(&run));
        assert_eq!(rows.len(), run.cells.len() + 1);
        assert!(rows.iter().all(|row| row.len() == COLUMNS.len()));
        assert_eq!(rows[0], COLUMNS);
        for (row, cell) in rows[1..].iter().zip(&run.cells) {
            assert_eq!([&row[0], &row[1]], [&cell.key.from.to_string(), &cell.key.to.to_string()]);
            assert_eq!(row[6].parse(), Ok(cell.key.size_bytes));
            let median = cell.summary.map(|it| it.median_ns);
            assert_eq!(row[12].parse().ok(), median, "not measured is empty, never zero");
        }
        // Quotes are doubled.
        assert!(csv(&run).contains(",\"a comma, a \"\"quote\"\"\nand a line\"\n"));
    }
}
