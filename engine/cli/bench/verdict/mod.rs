//! What a cell's speed says: as expected, less and why, or more than is possible.
//!
//! All of it follows from the run's own data, so a saved run is judged as it was when it was measured.

mod bound;
mod cause;
mod headline;
mod rate;
#[cfg(test)]
mod tests;

pub(crate) use headline::{Headline, Tone, headlines, name};
pub(crate) use rate::{JUDGED_BYTES, share, speed};

use super::run::{Cause, CauseKind, Cell, Direction, Run, Verdict};
use rate::{slack, speed_at};

/// The part of the bound that is expected, one direction at a time.
const EXPECTED: f64 = 0.8;

/// The same while both directions run. They share more than the link: of PCIe 4.0 × 16, which carries 31.5 GB/s each
/// way, nvbandwidth's README has 26 GB/s one way, and 18.5 GB/s each way while both run.
const EXPECTED_BOTH: f64 = 0.5;

/// Judges every cell.
pub(crate) fn judge(run: &mut Run) {
    let mut judged = run.cells.clone();
    for cell in &mut judged {
        judge_cell(cell, run);
    }
    run.cells = judged;
}

fn judge_cell(cell: &mut Cell, run: &Run) {
    let limits = bound::limits(cell, run);
    (cell.bound, cell.bound_at_best) = (limits.now, limits.at_best);
    cell.causes.clear();
    cell.verdict = verdict(cell);
    if cell.verdict == Verdict::Less {
        cell.causes = cause::causes(cell, run);
        if explains(cell) {
            cell.verdict = Verdict::LessBecause;
        }
    }
}

/// The verdict without its causes.
fn verdict(cell: &Cell) -> Verdict {
    if cell.verified.is_some_and(|verified| verified.wrong_bytes > 0) {
        return Verdict::WrongBytes;
    }
    // The slow end of the interval: a lucky sample is no record.
    let slowest = cell.summary.and_then(|summary| speed_at(cell, summary.hi_ns));
    let (Some(slowest), Some(share)) = (slowest, share(cell)) else {
        let measured = cell.summary.is_some() && cell.bytes.is_some();
        return if measured { Verdict::NotJudged } else { Verdict::NotMeasured };
    };
    // What the link could carry at best is what is impossible to exceed: the link may have been read in a pause.
    let best = cell.bound_at_best.as_ref().or(cell.bound.as_ref());
    if best.is_some_and(|it| slowest > it.bytes_per_second * slack(it.source)) {
        return Verdict::MoreThanPossible;
    }
    if share >= expected(cell) {
        return Verdict::AsExpected;
    }
    if cell.key.size_bytes < JUDGED_BYTES { Verdict::NotJudged } else { Verdict::Less }
}

fn expected(cell: &Cell) -> f64 {
    if cell.key.direction == Direction::There { EXPECTED } else { EXPECTED_BOTH }
}

/// Whether the causes account for what is missing: the link as it is does if the copy uses most of it, and what is not
/// a matter of the link does if it is shown.
fn explains(cell: &Cell) -> bool {
    let uses_link = cell.bound_at_best.is_some()
        && cell
            .bound
            .as_ref()
            .zip(speed(cell))
            .is_some_and(|(bound, speed)| speed >= expected(cell) * bound.bytes_per_second);
    let is_enough = |cause: &Cause| cause.certain && (uses_link || !is_of_link(cause.kind));
    cell.causes.iter().any(is_enough)
}

fn is_of_link(kind: CauseKind) -> bool {
    matches!(kind, CauseKind::NarrowLink | CauseKind::SlowLink | CauseKind::NarrowBridge)
}
