//! `peerbuf bench link`: every byte right, counts exact, faults found, and what bad input gets.

use std::process::{Command, Output};

use serde_json::Value;

use crate::patient;

fn link(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    command.args(["bench", "link", "--timeout", "600"]).args(arguments);
    patient::output(&mut command)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the program prints UTF-8")
}

/// Runs a measurement, checks its exit status, and parses what it prints.
fn json(arguments: &[&str], status: i32) -> Value {
    let output = link(&[arguments, &["--json"]].concat());
    let printed = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {printed}");
    serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
}

fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object[name].as_array().unwrap_or_else(|| panic!("{name} is no list in {object}"))
}

fn is_measured(cell: &Value) -> bool {
    !cell["summary"].is_null()
}

fn ends(cell: &Value) -> (&str, &str) {
    let end = |name: &str| cell[name].as_str().expect("ends are text");
    (end("from"), end("to"))
}

/// What a cell's engine submits for one copy of 64 MiB: the ring copies in steps of 4 MiB, on both devices.
fn submissions(cell: &Value) -> u64 {
    match cell["engine"].as_str().expect("text") {
        "host" | "host_streaming" => 0,
        "ring" => 2 * cell["size_bytes"].as_u64().expect("a number").div_ceil(4 << 20),
        _ => 1,
    }
}

#[test]
fn a_quick_run_measures_every_pair_with_right_bytes_and_exact_counts() {
    let run = json(&["--quick"], 0);
    assert_eq!((&run["schema"], &run["quick"]), (&2.into(), &true.into()));
    let devices = list(&run, "devices").len();
    assert!(devices >= 2, "one alone is opened twice: {run}");
    let cells = list(&run, "cells");
    let measured: Vec<_> = cells.iter().filter(|cell| is_measured(cell)).collect();
    for cell in cells {
        let verdict = cell["verdict"].as_str().expect("text");
        assert!(!["wrong_bytes", "more_than_possible"].contains(&verdict), "{cell}");
        // What was not measured has a reason: the way is not there, or the time limit was reached on a slow machine.
        assert!(is_measured(cell) || !cell["note"].is_null(), "{cell}");
    }
    for cell in &measured {
        let verified = &cell["verified"];
        assert_eq!(verified["wrong_bytes"], 0, "{cell}");
        assert!(verified["bytes"].as_u64() >= cell["size_bytes"].as_u64(), "{cell}");
        let counters = &cell["counters"];
        if !counters.is_null() {
            let copies = if cell["engine"] == "ring" { 3.0 } else { 1.0 };
            assert_eq!(counters["copies_per_byte"], copies, "{cell}");
            assert_eq!(counters["submissions"], submissions(cell), "{cell}");
            assert_eq!(counters["allocations"], 0, "{cell}");
        }
        let summary = &cell["summary"];
        let time = |name: &str| summary[name].as_f64().expect("a number");
        assert!(time("lo_ns") <= time("median_ns") && time("median_ns") <= time("hi_ns"), "{cell}");
    }
    // Every end sends to every other one, and devices within themselves.
    let names: Vec<_> =
        (0..devices).map(|at| format!("device{at}")).chain(["host".to_owned()]).collect();
    for from in &names {
        for to in names.iter().filter(|to| *to != "host" || from != "host") {
            let is_it = |cell: &&&Value| ends(cell) == (from.as_str(), to.as_str());
            assert!(measured.iter().any(|cell| is_it(&cell)), "{from} to {to}: {run}");
        }
    }
    if run["ended_early"].is_null() {
        let two = measured.iter().filter(|cell| cell["processes"] == 2).count();
        assert_eq!(two, devices * (devices - 1), "each pair, in two processes: {run}");
    }
    assert_eq!(list(&run, "access").len(), devices * (devices - 1));
    assert!(!list(&run, "noise").is_empty() && !list(&run["machine"], "host").is_empty(), "{run}");
    assert_eq!(list(&run, "latency").len(), 2 * devices + 3 * devices * (devices - 1));
    if run["ended_early"].is_null() {
        for latency in list(&run, "latency") {
            assert!(latency["percentiles"]["p50_ns"].as_f64() > Some(0.0), "{latency}");
        }
        let directions = |name: &str| measured.iter().any(|cell| cell["direction"] == name);
        assert!(["both_there", "both_back", "both_sum"].into_iter().all(directions), "{run}");
        let sizes = |size: u64| measured.iter().any(|cell| cell["size_bytes"] == size);
        assert!([4 << 10, 64 << 10, 1 << 20, 16 << 20].into_iter().all(sizes), "{run}");
    }
}

/// Cells of few ways, so that a run is short.
const FEW: [&str; 3] = ["--quick", "--devices", "0,0"];

#[test]
fn a_wrong_byte_is_found_and_the_other_cells_are_right() {
    let run = json(
        &[&FEW[..], &["--filter", "local/main_queue", "--plant", "wrong_byte=device1"]].concat(),
        2,
    );
    let wrong: Vec<_> =
        list(&run, "cells").iter().filter(|cell| cell["verdict"] == "wrong_bytes").collect();
    assert!(!wrong.is_empty(), "{run}");
    for cell in list(&run, "cells").iter().filter(|cell| is_measured(cell)) {
        let expected = if ends(cell).0 == "device1" { 4 } else { 0 };
        assert_eq!(cell["verified"]["wrong_bytes"], expected, "a word is wrong, or none: {cell}");
    }
}

/// A delay that a test plants, in microseconds: many times what a copy of 64 MiB takes.
const DELAY: &str = "slow:300000=device1";

#[test]
fn compare_finds_a_delay_that_was_planted() {
    let folder = std::env::temp_dir().join(format!("peerbuf-{}-delay", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    // Not --quick, which takes too few samples for an interval on a busy machine.
    let few = ["--devices", "0,0", "--filter", "local/main_queue/exporter/64MiB"];
    let save = |name: &str, planted: &[&str]| {
        let path = folder.join(name);
        let run = json(&[&few[..], planted].concat(), 0);
        std::fs::write(&path, run.to_string()).expect("a file can be written");
        path
    };
    let (before, after) = (save("before.json", &[]), save("after.json", &["--plant", DELAY]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    command.args(["bench", "compare", "--json"]).args([before, after]);
    let output = command.output().expect("the program starts");
    let printed = [text(&output.stdout), text(&output.stderr)].concat();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let is_found = |row: &&Value| {
        let name = row["name"].as_str().expect("text");
        name.starts_with("device1 → device1") && row["change"] == "slower"
    };
    let row = list(&found, "rows").iter().find(is_found);
    let row = row.unwrap_or_else(|| panic!("the delay was not found in {found}"));
    assert!(row["ratio"].as_f64() < Some(0.5), "{row}");
    // What stays behind is no failure of the test.
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn copies_are_measured_by_the_engines_that_are_named_and_behind_a_held_queue() {
    let run = json(&[&FEW[..], &["--engines", "main_queue", "--filter", "64MiB"]].concat(), 0);
    let cells = list(&run, "cells");
    let measured: Vec<_> = cells.iter().filter(|cell| is_measured(cell)).collect();
    assert!(
        !measured.is_empty() && measured.iter().all(|it| it["engine"] == "main_queue"),
        "{run}"
    );
    for cell in measured {
        let alone = cell["direction"] == "there" && cell["processes"] == 1;
        let queued = cell["queued_summary"]["median_ns"].as_f64();
        assert_eq!(alone, queued.is_some_and(|ns| ns > 0.0), "{cell}");
    }
}

#[test]
fn a_device_that_is_lost_leaves_the_cells_of_the_others() {
    let run =
        json(&[&FEW[..], &["--filter", "local/main_queue", "--plant", "lost=device1"]].concat(), 0);
    for cell in list(&run, "cells").iter().filter(|cell| cell["size_bytes"] == 64 << 20) {
        if ends(cell).0 == "device1" {
            let note = cell["note"].as_str().expect("a reason");
            assert!(!is_measured(cell) && note.contains("lost"), "{cell}");
        } else {
            assert!(is_measured(cell) && cell["note"].is_null(), "{cell}");
        }
    }
}

#[test]
fn an_interrupted_run_prints_what_it_has() {
    let run =
        json(&[&FEW[..], &["--filter", "main_queue", "--plant", "interrupt=local"]].concat(), 0);
    assert_eq!(run["ended_early"], "interrupted");
    let cells = list(&run, "cells");
    // The cell that was being measured, at least.
    assert!(cells.iter().any(is_measured), "{run}");
    let is_left_out =
        |cell: &Value| cell["note"].as_str().is_some_and(|note| note.contains("left out"));
    assert!(cells.iter().any(is_left_out), "{run}");
}

#[test]
fn what_is_unknown_gets_a_list_of_what_there_is() {
    let message = |arguments: &[&str], status: i32| {
        let output = link(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        text(&output.stderr).to_owned()
    };
    let check = |arguments: &[&str], status: i32, parts: &[&str]| {
        let message = message(arguments, status);
        for part in parts {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    };
    check(&["--devices", "999"], 2, &["no adapter matches index 999", "hint:", "UUID"]);
    check(&["--ways", "dmabuf"], 2, &["no such way", "dma_buf", "memfd", "staged", "local"]);
    let cells = ["device0-device0/local/main_queue", "latency/submit_and_wait/device0"];
    check(&["--engines", "sm"], 2, &["no such engine", "transfer_queue", "compute", "ring"]);
    check(&["--filter", "no_such_cell"], 3, &[&["no_such_cell", "hint:"], &cells[..]].concat());
    check(&["--time-limit", "0"], 2, &["--time-limit"]);
    let page = std::env::temp_dir().join(format!("peerbuf-{}-no.html", std::process::id()));
    let path = page.to_str().expect("text");
    check(&["--filter", "no_such_cell", "--html", path], 3, &["no_such_cell"]);
    assert!(!page.exists(), "no empty page");
    check(&["--html", "/no/such/folder/page.html"], 2, &["/no/such/folder/page.html"]);
}

#[test]
fn the_list_names_every_cell_and_why_others_are_not_there() {
    let output = link(&["--list"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let lines: Vec<_> = printed.lines().collect();
    for part in ["device0-device1/", "host-device0/", "device0-host/", "device1-device1/local/"] {
        assert!(lines.iter().any(|line| line.starts_with(part)), "no {part} in {printed}");
    }
    let mut absent = lines.iter().filter(|line| line.contains("(not there: "));
    assert!(absent.all(|line| !line.ends_with("(not there: )")), "{printed}");
    // A filter selects among these names.
    let output = link(&["--list", "--filter", "device0-host"]);
    let selected = text(&output.stdout);
    assert!(!selected.is_empty() && selected.lines().all(|it| it.starts_with("device0-host")));
}
