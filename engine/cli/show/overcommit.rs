//! The overcommit part of `peerbuf demo` as text: how much there was, how much fitted, and what that cost.

use comfy_table::{CellAlignment, Table};

use super::text::{Text, table, verdict};
use crate::report::{DeviceFacts, MemberFacts, OvercommitFacts};
use crate::size::Human;

/// The overcommit part; `devices` are those that the first part used.
pub(super) fn overcommit(
    text: &mut Text,
    report: &OvercommitFacts,
    devices: &[DeviceFacts],
    verbose: bool,
) {
    let [total, budget, window] = [report.total, report.budget, report.working_set].map(bytes);
    let home = report.members.first().map_or(0, |home| home.device);
    text.paragraph(&format!(
        "Part 2, more than fits: {} buffers, {total} together, in {budget} of device {home}'s memory (the \
         limit is --vram). In each of {} frames one device writes some buffers and others check some, in a \
         sliding window of {window}. {}",
        report.buffers,
        report.frames,
        members(&report.members, devices),
    ));
    text.line(format_args!("{}", figures(report, verbose)));
    text.paragraph("Least possible: the bytes moved by a policy that knows every use in advance.");
}

/// Which devices use the buffers in place, and which ones read copies.
fn members(members: &[MemberFacts], devices: &[DeviceFacts]) -> String {
    let home = members.first().map_or(0, |home| home.device);
    let named = |in_place| {
        let members = members.iter().filter(|member| member.in_place == in_place);
        let names: Vec<_> = members.map(|member| name(member, devices, home)).collect();
        names.join(" and ")
    };
    let in_place = format!("Used in place by {}.", named(true));
    match named(false) {
        copies if copies.is_empty() => in_place,
        copies => format!("{in_place} Copied for {copies}, which cannot reach that memory."),
    }
}

fn name(member: &MemberFacts, devices: &[DeviceFacts], home: usize) -> String {
    if devices.iter().any(|device| device.index == member.device) {
        return format!("device {}", member.device);
    }
    format!("device {} (the adapter of device {home}, opened again)", member.device)
}

fn figures(report: &OvercommitFacts, verbose: bool) -> Table {
    let used = (report.bytes_written + report.bytes_verified) as f64;
    let seconds = report.seconds;
    let mut rows = vec![
        ("peak use", bytes(report.peak), within(report)),
        ("evictions", report.evictions.to_string(), "moved out, to make room".into()),
        ("restores", report.restores.to_string(), "moved back in, for a frame".into()),
        ("bytes moved", bytes(report.bytes_moved), moved(report)),
        (
            "notifications",
            report.callbacks.to_string(),
            format!("of {}: one per move and device", report.callbacks_expected),
        ),
        (
            "throughput",
            format!("{:.2} GB/s", used / seconds / 1e9),
            format!("written and checked in {seconds:.2} s, moves included"),
        ),
        ("checked", bytes(report.bytes_verified), verdict(report.mismatches)),
    ];
    if verbose {
        rows.extend([
            ("bytes copied", bytes(report.bytes_copied), "the other moves had a clean copy".into()),
            ("least possible", bytes(report.bytes_optimal), "bytes moved, see below".into()),
            ("written", bytes(report.bytes_written), "by all devices".into()),
        ]);
    }
    let mut table = table(["part 2", "value", "note"]);
    for (what, value, note) in rows {
        table.add_row([what, &value, &note]);
    }
    if let Some(values) = table.column_mut(1) {
        values.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn bytes(bytes: u64) -> String {
    Human(bytes).to_string()
}

fn within(report: &OvercommitFacts) -> String {
    let relation = if report.peak <= report.budget { "within" } else { "BEYOND" };
    format!("{relation} the limit of {}", Human(report.budget))
}

/// How the bytes moved compare with the optimum. A move to a place with the same bytes copies nothing.
fn moved(report: &OvercommitFacts) -> String {
    let copied = format!("{} copied", Human(report.bytes_copied));
    match report.bytes_optimal {
        0 => copied,
        // CAST: two decimals.
        optimal => {
            let ratio = report.bytes_moved as f64 / optimal as f64;
            format!("{ratio:.2} × the least possible; {copied}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, device};
    use super::*;

    #[test]
    fn every_failure_is_shown() {
        let member =
            |device, in_place| MemberFacts { device, name: format!("GPU {device}"), in_place };
        let mut report = facts();
        report.members = vec![member(0, true), member(2, true), member(1, false)];
        let mut text = Text::default();
        overcommit(&mut text, &report, &[device(0, 0), device(1, 1)], true);
        let prose = text.0.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "64 buffers, 4 MiB together, in 1 MiB of device 0's memory",
            "each of 128 frames",
            "window of 1.2 MiB",
            "in place by device 0 and device 2 (the adapter of device 0, opened again).",
            "Copied for device 1, which cannot reach that memory.",
        ] {
            assert!(prose.contains(part), "no {part:?} in\n{}", text.0);
        }
        check(&text.0, &["peak use", "2 MiB", "BEYOND the limit of 1 MiB"]);
        check(&text.0, &["bytes moved", "3 MiB", "1.50 × the least possible; 2.5 MiB copied"]);
        check(&text.0, &["notifications", "5", "of 6"]);
        check(&text.0, &["checked", "1 MiB", "7 words WRONG"]);
        check(&text.0, &["least possible", "2 MiB"]);
        assert!(!report.is_proved());
        assert!(!figures(&report, false).to_string().contains("written   "), "a detail");
    }

    /// A report in which as much as possible went wrong.
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
