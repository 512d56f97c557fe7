//! What limits a copy: the links that it crosses, and memory.

use super::super::run::{
    Bound, BoundSource, Cell, CopyEngine, Device, Direction, End, Hop, HostCopy, Run,
};
use super::rate;

/// The limits of a copy.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// As the machine is now.
    pub(super) now: Option<Bound>,
    /// As it could be, where that is more.
    pub(super) at_best: Option<Bound>,
}

/// The limits of a cell, by what its run knows.
pub(super) fn limits(cell: &Cell, run: &Run) -> Limits {
    let links: Vec<Link<'_>> =
        devices(cell, run).map(|device| Link::new(cell, run, device)).collect();
    let memory = memory(cell, run);
    let of = |rate: for<'b> fn(&'b Link<'_>) -> Option<&'b Bound>| {
        together(cell, links.iter().filter_map(|link| Some((link.device.index, rate(link)?))))
    };
    let (now, best) = (of(|link| link.now.as_ref()), of(|link| link.at_best.as_ref()));
    // A link that carried more than it could was read in a pause between two copies.
    let now = now.filter(|bound| {
        rate::speed(cell)
            .is_none_or(|speed| speed <= bound.bytes_per_second * rate::slack(bound.source))
    });
    let is_more = |best: &Bound, now: &Bound| best.bytes_per_second > now.bytes_per_second * 1.001;
    let least = |bound: Option<Bound>| match (bound, memory.clone()) {
        (Some(bound), Some(memory)) if is_more(&bound, &memory) => Some(memory),
        (bound, memory) => bound.or(memory),
    };
    // A device whose link could not be read while it was loaded has one as fast as it can be.
    let now = match (now, &best) {
        (Some(now), Some(best)) if is_more(&now, best) => Some(best.clone()),
        (now, best) => now.or_else(|| best.clone()),
    };
    let (now, best) = (least(now), least(best));
    let at_best = best.filter(|best| now.as_ref().is_some_and(|now| is_more(best, now)));
    Limits { now, at_best }
}

/// The devices whose links a copy crosses.
pub(super) fn devices<'a>(cell: &Cell, run: &'a Run) -> impl Iterator<Item = &'a Device> {
    let (from, to) = (cell.key.from, cell.key.to);
    let is_local = from == to && from != End::All;
    let takes_part = move |device: &&Device| {
        let end = End::Device(device.index);
        !is_local && (end == from || end == to || from == End::All || to == End::All)
    };
    run.devices.iter().filter(takes_part)
}

/// Whether the bytes go through host memory although both ends are devices.
pub(super) fn is_through_host(cell: &Cell) -> bool {
    // Copies at once of which each goes its own best way may be direct.
    const DIRECT: [&str; 4] = ["local", "dma_buf", "opaque_fd", "best"];
    let has_host = cell.key.from == End::Host || cell.key.to == End::Host;
    !has_host && !DIRECT.contains(&cell.key.way.as_str())
}

/// The links that a copy crosses on one device's side.
pub(super) struct Link<'a> {
    pub(super) device: &'a Device,
    /// What was read while the copy ran, of the part of the path that it uses; the device first.
    pub(super) loaded: Vec<Hop>,
    now: Option<Bound>,
    at_best: Option<Bound>,
}

impl<'a> Link<'a> {
    pub(super) fn new(cell: &Cell, run: &'a Run, device: &'a Device) -> Self {
        let path = device.pci.as_ref().map(|pci| pci.path.as_slice()).unwrap_or_default();
        let partner = devices(cell, run).find(|other| other.index != device.index);
        let shared = |hop: &Hop| {
            let path = partner.and_then(|it| it.pci.as_ref()).map(|pci| pci.path.as_slice());
            path.unwrap_or_default().iter().any(|other| other.address == hop.address)
        };
        // Bridges above both devices carry nothing that passes between them below.
        let direct = partner.is_some() && !is_through_host(cell);
        let used = path.iter().filter(|hop| !direct || !shared(hop));
        let while_loaded =
            |hop: &Hop| cell.loaded.iter().find(|loaded| loaded.address == hop.address).cloned();
        let loaded: Vec<_> = used.filter_map(while_loaded).collect();
        let of = |hop: &Hop, rate: fn(&Hop) -> Option<(f64, u32)>| {
            let (gts, lanes) = rate(hop)?;
            Some(Bound {
                bytes_per_second: bytes_per_second(gts, lanes),
                source: BoundSource::Link,
                why: format!("PCIe {gts} GT/s × {lanes} of {}", hop.address),
            })
        };
        let now = loaded.iter().filter_map(|hop| of(hop, now)).min_by(less);
        let at_best = path.first().and_then(|hop| of(hop, at_best));
        Self { device, loaded, now, at_best }
    }
}

/// Speed and width as they are.
pub(super) fn now(hop: &Hop) -> Option<(f64, u32)> {
    hop.speed_gts.zip(hop.width)
}

/// Speed and width as they could be.
pub(super) fn at_best(hop: &Hop) -> Option<(f64, u32)> {
    hop.speed_max_gts.zip(hop.width_max)
}

/// What a link carries in one direction: its rate without the encoding of the physical layer. Packets have headers as
/// well, so that no copy reaches it.
pub(super) fn bytes_per_second(gts: f64, lanes: u32) -> f64 {
    let encoding = match gts {
        // 8b/10b.
        ..=5.0 => 0.8,
        // 128b/130b.
        ..=32.0 => 128.0 / 130.0,
        // Flits of 256 bytes, 242 of which are packets.
        _ => 242.0 / 256.0,
    };
    gts * 1e9 * f64::from(lanes) * encoding / 8.0
}

/// The limit of all links together: of those at each end, devices that are busy at once add up, and the end that carries
/// less is the limit.
fn together<'a>(cell: &Cell, links: impl Iterator<Item = (u32, &'a Bound)>) -> Option<Bound> {
    let (from, to) = (cell.key.from, cell.key.to);
    let one = [from, to].into_iter().find_map(|end| match end {
        End::Device(index) => Some(index),
        End::Host | End::All => None,
    });
    let (all, alone): (Vec<_>, Vec<_>) = links.partition(|(index, _)| {
        let is_one_of_many = from == End::All || to == End::All;
        is_one_of_many && one != Some(*index)
    });
    let sum = (!all.is_empty()).then(|| Bound {
        bytes_per_second: all.iter().map(|(_, bound)| bound.bytes_per_second).sum(),
        source: BoundSource::Link,
        why: match &all[..] {
            [(_, only)] => only.why.clone(),
            several => format!("the links of {} devices together", several.len()),
        },
    });
    let alone = alone.into_iter().map(|(_, bound)| bound.clone());
    let least = alone.chain(sum).min_by(less)?;
    let ways = if cell.key.direction == Direction::BothSum { 2.0 } else { 1.0 };
    Some(Bound { bytes_per_second: least.bytes_per_second * ways, ..least })
}

fn less(first: &Bound, second: &Bound) -> std::cmp::Ordering {
    first.bytes_per_second.total_cmp(&second.bytes_per_second)
}

/// The limit of host memory, where it is one: if the host copies, or if a device's memory is the host's.
fn memory(cell: &Cell, run: &Run) -> Option<Bound> {
    /// Caches make small copies fast, so a size is judged by one that is near.
    const NEAR: u64 = 4;
    let size = cell.key.size_bytes;
    let ends = [cell.key.from, cell.key.to];
    let is_software = |device: &Device| {
        device.software && (ends.contains(&End::Device(device.index)) || ends.contains(&End::All))
    };
    let by_host = matches!(cell.key.engine, CopyEngine::Host | CopyEngine::HostStreaming);
    let by_software = run.devices.iter().any(is_software);
    if !by_host && !by_software {
        return None;
    }
    let near = run.machine.host.iter().filter(|it| {
        let (small, large) = (it.size_bytes.min(size), it.size_bytes.max(size));
        matches!(it.copy, HostCopy::Memcpy | HostCopy::StreamingCopy | HostCopy::ParallelCopy)
            && small > 0
            && large / small <= NEAR
    });
    let best =
        near.max_by(|first, second| first.bytes_per_second.total_cmp(&second.bytes_per_second))?;
    let what = match best.copy {
        HostCopy::StreamingCopy => "memcpy past the cache",
        HostCopy::ParallelCopy => "memcpy by all processors",
        _ => "memcpy",
    };
    Some(Bound {
        bytes_per_second: best.bytes_per_second,
        source: BoundSource::HostMemory,
        why: format!("{what} in this run"),
    })
}
