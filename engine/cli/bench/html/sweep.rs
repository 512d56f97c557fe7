//! The speed of a pair by size, as a chart and as a table.

use super::super::run::{Bound, Cell};
use super::super::units::{bytes, gigabytes};
use super::super::verdict::speed;
use super::super::view::{Line, Sweep};
use super::charts::{Axis, label, marker, path, series_class};
use super::markup::{details, escape, or_dash, table};

/// Lines of a chart; more could not be told apart. The table has all.
const LINES: usize = 6;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 470.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 276.0;

pub(super) const NOTE: &str = "Both axes are logarithmic. Dashes are bounds: what the link carries as it is, and what it \
    could carry at best.";

pub(super) fn figure(sweep: &Sweep<'_>) -> String {
    let title = format!("{} → {}", sweep.from, sweep.to);
    let shown = &sweep.lines[..sweep.lines.len().min(LINES)];
    let key = |(index, line): (usize, &Line<'_>)| {
        let mark = marker(index, 12.0, 7.0);
        let class = series_class(index);
        let sample = format!(
            "<svg class=\"swatch\" viewBox=\"0 0 24 14\" aria-hidden=\"true\">\
             <path class=\"line {class}\" d=\"M0 7L24 7\"/>{mark}</svg>"
        );
        format!("<li>{sample} {}</li>\n", escape(&line.name))
    };
    let keys: String = shown.iter().enumerate().map(key).collect();
    format!(
        "<figure><figcaption>{}</figcaption>\n{}<ul class=\"legend\">\n{keys}</ul>\n{}{}</figure>\n",
        escape(&title),
        chart(&title, sweep, shown),
        crossovers(sweep),
        details("the numbers, in GB/s", &numbers(sweep)),
    )
}

fn crossovers(sweep: &Sweep<'_>) -> String {
    let found = sweep.crossovers();
    let [(first, _), rest @ ..] = found.as_slice() else { return String::new() };
    if rest.is_empty() {
        return String::new();
    }
    let then: String = rest
        .iter()
        .map(|(name, size)| format!("; from {} on {}", bytes(*size), escape(name)))
        .collect();
    format!("<p class=\"note\">The fastest is {}{then}.</p>\n", escape(first))
}

fn chart(title: &str, sweep: &Sweep<'_>, lines: &[Line<'_>]) -> String {
    let sizes = sweep.sizes();
    // CAST: sizes and rates are shown, not computed with.
    let x = Axis::new(sizes.iter().map(|size| *size as f64), (LEFT + 8.0, RIGHT - 8.0));
    let bounds = [bound_of(lines, |cell| cell.bound.as_ref()), bound_of(lines, best)];
    let rates = lines.iter().flat_map(|line| &line.cells).filter_map(|cell| speed(cell));
    let limits = bounds.iter().flatten().map(|(_, bound)| bound.bytes_per_second);
    let y =
        Axis::new(rates.chain(limits).map(|rate| rate / 1e9), (BOTTOM, TOP)).with_room(1.15, 1.25);
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\
         <title>{}: GB/s by size</title>\n",
        escape(title)
    );
    svg += &grid(x, y);
    for (index, bound) in bounds.iter().enumerate() {
        svg += &of_bound(bound, x, y, index);
    }
    for (index, line) in lines.iter().enumerate() {
        svg += &of_line(line, index, x, y);
    }
    svg + "</svg>\n"
}

fn best(cell: &Cell) -> Option<&Bound> {
    cell.bound_at_best.as_ref()
}

/// The bound of the fastest line at each size. With a bound that holds for all sizes the line is level.
fn bound_of<'a>(
    lines: &[Line<'a>],
    of: fn(&'a Cell) -> Option<&'a Bound>,
) -> Vec<(f64, &'a Bound)> {
    let cells = lines.first().map(|line| line.cells.as_slice()).unwrap_or_default();
    cells.iter().filter_map(|cell| Some((cell.key.size_bytes as f64, of(cell)?))).collect()
}

fn grid(x: Axis, y: Axis) -> String {
    let mut svg = String::new();
    for minor in [2.0, 5.0].into_iter().flat_map(|times| y.powers(10.0, times)) {
        let at = y.at(minor);
        svg += &format!(
            "<line class=\"minor\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        );
    }
    // Where there is one decade or none, the lines between are named as well.
    let few = y.powers(10.0, 1.0).len() < 2;
    let named = if few { &[1.0, 2.0, 5.0][..] } else { &[1.0][..] };
    for value in named.iter().flat_map(|times| y.powers(10.0, *times)) {
        let (at, beside, text) = (y.at(value), LEFT - 6.0, label(value));
        svg += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"end\" x=\"{beside}\" y=\"{:.1}\">{text}</text>",
            at + 4.5
        );
    }
    for value in x.powers(16.0, 4096.0) {
        let at = x.at(value);
        // CAST: powers of two that are sizes.
        let text = bytes(value.round() as u64);
        svg += &format!(
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
             <text class=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{text}</text>",
            BOTTOM + 18.0
        );
    }
    let (middle, below) = (f64::midpoint(LEFT, RIGHT), HEIGHT - 6.0);
    svg + &format!(
        "<text class=\"middle axis\" x=\"{middle:.1}\" y=\"{below}\">bytes of one copy</text>\
         <text class=\"axis\" x=\"4\" y=\"13\">GB/s</text>\n"
    )
}

/// A bound: a line of dashes with its name.
fn of_bound(bound: &[(f64, &Bound)], x: Axis, y: Axis, index: usize) -> String {
    let Some((_, last)) = bound.last() else { return String::new() };
    let of = |(size, bound): &(f64, &Bound)| (x.at(*size), y.at(bound.bytes_per_second / 1e9));
    let (class, which) = if index == 0 { ("bound", "") } else { ("bound best", "at best: ") };
    let (end, above) = (RIGHT - 8.0, y.at(last.bytes_per_second / 1e9) - 5.0);
    format!(
        "<path class=\"{class}\" d=\"{}\"/><text class=\"end limit\" x=\"{end}\" y=\"{above:.1}\">{which}{}</text>\n",
        path(bound.iter().map(of)),
        escape(&last.why)
    )
}

/// A line, its marks, and the interval of each.
fn of_line(line: &Line<'_>, index: usize, x: Axis, y: Axis) -> String {
    let point = |cell: &&Cell| Some((x.at(cell.key.size_bytes as f64), y.at(speed(cell)? / 1e9)));
    let class = series_class(index);
    let d = path(line.cells.iter().filter_map(point));
    let mut svg = format!("<path class=\"line {class}\" d=\"{d}\"/>");
    for cell in &line.cells {
        let (Some((at, height)), Some(summary)) = (point(cell), cell.summary) else { continue };
        let rate = |ns: f64| cell.bytes.map_or(0.0, |bytes| bytes as f64 / ns);
        if summary.lo_ns > 0.0 {
            let (top, bottom) = (y.at(rate(summary.lo_ns)), y.at(rate(summary.hi_ns)));
            svg += &format!(
                "<line class=\"line {class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>"
            );
        }
        svg += &marker(index, at, height);
    }
    svg + "\n"
}

fn numbers(sweep: &Sweep<'_>) -> String {
    let headings: Vec<&str> =
        std::iter::once("size").chain(sweep.lines.iter().map(|line| line.name.as_str())).collect();
    let row = |size: &u64| {
        let rates = sweep.lines.iter().map(|line| line.at(*size).and_then(speed).map(gigabytes));
        std::iter::once(bytes(*size)).chain(rates.map(or_dash)).collect()
    };
    table(&headings, 1, &sweep.sizes().iter().map(row).collect::<Vec<_>>())
}
