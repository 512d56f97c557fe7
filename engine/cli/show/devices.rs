//! `peerbuf devices` as tables: who is there, who reaches whom, and what was refused.

use comfy_table::Table;

use super::refusals::refusals;
use super::{Text, driver, lines, table};
use crate::report::{DeviceFacts, DevicesReport, DrmFacts, PciFacts, RouteFacts, WorkingFacts};
use crate::size::Human;

/// `peerbuf devices`.
pub(crate) fn devices(report: &DevicesReport) -> String {
    let mut text = Text::default();
    text.line(format_args!("{}", device_table(&report.devices)));
    text.unusable(&report.unusable);
    text.line(format_args!("\nRoutes, from the row's device to the column's (✓ proved with data; speed of the probe's read;\nhow the second one's queue waits for the first one's work):"));
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
    let routes = first.into_iter().chain(others).map(|working| {
        format!("✓ {} {:.1} GB/s", working.route, working.read_bytes_per_second / 1e9)
    });
    lines(routes.chain(pair.wait.map(|wait| format!("waits by {wait}"))))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, device};
    use super::*;
    use crate::report::{RefusalFacts, SCHEMA, UnusableFacts};

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
            wait: None,
            error: None,
        }
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
}
