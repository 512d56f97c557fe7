//! How long operations take, as a chart of percentiles and as a table.

use super::super::run::{Latency, Percentiles, Run};
use super::super::units::time;
use super::charts::Axis;
use super::markup::{details, escape, or_dash, table};

const WIDTH: f64 = 480.0;
const LEFT: f64 = 8.0;
const RIGHT: f64 = 472.0;
/// The height of one operation: its name and its bar.
const ROW: f64 = 36.0;

pub(super) const NOTE: &str = "The bar is from the median to the 99th percentile, with a line at the 90th; the ring is the \
    longest one. The axis is logarithmic.";

pub(super) fn figure(run: &Run) -> String {
    let measured: Vec<_> = sorted(run)
        .into_iter()
        .filter_map(|latency| Some((latency, latency.percentiles?)))
        .collect();
    if run.latency.is_empty() {
        return String::new();
    }
    let chart = if measured.is_empty() { String::new() } else { chart(&measured) };
    format!("<figure>\n{chart}{}</figure>\n", details("the numbers", &numbers(run)))
}

/// One operation of all pairs together.
fn sorted(run: &Run) -> Vec<&Latency> {
    let first = |operation: &str| run.latency.iter().position(|it| it.key.operation == operation);
    let mut all: Vec<_> = run.latency.iter().collect();
    all.sort_by_key(|latency| first(&latency.key.operation));
    all
}

fn name(latency: &Latency) -> String {
    let key = &latency.key;
    let way = key.way.as_ref().map_or(String::new(), |way| format!(", {way}"));
    let processes = if key.processes > 1 { ", two processes" } else { "" };
    format!("{}, {} → {}{way}{processes}", key.operation.replace('_', " "), key.from, key.to)
}

fn chart(measured: &[(&Latency, Percentiles)]) -> String {
    // CAST: a chart has few rows.
    let bottom = ROW * measured.len() as f64 + 8.0;
    let height = bottom + 24.0;
    let values = measured.iter().flat_map(|(_, of)| [of.p50_ns, of.max_ns]);
    let x = Axis::new(values, (LEFT + 8.0, RIGHT - 8.0)).with_room(1.2, 1.2);
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\"><title>Latency</title>\n"
    );
    for value in x.powers(10.0, 1.0) {
        let at = x.at(value);
        svg += &format!(
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"4\" y2=\"{bottom}\"/>\
             <text class=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 18.0,
            round(value)
        );
    }
    for (index, (latency, of)) in measured.iter().enumerate() {
        let top = ROW * index as f64 + 6.0;
        let (low, high) = (x.at(of.p50_ns), x.at(of.p99_ns));
        let (middle, most) = (x.at(of.p90_ns), x.at(of.max_ns));
        let (text, bar) = (top + 12.0, top + 18.0);
        let (width, line, center) = ((high - low).max(2.0), bar + 10.0, bar + 5.0);
        svg += &format!(
            "<text x=\"{LEFT}\" y=\"{text}\">{}</text>\
             <line class=\"grid\" x1=\"{low:.1}\" x2=\"{most:.1}\" y1=\"{center}\" y2=\"{center}\"/>\
             <rect class=\"bar\" x=\"{low:.1}\" y=\"{bar}\" width=\"{width:.1}\" height=\"10\"/>\
             <line class=\"p90\" x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{bar}\" y2=\"{line}\"/>\
             <circle class=\"most\" cx=\"{most:.1}\" cy=\"{center}\" r=\"3.5\"/>\n",
            escape(&format!("{}: {}", name(latency), time(of.p50_ns))),
        );
    }
    svg + "</svg>\n"
}

/// A power of ten of nanoseconds.
fn round(ns: f64) -> String {
    match ns {
        it if it < 999.0 => format!("{it:.0} ns"),
        it if it < 999e3 => format!("{:.0} µs", it / 1e3),
        it if it < 999e6 => format!("{:.0} ms", it / 1e6),
        it => format!("{:.0} s", it / 1e9),
    }
}

fn numbers(run: &Run) -> String {
    let row = |latency: &Latency| {
        let of = |value: fn(&Percentiles) -> f64| {
            or_dash(latency.percentiles.as_ref().map(|it| time(value(it))))
        };
        vec![
            name(latency),
            of(|it| it.p50_ns),
            of(|it| it.p90_ns),
            of(|it| it.p99_ns),
            of(|it| it.max_ns),
            or_dash(latency.percentiles.map(|it| it.samples)),
            latency.note.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = sorted(run).into_iter().map(row).collect();
    table(&["operation", "p50", "p90", "p99", "max", "samples", "note"], 1, &rows)
}
