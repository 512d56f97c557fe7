//! `peerbuf devices --images`: its output and its error messages.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;

use crate::patient;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    // The command's own time-out is for machines that are not busy.
    command.args(["devices", "--timeout", "600"]).args(arguments);
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

#[test]
fn each_layout_is_proved_or_has_a_reason() {
    let report = json(&["--json", "--images", "AR24", "NV12"]);
    let devices = list(&report, "devices").len();
    let images = list(&report, "images");
    let sizes = 2;
    assert_eq!(images.len(), 2 * devices * (devices - 1) * sizes, "{report}");
    let mut proved = BTreeSet::new();
    for facts in images {
        let pair = [&facts["from"], &facts["to"]].map(|end| end.as_u64().expect("a number"));
        assert_eq!(facts["error"], Value::Null, "{facts}");
        assert!(facts["agreed"].is_string(), "the ladder ends with what always works: {facts}");
        let agreement = &facts["agreement"];
        assert_eq!(list(agreement, "parts").len(), 2, "{facts}");
        let planes = if facts["fourcc"] == "NV12" { 2 } else { 1 };
        assert_eq!(list(agreement, "planes").len(), planes, "rows are stated: {facts}");
        assert!(agreement["layout"].is_string(), "{facts}");
        for passed in list(agreement, "passed_over") {
            assert!(!list(passed, "reasons").is_empty(), "{passed}");
        }
        let layouts = list(facts, "layouts");
        let kinds: Vec<_> = layouts.iter().map(|layout| &layout["layout"]).collect();
        assert!(kinds.contains(&&"linear_tiling".into()), "{facts}");
        assert!(kinds.contains(&&"shared_linear".into()), "{facts}");
        for layout in layouts {
            let reasons = list(layout, "reasons");
            let proof = &layout["proof"];
            let told = [!proof.is_null(), !reasons.is_empty(), !layout["untried"].is_null()];
            assert_eq!(told.iter().filter(|is| **is).count(), 1, "{layout}");
            assert!(
                reasons.iter().all(|reason| reason.as_str().is_some_and(|text| !text.is_empty()))
            );
            if proof.is_null() {
                continue;
            }
            assert!(proof["texels"].as_u64() >= Some(61 * 19), "{proof}");
            assert!(proof["copied_seconds"].as_f64() > Some(0.0), "{proof}");
            assert!(proof["sampled_seconds"].as_f64() > Some(0.0), "{proof}");
            assert!(proof["route"].is_string(), "{proof}");
            proved.insert((facts["fourcc"].as_str().expect("text").to_owned(), pair));
        }
    }
    // At one size at least, all pairs of the drivers that are known share an image.
    assert_eq!(proved.len(), 2 * devices * (devices - 1), "{proved:?}");
}

#[test]
fn without_the_option_there_are_no_images() {
    let report = json(&["--json", "--devices", "0,0"]);
    assert!(report.get("images").is_none(), "{report}");
}

#[test]
fn the_tables_fit_80_columns_and_each_reason_has_one_line_of_100() {
    let output = run(&["--images", "AR24,R8"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let (_, images) = shown.split_once("Images from").expect("the part about images");
    for line in shown.lines() {
        let most = if line.starts_with("  ") { 100 } else { 80 };
        assert!(line.chars().count() <= most, "{line}\n{shown}");
    }
    let reasons = images.split_once("and why:").expect("a list of reasons").1.trim();
    let reasons: Vec<_> = reasons.lines().take_while(|line| !line.is_empty()).collect();
    let has_layout =
        |line: &&str| ["shared_", "linear_"].iter().any(|of| line.trim().starts_with(of));
    assert!(reasons.iter().all(has_layout), "each line begins with its layout:\n{shown}");
    let distinct: BTreeSet<_> = reasons.iter().collect();
    assert_eq!(distinct.len(), reasons.len(), "each reason once:\n{shown}");
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Images from the first to the second device",
        "linear_tiling: both lay an image in rows over the same memory",
        "Layouts that do not work, and why",
        "ordered pairs have a proved route.",
    ] {
        assert!(words.contains(part), "no {part:?} in\n{shown}");
    }
    for format in ["AR24", "R8"] {
        assert!(shown.lines().any(|line| line.contains(format) && line.contains('✓')), "{shown}");
    }
}

#[test]
fn a_fourcc_that_is_unknown_is_answered_with_those_that_are_known() {
    for (fourcc, part) in [
        ("XYZW", "XYZW is not a format that images are shared in"),
        ("RG24", "convert it to XR24"),
        ("NV21", "describe it as NV12"),
        ("ar24", "ar24 is not a format"),
        ("ARGB8888", "one to four characters"),
        ("", "one to four characters"),
    ] {
        let output = run(&["--images", fourcc]);
        assert_eq!(output.status.code(), Some(2), "{fourcc}");
        assert_eq!(text(&output.stdout), "");
        let message = text(&output.stderr);
        for part in [part, "known are:", "R8 ", "AR24", "NV12", "P010", "YU24"] {
            assert!(message.contains(part), "{fourcc}: no {part:?} in\n{message}");
        }
    }
}
