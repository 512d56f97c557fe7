//! The reports as tables, for people: no colour, at most 100 columns while there are few devices.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use crate::report::{
    DemoReport, DeviceFacts, DevicesReport, DrmFacts, PairResult, PciFacts, RouteFacts,
    UnusableFacts, WorkingFacts,
};
use crate::size::Human;

const WIDTH: u16 = 100;

/// `peerbuf devices`.
pub(crate) fn devices(report: &DevicesReport) -> String {
    let mut text = Text::default();
    text.line(format_args!("{}", device_table(&report.devices)));
    text.unusable(&report.unusable);
    text.line(format_args!("\nRoutes, from the row's device to the column's (✓ proved with data; speed of the probe's read):"));
    text.line(format_args!("{}", matrix(report)));
    let refused = refusals(&report.routes);
    if refused.row_count() > 0 {
        text.line(format_args!("\nNot used, and why:"));
        text.line(format_args!("{refused}"));
    }
    let proved = report.routes.iter().filter(|route| route.verified).count();
    text.line(format_args!(
        "\n{proved} of {} ordered pairs have a proved route.",
        report.routes.len()
    ));
    text.0
}

/// `peerbuf demo`.
pub(crate) fn demo(report: &DemoReport) -> String {
    let mut text = Text::default();
    text.line(format_args!("One buffer of {}, shared by", Human(report.size)));
    for device in &report.devices {
        let driver = driver(device);
        text.line(format_args!("  {}  {} · {driver}", device.index, device.name));
    }
    text.unusable(&report.unusable);
    text.line(format_args!("\n{}", results(report)));
    let place = if report.domain == "vram" { "the memory of device 0" } else { "system memory" };
    let moved = match report.generation {
        0 => "where it was created".to_owned(),
        n => format!("after {n} {}, to where all can reach it", plural(n, "move")),
    };
    text.line(format_args!(
        "Each rate is that of one pass; the first fill also pays for the first touch of fresh memory."
    ));
    text.line(format_args!(
        "\nThe buffer is in {place} ({}), generation {}: {moved}.",
        report.provider, report.generation,
    ));
    text.line(format_args!(
        "{} verified over {} ordered pairs in {:.2} s: {}.",
        Human(report.bytes_verified),
        report.pairs,
        report.seconds,
        match report.mismatches {
            0 => "every byte right".to_owned(),
            wrong => format!("{wrong} wrong {}", plural(wrong, "word")),
        },
    ));
    text.0
}

fn plural(count: impl Into<u64>, noun: &str) -> String {
    if count.into() == 1 { noun.to_owned() } else { format!("{noun}s") }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string cannot fail");
    }

    fn unusable(&mut self, unusable: &[UnusableFacts]) {
        for UnusableFacts { adapter, name, reason } in unusable {
            self.line(format_args!("Left out: adapter {adapter}, {name}: {reason}"));
        }
    }
}

fn table(header: impl IntoIterator<Item = impl Into<Cell>>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED.with_rounded_corners())
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header.into_iter().map(Into::into).collect::<Vec<Cell>>());
    table
}

fn device_table(devices: &[DeviceFacts]) -> Table {
    let mut table = table(["#", "device", "type", "memory", "exports", "imports", "node"]);
    for device in devices {
        table.add_row([
            device.index.to_string(),
            description(device),
            device.kind.to_owned(),
            lines(device.heaps.iter().map(|heap| {
                let place = if heap.device_local { "device" } else { "host" };
                format!("{} {place}", Human(heap.size))
            })),
            lines(&device.exports),
            lines(&device.imports),
            node(device),
        ]);
    }
    table
}

/// Name and version. Drivers without a version text use Vulkan's own packing of the number.
fn driver(device: &DeviceFacts) -> String {
    let (name, version) = (&device.driver, device.driver_version);
    match &device.driver_info {
        Some(info) => format!("{name}, {info}"),
        None => {
            let (major, minor, patch) = (version >> 22, version >> 12 & 0x3ff, version & 0xfff);
            format!("{name}, {major}.{minor}.{patch}")
        }
    }
}

/// What it is, and what `--devices` calls it where that is not its number here.
fn description(device: &DeviceFacts) -> String {
    let adapter = (device.index != device.adapter).then(|| format!("adapter {}", device.adapter));
    lines([device.name.clone(), driver(device)].into_iter().chain(adapter))
}

fn node(device: &DeviceFacts) -> String {
    let drm = |prefix, node: Option<DrmFacts>| node.map(|node| format!("{prefix}{}", node.minor));
    let pci = device.pci.map(|PciFacts { domain, bus, device, function }| {
        format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    });
    let known = [drm("renderD", device.drm_render), drm("card", device.drm_primary), pci];
    lines(known.into_iter().flatten())
}

/// One below the other; a dash if there is none.
fn lines(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "–".to_owned() } else { items.join("\n") }
}

/// Who can share with whom: the chosen route first, then the others that work.
fn matrix(report: &DevicesReport) -> Table {
    let corner = "from \\ to".to_owned();
    let header = report.devices.iter().map(|device| device.index.to_string());
    let mut table = table([corner].into_iter().chain(header));
    for from in &report.devices {
        let cells = report.devices.iter().map(|to| {
            let pair = report.routes.iter().find(|r| (r.from, r.to) == (from.index, to.index));
            pair.map_or_else(|| "–".to_owned(), route_cell)
        });
        table.add_row([from.index.to_string()].into_iter().chain(cells));
    }
    table
}

fn route_cell(pair: &RouteFacts) -> String {
    let Some(chosen) = pair.route else {
        return "✗ none".to_owned();
    };
    let (first, others): (Vec<&WorkingFacts>, Vec<&WorkingFacts>) =
        pair.working.iter().partition(|working| working.route == chosen);
    lines(first.into_iter().chain(others).map(|working| {
        format!("✓ {} {:.1} GB/s", working.route, working.read_bytes_per_second / 1e9)
    }))
}

/// Every reason once, with the routes that it refuses and the pairs that it holds for.
fn refusals(routes: &[RouteFacts]) -> Table {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for pair in routes {
        let refused = pair.refused.iter().map(|refusal| (refusal.route, refusal.reason.as_str()));
        let error = pair.error.as_deref().map(|error| ("any", error));
        for (route, reason) in refused.chain(error) {
            let known = groups.iter_mut().find(|g| g.routes == [route] && g.reason == reason);
            match known {
                Some(group) => group.pairs.push((pair.from, pair.to)),
                None => groups.push(Group {
                    routes: vec![route],
                    pairs: vec![(pair.from, pair.to)],
                    reason,
                }),
            }
        }
    }
    let mut table = table(["route", "pairs", "reason"]);
    for Group { routes: refused, pairs, reason } in merge(groups) {
        let pairs = if pairs.len() == routes.len() { "all".to_owned() } else { compact(&pairs) };
        table.add_row([lines(refused), pairs, reason.to_owned()]);
    }
    table
}

/// Routes that were refused for the same reason, between the same pairs.
struct Group<'a> {
    routes: Vec<&'a str>,
    pairs: Vec<(usize, usize)>,
    reason: &'a str,
}

/// Joins groups of one route that say the same, and puts those of one route side by side.
fn merge(groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
    let mut merged: Vec<Group<'_>> = Vec::new();
    for group in groups {
        let same = |m: &&mut Group<'_>| m.reason == group.reason && m.pairs == group.pairs;
        if let Some(known) = merged.iter_mut().find(same) {
            known.routes.extend(group.routes);
            continue;
        }
        let after = merged.iter().rposition(|m| m.routes[0] == group.routes[0]);
        merged.insert(after.map_or(merged.len(), |at| at + 1), group);
    }
    merged
}

/// Pairs by their first device: `0 → 1, 2`, one line each.
fn compact(pairs: &[(usize, usize)]) -> String {
    let mut by_first: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (from, to) in pairs {
        by_first.entry(*from).or_default().push(to.to_string());
    }
    lines(by_first.into_iter().map(|(from, to)| format!("{from} → {}", to.join(", "))))
}

fn results(report: &DemoReport) -> Table {
    let mut table =
        table(["writes → checks", "verified", "wrong words", "fill GB/s", "verify GB/s"]);
    for pair in &report.results {
        let rate = |seconds: f64| format!("{:.2}", report.size as f64 / seconds / 1e9);
        table.add_row([
            format!("{} → {}", pair.from, pair.to),
            Human(pair.bytes_verified).to_string(),
            wrong(pair),
            rate(pair.fill_seconds),
            rate(pair.verify_seconds),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn wrong(pair: &PairResult) -> String {
    match pair.first_mismatch {
        None => pair.mismatches.to_string(),
        Some(first) => format!("{}, the first at byte {first}", pair.mismatches),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{HeapFacts, RefusalFacts, SCHEMA};

    fn device(index: usize, adapter: usize) -> DeviceFacts {
        DeviceFacts {
            index,
            adapter,
            name: format!("GPU {adapter}"),
            driver: "driver".into(),
            driver_info: None,
            driver_version: 5 << 22 | 6 << 12 | 7,
            kind: "discrete",
            uuid: String::new(),
            driver_uuid: String::new(),
            heaps: vec![HeapFacts { size: 8 << 30, device_local: true }],
            exports: vec!["dma_buf"],
            imports: vec![],
            drm_render: Some(DrmFacts { major: 226, minor: 128 }),
            drm_primary: None,
            pci: Some(PciFacts { domain: 0, bus: 0xc1, device: 0, function: 0 }),
        }
    }

    fn refused(from: usize, to: usize, reasons: &[(&'static str, &str)]) -> RouteFacts {
        let refusal =
            |&(route, reason): &(_, &str)| RefusalFacts { route, reason: reason.to_owned() };
        RouteFacts {
            from,
            to,
            route: None,
            verified: false,
            working: vec![],
            refused: reasons.iter().map(refusal).collect(),
            error: None,
        }
    }

    /// Checks that some line has all `parts`.
    fn check(text: &str, parts: &[&str]) {
        let found = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line with {parts:?} in\n{text}");
    }

    #[test]
    fn what_does_not_work_is_shown_once_with_its_pairs() {
        let reasons = [("dma_buf", "broken"), ("memfd", "broken"), ("staged", "slow")];
        let mut lost = refused(1, 0, &[]);
        lost.error = Some("the device is lost".into());
        let report = DevicesReport {
            schema: SCHEMA,
            devices: vec![device(0, 0), device(1, 3), device(2, 3)],
            routes: vec![
                refused(0, 1, &reasons),
                refused(0, 2, &reasons),
                lost,
                refused(1, 2, &[("dma_buf", "hangs")]),
                refused(2, 0, &[("dma_buf", "hangs")]),
                refused(2, 1, &[]),
            ],
            unusable: vec![UnusableFacts {
                adapter: 1,
                name: "Old GPU".into(),
                reason: "lacks Vulkan 1.2".into(),
            }],
        };
        let text = devices(&report);
        check(&text, &["GPU 3", "8 GiB device", "renderD128"]);
        check(&text, &["driver, 5.6.7", "0000:c1:00.0"]);
        check(&text, &["adapter 3"]);
        check(&text, &["Left out: adapter 1, Old GPU: lacks Vulkan 1.2"]);
        check(&text, &["✗ none"]);
        check(&text, &["dma_buf", "0 → 1, 2", "broken"]);
        check(&text, &["staged", "0 → 1, 2", "slow"]);
        check(&text, &["dma_buf", "1 → 2", "hangs"]);
        check(&text, &["any", "1 → 0", "the device is lost"]);
        check(&text, &["0 of 6 ordered pairs have a proved route."]);
        assert_eq!(text.matches("broken").count(), 1, "{text}");
    }

    #[test]
    fn wrong_words_are_not_overlooked() {
        let pair = |from, to, mismatches, first_mismatch| PairResult {
            from,
            to,
            bytes_verified: 4096,
            mismatches,
            first_mismatch,
            fill_seconds: 1.0,
            verify_seconds: 1.0,
        };
        let mut report = DemoReport {
            schema: SCHEMA,
            size: 4096,
            pairs: 2,
            bytes_verified: 8192,
            mismatches: 3,
            domain: "vram",
            provider: "dma_buf",
            generation: 0,
            seconds: 1.0,
            devices: vec![device(0, 0), device(1, 1)],
            results: vec![pair(0, 1, 0, None), pair(1, 0, 3, Some(256))],
            unusable: vec![],
        };
        let text = demo(&report);
        check(&text, &["1 → 0", "3, the first at byte 256"]);
        check(&text, &["in the memory of device 0 (dma_buf)", "generation 0"]);
        check(&text, &["8 KiB verified over 2 ordered pairs", "3 wrong words."]);
        report.mismatches = 1;
        check(&demo(&report), &["1 wrong word."]);
    }
}
