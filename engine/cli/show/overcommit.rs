//! The main job of `peerbuf demo` as a table: how much there was, how much fitted, and what that cost.

use comfy_table::{CellAlignment, Table};

use super::demo::verdict;
use super::{Text, table};
use crate::report::{DeviceFacts, OvercommitFacts};
use crate::size::Human;

/// The main job; `devices` are those that were asked for.
pub(super) fn overcommit(text: &mut Text, report: &OvercommitFacts, devices: &[DeviceFacts]) {
    let [total, budget, window] =
        [report.total, report.budget, report.working_set].map(|bytes| Human(bytes).to_string());
    let home = report.members.first().map_or(0, |home| home.device);
    text.line(format_args!(
        "\nMore than fits: {} buffers, together {total}, at home in the memory of device\n\
         {home}, which is taken to be {budget}. In each of {} frames a device writes some of\n\
         them and others check, in a window of {window} that slides. Who takes part:",
        report.buffers, report.frames,
    ));
    for member in &report.members {
        let again = if devices.iter().all(|device| device.index != member.device) {
            ", opened once more"
        } else {
            ""
        };
        let how = if member.in_place { "in place" } else { "is given copies" };
        text.line(format_args!("  {}  {}{again} · {how}", member.device, member.name));
    }
    text.line(format_args!("\n{}", figures(report)));
}

fn figures(report: &OvercommitFacts) -> Table {
    let used = (report.bytes_written + report.bytes_verified) as f64;
    let rows = [
        ("budget", bytes(report.budget), "modelled".to_owned()),
        ("peak", bytes(report.peak), within(report).to_owned()),
        ("evictions", report.evictions.to_string(), "its place was needed".to_owned()),
        ("restores", report.restores.to_string(), "a frame used it".to_owned()),
        ("bytes moved", bytes(report.bytes_moved), moved(report)),
        ("optimum", bytes(report.bytes_optimal), "of somebody who knows the future".to_owned()),
        (
            "callbacks",
            report.callbacks.to_string(),
            format!("of {}: per move and device", report.callbacks_expected),
        ),
        (
            "speed",
            format!("{:.2} GB/s", used / report.seconds / 1e9),
            format!("written, verified and moved in {:.2} s", report.seconds),
        ),
        ("verified", bytes(report.bytes_verified), "by another device".to_owned()),
        ("mismatches", report.mismatches.to_string(), verdict(report.mismatches)),
    ];
    let mut table = table(["more than fits", "figure", "which is"]);
    for (what, figure, note) in rows {
        table.add_row([what, &figure, &note]);
    }
    if let Some(figures) = table.column_mut(1) {
        figures.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn bytes(bytes: u64) -> String {
    Human(bytes).to_string()
}

fn within(report: &OvercommitFacts) -> &'static str {
    if report.peak <= report.budget { "within the budget" } else { "BEYOND the budget" }
}

/// How it compares. What had the same bytes elsewhere already was moved without a copy.
fn moved(report: &OvercommitFacts) -> String {
    let copied = format!("{} copied", Human(report.bytes_copied));
    match report.bytes_optimal {
        0 => copied,
        // CAST: two decimals.
        optimal => {
            format!("{:.2} × the optimum; {copied}", report.bytes_moved as f64 / optimal as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, device};
    use super::*;
    use crate::report::MemberFacts;

    #[test]
    fn what_went_wrong_is_not_overlooked() {
        let member =
            |device, in_place| MemberFacts { device, name: format!("GPU {device}"), in_place };
        let mut report = facts();
        report.members = vec![member(0, true), member(2, true), member(1, false)];
        let mut text = Text::default();
        overcommit(&mut text, &report, &[device(0, 0), device(1, 1)]);
        check(&text.0, &["64 buffers, together 4 MiB", "memory of device"]);
        check(&text.0, &["0, which is taken to be 1 MiB", "128 frames"]);
        check(&text.0, &["a window of 1.2 MiB"]);
        check(&text.0, &["0  GPU 0 · in place"]);
        check(&text.0, &["2  GPU 2, opened once more · in place"]);
        check(&text.0, &["1  GPU 1 · is given copies"]);
        check(&text.0, &["peak", "2 MiB", "BEYOND the budget"]);
        check(&text.0, &["bytes moved", "3 MiB", "1.50 × the optimum; 2.5 MiB copied"]);
        check(&text.0, &["callbacks", "5", "of 6"]);
        check(&text.0, &["mismatches", "7", "7 wrong words"]);
        assert!(!report.is_proved());
    }

    /// As much goes wrong as can.
    fn facts() -> OvercommitFacts {
        OvercommitFacts {
            buffers: 64,
            total: 4 << 20,
            working_set: 5 << 18,
            frames: 128,
            budget: 1 << 20,
            peak: 2 << 20,
            evictions: 2,
            restores: 1,
            bytes_moved: 3 << 20,
            bytes_copied: 5 << 19,
            bytes_optimal: 2 << 20,
            callbacks: 5,
            callbacks_expected: 6,
            bytes_written: 1 << 20,
            bytes_verified: 1 << 20,
            mismatches: 7,
            seconds: 1.0,
            members: vec![],
        }
    }
}
