//! The program `peerbuf`: its output, its exit status, and its error messages.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::patient;

const PROVED: i32 = 0;
const FAILED: i32 = 2;

fn peerbuf(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    command.args(arguments);
    if matches!(arguments, ["devices" | "demo", ..]) {
        // Such a command's own time-out is for machines that are not busy.
        command.args(["--timeout", "600"]);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    patient::output(&mut peerbuf(arguments))
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("the program prints UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("the error output is UTF-8")
}

/// Runs a command that must succeed, and parses its output as JSON.
fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(PROVED), "{arguments:?}: {}", stderr(&output));
    assert_eq!(stderr(&output), "", "{arguments:?}");
    serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
}

/// Checks the promised fields: `("name", "type")` with a type of `number`, `text`, `bool` or `list`. A question mark
/// after the type allows null.
fn check_fields(object: &Value, fields: &[(&str, &str)]) {
    for (name, what) in fields {
        let value = object.get(name).unwrap_or_else(|| panic!("no field {name:?} in {object}"));
        let right = match what.trim_end_matches('?') {
            "number" => value.is_number(),
            "text" => value.is_string(),
            "bool" => value.is_boolean(),
            _ => value.is_array(),
        };
        assert!(right || (what.ends_with('?') && value.is_null()), "{name} is {value}, not {what}");
    }
}

fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object[name].as_array().unwrap_or_else(|| panic!("{name} is no list in {object}"))
}

/// The pairs of a list, as (from, to).
fn pairs(list: &[Value]) -> Vec<(u64, u64)> {
    let end = |pair: &Value, name: &str| pair[name].as_u64().expect("ends of pairs are numbers");
    list.iter().map(|pair| (end(pair, "from"), end(pair, "to"))).collect()
}

fn all_pairs(devices: u64) -> Vec<(u64, u64)> {
    (0..devices)
        .flat_map(|from| (0..devices).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .collect()
}

#[test]
fn devices_as_json_has_the_promised_fields() {
    let report = json(&["devices", "--json"]);
    assert_eq!(report["schema"], 1);
    let devices = list(&report, "devices");
    assert!(devices.len() >= 2, "one alone is opened twice: {report}");
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(device["index"].as_u64(), Some(index as u64));
        check_fields(
            device,
            &[
                ("adapter", "number"),
                ("name", "text"),
                ("driver", "text"),
                ("driver_info", "text?"),
                ("driver_version", "number"),
                ("type", "text"),
                ("uuid", "text"),
                ("driver_uuid", "text"),
                ("heaps", "list"),
                ("exports", "list"),
                ("imports", "list"),
            ],
        );
        let heaps = list(device, "heaps");
        assert!(!heaps.is_empty(), "every device has memory: {device}");
        for heap in heaps {
            check_fields(heap, &[("size", "number"), ("device_local", "bool")]);
        }
    }
    assert_eq!(pairs(list(&report, "routes")), all_pairs(devices.len() as u64));
}

#[test]
fn every_pair_has_a_proved_route_and_every_other_route_a_reason() {
    let report = json(&["devices", "--json"]);
    for pair in list(&report, "routes") {
        check_fields(pair, &[("route", "text"), ("verified", "bool"), ("wait", "text")]);
        check_fields(pair, &[("error", "text?")]);
        assert_eq!(pair["verified"], true, "{pair}");
        let working = list(pair, "working");
        assert!(working.iter().any(|working| working["route"] == pair["route"]), "{pair}");
        for working in working {
            check_fields(working, &[("read_bytes_per_second", "number")]);
        }
        for refusal in list(pair, "refused") {
            check_fields(refusal, &[("route", "text"), ("reason", "text")]);
            assert_ne!(refusal["reason"], "", "{pair}");
        }
        // Each route works or has a reason.
        let counted = working.len() + list(pair, "refused").len();
        assert_eq!(counted, peerbuf::Route::LADDER.len(), "{pair}");
    }
}

#[test]
fn the_demo_verifies_every_ordered_pair() {
    let report = json(&["demo", "--json", "--size", "1M", "--vram", "1M"]);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["size"], 1 << 20);
    assert_eq!(report["mismatches"], 0);
    let expected = all_pairs(list(&report, "devices").len() as u64);
    assert_eq!(pairs(list(&report, "results")), expected);
    assert_eq!(report["pairs"], expected.len());
    let number = |value: &Value| value.as_u64().expect("a number");
    let moving = &report["moving"];
    let still = (expected.len() as u64) << 20;
    let parts = [moving, &report["overcommit"]].map(|part| number(&part["bytes_verified"]));
    assert_eq!(number(&report["bytes_verified"]), still + parts[0] + parts[1]);
    // The buffer moved while all devices used it, and every importer was notified of each move.
    let moves = number(&report["moves"]);
    assert!(moves > 0 && number(&moving["bytes_verified"]) >= still, "{moving}");
    let expected = moves * list(&report, "devices").len() as u64;
    assert_eq!(
        (number(&moving["moves"]), number(&moving["callbacks"])),
        (moves, expected),
        "{moving}"
    );
    assert!(number(&report["generation"]) >= moves);
    check_fields(moving, &[("places", "list"), ("refused", "list")]);
    check_fields(
        &report,
        &[
            ("provider", "text"),
            ("domain", "text"),
            ("generation", "number"),
            ("seconds", "number"),
        ],
    );
    let live = &report["report"];
    check_fields(live, &[("domains", "list"), ("buffers", "list")]);
    let [buffer] = list(live, "buffers") else { panic!("one buffer is alive: {live}") };
    assert_eq!((&buffer["name"], &buffer["size"]), (&"demo".into(), &(1 << 20).into()));
    for name in ["domain", "provider", "generation"] {
        assert_eq!(buffer[name], report[name], "{name}");
    }
    assert_eq!((&buffer["revoked"], buffer["poisoned"].is_null()), (&false.into(), true), "{live}");
    assert_eq!((&buffer["purged"], number(&buffer["clean_copy"])), (&false.into(), 0), "{live}");
    let at = |domain: &str, device: &str| (buffer[domain].clone(), buffer[device].clone());
    assert_eq!(at("wanted", "wanted_device"), at("domain", "domain_device"), "not evicted");
    let moved = list(live, "moved").iter().map(|moved| number(&moved["moves"])).sum::<u64>();
    assert_eq!(moved, number(&report["generation"]), "every move has a cause: {live}");
    let stalls = list(live, "stalls");
    assert!(!stalls.is_empty());
    for stall in stalls {
        check_fields(stall, &[("cause", "text"), ("waits", "number"), ("seconds", "number")]);
    }
    let home = list(live, "domains").iter().find(|domain| {
        (&domain["domain"], &domain["device"]) == (&buffer["domain"], &buffer["domain_device"])
    });
    let home = home.expect("the domain of the buffer");
    assert_eq!((number(&home["buffers"]), &home["resident"]), (1, &buffer["footprint"]), "{home}");
    check_fields(home, &["capacity", "peak", "held", "in_flight"].map(|name| (name, "number")));
    let provider = buffer["provider"].as_str().expect("a name");
    assert_eq!(home["providers"][provider], home["resident"], "{home}");
    let devices = list(&report, "devices");
    let attachments: Vec<_> =
        list(buffer, "attachments").iter().map(|attachment| &attachment["device_name"]).collect();
    assert_eq!(attachments.len(), devices.len(), "every device is attached: {live}");
    assert_eq!(live["totals"]["mappings"], devices.len(), "and every device has mapped it");
    let [place] = list(&live["totals"], "bytes_by_domain") else { panic!("one domain: {live}") };
    assert_eq!((&place["domain"], &place["bytes"]), (&buffer["domain"], &buffer["size"]));
    assert_eq!(place["device"], buffer["domain_device"]);
    for pair in list(&report, "results") {
        assert_eq!(pair["bytes_verified"], 1 << 20);
        assert_eq!(pair["mismatches"], 0);
        assert_eq!(pair["first_mismatch"], Value::Null);
        check_fields(pair, &[("fill_seconds", "number"), ("verify_seconds", "number")]);
    }
}

/// Runs a small demo.
fn demo(devices: &str) -> Value {
    json(&["demo", "--json", "--size", "64K", "--vram", "256K", "--devices", devices])
}

/// The devices of the main job, and whether each reaches the buffers in place.
fn members(report: &Value) -> Vec<(u64, bool)> {
    let members = list(&report["overcommit"], "members").iter();
    let member = |member: &Value| Some((member["device"].as_u64()?, member["in_place"].as_bool()?));
    members.map(|facts| member(facts).expect("a number and a flag")).collect()
}

#[test]
fn the_demo_uses_four_times_as_much_as_fits() {
    let report = json(&["demo", "--json", "--size", "64K", "--vram", "1M"]);
    let job = &report["overcommit"];
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name}: {job}"));
    assert_eq!((number("budget"), &job["total"]), (1 << 20, &(4 << 20).into()));
    // All buffers were used, and the peak never exceeded the budget.
    assert_eq!((number("peak"), number("mismatches")), (1 << 20, 0));
    // Creating all buffers evicted three quarters of them. Each restore evicted another buffer.
    let buffers = job["buffers"].as_u64().expect("a number");
    assert!(number("restores") > buffers, "the window went around twice: {job}");
    assert_eq!(number("evictions"), number("restores") + buffers * 3 / 4, "{job}");
    let moves = number("evictions") + number("restores");
    let size = (4 << 20) / buffers;
    assert_eq!(number("bytes_moved"), moves * size, "{job}");
    assert!(job["bytes_copied"].as_u64() <= Some(number("bytes_moved")), "{job}");
    assert!(0 < number("bytes_optimal") && number("bytes_optimal") <= number("bytes_moved"));
    // Each device that reaches a buffer in place is notified of every move.
    let near = members(&report).iter().filter(|(_, in_place)| *in_place).count() as u64;
    assert_eq!(job["callbacks"].as_u64(), Some(moves * near), "{job}");
    let moving = report["moving"]["callbacks"].as_u64().expect("a number");
    assert_eq!(number("callbacks"), moves * near + moving);
    // The top level repeats these numbers.
    for name in ["budget", "peak", "evictions", "restores", "bytes_moved", "bytes_optimal"] {
        assert_eq!(report[name], job[name], "{name}");
    }
    let verified = job["bytes_verified"].as_u64();
    assert!(verified > Some(4 << 20), "more than each buffer once: {job}");
    check_fields(job, &[("frames", "number"), ("bytes_written", "number"), ("seconds", "number")]);
}

#[test]
fn every_device_takes_part_in_the_main_job() {
    // Devices of one adapter reach each other's memory, so no further device is opened.
    assert_eq!(members(&demo("0,0,0")), [(0, true), (1, true), (2, true)]);
    let report = json(&["demo", "--json", "--size", "64K", "--vram", "256K"]);
    let opened = list(&report, "devices").len() as u64;
    let members = members(&report);
    for device in 0..opened {
        assert!(members.iter().any(|(number, _)| *number == device), "{device}: {members:?}");
    }
    assert!(members.iter().filter(|(_, in_place)| *in_place).count() >= 2, "{members:?}");
}

#[test]
fn the_main_job_is_traced() {
    let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/demo-trace.json");
    let arguments = ["demo", "--devices", "0,0", "--size", "64K", "--vram", "256K"];
    let output = run(&[&arguments[..], &["--trace", file]].concat());
    assert_eq!(output.status.code(), Some(PROVED), "{}", stderr(&output));
    assert!(stdout(&output).contains(file), "the path: {}", stdout(&output));
    let text = std::fs::read_to_string(file).expect("the trace");
    let events: Value = serde_json::from_str(&text).expect("JSON");
    let events = events.as_array().expect("a list of events");
    let of = |phase| events.iter().filter(move |event| event["ph"] == phase);
    let named = |phase, part| {
        of(phase)
            .filter(|event| event["name"].as_str().is_some_and(|name| name.contains(part)))
            .count()
    };
    // 48 of 64 buffers are evicted before the first frame.
    assert!(named("X", "evicted") >= 48, "slices of evictions");
    assert!(named("X", "requested") > 0, "slices of returns");
    assert!(named("C", "VRAM of device 0, used") >= 48, "counters");
    let ids = |phase| -> Vec<_> { of(phase).map(|event| event["id"].as_u64()).collect() };
    assert!(ids("s").len() >= 2 * 48, "arrows");
    assert_eq!(ids("s"), ids("f"), "each has two ends");
    let accesses = peerbuf::observe::trace::read(text.as_bytes()).expect("it was just written");
    assert!(accesses.len() > 64, "{} uses", accesses.len());
}

#[test]
fn an_unwritable_trace_is_reported_at_once() {
    let file = "/nonexistent/demo-trace.json";
    check_failure(
        &mut peerbuf(&["demo", "--trace", file]),
        &["cannot write the trace to /nonexistent/demo-trace.json", "because:"],
    );
}

#[test]
fn devices_are_selected_and_may_be_named_twice() {
    for (selection, adapters) in [("0", vec![0, 0]), ("0,0", vec![0, 0]), ("0,0,0", vec![0, 0, 0])]
    {
        let report = demo(selection);
        let devices = list(&report, "devices");
        let opened: Vec<_> = devices.iter().map(|device| device["adapter"].as_u64()).collect();
        assert_eq!(opened, adapters.into_iter().map(Some).collect::<Vec<_>>(), "{selection}");
        // Select the same adapter by its UUID.
        let uuid = devices[0]["uuid"].as_str().expect("a UUID is text");
        let again = json(&["devices", "--json", "--devices", uuid]);
        assert_eq!(again["devices"][0]["uuid"], uuid);
    }
}

/// Joins all words with single spaces, to undo line breaks.
fn unbroken(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn text_output_fits_80_columns() {
    let devices = run(&["devices", "--devices", "0,0"]);
    let arguments = ["demo", "--devices", "0,0", "--size", "64K", "--vram", "256K"];
    let demo = run(&arguments);
    let details = run(&[&arguments[..], &["--verbose"]].concat());
    for (output, expected) in [
        (&devices, &["from \\ to", "✓", "2 of 2 ordered pairs have a proved route."][..]),
        (&demo, &["0 → 1", "one buffer of 64 KiB", "while all devices used it", "--verbose"]),
        (&demo, &["64 buffers, 1 MiB together", "within the limit", "× the least possible"]),
        (&details, &["0 → 1", "generation", "Buffers", "bytes copied"]),
    ] {
        assert_eq!(output.status.code(), Some(PROVED), "{}", stderr(output));
        // The progress bar is shown on terminals only.
        assert_eq!(stderr(output), "");
        let text = stdout(output);
        for part in expected {
            assert!(unbroken(text).contains(part), "no {part:?} in\n{text}");
        }
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{widest:?} columns:\n{text}");
        assert!(!text.contains('\u{1b}'), "no colours:\n{text}");
    }
    let text = stdout(&demo);
    assert!(text.lines().count() <= 36, "a terminal of 24 lines and a half:\n{text}");
    assert!(text.lines().count() < stdout(&details).lines().count());
}

/// Runs a command that must fail, and checks its error message.
fn check_failure(command: &mut Command, parts: &[&str]) {
    let output = patient::output(command);
    assert_eq!(output.status.code(), Some(FAILED), "{command:?}");
    assert_eq!(stdout(&output), "", "{command:?}");
    let text = stderr(&output);
    for part in parts {
        assert!(text.contains(part), "{command:?}: no {part:?} in\n{text}");
    }
}

#[test]
fn bad_arguments_are_refused_with_a_correction() {
    for (arguments, parts) in [
        (&["demo", "--size", "0"][..], &["at least one word of 4 bytes"][..]),
        (&["demo", "--size", "6"], &["6 bytes are not a multiple of 4", "32-bit words"]),
        (&["demo", "--size", "lots"], &["not a size", "64M"]),
        (&["demo", "--size", "99999999T"], &["larger than any memory"]),
        (&["demo", "--vram", "32K"], &["'--vram <SIZE>'", "at least 64K"]),
        (&["demo", "--vram", "1"], &["'--vram <SIZE>'", "at least 64K"]),
        (&["demo", "--vram", "most of it"], &["'--vram <SIZE>'", "not a size", "64M"]),
        (&["demo", "--vram", "99999999T"], &["larger than any memory"]),
        (&["devices", "--devices", "toaster"], &["\"toaster\" is no index", "renderD128"]),
        (&["devices", "--devices", "999"], &["no adapter matches index 999", "hint:", "UUID"]),
        (&["demo", "--devices", "0,999"], &["no adapter matches index 999", "hint:", "UUID"]),
        (&["polish"], &["polish"]),
        (&[], &["Usage: peerbuf", "devices", "demo"]),
    ] {
        check_failure(&mut peerbuf(arguments), parts);
    }
}

#[test]
fn a_buffer_larger_than_memory_is_refused_with_the_numbers() {
    let parts = ["out of memory", &(1u64 << 50).to_string(), "hint: a smaller --size"];
    check_failure(&mut peerbuf(&["demo", "--json", "--size", "1024T"]), &parts);
    // The modelled memory is larger than the real one.
    let arguments = ["demo", "--json", "--size", "64K", "--vram", "1024T"];
    check_failure(&mut peerbuf(&arguments), &["hint: a smaller --size or --vram"]);
}

#[test]
fn missing_drivers_are_reported_with_what_to_install() {
    for arguments in [&["devices"][..], &["devices", "--json"], &["demo"], &["demo", "--json"]] {
        let mut command = peerbuf(arguments);
        for name in ["VK_ADD_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_LOADER_DRIVERS_SELECT"] {
            command.env_remove(name);
        }
        command.env("VK_DRIVER_FILES", "/nonexistent");
        check_failure(&mut command, &["no usable Vulkan device", "hint:", "mesa-vulkan-drivers"]);
    }
}

#[test]
fn a_missing_loader_is_reported_with_what_to_install() {
    // The dynamic linker searches this folder first, and finds a file that is no library.
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/no-loader");
    std::fs::create_dir_all(folder).expect("cargo made the folder above");
    std::fs::write(format!("{folder}/libvulkan.so.1"), "").expect("the folder is writable");
    let mut command = peerbuf(&["devices"]);
    command.env("LD_LIBRARY_PATH", folder);
    check_failure(&mut command, &["no Vulkan loader", "because:", "hint:", "apt install"]);
}

#[test]
fn a_closed_output_pipe_is_no_failure() {
    // On a busy machine a route may not be tried in time, which is another status.
    let mut ends = (0..5).map(|_| run_into_a_closed_pipe());
    let has_proved = ends.any(|(code, complaint)| {
        assert!(complaint.is_empty() || patient::is_late(&complaint), "{complaint}");
        (code, complaint.is_empty()) == (Some(PROVED), true)
    });
    assert!(has_proved);
}

/// The status of a command that nothing reads the output of, and what it complains of.
fn run_into_a_closed_pipe() -> (Option<i32>, String) {
    let mut child = peerbuf(&["devices"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let mut complaint = String::new();
    let mut stderr = child.stderr.take().expect("it was piped");
    stderr.read_to_string(&mut complaint).expect("the error output is UTF-8");
    let status = child.wait().expect("it was started");
    (status.code(), complaint)
}

#[test]
fn help_and_version_are_printed() {
    for (arguments, part) in [
        (&["--help"][..], "Usage: peerbuf"),
        (&["devices", "--help"], "Exit status"),
        (&["demo", "--help"], "multiple of 4"),
        (&["demo", "-h"], "--verbose"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(PROVED), "{arguments:?}");
        let text = stdout(&output);
        assert!(unbroken(text).contains(part), "{arguments:?}: no {part:?}");
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{widest:?} columns:\n{text}");
    }
}
