//! A comparison of two runs as text.

use super::bench::numbers;
use super::text::{Text, counted};
use crate::bench::compare::{Change, Comparison, Row};
use crate::bench::units::time;

/// Rows of a kind that are shown; `--verbose` shows all.
const ROWS: usize = 20;

/// A comparison: what it says first, then what changed.
pub(crate) fn compare(found: &Comparison, verbose: bool) -> String {
    let mut text = Text::default();
    for fault in &found.faults {
        text.item(
            "✗ ",
            &format!("WRONG BYTES or MORE THAN IS POSSIBLE in the second run: {fault}"),
        );
    }
    for lost in found.lost.iter().take(if verbose { usize::MAX } else { ROWS }) {
        text.item("! ", &format!("no longer measured: {lost}"));
    }
    if found.lost.len() > ROWS && !verbose {
        text.item("! ", &format!("and {} more: --verbose shows all", found.lost.len() - ROWS));
    }
    let failing = found.failing().count();
    let (slower, faster) = (found.count(Change::Slower), found.count(Change::Faster));
    let unknown = found.count(Change::CannotTell);
    let rows = counted(found.rows.len() as u64, "value");
    let limit = found.fail_below;
    if found.rows.is_empty() {
        text.paragraph("· nothing was measured by both runs");
    } else if failing > 0 {
        text.item(
            "! ",
            &format!("slower than asked: {failing} of {rows} are below {limit} times as fast"),
        );
    } else if unknown > 0 {
        let what =
            format!("cannot tell for {unknown} of {rows}: noise hides a change to {limit} there");
        text.item("· ", &what);
    } else {
        text.item("✓ ", &format!("of {rows}, none is below {limit} times as fast"));
    }
    let same = found.count(Change::Same);
    text.item(
        "  ",
        &format!("slower {slower}, faster {faster}, the same {same}, cannot tell {unknown}"),
    );
    for remark in &found.remarks {
        text.item("  ", &format!("differs: {remark}"));
    }
    for (change, title) in [
        (Change::Slower, "Slower"),
        (Change::Faster, "Faster"),
        (Change::CannotTell, "Cannot tell"),
        (Change::Same, "The same"),
    ] {
        if verbose || change != Change::Same {
            text.rows(found, change, title, if verbose { usize::MAX } else { ROWS });
        }
    }
    for (names, which) in [(&found.only_before, "first"), (&found.only_after, "second")] {
        let more = names.len().saturating_sub(1);
        if let Some(first) = names.first() {
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            text.item("  ", &format!("only in the {which} run: {first}{more}"));
        }
    }
    text.0
}

impl Text {
    fn rows(&mut self, found: &Comparison, change: Change, title: &str, most: usize) {
        let rows: Vec<&Row> = found.rows.iter().filter(|row| row.change == change).collect();
        if rows.is_empty() {
            return;
        }
        self.line(format_args!("\n{title} (above 1 is faster, or better):"));
        let mut table = numbers(["what", "before", "after", "ratio", "95 % interval"], 0);
        for row in rows.iter().take(most) {
            let value =
                |value: f64| if row.unit == "ns" { time(value) } else { format!("{value:.3}") };
            table.add_row([
                row.name.clone(),
                value(row.before),
                value(row.after),
                format!("{:.3}", row.ratio),
                format!("{:.3} … {:.3}", row.ratio_lo, row.ratio_hi),
            ]);
        }
        self.line(format_args!("{table}"));
        if rows.len() > most {
            self.line(format_args!("  and {} more: --verbose shows all", rows.len() - most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::bench::compare::compare as between;
    use crate::bench::made::run::rich;
    use crate::bench::run::Cell;

    #[test]
    fn what_is_slower_than_asked_comes_first() {
        let before = rich(1);
        let mut after = before.clone();
        for cell in after.cells.iter_mut().filter(|cell| cell.key.size_bytes == 4 << 10) {
            let summary = cell.summary.as_mut().expect("it was measured");
            for time in [&mut summary.lo_ns, &mut summary.median_ns, &mut summary.hi_ns] {
                *time *= 2.0;
            }
        }
        let text = compare(&between(&before, &after, 0.9), false);
        assert!(text.starts_with("! slower than asked"), "{text}");
        check(&text, &["0.500", "0.499 … 0.501"]);
        let text = compare(&between(&before, &before, 0.9), false);
        assert!(text.starts_with("✓ of "), "{text}");
        check(&text, &["slower 0, faster 0"]);
    }

    #[test]
    fn what_is_no_longer_measured_comes_first() {
        let before = rich(1);
        let mut after = before.clone();
        let measured = |cell: &&mut Cell| cell.summary.is_some();
        let cell = after.cells.iter_mut().find(measured).expect("a cell was measured");
        cell.summary = None;
        cell.note = Some("the device is lost".into());
        let text = compare(&between(&before, &after, 0.9), false);
        assert!(text.starts_with("! no longer measured: "), "{text}");
        check(&text, &["the device is lost"]);
    }

    #[test]
    fn what_cannot_be_told_is_said_before_anything_else() {
        let mut before = rich(1);
        before.noise[0].ratio_hi = 1.5;
        let text = compare(&between(&before, &before, 0.9), false);
        assert!(text.starts_with("· cannot tell for "), "{text}");
        check(&text, &["noise hides a change to 0.9"]);
    }
}
