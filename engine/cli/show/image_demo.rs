//! `peerbuf demo --images` as text: what happened to each image, and what was found after it.

use comfy_table::{CellAlignment, Table};

use super::demo::places;
use super::text::{Text, counted, driver, table};
use crate::image_demo_report::{CheckFacts, ImageDemoReport, MemberFacts, PartFacts, StepFacts};

/// `peerbuf demo --images`.
pub(crate) fn image_demo(report: &ImageDemoReport, verbose: bool) -> String {
    let mut text = Text::default();
    for (number, part) in (1..).zip(&report.parts) {
        if number > 1 {
            text.blank();
        }
        let ImageDemoReport { width, height, fourcc, .. } = report;
        let devices = counted(part.members.len() as u64, "device");
        text.paragraph(&format!(
            "Part {number}: an image of {width}×{height} ({fourcc}) on {devices}; each draws, others sample.",
        ));
        part_of(&mut text, report, part, verbose);
        if number == 1 {
            text.unusable(&report.unusable);
        }
    }
    text.blank();
    let is_copied = |part: &PartFacts| {
        // Of an evicted image no device has a mapping.
        let mut mapped = part.steps.iter().filter(|step| step.step != "evicted");
        mapped.any(|step| !are_all_in_place(step, part))
    };
    if report.parts.iter().any(is_copied) {
        text.paragraph(
            "draw, sample: the devices that do so in the shared bytes. Others have an image of their own, and copy at each use.",
        );
    }
    let callbacks = (report.callbacks, report.callbacks_expected);
    text.paragraph(&format!(
        "{} compared in {:.2} s: {}; {} of {} notifications.",
        texels(report.texels_verified),
        report.seconds,
        verdict(report.mismatches),
        callbacks.0,
        callbacks.1,
    ));
    if !verbose {
        text.line(format_args!("More: --verbose for people, --json for programs."));
    }
    text.0
}

fn part_of(text: &mut Text, report: &ImageDemoReport, part: &PartFacts, verbose: bool) {
    for member in &part.members {
        let facts = report.devices.iter().find(|device| device.index == member.device);
        let of = facts
            .filter(|_| verbose)
            .map_or(String::new(), |facts| format!(" · {}", driver(facts)));
        text.item(&format!("  {}  ", member.device), &format!("{}{of}", name(member)));
    }
    text.line(format_args!("{}", steps(part)));
    if verbose {
        for step in &part.steps {
            step.checks.iter().for_each(|check| text.item("  ", &check_line(step, check)));
        }
    }
    places(text, &part.places, &part.refused, verbose);
}

fn name(member: &MemberFacts) -> String {
    let again = member.again.map(|first| format!(" (the adapter of device {first}, opened again)"));
    let draws = if member.draws { "" } else { " (its queue does not draw)" };
    format!("{}{}{draws}", member.name, again.unwrap_or_default())
}

fn are_all_in_place(step: &StepFacts, part: &PartFacts) -> bool {
    let drawing = part.members.iter().filter(|member| member.draws).count();
    step.draws_in_place.len() == drawing && step.samples_in_place.len() == part.members.len()
}

fn steps(part: &PartFacts) -> Table {
    let mut table = table(["step", "memory of", "pitch", "draw", "sample", "frames", "wrong"]);
    for step in &part.steps {
        let of_device = step.device.map(|device| format!("device {device}"));
        table.add_row([
            title(step, part),
            of_device.unwrap_or_else(|| "the system".into()),
            step.pitch.to_string(),
            devices(&step.draws_in_place),
            devices(&step.samples_in_place),
            step.checks.len().to_string(),
            wrong(step),
        ]);
    }
    for column in [2, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn title(step: &StepFacts, part: &PartFacts) -> String {
    let title = match step.step {
        "moving" => {
            let moves = part.places.iter().map(|place| place.moves).sum::<u64>();
            format!("moved {moves} ×")
        }
        "laid_out_anew" => return "laid out anew".into(),
        "evicted" => "evicted (host)".into(),
        other => other.into(),
    };
    if step.laid_out_anew { format!("{title}, laid out anew") } else { title }
}

/// Devices by number.
fn devices(numbers: &[usize]) -> String {
    let numbers: Vec<_> = numbers.iter().map(usize::to_string).collect();
    if numbers.is_empty() { "–".into() } else { numbers.join(", ") }
}

/// A number of texels.
fn texels(count: u64) -> String {
    match count {
        // CAST: one decimal.
        1_000_000.. => format!("{:.1} million texels", count as f64 / 1e6),
        _ => counted(count, "texel"),
    }
}

fn wrong(step: &StepFacts) -> String {
    let wrong = step.checks.iter().map(|check| check.mismatches).sum::<u64>();
    match step.checks.iter().find_map(|check| check.first_mismatch) {
        None => wrong.to_string(),
        Some([x, y]) => format!("{wrong} at {x}, {y}"),
    }
}

/// One frame that was compared.
fn check_line(step: &StepFacts, check: &CheckFacts) -> String {
    let to = check.to.map_or("the host".into(), |to| to.to_string());
    let kept = if check.kept { ", drawn before" } else { "" };
    let (from, milliseconds) = (check.from, check.seconds * 1e3);
    let wrong = verdict(check.mismatches);
    format!(
        "{}: {from} → {to}{kept}: {wrong}, in {milliseconds:.1} ms",
        step.step.replace('_', " ")
    )
}

fn verdict(wrong: u64) -> String {
    match wrong {
        0 => "every texel right".to_owned(),
        wrong => format!("{} WRONG", counted(wrong, "texel")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, device};
    use super::*;
    use crate::report::{PlaceFacts, RefusedFacts};

    fn checked(to: Option<usize>, mismatches: u64) -> CheckFacts {
        let first_mismatch = (mismatches > 0).then_some([17, 3]);
        CheckFacts {
            from: 0,
            to,
            kept: to.is_none(),
            texels: 1000,
            mismatches,
            first_mismatch,
            seconds: 0.001,
        }
    }

    fn step(step: &'static str, device: Option<usize>, mismatches: u64) -> StepFacts {
        StepFacts {
            step,
            domain: if device.is_some() { "vram" } else { "system" },
            device,
            pitch: 4032,
            laid_out_anew: step == "moving",
            generation: 1,
            draws_in_place: vec![1],
            samples_in_place: vec![0, 1],
            checks: vec![checked(Some(1), mismatches)],
        }
    }

    fn report(mismatches: u64) -> ImageDemoReport {
        let member = |device, again| MemberFacts { device, name: "GPU".into(), again, draws: true };
        let mut steps = vec![step("shared", Some(0), 0), step("moving", None, mismatches)];
        steps[1].checks.push(checked(None, 0));
        let refused = RefusedFacts {
            place: "vram 1".into(),
            reason: String::new(),
            summary: "GPU 0 cannot reach it".into(),
            details: vec![],
        };
        let part = PartFacts {
            members: vec![member(0, None), member(2, Some(0))],
            steps,
            places: vec![PlaceFacts { place: "system".into(), moves: 3 }],
            refused: vec![refused],
            moves: 3,
            callbacks: 12,
            callbacks_expected: 12,
        };
        let facts = (vec![device(0, 0)], vec![]);
        ImageDemoReport::new(("AR24".into(), 40, 25), vec![part], facts, 1.0)
    }

    #[test]
    fn each_step_has_a_line_with_what_was_found() {
        let text = image_demo(&report(0), false);
        check(&text, &["Part 1: an image of 40×25 (AR24) on 2 devices"]);
        check(&text, &["2  GPU (the adapter of device 0, opened again)"]);
        check(&text, &["shared", "device 0", "4032", "┆ 1", "┆ 0, 1", "┆      1", "┆     0"]);
        check(&text, &["moved 3 ×, laid", "the system"]);
        check(&text, &["3 × to system memory"]);
        check(&text, &["not to the memory of device 1: GPU 0 cannot reach it"]);
        check(&text, &["3000 texels compared", "every texel right; 12 of 12 notifications."]);
        assert!(report(0).is_proved());
    }

    #[test]
    fn wrong_texels_are_shown_with_the_first_one() {
        let text = image_demo(&report(5), true);
        check(&text, &["5 at 17, 3"]);
        check(&text, &["moving: 0 → 1: 5 texels WRONG, in 1.0 ms"]);
        check(&text, &["moving: 0 → the host, drawn before: every texel right"]);
        assert!(text.contains("5 texels WRONG; 12 of 12"), "{text}");
        assert!(!report(5).is_proved());
    }
}
