//! What is a table and nothing more.

use super::super::csv;
use super::super::run::{Access, AccessWay, Cell, Device, Figure, Hop, Run, Target, WayState};
use super::super::units::{Rate, bytes, gigabytes, time};
use super::super::verdict::{name, share, speed};
use super::super::view::{engine_name, pattern_name, patterns};
use super::markup::{details, escape, or_dash, table};

pub(super) const NOISE_NOTE: &str = "One operation measured as both sides of a comparison. Without noise the ratio is 1, \
    and the interval is narrow; what differs by less than this says nothing.";

/// What cannot be seen.
const HIDDEN: &str = "not visible to this user";

pub(super) fn devices(run: &Run) -> String {
    let rows: Vec<_> = run.devices.iter().map(device).collect();
    let machine = &run.machine;
    let mut facts = vec![];
    facts.extend(machine.cpu.as_deref().map(escape));
    facts.extend(machine.processors.map(|it| format!("{it} processors")));
    facts.extend(machine.memory_bytes.map(|it| bytes(it >> 20 << 20)));
    facts.extend(machine.numa_nodes.filter(|it| *it > 1).map(|it| format!("{it} NUMA nodes")));
    facts.extend(machine.kernel.as_deref().map(|it| format!("kernel {}", escape(it))));
    facts.extend(machine.governor.as_deref().map(|it| format!("governor {}", escape(it))));
    facts.extend(machine.load_average.map(|it| format!("load average {it} at the start")));
    let heads = ["device", "driver", "PCI", "link at most", "NUMA node", "BAR", "memory", "IOMMU"];
    let devices = if rows.is_empty() { String::new() } else { table(&heads, heads.len(), &rows) };
    format!("<section>\n{devices}<p class=\"note\">Host: {}</p>\n</section>\n", facts.join(", "))
}

fn device(device: &Device) -> Vec<String> {
    let pci = device.pci.as_ref();
    let no_bus = device.pci_address.is_none();
    // What is on no bus has no such fact; otherwise the fact is there and cannot be read.
    let missing = || if no_bus { "–".to_owned() } else { HIDDEN.to_owned() };
    let of = |fact: Option<String>| fact.unwrap_or_else(missing);
    let link = |hop: &Hop| Some(format!("{} GT/s × {}", hop.speed_max_gts?, hop.width_max?));
    let heaps: u64 =
        device.heaps.iter().filter(|heap| heap.device_local).map(|heap| heap.size_bytes).sum();
    let software = if device.software { ", software" } else { "" };
    vec![
        format!("device{}: {} ({}{software})", device.index, device.name, device.kind),
        device.driver_info.clone().or_else(|| device.driver.clone()).unwrap_or_default(),
        or_dash(device.pci_address.as_ref()),
        of(pci.and_then(|pci| pci.path.first()).and_then(link)),
        of(pci.and_then(|pci| pci.numa_node).map(|it| it.to_string())),
        of(pci.and_then(|pci| pci.bar_bytes).map(bytes)),
        bytes(heaps >> 20 << 20),
        of(pci.and_then(|pci| pci.iommu.clone())),
    ]
}

pub(super) fn several(run: &Run) -> String {
    let row = |cell: &&Cell| {
        let key = &cell.key;
        vec![
            format!("{} → {}", key.from, key.to),
            pattern_name(key.pattern).to_owned(),
            format!("{}, {}", key.way, engine_name(key.engine)),
            csv::name(&key.direction).replace('_', " "),
            bytes(key.size_bytes),
            or_dash(speed(cell).map(gigabytes)),
            percent(cell),
        ]
    };
    let rows: Vec<_> = patterns(run).iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    table(&["ends", "which", "way", "direction", "size", "GB/s", "of the bound"], 4, &rows)
}

fn percent(cell: &Cell) -> String {
    or_dash(share(cell).map(|share| format!("{:.0} %", share * 100.0)))
}

pub(super) fn access(run: &Run) -> String {
    let state = |way: &AccessWay| match way.state {
        WayState::Proved => "proved",
        WayState::Refused => "refused",
        WayState::Untried => "not tried",
    };
    let row = |access: &Access, way: &AccessWay| {
        let chosen = access.chosen.as_ref() == Some(&way.way);
        let used = if chosen { format!("{}, used", state(way)) } else { state(way).to_owned() };
        vec![
            format!("{} → {}", access.from, access.to),
            way.way.clone(),
            used,
            way.reason.clone().unwrap_or_default(),
            or_dash(way.read_bytes_per_second.map(Rate)),
        ]
    };
    let rows: Vec<_> = run
        .access
        .iter()
        .flat_map(|access| access.ways.iter().map(move |way| row(access, way)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table(&["from → to", "way", "state", "why not", "read in the proof"], 4, &rows)
}

pub(super) fn noise(run: &Run) -> String {
    let row = |noise: &super::super::run::Noise| {
        vec![
            noise.what.clone(),
            or_dash(noise.size_bytes.map(bytes)),
            format!("{:.3}", noise.ratio),
            format!("{:.3} … {:.3}", noise.ratio_lo, noise.ratio_hi),
            time(noise.median_ns),
        ]
    };
    let rows: Vec<_> = run.noise.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    table(&["what", "size", "ratio", "95 % interval", "each"], 1, &rows)
}

pub(super) fn figures(run: &Run) -> String {
    let row = |figure: &Figure| {
        let sign = if figure.direction == Target::AtLeast { "≥" } else { "≤" };
        let number = |value: f64| format!("{value:.4}");
        let exact = figure.lo == figure.hi;
        vec![
            figure.id.clone(),
            figure.what.clone(),
            figure.baseline.clone().unwrap_or_default(),
            number(figure.value),
            if exact {
                String::new()
            } else {
                format!("{} … {}", number(figure.lo), number(figure.hi))
            },
            figure.target.map_or(String::new(), |target| format!("{sign} {target}")),
            figure.seconds.map_or(String::new(), |it| time(it * 1e9)),
            figure.baseline_seconds.map_or(String::new(), |it| time(it * 1e9)),
        ]
    };
    let rows: Vec<_> = run.figures.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["id", "what", "baseline", "value", "95 % interval", "target", "ours", "baseline"];
    table(&heads, 3, &rows)
}

/// Every cell, with what it is judged by.
pub(super) fn cells(run: &Run) -> String {
    let row = |cell: &Cell| {
        let summary = cell.summary;
        let bound = cell.bound_at_best.as_ref().or(cell.bound.as_ref());
        let causes: Vec<_> = cell.causes.iter().map(|cause| cause.evidence.as_str()).collect();
        let drift = summary.and_then(|it| it.drift);
        let drift = drift.map(|it| format!("drifts by {:.0} %", it * 100.0));
        let notes: Vec<_> = cell
            .note
            .clone()
            .into_iter()
            .chain(drift)
            .chain(causes.iter().map(ToString::to_string))
            .collect();
        vec![
            name(&cell.key),
            engine_name(cell.key.engine).to_owned(),
            csv::name(&cell.key.direction).replace('_', " "),
            csv::name(&cell.key.actor),
            csv::name(&cell.verdict).replace('_', " "),
            notes.join("; "),
            or_dash(speed(cell).map(gigabytes)),
            or_dash(bound.map(|it| gigabytes(it.bytes_per_second))),
            or_dash(summary.map(|it| time(it.median_ns))),
            or_dash(summary.map(|it| format!("{} … {}", time(it.lo_ns), time(it.hi_ns)))),
            or_dash(summary.map(|it| it.samples)),
        ]
    };
    if run.cells.is_empty() {
        return String::new();
    }
    let heads = [
        "cell",
        "engine",
        "direction",
        "actor",
        "verdict",
        "why, and notes",
        "GB/s",
        "bound",
        "median",
        "95 % interval",
        "samples",
    ];
    let rows: Vec<_> = run.cells.iter().map(row).collect();
    details(&format!("{} cells", run.cells.len()), &table(&heads, 6, &rows))
}
