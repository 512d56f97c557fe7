//! `peerbuf doctor` as text: the findings by area, then whether the machine is ready.

use super::text::{Text, counted};
use crate::doctor::report::{DoctorReport, Severity};

/// `peerbuf doctor`.
pub(crate) fn doctor(report: &DoctorReport, verbose: bool) -> String {
    let mut text = Text::default();
    text.line(format_args!("peerbuf {}", report.version));
    let mut area = "";
    for finding in &report.findings {
        if finding.area != area {
            area = finding.area;
            text.line(format_args!("\n{area}"));
        }
        let head = match finding.severity {
            Severity::Ok => "  ok       ",
            Severity::Note => "  note     ",
            Severity::Problem => "  PROBLEM  ",
        };
        text.item(head, &finding.what);
        if let Some(todo) = &finding.todo {
            text.item("           do: ", todo);
        }
    }
    if verbose {
        details(&mut text, report);
    }
    let count = |severity| {
        let of = |finding: &&_| severity_of(finding) == severity;
        // CAST: a number of findings.
        report.findings.iter().filter(of).count() as u64
    };
    let notes = counted(count(Severity::Note), "note");
    let verdict = match count(Severity::Problem) {
        0 => format!("Ready; {notes}."),
        problems => format!("Not ready: {}, {notes}.", counted(problems, "problem")),
    };
    text.blank();
    text.line(format_args!("{verdict} For a bug report: peerbuf doctor --json"));
    text.0
}

fn severity_of(finding: &crate::doctor::report::Finding) -> Severity {
    finding.severity
}

/// Why each route between two devices does not work, and what drivers printed.
fn details(text: &mut Text, report: &DoctorReport) {
    text.line(format_args!("\nroutes that do not work"));
    for route in &report.routes {
        for (name, why) in &route.refused {
            text.item(&format!("  {} → {}  {name}: ", route.from, route.to), why);
        }
    }
    for driver in report.drivers.iter().filter(|driver| !driver.messages.is_empty()) {
        text.line(format_args!("\n{} printed", driver.manifest));
        driver.messages.iter().for_each(|line| text.item("  ", line));
    }
}
