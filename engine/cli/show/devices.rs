//! `peerbuf devices` as text: the devices, the routes between them, and the routes that were refused.

use comfy_table::Table;

use super::refusals::refusals;
use super::text::{Text, counted, driver, lines, table};
use crate::report::{DeviceFacts, DevicesReport, DrmFacts, PciFacts, RouteFacts, WorkingFacts};
use crate::size::Human;

/// What the names of routes mean.
const ROUTES: [(&str, &str); 9] = [
    ("dma_buf", "the first device's memory, exported as a dma-buf"),
    ("opaque_fd", "the first device's memory, exported for the same driver and device"),
    ("dma_heap", "system memory from /dev/dma_heap, as a dma-buf"),
    ("udmabuf", "system memory from /dev/udmabuf, as a dma-buf"),
    ("host_visible_dma_buf", "system memory from the first device's driver, as a dma-buf"),
    ("host_visible_opaque_fd", "the same, for the same driver and device only"),
    ("memfd", "system memory that both devices import by address"),
    ("anonymous", "the same without a file, for drivers that refuse files"),
    ("staged", "no shared memory; the bytes are copied through the host"),
];

/// What the names of waits mean: how the second device's queue waits for the first one's work.
const WAITS: [(&str, &str); 5] = [
    ("same_timeline", "both are one device, with its own semaphore"),
    ("shared_timeline", "both devices share one semaphore"),
    ("sync_fd", "the kernel passes the signal on"),
    ("opaque_semaphore", "the driver passes the signal on"),
    ("bridge", "a host thread passes the signal on"),
];

/// `peerbuf devices`.
pub(crate) fn devices(report: &DevicesReport, verbose: bool) -> String {
    let mut text = Text::default();
    text.line(format_args!("{}", device_table(&report.devices, verbose)));
    text.unusable(&report.unusable);
    text.line(format_args!(
        "\nRoutes from row to column (✓ proved with data, at the speed of reading):"
    ));
    text.line(format_args!("{}", matrix(report)));
    for (name, meaning) in ROUTES {
        let mut working = report.routes.iter().flat_map(|pair| &pair.working);
        if working.any(|working| working.route == name) {
            text.item(&format!("  {name}: "), meaning);
        }
    }
    for (name, meaning) in WAITS {
        if report.routes.iter().any(|pair| wait(pair) == Some(name)) {
            text.item(&format!("  waits by {name}: "), meaning);
        }
    }
    let refused = refusals(&report.routes);
    if refused.row_count() > 0 {
        text.line(format_args!(
            "\nRoutes that do not work, and why (pairs: first → second device):"
        ));
        text.line(format_args!("{refused}"));
    }
    if let Some(images) = &report.images {
        text.images(images);
    }
    let proved = report.routes.iter().filter(|route| route.verified).count();
    text.line(format_args!(
        "\n{proved} of {} a proved route.",
        match report.routes.len() {
            1 => "1 ordered pair has".to_owned(),
            all => format!("{} have", counted(all as u64, "ordered pair")),
        }
    ));
    text.0
}

fn device_table(devices: &[DeviceFacts], verbose: bool) -> Table {
    let mut table = table(["#", "device", "memory", "exports", "imports"]);
    for device in devices {
        table.add_row([
            device.index.to_string(),
            description(device, verbose),
            lines(device.heaps.iter().map(|heap| {
                let owner = if heap.device_local { "device" } else { "host" };
                format!("{} ({owner})", Human(heap.size))
            })),
            lines(&device.exports),
            lines(&device.imports),
        ]);
    }
    table
}

/// What the device is, and what `--devices` takes for it where that is not its number here.
fn description(device: &DeviceFacts, verbose: bool) -> String {
    let mut words = vec![device.name.clone(), driver(device)];
    let mut place = vec![device.kind.to_owned()];
    place.extend(nodes(device));
    words.push(place.join(", "));
    if device.index != device.adapter {
        words.push(format!("adapter {}", device.adapter));
    }
    if verbose {
        words.push(format!("UUID {}", device.uuid));
        words.push(format!("driver UUID {}", device.driver_uuid));
    }
    lines(words)
}

/// The device files and the PCI address, where the device has them.
fn nodes(device: &DeviceFacts) -> impl Iterator<Item = String> {
    let drm = |prefix, node: Option<DrmFacts>| node.map(|node| format!("{prefix}{}", node.minor));
    let pci = device.pci.map(|PciFacts { domain, bus, device, function }| {
        format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    });
    [drm("renderD", device.drm_render), drm("card", device.drm_primary), pci].into_iter().flatten()
}

/// The routes of each ordered pair: the chosen one first, then the others that work.
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
    let routes = first.into_iter().chain(others).map(|working| {
        let drags = if working.drags_out { ", moves memory out" } else { "" };
        format!("✓ {} {:.1} GB/s{drags}", working.route, working.read_bytes_per_second / 1e9)
    });
    lines(routes.chain(wait(pair).map(|wait| format!("waits by {wait}"))))
}

/// How the second device's queue waits for the first one's. A route has the name `opaque_fd` too.
fn wait(pair: &RouteFacts) -> Option<&'static str> {
    pair.wait.map(|wait| if wait == "opaque_fd" { "opaque_semaphore" } else { wait })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, device};
    use super::*;
    use crate::report::{RefusalFacts, SCHEMA, UnusableFacts};

    fn pair(from: usize, to: usize) -> RouteFacts {
        RouteFacts {
            from,
            to,
            route: None,
            verified: false,
            working: vec![],
            refused: vec![],
            untried: vec![],
            trials: vec![],
            wait: None,
            error: None,
        }
    }

    fn refused(from: usize, to: usize, reasons: &[(&'static str, &str)]) -> RouteFacts {
        let refusal =
            |&(route, reason): &(_, &str)| RefusalFacts { route, reason: reason.to_owned() };
        RouteFacts { refused: reasons.iter().map(refusal).collect(), ..pair(from, to) }
    }

    #[test]
    fn each_refusal_is_shown_once_with_its_pairs() {
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
            images: None,
            unusable: vec![UnusableFacts {
                adapter: 1,
                name: "Old GPU".into(),
                reason: "lacks Vulkan 1.2".into(),
            }],
        };
        let text = devices(&report, false);
        check(&text, &["GPU 3", "8 GiB (device)"]);
        check(&text, &["driver, 5.6.7"]);
        check(&text, &["discrete, renderD128, 0000:c1:00.0"]);
        check(&text, &["adapter 3"]);
        check(&text, &["not used: adapter 1, Old GPU: lacks Vulkan 1.2"]);
        check(&text, &["✗ none"]);
        check(&text, &["dma_buf", "0 → 1, 2", "broken"]);
        check(&text, &["staged", "0 → 1, 2", "slow"]);
        check(&text, &["dma_buf", "1 → 2", "hangs"]);
        check(&text, &["any", "1 → 0", "the device is lost"]);
        check(&text, &["0 of 6 ordered pairs have a proved route."]);
        assert_eq!(text.matches("broken").count(), 1, "{text}");
        assert!(!text.contains("uuid-3"), "{text}");
        check(&devices(&report, true), &["UUID uuid-3"]);
    }

    #[test]
    fn the_routes_and_waits_shown_are_explained() {
        let working =
            |route| WorkingFacts { route, read_bytes_per_second: 2.0e9, drags_out: false };
        let working = RouteFacts {
            route: Some("memfd"),
            verified: true,
            working: vec![working("staged"), working("memfd")],
            wait: Some("opaque_fd"),
            ..pair(0, 1)
        };
        let report = DevicesReport {
            schema: SCHEMA,
            devices: vec![device(0, 0), device(1, 1)],
            routes: vec![working],
            images: None,
            unusable: vec![],
        };
        let text = devices(&report, false);
        check(&text, &["✓ memfd 2.0 GB/s"]);
        check(&text, &["waits by opaque_semaphore"]);
        check(&text, &["  memfd: system memory"]);
        check(&text, &["  staged: no shared memory"]);
        check(&text, &["  waits by opaque_semaphore: the driver"]);
        assert!(!text.contains("dma_heap") && !text.contains("opaque_fd:"), "{text}");
        check(&text, &["1 of 1 ordered pair has a proved route."]);
    }

    /// A name that the library can report has a meaning here.
    #[test]
    fn every_route_and_wait_has_a_meaning() {
        use peerbuf::{Route, WaitRoute};
        let waits = [
            WaitRoute::SameTimeline,
            WaitRoute::SharedTimeline,
            WaitRoute::SyncFd,
            WaitRoute::OpaqueFd,
            WaitRoute::Bridge,
        ];
        for name in waits.map(WaitRoute::name) {
            let shown = wait(&RouteFacts { wait: Some(name), ..pair(0, 1) });
            assert!(WAITS.iter().any(|(known, _)| Some(*known) == shown), "{name}");
        }
        for name in Route::LADDER.iter().map(|route| route.name()) {
            assert!(ROUTES.iter().any(|(known, _)| *known == name), "{name}");
        }
    }
}
