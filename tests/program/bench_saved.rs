//! `peerbuf bench show` and `peerbuf bench compare`, on runs that are written here.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

const FINE: i32 = 0;
const SLOWER: i32 = 1;
const FAILED: i32 = 2;
const NOTHING: i32 = 3;

/// Files of one test, in a folder that is removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("peerbuf-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        Self(folder)
    }

    fn write(&self, name: &str, run: &Value) -> String {
        let path = self.path(name);
        std::fs::write(&path, run.to_string()).expect("a file can be written");
        path
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the path is UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind is no failure of the test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    command.arg("bench").args(arguments).output().expect("the program starts")
}

/// Checks the exit status and that the output, or the error output, has all `parts`.
fn check(output: &Output, status: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(if status == FAILED && output.stdout.is_empty() {
        &output.stderr
    } else {
        &output.stdout
    });
    assert_eq!(
        output.status.code(),
        Some(status),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// A device of a PCI bus.
fn device(index: u32, address: &str) -> Value {
    json!({
        "index": index, "adapter": index, "name": format!("GPU {index}"), "driver": "driver",
        "driver_info": null, "type": "discrete", "software": false, "uuid": null, "driver_uuid": null,
        "heaps": [], "timestamp_bits": 64, "pci_address": address, "pci": null,
    })
}

/// A run with copies of 64 MiB in both directions, which take so many nanoseconds each.
fn run(ns: f64) -> Value {
    let cell = |from: &str, to: &str| {
        let summary = json!({
            "samples": 100, "rounds": 10, "median_ns": ns, "lo_ns": ns * 0.998, "hi_ns": ns * 1.002,
            "min_ns": ns * 0.99, "max_ns": ns * 1.1, "drift": null,
        });
        json!({
            "from": from, "to": to, "way": "dma_buf", "engine": "transfer_queue", "direction": "there",
            "actor": "exporter", "size_bytes": 64 << 20, "pattern": "pair", "processes": 1,
            "bytes": 64 << 20, "summary": summary, "device_summary": null, "queued_summary": null, "samples_ns": [],
            "ended": "narrow", "bound": null, "bound_at_best": null, "verdict": "not_judged",
            "causes": [], "loaded": [], "host_cached": null,
            "verified": { "bytes": 64 << 20, "wrong_bytes": 0 }, "counters": null, "note": null,
        })
    };
    let machine = json!({
        "cpu": "A processor", "processors": 2, "memory_bytes": 8_u64 << 30, "numa_nodes": 1,
        "kernel": "6.18.0", "governor": null, "load_average": 0.1, "host": [],
    });
    let noise = json!({
        "what": "memcpy", "size_bytes": 64 << 20, "ratio": 1.0, "ratio_lo": 0.99, "ratio_hi": 1.01,
        "median_ns": 4e6,
    });
    json!({
        "schema": 2, "program": "link", "quick": false, "ended_early": null,
        "started_unix_seconds": 1_796_000_000_u64, "duration_seconds": 1.0,
        "tool": {
            "name": "peerbuf", "version": "0.1.0", "commit": null, "command": ["peerbuf"], "build": "release",
        },
        "machine": machine,
        "devices": [device(0, "0000:01:00.0"), device(1, "0000:41:00.0")],
        "noise": [noise], "access": [],
        "cells": [cell("device0", "device1"), cell("device1", "device0")],
        "latency": [], "figures": [],
    })
}

#[test]
fn a_saved_run_is_shown_as_text_json_csv_and_a_page() {
    let folder = Folder::new("show");
    let file = folder.write("run.json", &run(4e6));
    check(
        &bench(&["show", &file]),
        FINE,
        &["GPU 0 (discrete)", "16.8", "memcpy of 64 MiB against itself"],
    );
    let json = bench(&["show", &file, "--json"]);
    check(&json, FINE, &[]);
    let shown: Value = serde_json::from_slice(&json.stdout).expect("it is JSON");
    assert_eq!(shown["cells"], run(4e6)["cells"], "nothing is lost");
    let csv = bench(&["show", &file, "--csv"]);
    check(
        &csv,
        FINE,
        &["from,to,way,engine,", "device0,device1,dma_buf,transfer_queue,there,exporter,67108864,"],
    );
    assert_eq!(
        csv.stdout.iter().filter(|byte| **byte == b'\n').count(),
        3,
        "a header and two cells"
    );
    let page = folder.path("page.html");
    check(&bench(&["show", &file, "--html", &page]), FINE, &["GPU 0 (discrete)"]);
    let page = std::fs::read_to_string(page).expect("it was written");
    assert!(
        page.contains("<!doctype html>") && page.contains("GPU 1") && !page.contains("<script")
    );
    let nowhere = folder.path("no/such/folder/page.html");
    check(
        &bench(&["show", &file, "--html", &nowhere]),
        FAILED,
        &["cannot write", "page.html", "because"],
    );
}

#[test]
fn the_exit_status_says_what_a_comparison_found() {
    let folder = Folder::new("compare");
    let old = folder.write("old.json", &run(4e6));
    let same = folder.write("same.json", &run(4.05e6));
    let slow = folder.write("slow.json", &run(6e6));
    check(&bench(&["compare", &old, &same]), FINE, &["✓ of 2 values, none is below 0.9"]);
    check(
        &bench(&["compare", &old, &slow]),
        SLOWER,
        &["! slower than asked: 2 of 2 values", "0.667"],
    );
    check(&bench(&["compare", &old, &slow, "--fail-below", "0.5"]), FINE, &["slower 2, faster 0"]);
    check(&bench(&["compare", &slow, &old]), FINE, &["faster 2"]);
    let json = bench(&["compare", &old, &slow, "--json"]);
    check(&json, SLOWER, &[]);
    let found: Value = serde_json::from_slice(&json.stdout).expect("it is JSON");
    assert_eq!(found["rows"][0]["change"], "slower");
    let mut wrong = run(4e6);
    wrong["cells"][0]["verified"]["wrong_bytes"] = json!(4);
    wrong["cells"][0]["verdict"] = json!("wrong_bytes");
    let wrong = folder.write("wrong.json", &wrong);
    check(&bench(&["compare", &old, &wrong]), FAILED, &["WRONG BYTES"]);
    check(&bench(&["show", &wrong]), FAILED, &["✗ WRONG BYTES", "4 of 67108864"]);
    let mut empty = run(4e6);
    empty["cells"] = json!([]);
    let empty = folder.write("empty.json", &empty);
    check(&bench(&["compare", &old, &empty]), NOTHING, &["nothing was measured by both"]);
    check(&bench(&["show", &empty]), NOTHING, &[]);
}

#[test]
fn a_noisy_run_tells_nothing_and_says_so() {
    let folder = Folder::new("noisy");
    let mut noisy = run(4.4e6);
    noisy["noise"][0]["ratio_hi"] = json!(1.4);
    let (old, noisy) = (folder.write("old.json", &run(4e6)), folder.write("noisy.json", &noisy));
    check(
        &bench(&["compare", &old, &noisy]),
        FINE,
        &["· cannot tell for 2 of 2 values", "cannot tell 2"],
    );
    // A gate that must not pass for want of quiet.
    check(&bench(&["compare", &old, &noisy, "--strict"]), NOTHING, &["cannot tell for 2 of 2"]);
    let slow = folder.write("slow.json", &run(40e6));
    check(&bench(&["compare", &noisy, &slow, "--strict"]), SLOWER, &["slower than asked: 2 of 2"]);
    check(&bench(&["compare", &old, &old, "--strict"]), FINE, &["✓"]);
}

#[test]
fn what_cannot_be_compared_is_refused_with_the_reason() {
    let folder = Folder::new("refused");
    let good = folder.write("good.json", &run(4e6));
    let mut older = run(4e6);
    older["schema"] = json!(1);
    let older = folder.write("older.json", &older);
    for arguments in [["compare", &good, &older].as_slice(), &["show", &older]] {
        check(
            &bench(arguments),
            FAILED,
            &["older.json", "its schema is 1, and this program reads 2"],
        );
    }
    let mut other = run(4e6);
    other["devices"][1] = device(1, "0000:42:00.0");
    let other = folder.write("other.json", &other);
    let refused = ["the runs are of two machines", "0000:41:00.0", "0000:42:00.0", "--anyway"];
    check(&bench(&["compare", &good, &other]), FAILED, &refused);
    check(&bench(&["compare", &good, &other, "--anyway"]), FINE, &["✓"]);
    let text = folder.path("text");
    std::fs::write(&text, "GB/s 12").expect("a file can be written");
    check(&bench(&["show", &text]), FAILED, &["text: it is no run"]);
    let mut broken = run(4e6);
    broken["cells"][0]["summary"]["median_ns"] = json!("N/A");
    let broken = folder.write("broken.json", &broken);
    check(&bench(&["show", &broken]), FAILED, &["it is no run of schema 2", "N/A"]);
    check(&bench(&["show", &folder.path("missing")]), FAILED, &["cannot read", "No such file"]);
    for ratio in ["0", "1.5", "x", "-1"] {
        let given = format!("--fail-below={ratio}");
        assert_eq!(
            bench(&["compare", &good, &good, &given]).status.code(),
            Some(FAILED),
            "{ratio}"
        );
    }
}
