//! Cells of nvbandwidth, beside those of a saved run of `peerbuf bench link`.
//!
//! The format is that of `json_output.cpp` at 4a346807 of NVIDIA/nvbandwidth: speeds are text, or `"N/A"`. Which device is
//! the source is taken from `testcases_ce.cpp` at 040fd281, and not from its descriptions: a read is a copy from the column's
//! device to the row's, by the row's, and a write is one from the row's device to the column's, by the row's.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::Outcome;

/// What nvbandwidth measured of one copy that peerbuf measures too.
#[derive(Debug, PartialEq)]
pub(super) struct Cell {
    from: String,
    to: String,
    /// The engine, as `peerbuf bench link` calls it.
    engine: Engine,
    actor: Option<&'static str>,
    /// Bytes per second; `None` if it could not copy.
    bytes_per_second: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// A copy command: on the queue for copies if there is one.
    Copy,
    Compute,
}

#[derive(Deserialize)]
struct File {
    nvbandwidth: Run,
}

#[derive(Deserialize)]
struct Run {
    error: Option<String>,
    #[serde(default)]
    testcases: Vec<Testcase>,
}

#[derive(Deserialize)]
struct Testcase {
    name: String,
    #[serde(default)]
    bandwidth_matrix: Vec<Vec<Value>>,
}

/// Reads what `nvbandwidth -j` printed.
pub(super) fn read(path: &Path) -> Outcome<Vec<Cell>> {
    let text = std::fs::read_to_string(path).map_err(|error| at(path, error))?;
    Ok(cells(&text).map_err(|error| at(path, error))?)
}

fn at(path: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

fn cells(text: &str) -> Outcome<Vec<Cell>> {
    let File { nvbandwidth: run } = serde_json::from_str(text)?;
    if let Some(error) = run.error {
        return Err(format!("nvbandwidth failed: {error}").into());
    }
    let mut cells = Vec::new();
    for Testcase { name, bandwidth_matrix } in &run.testcases {
        let Some((name, engine)) = engine(name) else { continue };
        for (row, values) in bandwidth_matrix.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let device = |index: usize| format!("device{index}");
                let host = || "host".to_owned();
                let (from, to, actor) = match name {
                    "host_to_device_memcpy" => (host(), device(column), None),
                    "device_to_host_memcpy" => (device(column), host(), None),
                    _ if row == column => continue,
                    "device_to_device_memcpy_read" => {
                        (device(column), device(row), Some("importer"))
                    }
                    "device_to_device_memcpy_write" => {
                        (device(row), device(column), Some("exporter"))
                    }
                    _ => continue,
                };
                let bytes_per_second = speed(value)?;
                cells.push(Cell { from, to, engine, actor, bytes_per_second });
            }
        }
    }
    Ok(cells)
}

/// The name of a test without its engine.
fn engine(name: &str) -> Option<(&str, Engine)> {
    let by = |end, engine| Some((name.strip_suffix(end)?, engine));
    by("_ce", Engine::Copy).or_else(|| by("_sm", Engine::Compute))
}

/// A speed, which is text in GB/s; older and later versions may print numbers.
fn speed(value: &Value) -> Outcome<Option<f64>> {
    let gb = match value {
        Value::String(text) if text == "N/A" => return Ok(None),
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    };
    match gb.filter(|gb: &f64| gb.is_finite() && *gb >= 0.0) {
        Some(gb) => Ok(Some(gb * 1e9)),
        None => Err(format!("{value} is no speed").into()),
    }
}

/// Prints both, one line for each of nvbandwidth's cells.
pub(super) fn beside(theirs: &Path, ours: &Path) -> Outcome<String> {
    let cells = read(theirs)?;
    let text = std::fs::read_to_string(ours).map_err(|error| at(ours, error))?;
    let run: Value = serde_json::from_str(&text).map_err(|error| at(ours, error))?;
    table(&cells, &run).map_err(|error| at(ours, error).into())
}

fn table(cells: &[Cell], run: &Value) -> Outcome<String> {
    let ours = run["cells"].as_array().ok_or("it is no run of `peerbuf bench link --json`")?;
    let mut text = format!(
        "{:<9}{:<9}{:<9}{:<10}{:>18}{:>14}\n",
        "from", "to", "engine", "actor", "nvbandwidth GB/s", "peerbuf GB/s"
    );
    let number =
        |of: Option<f64>| of.map_or_else(|| "–".to_owned(), |it| format!("{:.1}", it / 1e9));
    for cell in cells {
        let engine = if cell.engine == Engine::Copy { "copy" } else { "compute" };
        let our = ours.iter().filter(|our| cell.is(our)).filter_map(bytes_per_second);
        let our = our.max_by(f64::total_cmp);
        text += &format!(
            "{:<9}{:<9}{engine:<9}{:<10}{:>18}{:>14}\n",
            cell.from,
            cell.to,
            cell.actor.unwrap_or("–"),
            number(cell.bytes_per_second),
            number(our)
        );
    }
    text += "\nDevices are paired by their numbers: run nvbandwidth with CUDA_DEVICE_ORDER=PCI_BUS_ID, and\n\
             `peerbuf bench link --devices` in the order of the PCI addresses.\n";
    Ok(text)
}

impl Cell {
    /// Whether a cell of a saved run is the same copy: of 64 MiB or more, in one process, alone.
    fn is(&self, our: &Value) -> bool {
        let engines: &[&str] = match self.engine {
            Engine::Copy => &["transfer_queue", "main_queue"],
            Engine::Compute => &["compute"],
        };
        our["from"] == *self.from
            && our["to"] == *self.to
            && engines.iter().any(|engine| our["engine"] == *engine)
            && self.actor.is_none_or(|actor| our["actor"] == actor)
            && our["direction"] == "there"
            && our["pattern"] == "pair"
            && our["processes"] == 1
            && our["size_bytes"].as_u64() >= Some(64 << 20)
    }
}

fn bytes_per_second(cell: &Value) -> Option<f64> {
    Some(cell["bytes"].as_f64()? * 1e9 / cell["summary"]["median_ns"].as_f64()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What two devices print of which one cannot reach the other.
    const PRINTED: &str = r#"{
        "nvbandwidth": {
            "CUDA Runtime Version": 12080, "Driver Version": "570.86", "git_version": "v0.8", "version": "v0.8",
            "testcases": [
                {"bandwidth_description": "memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)",
                 "bandwidth_matrix": [["26.03", "25.5"]], "name": "host_to_device_memcpy_ce", "status": "Passed",
                 "sum": 51.53},
                {"bandwidth_matrix": [["N/A", "276.07"], ["N/A", "N/A"]],
                 "name": "device_to_device_memcpy_read_ce", "status": "Passed", "sum": 276.07},
                {"bandwidth_matrix": [["N/A", "270.5"], ["N/A", "N/A"]],
                 "name": "device_to_device_memcpy_write_sm", "status": "Passed", "sum": 270.5},
                {"name": "multinode_device_to_device_memcpy_read_ce", "status": "Waived"}
            ]
        }
    }"#;

    fn found() -> Vec<Cell> {
        cells(PRINTED).expect("it is what nvbandwidth prints")
    }

    #[test]
    fn text_is_read_as_speeds_and_what_was_not_measured_as_none() {
        let cells = found();
        let of = |from: &str, to: &str, engine| {
            let is = |cell: &&Cell| (&*cell.from, &*cell.to, cell.engine) == (from, to, engine);
            cells.iter().find(is).expect("there is such a cell")
        };
        assert_eq!(of("host", "device0", Engine::Copy).bytes_per_second, Some(26.03e9));
        // A read copies to the row's device, which acts.
        let read = of("device1", "device0", Engine::Copy);
        assert_eq!((read.bytes_per_second, read.actor), (Some(276.07e9), Some("importer")));
        assert_eq!(of("device0", "device1", Engine::Copy).bytes_per_second, None);
        let write = of("device0", "device1", Engine::Compute);
        assert_eq!((write.bytes_per_second, write.actor), (Some(270.5e9), Some("exporter")));
        assert_eq!(
            cells.len(),
            2 + 2 + 2,
            "no device to itself, and nothing of the test that was waived"
        );
    }

    #[test]
    fn each_cell_has_ours_beside_it() {
        let our = |size: u64, engine: &str, ns: f64| {
            json!({
                "from": "device1", "to": "device0", "engine": engine, "actor": "importer", "direction": "there",
                "pattern": "pair", "processes": 1, "size_bytes": size, "bytes": size,
                "summary": { "median_ns": ns },
            })
        };
        let cells = [
            our(64 << 20, "main_queue", 1e6),
            our(64 << 20, "transfer_queue", 0.5e6),
            // Of another size, and of another engine.
            our(4 << 10, "transfer_queue", 1.0),
            our(64 << 20, "compute", 0.1e6),
        ];
        let text = table(&found(), &json!({ "cells": cells })).expect("a run");
        let line = |part: &str| {
            let line = text.lines().find(|line| line.starts_with(part));
            line.unwrap_or_else(|| panic!("no {part:?} in {text}")).to_owned()
        };
        let read = line("device1  device0  copy");
        assert!(read.contains("276.1") && read.trim_end().ends_with("134.2"), "{read}");
        assert!(line("device0  device1  copy").ends_with('–'), "{text}");
    }

    #[test]
    fn what_is_not_of_nvbandwidth_is_refused_with_the_reason() {
        let refused = |text: &str| cells(text).expect_err("it is wrong").to_string();
        assert!(refused("{}").contains("nvbandwidth"));
        assert!(
            refused(r#"{"nvbandwidth": {"error": "CUDA_ERROR: no device"}}"#).contains("no device")
        );
        let of = |value: &str| PRINTED.replace("26.03", value);
        for value in ["fast", "nan", "-1"] {
            assert!(refused(&of(value)).contains("is no speed"), "{value}");
        }
        let none = table(&found(), &json!({ "figures": [] })).expect_err("there are no cells");
        assert!(none.to_string().contains("no run"), "{none}");
    }
}
