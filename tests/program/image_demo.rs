//! `peerbuf demo --images`: its output, its exit status, and its error messages.

use std::process::{Command, Output};

use serde_json::Value;

use crate::patient;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    // The command's own time-out is for machines that are not busy.
    command.args(["demo", "--timeout", "600"]).args(arguments);
    patient::output(&mut command)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the program prints UTF-8")
}

fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
}

fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object[name].as_array().unwrap_or_else(|| panic!("{name} is no list in {object}"))
}

fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_else(|| panic!("{name} is no number in {object}"))
}

/// A width at which drivers place rows at different distances.
const SIZE: &str = "250x31";
const TEXELS: u64 = 250 * 31;

#[test]
fn each_device_draws_and_each_other_one_samples_every_texel_after_each_step() {
    let report = json(&["--json", "--images", SIZE]);
    assert_eq!((&report["schema"], &report["fourcc"]), (&1.into(), &"AR24".into()));
    assert_eq!((number(&report, "width"), number(&report, "height")), (250, 31));
    assert_eq!(number(&report, "mismatches"), 0);
    let all = list(&report, "devices").len();
    let parts = list(&report, "parts");
    assert_eq!(list(&parts[0], "members").len(), all, "every device takes part: {report}");
    let (mut checks, mut names) = (0, vec![]);
    for part in parts {
        let members: Vec<_> = list(part, "members").iter().map(|of| number(of, "device")).collect();
        let expected = number(part, "moves") * 2 * members.len() as u64;
        assert!(number(part, "moves") > 0, "{part}");
        assert_eq!(number(part, "callbacks_expected"), expected, "each draws and samples: {part}");
        assert!(number(part, "callbacks") >= expected, "{part}");
        for step in list(part, "steps") {
            let name = step["step"].as_str().expect("text");
            names.push(name.to_owned());
            let of_step = list(step, "checks");
            checks += of_step.len() as u64;
            for check in of_step {
                assert_eq!(number(check, "texels"), TEXELS, "{check}");
                assert_eq!(number(check, "mismatches"), 0, "{check}");
                assert_eq!(check["first_mismatch"], Value::Null);
                assert!(check["seconds"].as_f64() > Some(0.0), "{check}");
            }
            let has = |from: u64, to: Option<u64>, kept: bool| {
                of_step.iter().any(|check| {
                    (check["from"].as_u64(), check["to"].as_u64()) == (Some(from), to)
                        && check["kept"] == kept
                })
            };
            let last = members[members.len() - 1];
            if name == "evicted" {
                assert!(has(last, None, true), "the host reads what was drawn before: {step}");
                assert_eq!(step["domain"], "system", "{step}");
                continue;
            }
            for (from, to) in
                members.iter().flat_map(|from| members.iter().map(move |to| (from, to)))
            {
                assert!(from == to || has(*from, Some(*to), false), "{from} → {to}: {step}");
                let is_after = !matches!(name, "shared" | "moving");
                assert!(!is_after || has(last, Some(*to), true), "kept for {to}: {step}");
            }
        }
    }
    assert_eq!(number(&report, "texels_verified"), checks * TEXELS);
    // One of the images was in a device's own memory, and left it.
    for name in ["shared", "moved", "evicted", "returned", "moving"] {
        assert!(names.iter().any(|of| of == name), "no step {name:?}: {report}");
    }
    // The layout has become one that suits a device at least.
    let steps = list(&parts[0], "steps");
    let last = &steps[steps.len() - 1];
    let in_place = ["draws_in_place", "samples_in_place"].map(|how| list(last, how).len());
    assert!(in_place.iter().sum::<usize>() > 0, "{last}");
}

#[test]
fn a_single_device_is_opened_twice() {
    let report = json(&["--json", "--images", SIZE, "--devices", "0"]);
    let [part] = list(&report, "parts") else {
        panic!("each reaches the other's memory: {report}")
    };
    assert_eq!(list(part, "members").len(), 2, "{part}");
    assert!(list(part, "steps").iter().any(|step| step["step"] == "returned"), "{part}");
}

#[test]
fn the_text_fits_80_columns_and_names_each_step() {
    let short = run(&["--images", SIZE]);
    let long = run(&["--images", SIZE, "--verbose"]);
    for output in [&short, &long] {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        // The progress bar is shown on terminals only.
        assert_eq!(text(&output.stderr), "");
        let shown = text(&output.stdout);
        let widest = shown.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{widest:?} columns:\n{shown}");
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in
            ["an image of 250×31 (AR24)", "shared", "evicted", "returned", "every texel right"]
        {
            assert!(words.contains(part), "no {part:?} in\n{shown}");
        }
    }
    let lines = |output: &Output| text(&output.stdout).lines().count();
    assert!(lines(&short) <= 40, "two tables of six rows:\n{}", text(&short.stdout));
    assert!(lines(&short) < lines(&long));
}

#[test]
fn bad_arguments_are_refused_with_a_correction() {
    for (arguments, parts) in [
        (&["--images", "0x5"][..], &["WIDTHxHEIGHT", "1920x1080", "4096"][..]),
        (&["--images", "large"], &["WIDTHxHEIGHT"]),
        (&["--images", "--size", "4K"], &["--images", "cannot be used with", "--size"]),
        (&["--images", "--trace", "file"], &["cannot be used with", "--trace"]),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "");
        let message = text(&output.stderr);
        for part in parts {
            assert!(message.contains(part), "{arguments:?}: no {part:?} in\n{message}");
        }
    }
}
