//! Why a copy is slower than the hardware could make it, as far as it can be shown.

use super::super::run::{
    Cause, CauseKind, Cell, CopyEngine, Device, Direction, End, Hop, Key, Run,
};
use super::bound::{self, Link};
use super::rate::speed;

/// The reasons that can be seen, those of the link first.
pub(super) fn causes(cell: &Cell, run: &Run) -> Vec<Cause> {
    let links: Vec<_> =
        bound::devices(cell, run).map(|device| Link::new(cell, run, device)).collect();
    let mut causes: Vec<Cause> = links.iter().flat_map(of_link).collect();
    causes.extend(starved(cell, run));
    causes.extend(through_host(cell, run));
    causes.extend(far_node(cell, run));
    causes.extend(links.iter().filter_map(|link| small_bar(cell, link.device)));
    causes.extend(uncached(cell));
    causes.extend(software(cell, run));
    causes.extend(access_control(cell, run));
    causes.extend(links.iter().filter_map(|link| iommu(link.device)));
    // What is certain comes first; the order is kept otherwise.
    causes.sort_by_key(|cause| !cause.certain);
    causes
}

fn certain(kind: CauseKind, evidence: String) -> Cause {
    Cause { kind, evidence, certain: true }
}

fn possible(kind: CauseKind, evidence: String) -> Cause {
    Cause { kind, evidence, certain: false }
}

/// What the links on one device's side show while they are loaded.
fn of_link(link: &Link<'_>) -> Vec<Cause> {
    let Some((device, bridges)) = link.loaded.split_first() else { return vec![] };
    let mut causes = vec![];
    let name = &device.address;
    let suspended = device.runtime_status.as_deref() == Some("suspended");
    let state = device.power_state.as_deref().filter(|state| state.starts_with("D3"));
    if suspended || state.is_some() {
        let state = state.unwrap_or("suspended");
        causes.push(certain(
            CauseKind::Asleep,
            format!("{name} was asleep ({state}) during the copy"),
        ));
    }
    let mut most = bound::at_best(device);
    if let (Some((gts, lanes)), Some((max_gts, max_lanes))) = (bound::now(device), most) {
        let evidence = || {
            format!(
                "{name} has PCIe {gts} GT/s × {lanes} of {max_gts} GT/s × {max_lanes} during the copy"
            )
        };
        if gts < max_gts {
            causes.push(certain(CauseKind::SlowLink, evidence()));
        }
        if lanes < max_lanes {
            causes.push(certain(CauseKind::NarrowLink, evidence()));
        }
        // A link that is both is told once.
        causes.dedup_by(|second, first| second.evidence == first.evidence);
        // A bridge is judged by what arrives at it.
        most = Some((gts, lanes));
    }
    let rate = |(gts, lanes)| bound::bytes_per_second(gts, lanes);
    let narrower = |bridge: &&Hop| {
        bound::now(bridge).zip(most).is_some_and(|(it, most)| rate(it) < rate(most) * 0.999)
    };
    let narrowest = bridges.iter().filter(narrower).min_by(|first, second| {
        let of = |hop: &Hop| bound::now(hop).map_or(f64::INFINITY, rate);
        of(first).total_cmp(&of(second))
    });
    causes.extend(narrowest.and_then(|bridge| narrow_bridge(bridge, name, most?)));
    causes.extend(limiting_slot(device, bridges));
    causes
}

fn narrow_bridge(bridge: &Hop, device: &str, (most_gts, most_lanes): (f64, u32)) -> Option<Cause> {
    let (gts, lanes) = bound::now(bridge)?;
    let address = &bridge.address;
    let has = match lanes < most_lanes {
        true => format!("has {lanes} lanes"),
        false => format!("has {gts} GT/s per lane"),
    };
    Some(certain(
        CauseKind::NarrowBridge,
        format!("bridge {address} {has}, and {device} has {most_gts} GT/s × {most_lanes}"),
    ))
}

/// A slot that has fewer lanes, or slower ones, than the device in it: then the link is as fast as it can become there.
fn limiting_slot(device: &Hop, bridges: &[Hop]) -> Option<Cause> {
    let slot = bridges.first()?;
    let (max_gts, max_lanes) = bound::at_best(device)?;
    let (gts, lanes) = bound::at_best(slot)?;
    let has = match (lanes < max_lanes, gts < max_gts) {
        (true, _) => {
            format!("has {lanes} lanes at most, and {} could use {max_lanes}", device.address)
        }
        (_, true) => format!("has {gts} GT/s at most, and {} could use {max_gts}", device.address),
        _ => return None,
    };
    Some(certain(CauseKind::NarrowBridge, format!("bridge {} {has}", slot.address)))
}

/// The other direction, if it takes more than twice as much.
fn starved(cell: &Cell, run: &Run) -> Option<Cause> {
    let other = match cell.key.direction {
        Direction::BothThere => Direction::BothBack,
        Direction::BothBack => Direction::BothThere,
        Direction::There | Direction::BothSum => return None,
    };
    let is_partner = |it: &&Cell| {
        let of = |key: &Key| (key.from, key.to, key.size_bytes, key.pattern, key.processes);
        it.key.direction == other && of(&it.key) == of(&cell.key)
    };
    let (ours, theirs) = (speed(cell)?, speed(run.cells.iter().find(is_partner)?)?);
    let evidence = || format!("the other direction takes {:.1} times as much", theirs / ours);
    (theirs > 2.0 * ours).then(|| certain(CauseKind::Starved, evidence()))
}

fn through_host(cell: &Cell, run: &Run) -> Option<Cause> {
    let crosses = |device: &Device| device.pci.is_some() && !device.software;
    let links = bound::devices(cell, run).filter(|device| crosses(device)).count();
    (bound::is_through_host(cell) && links >= 2).then(|| {
        let evidence = format!("the way {} goes through the host: two crossings", cell.key.way);
        certain(CauseKind::ThroughHost, evidence)
    })
}

fn far_node(cell: &Cell, run: &Run) -> Option<Cause> {
    let node = |device: &Device| device.pci.as_ref()?.numa_node.filter(|node| *node >= 0);
    let nodes: Vec<_> = bound::devices(cell, run)
        .filter_map(|device| Some((node(device)?, device.pci_address.as_deref()?)))
        .collect();
    if let [(first, name), rest @ ..] = nodes.as_slice()
        && let Some((second, other)) = rest.iter().find(|(node, _)| node != first)
    {
        let evidence =
            format!("other NUMA node: {name} is on node {first}, {other} on node {second}");
        return Some(certain(CauseKind::FarNode, evidence));
    }
    let has_host =
        [cell.key.from, cell.key.to].contains(&End::Host) || bound::is_through_host(cell);
    let nodes_here = run.machine.numa_nodes.unwrap_or(1);
    let (first, name) = nodes.first().filter(|_| has_host && nodes_here > 1)?;
    let evidence =
        format!("{name} is on NUMA node {first} of {nodes_here}; host memory may be on another");
    Some(possible(CauseKind::FarNode, evidence))
}

/// A BAR that shows the host, and other devices, only a part of the memory. What is larger than the BAR cannot be
/// seen as a whole; what is smaller may lie outside of it.
fn small_bar(cell: &Cell, device: &Device) -> Option<Cause> {
    let pci = device.pci.as_ref()?;
    let local = device.heaps.iter().filter(|heap| heap.device_local).map(|heap| heap.size_bytes);
    let (bar, memory) = (pci.bar_bytes?, pci.vram_bytes.or(local.max())?);
    let by_host = matches!(cell.key.engine, CopyEngine::Host | CopyEngine::HostStreaming);
    let to_device = matches!((cell.key.from, cell.key.to), (End::Device(_), End::Device(_)));
    // A BAR is a power of two, and memory that the firmware keeps is missing from the rest.
    if device.software || bar >= memory / 2 || !by_host && !to_device {
        return None;
    }
    let address = device.pci_address.as_deref().unwrap_or(&device.name);
    let (bar_mib, memory_mib) = (bar >> 20, memory >> 20);
    let evidence = format!("BAR of {bar_mib} MiB: {address} has {memory_mib} MiB of memory");
    let certain = cell.key.size_bytes >= bar;
    Some(Cause { kind: CauseKind::SmallBar, evidence, certain })
}

fn uncached(cell: &Cell) -> Option<Cause> {
    let by_host = matches!(cell.key.engine, CopyEngine::Host | CopyEngine::HostStreaming);
    (by_host && cell.host_cached == Some(false)).then(|| {
        let evidence = "the host's cache does not hold the memory that it copies from or to";
        certain(CauseKind::Uncached, evidence.to_owned())
    })
}

fn software(cell: &Cell, run: &Run) -> Option<Cause> {
    let ends = [cell.key.from, cell.key.to];
    let takes_part = |it: &&Device| {
        it.software && (ends.contains(&End::Device(it.index)) || ends.contains(&End::All))
    };
    run.devices.iter().find(takes_part).map(|device| {
        let evidence =
            format!("{} is a software device: its copies are the host's work", device.name);
        certain(CauseKind::SoftwareDevice, evidence)
    })
}

/// A bridge that keeps two devices apart.
fn access_control(cell: &Cell, run: &Run) -> Option<Cause> {
    let devices: Vec<_> = bound::devices(cell, run).collect();
    if devices.len() < 2 || bound::is_through_host(cell) {
        return None;
    }
    let hops = devices.iter().filter_map(|device| device.pci.as_ref()).flat_map(|pci| &pci.path);
    let bridge = hops.into_iter().find(|hop| hop.acs_redirects == Some(true))?;
    let evidence = format!(
        "bridge {} sends what passes between devices up to the root (Access Control Services)",
        bridge.address
    );
    Some(possible(CauseKind::AccessControl, evidence))
}

fn iommu(device: &Device) -> Option<Cause> {
    let kind = device.pci.as_ref()?.iommu.as_deref().filter(|kind| kind.starts_with("DMA"))?;
    let address = device.pci_address.as_deref().unwrap_or(&device.name);
    let evidence = format!("the IOMMU translates for {address} (its group's type is {kind})");
    Some(possible(CauseKind::Iommu, evidence))
}
