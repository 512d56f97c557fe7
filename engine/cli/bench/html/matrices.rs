//! Matrices as tables whose cells are coloured by speed.

use super::super::run::{Cell, End, Run, Verdict};
use super::super::units::{Rate, gigabytes};
use super::super::verdict::{share, speed};
use super::super::view::{Matrix, end_name, engine_name};
use super::markup::escape;

/// How many colours there are: `h0` to `h6`.
const STEPS: u8 = 7;

pub(super) const LEGEND: &str = "GB/s from the row to the column. The colour is the part of what the link or the memory \
    carries; where that is not known, the part of the highest number in the table. <span class=\"key slow\">!</span> is \
    slower than it should be; <span class=\"key fault\">✗</span> is a fault.";

/// A matrix and its title.
pub(super) fn figure(matrix: &Matrix<'_>, run: &Run) -> String {
    let heads: String = matrix.ends.iter().map(|end| format!("<th>{end}</th>")).collect();
    let most = matrix.most();
    let rows: String = matrix
        .ends
        .iter()
        .zip(&matrix.rows)
        .map(|(from, row)| {
            let cells: String =
                row.iter().map(|it| it.map_or_else(empty, |it| cell(it, most))).collect();
            format!("<tr><th class=\"row\">{}</th>{cells}</tr>\n", head(*from, run))
        })
        .collect();
    format!(
        "<figure><figcaption>{}</figcaption>\n<div class=\"scroll\"><table class=\"heat\">\n\
         <tr><th></th>{heads}</tr>\n{rows}</table></div></figure>\n",
        escape(&matrix.title)
    )
}

fn head(end: End, run: &Run) -> String {
    let name = end_name(end, run);
    match name.split_once(": ") {
        Some((end, name)) => format!("{}<small>{}</small>", escape(end), escape(name)),
        None => escape(&name),
    }
}

fn empty() -> String {
    "<td class=\"empty\">–</td>".to_owned()
}

fn cell(cell: &Cell, most: f64) -> String {
    let Some(speed) = speed(cell) else { return empty() };
    let share = share(cell);
    // CAST: a part of 0 to 1 becomes a step, and a larger one the last step.
    let step = (share.unwrap_or(speed / most) * f64::from(STEPS)) as u8;
    let step = step.min(STEPS - 1);
    let (class, mark) = match cell.verdict {
        Verdict::WrongBytes | Verdict::MoreThanPossible => (" fault", "✗"),
        Verdict::Less | Verdict::LessBecause => (" slow", "!"),
        Verdict::AsExpected | Verdict::NotJudged | Verdict::NotMeasured => ("", ""),
    };
    let mark = if mark.is_empty() { String::new() } else { format!("<i>{mark}</i>") };
    let percent = share.map_or(String::new(), |share| format!("{:.0} % · ", share * 100.0));
    let (way, engine) = (escape(&cell.key.way), engine_name(cell.key.engine));
    let causes: Vec<_> = cell.causes.iter().map(|cause| escape(&cause.evidence)).collect();
    let title = match (&cell.bound_at_best, &cell.bound, causes.is_empty()) {
        (.., false) => causes.join("; "),
        (Some(bound), ..) | (None, Some(bound), _) => {
            format!("{} carries {}", escape(&bound.why), Rate(bound.bytes_per_second))
        }
        _ => String::new(),
    };
    format!(
        "<td class=\"h{step}{class}\" title=\"{title}\"><b>{}{mark}</b><small>{percent}{way}</small>\
         <small>{engine}</small></td>",
        gigabytes(speed)
    )
}
