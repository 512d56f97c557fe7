//! `peerbuf demo` as text: which devices wrote and checked, and what was found.

use std::path::Path;

use comfy_table::{CellAlignment, Table};

use super::overcommit::overcommit;
use super::text::{Text, counted, driver, table, verdict};
use crate::report::{DemoReport, OneReport, PairResult, PlaceFacts, RefusedFacts};
use crate::size::Human;

/// Without `--verbose`, more pairs than these are summed up in a line.
const PAIRS_SHOWN: usize = 6;

/// `peerbuf demo`.
pub(crate) fn demo(report: &DemoReport, trace: Option<&Path>, verbose: bool) -> String {
    let mut text = Text::default();
    one(&mut text, &report.one, verbose);
    text.blank();
    overcommit(&mut text, &report.overcommit, &report.one.devices, verbose);
    if let Some(file) = trace {
        text.line(format_args!("Trace: {} (open it with https://ui.perfetto.dev)", file.display()));
    }
    if verbose {
        text.line(format_args!(
            "\nThe engine's report at the end of part 1:\n\n{}",
            report.one.report.text.trim_end()
        ));
    } else {
        text.line(format_args!("More: --verbose for people, --json for programs."));
    }
    text.0
}

/// The part with one buffer.
fn one(text: &mut Text, report: &OneReport, verbose: bool) {
    text.paragraph(&format!(
        "Part 1: one buffer of {} on {}; each writes, the others check it.",
        Human(report.size),
        counted(report.devices.len() as u64, "device"),
    ));
    for device in &report.devices {
        let driver = if verbose { format!(" · {}", driver(device)) } else { String::new() };
        text.item(&format!("  {}  ", device.index), &format!("{}{driver}", device.name));
    }
    text.unusable(&report.unusable);
    if verbose || report.results.len() <= PAIRS_SHOWN {
        text.line(format_args!("{}", results(report)));
    } else {
        text.paragraph(&summary(report));
    }
    if verbose {
        text.paragraph(
            "Each rate was measured once. The first write also pays for the first touch of fresh memory.",
        );
    }
    moving(text, report, verbose);
    let verified = report.results.iter().map(|pair| pair.bytes_verified).sum::<u64>();
    let wrong = report.results.iter().map(|pair| pair.mismatches).sum::<u64>();
    text.line(format_args!(
        "{} checked over {} in {:.2} s: {}.",
        Human(verified + report.moving.bytes_verified),
        counted(report.pairs as u64, "ordered pair"),
        report.seconds,
        verdict(wrong + report.moving.mismatches),
    ));
    if verbose {
        let domain = match report.domain {
            "vram" => spelled(&format!("vram {}", report.home)),
            _ => spelled("system"),
        };
        text.paragraph(&format!(
            "At the end the buffer is in {domain} (provider: {}), generation {}.",
            report.provider, report.generation,
        ));
    }
}

/// What happened while the buffer moved.
fn moving(text: &mut Text, report: &OneReport, verbose: bool) {
    let moving = &report.moving;
    text.paragraph(&format!(
        "It then moved {} while all devices used it ({} of {} notifications):",
        counted(moving.moves, "time"),
        moving.callbacks,
        moving.callbacks_expected,
    ));
    places(text, &moving.places, &moving.refused, verbose);
}

/// Where something has moved, and where it could not move.
pub(super) fn places(
    text: &mut Text,
    places: &[PlaceFacts],
    refused: &[RefusedFacts],
    verbose: bool,
) {
    for place in places {
        text.line(format_args!("  {} × to {}", place.moves, spelled(&place.place)));
    }
    for refused in refused {
        let place = spelled(&refused.place);
        text.item("  ", &format!("not to {place}: {}", refused.summary));
        if verbose {
            refused.details.iter().for_each(|reason| text.item("    ", reason));
        }
    }
}

fn spelled(place: &str) -> String {
    match place.strip_prefix("vram ") {
        Some(device) => format!("the memory of device {device}"),
        None if place == "system" => "system memory".into(),
        None if place == "another layout" => place.into(),
        None => "other memory in the same domain".into(),
    }
}

fn results(report: &OneReport) -> Table {
    let mut table =
        table(["writer → checker", "checked", "wrong words", "write GB/s", "check GB/s"]);
    for pair in &report.results {
        table.add_row([
            format!("{} → {}", pair.from, pair.to),
            Human(pair.bytes_verified).to_string(),
            wrong(pair),
            rate(report.size, pair.fill_seconds),
            rate(report.size, pair.verify_seconds),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The pairs in a line, where there are many.
fn summary(report: &OneReport) -> String {
    let slowest = |seconds: fn(&PairResult) -> f64| {
        rate(report.size, report.results.iter().map(seconds).fold(0.0, f64::max))
    };
    let wrong = report.results.iter().map(|pair| pair.mismatches).sum::<u64>();
    format!(
        "{}: {}; the slowest write ran at {} GB/s, the slowest check at {} GB/s.",
        counted(report.results.len() as u64, "ordered pair"),
        verdict(wrong),
        slowest(|pair| pair.fill_seconds),
        slowest(|pair| pair.verify_seconds),
    )
}

fn rate(bytes: u64, seconds: f64) -> String {
    // CAST: two decimals.
    format!("{:.2}", bytes as f64 / seconds / 1e9)
}

fn wrong(pair: &PairResult) -> String {
    match pair.first_mismatch {
        None => pair.mismatches.to_string(),
        Some(first) => format!("{}, first at byte {first}", pair.mismatches),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, device};
    use super::*;
    use crate::live::{LiveFacts, TotalFacts};
    use crate::report::MovingFacts;

    fn pair(from: usize, to: usize, mismatches: u64, first_mismatch: Option<u64>) -> PairResult {
        PairResult {
            from,
            to,
            bytes_verified: 4096,
            mismatches,
            first_mismatch,
            fill_seconds: 1.0,
            verify_seconds: 1.0,
        }
    }

    fn report() -> OneReport {
        OneReport {
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
                refused: vec![RefusedFacts {
                    place: "vram 1".into(),
                    reason: "GPU 0 cannot reach it; memfd: broken".into(),
                    summary: "GPU 0 cannot reach it".into(),
                    details: vec!["memfd: broken".into()],
                }],
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
        }
    }

    fn shown(report: &OneReport, verbose: bool) -> String {
        let mut text = Text::default();
        one(&mut text, report, verbose);
        text.0
    }

    #[test]
    fn wrong_words_are_shown() {
        let mut report = report();
        for verbose in [false, true] {
            let text = shown(&report, verbose);
            check(&text, &["1 → 0", "3, first at byte 256"]);
            check(&text, &["It then moved 3 times", "(5 of 6 notifications)"]);
            check(&text, &["3 × to system memory"]);
            check(&text, &["not to the memory of device 1: GPU 0 cannot reach it"]);
            check(&text, &["8 KiB checked over 2 ordered pairs", "3 words WRONG."]);
            assert_eq!(text.contains("    memfd: broken"), verbose, "{text}");
            assert_eq!(text.contains("GPU 1 · driver, 5.6.7"), verbose, "{text}");
            let end = "in the memory of device 1 (provider: dma_buf), generation 0";
            let unbroken = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(unbroken.contains(end), verbose, "{text}");
        }
        report.moving.mismatches = 1;
        check(&shown(&report, false), &["4 words WRONG."]);
    }

    #[test]
    fn many_pairs_are_summed_up_unless_asked_for() {
        let mut report = report();
        report.results = vec![pair(0, 1, 2, Some(0)); PAIRS_SHOWN + 1];
        check(&shown(&report, false), &["7 ordered pairs: 14 words WRONG; the slowest write"]);
        check(&shown(&report, true), &["0 → 1", "2, first at byte 0"]);
    }
}
