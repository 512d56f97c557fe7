//! The first lines of every output: what a reader must know before any table.

use super::super::run::{
    Bound, CauseKind, Cell, Direction, End, Figure, Key, Pattern, Program, Run, Target, Verdict,
};
use super::super::units::{Rate, bytes};
use super::{JUDGED_BYTES, share, speed};

/// One of the first lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Headline {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tone {
    Good,
    Note,
    /// Slower than it should be.
    Slow,
    /// Wrong bytes, or more than is possible.
    Fault,
}

impl Tone {
    /// The mark in text, so that the tone needs no colour.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Note => "·",
            Self::Slow => "!",
            Self::Fault => "✗",
        }
    }
}

fn line(tone: Tone, text: String) -> Headline {
    Headline { tone, text }
}

/// The first lines, in the order in which they matter: what the devices are, faults, then each pair.
pub(crate) fn headlines(run: &Run) -> Vec<Headline> {
    let mut lines = vec![];
    lines.extend(software(run));
    lines.extend(
        run.ended_early.as_ref().map(|why| line(Tone::Note, format!("not complete: {why}"))),
    );
    if run.program != Program::Figures {
        lines.extend(faults(run));
        lines.extend(pairs(run));
    } else {
        lines.extend(figures(run));
    }
    lines
}

/// The cell that stands for each ordered pair: the fastest one that is judged.
pub(crate) fn leading(run: &Run) -> Vec<&Cell> {
    let stands = |key: &Key| {
        key.pattern == Pattern::Pair
            && key.direction == Direction::There
            && key.processes == 1
            && key.from != key.to
            && key.size_bytes >= JUDGED_BYTES
    };
    let mut leading: Vec<&Cell> = vec![];
    let judged = |cell: &&Cell| {
        stands(&cell.key) && !matches!(cell.verdict, Verdict::NotJudged | Verdict::NotMeasured)
    };
    for cell in run.cells.iter().filter(judged) {
        let ends = (cell.key.from, cell.key.to);
        // The last copies of a sweep may be slow for reasons of their own, so the fastest counts, whatever its size.
        match leading.iter_mut().find(|it| (it.key.from, it.key.to) == ends) {
            Some(best) if speed(cell) > speed(best) => *best = cell,
            Some(_) => {}
            None => leading.push(cell),
        }
    }
    leading
}

fn software(run: &Run) -> Option<Headline> {
    let software: Vec<_> = run
        .devices
        .iter()
        .filter(|it| it.software)
        .map(|it| format!("device{}", it.index))
        .collect();
    let all = software.len() == run.devices.len();
    (!software.is_empty()).then(|| {
        let which = match (all, software.len()) {
            (true, 1) => "the device is a software device".to_owned(),
            (true, _) => "all devices are software devices".to_owned(),
            (false, 1) => format!("{} is a software device", software[0]),
            (false, _) => format!("software devices: {}", software.join(", ")),
        };
        let text = format!(
            "{which}: the host does its work, and there is no link whose speed could be seen"
        );
        line(Tone::Note, text)
    })
}

/// Wrong bytes and impossible speeds, wherever they are.
fn faults(run: &Run) -> Vec<Headline> {
    let with = |verdict| run.cells.iter().filter(move |cell| cell.verdict == verdict);
    let wrong = with(Verdict::WrongBytes).map(|cell| {
        let wrong = cell.verified.map_or(0, |it| it.wrong_bytes);
        let of = cell.verified.map_or(0, |it| it.bytes);
        format!("WRONG BYTES: {}: {wrong} of {of}", name(&cell.key))
    });
    let impossible = with(Verdict::MoreThanPossible).map(|cell| {
        let rate = speed(cell).map_or(String::new(), |speed| Rate(speed).to_string());
        let bound = cell.bound_at_best.as_ref().or(cell.bound.as_ref());
        let bound = bound.map_or(String::new(), limit);
        format!(
            "MORE THAN IS POSSIBLE: {}: {rate}, and {bound}: a fault of the benchmark",
            name(&cell.key)
        )
    });
    wrong.chain(impossible).map(|text| line(Tone::Fault, text)).collect()
}

/// What a bound says.
fn limit(bound: &Bound) -> String {
    format!("{} has {}", bound.why, Rate(bound.bytes_per_second))
}

/// A cell's key in words.
pub(crate) fn name(key: &Key) -> String {
    format!("{} → {} by {}, {}", key.from, key.to, key.way, bytes(key.size_bytes))
}

/// How many pairs are as they should be, and why the others are not.
fn pairs(run: &Run) -> Vec<Headline> {
    let leading = leading(run);
    let is_less = |cell: &&Cell| matches!(cell.verdict, Verdict::Less | Verdict::LessBecause);
    let less: Vec<&Cell> = leading.iter().copied().filter(is_less).collect();
    // A software device is what it is: nothing about the machine is to be mended.
    let (software, slow): (Vec<&Cell>, Vec<&Cell>) =
        less.into_iter().partition(|it| is_software(it));
    let as_expected = leading.iter().filter(|cell| cell.verdict == Verdict::AsExpected).count();
    let mut lines = vec![];
    let between = |key: &Key| matches!((key.from, key.to), (End::Device(_), End::Device(_)));
    let count = leading.iter().filter(|cell| between(&cell.key)).count();
    match (leading.len(), slow.len()) {
        (0, _) => {
            let least = bytes(JUDGED_BYTES);
            let text =
                format!("no pair is judged: no bound is known, or no copy was of {least} or more");
            lines.push(line(Tone::Note, text));
        }
        (all, 0) if as_expected == all => {
            let text =
                format!("as expected: all {all} directions, {count} of them between devices");
            lines.push(line(Tone::Good, text));
        }
        (_, 0) => {}
        (all, slow) => {
            lines.push(line(
                Tone::Slow,
                format!("{slow} of {all} directions are slower than they should be"),
            ));
        }
    }
    if !software.is_empty() {
        let (count, all) = (software.len(), leading.len());
        let text =
            format!("{count} of {all} directions are as fast as a software device makes them");
        lines.push(line(Tone::Note, format!("{text}: {}", numbers(&software))));
    }
    // One cause may slow many pairs, and is told once.
    let mut groups: Vec<Vec<&Cell>> = vec![];
    for cell in slow {
        match groups.iter_mut().find(|group| why(group[0]) == why(cell)) {
            Some(group) => group.push(cell),
            None => groups.push(vec![cell]),
        }
    }
    lines.extend(groups.iter().map(|group| line(Tone::Slow, told(group))));
    lines
}

/// Slow directions that have one reason, and what is known of them.
fn told(cells: &[&Cell]) -> String {
    let pair = |cell: &&Cell| format!("{} → {}", cell.key.from, cell.key.to);
    let pairs: Vec<_> = cells.iter().map(pair).collect();
    let mut ways: Vec<_> = cells.iter().map(|cell| cell.key.way.as_str()).collect();
    ways.sort_unstable();
    ways.dedup();
    let (pairs, ways) = (pairs.join(", "), ways.join(" or "));
    format!("{pairs} by {ways}: {}{}", numbers(cells), why(cells[0]))
}

/// The speeds of cells, and what part of their bounds they are.
fn numbers(cells: &[&Cell]) -> String {
    let rates: Vec<f64> = cells.iter().filter_map(|cell| speed(cell)).collect();
    let shares: Vec<f64> =
        cells.iter().filter_map(|cell| share(cell)).map(|it| it * 100.0).collect();
    let rate = span(&rates, |rate| Rate(rate).to_string());
    let share = span(&shares, |share| format!("{share:.0} %"));
    let bounds =
        cells.iter().filter_map(|cell| cell.bound_at_best.as_ref().or(cell.bound.as_ref()));
    let mut bounds: Vec<_> = bounds.map(|bound| bound.why.as_str()).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let bound = if let [bound] = bounds.as_slice() { bound } else { "the links" };
    format!("{rate}, {share} of what {bound} can carry")
}

/// Whether all that is shown to slow a copy is that the host does the device's work.
fn is_software(cell: &Cell) -> bool {
    let mut shown = cell.causes.iter().filter(|cause| cause.certain).peekable();
    shown.peek().is_some() && shown.all(|cause| cause.kind == CauseKind::SoftwareDevice)
}

/// The smallest and the largest value, or one if they read alike.
fn span(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let least = show(values.iter().copied().fold(f64::MAX, f64::min));
    let most = show(values.iter().copied().fold(0.0, f64::max));
    if least == most { least } else { format!("{least} to {most}") }
}

/// Why a cell is slow, as the end of a sentence.
fn why(cell: &Cell) -> String {
    let evidence = |certain: bool| {
        let causes = cell.causes.iter().filter(|cause| cause.certain == certain);
        causes.map(|cause| cause.evidence.as_str()).collect::<Vec<_>>().join("; ")
    };
    let (shown, may) = (evidence(true), evidence(false));
    if cell.verdict == Verdict::LessBecause {
        return format!(", because {shown}");
    }
    let why = match shown.is_empty() {
        true => ", and nothing visible says why".to_owned(),
        false => format!("; {shown}; this does not account for all of it"),
    };
    if may.is_empty() { why } else { format!("{why}; it may matter that {may}") }
}

/// How many figures miss their targets.
fn figures(run: &Run) -> Option<Headline> {
    let with_target: Vec<_> = run.figures.iter().filter(|it| it.target.is_some()).collect();
    let misses = |figure: &&&Figure| {
        let target = figure.target.unwrap_or(figure.value);
        match figure.direction {
            Target::AtLeast => figure.value < target,
            Target::AtMost => figure.value > target,
        }
    };
    let missed: Vec<_> = with_target.iter().filter(misses).map(|it| it.id.as_str()).collect();
    let count = with_target.len();
    (count > 0).then(|| match missed.is_empty() {
        true => line(Tone::Good, format!("all {count} figures with a target meet it")),
        false => {
            let which = missed.join(", ");
            line(
                Tone::Slow,
                format!("{} of {count} figures miss their targets: {which}", missed.len()),
            )
        }
    })
}
