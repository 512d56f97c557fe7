//! `peerbuf demo` as tables: who wrote, who checked, and what was found.

use std::path::Path;

use comfy_table::{CellAlignment, Table};

use super::overcommit::overcommit;
use super::{Text, driver, table};
use crate::report::{DemoReport, OneReport, PairResult};
use crate::size::Human;

/// `peerbuf demo`.
pub(crate) fn demo(report: &DemoReport, trace: Option<&Path>) -> String {
    let mut text = Text::default();
    one(&mut text, &report.one);
    overcommit(&mut text, &report.overcommit, &report.one.devices);
    if let Some(file) = trace {
        text.line(format_args!(
            "\nTraced to {}; https://ui.perfetto.dev opens it.",
            file.display()
        ));
    }
    text.0
}

/// The part with the one buffer.
fn one(text: &mut Text, report: &OneReport) {
    text.line(format_args!("One buffer of {}, shared by", Human(report.size)));
    for device in &report.devices {
        let driver = driver(device);
        text.line(format_args!("  {}  {} · {driver}", device.index, device.name));
    }
    text.unusable(&report.unusable);
    text.line(format_args!("\n{}", results(report)));
    let place = match report.domain {
        "vram" => spelled(&format!("vram {}", report.home)),
        _ => spelled("system"),
    };
    text.line(format_args!(
        "Each rate is that of one pass; the first fill also pays for the first touch of fresh memory."
    ));
    moving(text, report);
    text.line(format_args!(
        "At the end the buffer is in {place} ({}), generation {}.",
        report.provider, report.generation,
    ));
    let verified = report.results.iter().map(|pair| pair.bytes_verified).sum::<u64>();
    let wrong = report.results.iter().map(|pair| pair.mismatches).sum::<u64>();
    text.line(format_args!(
        "{} verified over {} ordered pairs in {:.2} s: {}.",
        Human(verified + report.moving.bytes_verified),
        report.pairs,
        report.seconds,
        verdict(wrong + report.moving.mismatches),
    ));
    text.line(format_args!(
        "\nWhat there is, and who uses it:\n\n{}",
        report.report.text.trim_end()
    ));
}

/// What happened while it moved.
fn moving(text: &mut Text, report: &OneReport) {
    let moving = &report.moving;
    text.line(format_args!(
        "\nMoved {} {} while all devices used it: {} of {} callbacks.",
        moving.moves,
        plural(moving.moves, "time"),
        moving.callbacks,
        moving.callbacks_expected,
    ));
    for place in &moving.places {
        text.line(format_args!("  {} × to {}", place.moves, spelled(&place.place)));
    }
    for refused in &moving.refused {
        // The whole list of routes is in the JSON, and in `peerbuf devices`.
        let reason = refused.reason.split("; ").next().unwrap_or_default();
        text.line(format_args!("  not to {}: {reason}", spelled(&refused.place)));
    }
}

fn spelled(place: &str) -> String {
    match place.strip_prefix("vram ") {
        Some(device) => format!("the memory of device {device}"),
        None if place == "system" => "system memory".into(),
        None => place.into(),
    }
}

fn results(report: &OneReport) -> Table {
    let mut table =
        table(["writes → checks", "verified", "wrong words", "fill GB/s", "verify GB/s"]);
    for pair in &report.results {
        let rate = |seconds: f64| format!("{:.2}", report.size as f64 / seconds / 1e9);
        table.add_row([
            format!("{} → {}", pair.from, pair.to),
            Human(pair.bytes_verified).to_string(),
            wrong(pair),
            rate(pair.fill_seconds),
            rate(pair.verify_seconds),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn wrong(pair: &PairResult) -> String {
    match pair.first_mismatch {
        None => pair.mismatches.to_string(),
        Some(first) => format!("{}, the first at byte {first}", pair.mismatches),
    }
}

pub(super) fn verdict(wrong: u64) -> String {
    match wrong {
        0 => "every byte right".to_owned(),
        wrong => format!("{wrong} wrong {}", plural(wrong, "word")),
    }
}

fn plural(count: impl Into<u64>, noun: &str) -> String {
    if count.into() == 1 { noun.to_owned() } else { format!("{noun}s") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, device};
    use super::*;
    use crate::live::{LiveFacts, TotalFacts};
    use crate::report::{MovingFacts, PlaceFacts, RefusedFacts};

    #[test]
    fn wrong_words_are_not_overlooked() {
        let pair = |from, to, mismatches, first_mismatch| PairResult {
            from,
            to,
            bytes_verified: 4096,
            mismatches,
            first_mismatch,
            fill_seconds: 1.0,
            verify_seconds: 1.0,
        };
        let mut report = OneReport {
            size: 4096,
            pairs: 2,
            domain: "vram",
            home: 1,
            provider: "dma_buf",
            moves: 0,
            generation: 0,
            seconds: 1.0,
            devices: vec![device(0, 0), device(1, 1)],
            results: vec![pair(0, 1, 0, None), pair(1, 0, 3, Some(256))],
            moving: MovingFacts {
                moves: 3,
                callbacks: 5,
                callbacks_expected: 6,
                places: vec![PlaceFacts { place: "system".into(), moves: 3 }],
                refused: vec![RefusedFacts { place: "vram 1".into(), reason: "full".into() }],
                bytes_verified: 0,
                mismatches: 0,
            },
            report: LiveFacts {
                domains: vec![],
                buffers: vec![],
                moved: vec![],
                stalls: vec![],
                totals: TotalFacts::default(),
                text: "Buffers\n  demo".into(),
            },
            unusable: vec![],
        };
        let told = |report: &OneReport| {
            let mut text = Text::default();
            one(&mut text, report);
            text.0
        };
        let text = told(&report);
        check(&text, &["  demo"]);
        check(&text, &["1 → 0", "3, the first at byte 256"]);
        check(&text, &["in the memory of device 1 (dma_buf)", "generation 0"]);
        check(&text, &["Moved 3 times", "5 of 6 callbacks"]);
        check(&text, &["3 × to system memory"]);
        check(&text, &["not to the memory of device 1: full"]);
        check(&text, &["8 KiB verified over 2 ordered pairs", "3 wrong words."]);
        report.moving.mismatches = 1;
        check(&told(&report), &["4 wrong words."]);
    }
}
