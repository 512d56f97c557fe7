//! What the commands find out, as plain data: the JSON that they print, and what the tables show.
//!
//! Numbers are numbers, in bytes and seconds, and what is not known is null. Fields are added, never
//! changed or taken away, within one `schema`.

use peerbuf::device::{DrmNode, PciAddress};
use peerbuf::transfer::Refusal;
use peerbuf::{Adapter, Device, HandleType};
use serde::Serialize;

use crate::live::LiveFacts;

/// The number of this form.
pub(crate) const SCHEMA: u32 = 1;

/// What `peerbuf devices` finds out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DevicesReport {
    pub(crate) schema: u32,
    pub(crate) devices: Vec<DeviceFacts>,
    /// One for each ordered pair of different devices.
    pub(crate) routes: Vec<RouteFacts>,
    pub(crate) unusable: Vec<UnusableFacts>,
}

/// What `peerbuf demo` finds out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DemoReport {
    pub(crate) schema: u32,
    /// Bytes of the buffer.
    pub(crate) size: u64,
    /// Ordered pairs of writer and reader.
    pub(crate) pairs: usize,
    /// Bytes that were compared, over all pairs, standing still and moving.
    pub(crate) bytes_verified: u64,
    /// 32-bit words that were wrong, likewise.
    pub(crate) mismatches: u64,
    /// How often it moved while all devices used it.
    pub(crate) moves: u64,
    /// How often importers were told meanwhile: `moves` times the number of devices, and once more for each
    /// device when a move failed after they had been told.
    pub(crate) callbacks: u64,
    /// Where the buffer lived at the end: `vram` of its home device, or `system`.
    pub(crate) domain: &'static str,
    /// The device that it was at home on at the end.
    pub(crate) home: usize,
    pub(crate) provider: &'static str,
    /// How often it had moved, attaching everybody included.
    pub(crate) generation: u32,
    pub(crate) seconds: f64,
    pub(crate) devices: Vec<DeviceFacts>,
    pub(crate) results: Vec<PairResult>,
    pub(crate) moving: MovingFacts,
    /// What there was and who used it, when all was done and the buffer still alive.
    pub(crate) report: LiveFacts,
    pub(crate) unusable: Vec<UnusableFacts>,
}

/// A device that takes part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceFacts {
    /// Its number in this report.
    pub(crate) index: usize,
    /// Its adapter's number, which `--devices` takes.
    pub(crate) adapter: usize,
    pub(crate) name: String,
    pub(crate) driver: String,
    /// The driver's own version text; null if it has none.
    pub(crate) driver_info: Option<String>,
    /// In the driver's own encoding.
    pub(crate) driver_version: u32,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) uuid: String,
    pub(crate) driver_uuid: String,
    pub(crate) heaps: Vec<HeapFacts>,
    pub(crate) exports: Vec<&'static str>,
    pub(crate) imports: Vec<&'static str>,
    pub(crate) drm_render: Option<DrmFacts>,
    pub(crate) drm_primary: Option<DrmFacts>,
    pub(crate) pci: Option<PciFacts>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct HeapFacts {
    pub(crate) size: u64,
    pub(crate) device_local: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DrmFacts {
    pub(crate) major: u64,
    pub(crate) minor: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PciFacts {
    pub(crate) domain: u32,
    pub(crate) bus: u32,
    pub(crate) device: u32,
    pub(crate) function: u32,
}

/// What is known of the ways from one device to another.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RouteFacts {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The route to use; null if none works.
    pub(crate) route: Option<&'static str>,
    pub(crate) verified: bool,
    /// All that work, best first.
    pub(crate) working: Vec<WorkingFacts>,
    pub(crate) refused: Vec<RefusalFacts>,
    /// How the second device's queue waits for the first one's work; null if that is not known.
    pub(crate) wait: Option<&'static str>,
    /// What kept the routes from being tried at all.
    pub(crate) error: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WorkingFacts {
    pub(crate) route: &'static str,
    /// How fast the second device read the probe.
    pub(crate) read_bytes_per_second: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RefusalFacts {
    pub(crate) route: &'static str,
    pub(crate) reason: String,
}

/// An adapter that cannot take part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct UnusableFacts {
    pub(crate) adapter: usize,
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// One device wrote, another one checked.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PairResult {
    /// Who wrote.
    pub(crate) from: usize,
    /// Who checked.
    pub(crate) to: usize,
    pub(crate) bytes_verified: u64,
    /// 32-bit words that were wrong.
    pub(crate) mismatches: u64,
    /// Offset in bytes of the first wrong word.
    pub(crate) first_mismatch: Option<u64>,
    pub(crate) fill_seconds: f64,
    pub(crate) verify_seconds: f64,
}

/// What happened while the buffer moved.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MovingFacts {
    pub(crate) moves: u64,
    pub(crate) callbacks: u64,
    pub(crate) callbacks_expected: u64,
    /// Where it has been, and how often it came there.
    pub(crate) places: Vec<PlaceFacts>,
    /// Where it could not go.
    pub(crate) refused: Vec<RefusedFacts>,
    pub(crate) bytes_verified: u64,
    pub(crate) mismatches: u64,
}

/// A place: `system`, `vram N` for the memory of device N, or `other memory of the same place`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PlaceFacts {
    pub(crate) place: String,
    pub(crate) moves: u64,
}

/// A place that was no place for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RefusedFacts {
    pub(crate) place: String,
    pub(crate) reason: String,
}

impl DeviceFacts {
    pub(crate) fn of(index: usize, device: &Device) -> Self {
        let adapter = device.adapter();
        Self {
            index,
            adapter: adapter.index(),
            name: adapter.name().to_owned(),
            driver: adapter.driver_name().to_owned(),
            driver_info: Some(adapter.driver_info().to_owned()).filter(|info| !info.is_empty()),
            driver_version: adapter.driver_version(),
            kind: adapter.kind().name(),
            uuid: adapter.device_uuid().to_string(),
            driver_uuid: adapter.driver_uuid().to_string(),
            heaps: adapter
                .heaps()
                .iter()
                .map(|heap| HeapFacts { size: heap.size, device_local: heap.device_local })
                .collect(),
            exports: handles(adapter, |handle| adapter.external_buffer(handle).exportable),
            imports: handles(adapter, |handle| adapter.external_buffer(handle).importable),
            drm_render: adapter.drm_render().map(DrmFacts::from),
            drm_primary: adapter.drm_primary().map(DrmFacts::from),
            pci: adapter.pci().map(PciFacts::from),
        }
    }

    pub(crate) fn of_all(devices: &[Device]) -> Vec<Self> {
        devices.iter().enumerate().map(|(index, device)| Self::of(index, device)).collect()
    }
}

fn handles(adapter: &Adapter, able: impl Fn(HandleType) -> bool) -> Vec<&'static str> {
    let rows = adapter.external_buffers().iter().map(|row| row.handle);
    rows.filter(|handle| able(*handle)).map(HandleType::name).collect()
}

impl UnusableFacts {
    pub(crate) fn of_all(unusable: &[(Adapter, String)]) -> Vec<Self> {
        let facts = |(adapter, reason): &(Adapter, String)| Self {
            adapter: adapter.index(),
            name: adapter.name().to_owned(),
            reason: reason.clone(),
        };
        unusable.iter().map(facts).collect()
    }
}

impl From<&Refusal> for RefusalFacts {
    fn from(refusal: &Refusal) -> Self {
        Self { route: refusal.route.name(), reason: refusal.reason.to_string() }
    }
}

impl From<DrmNode> for DrmFacts {
    fn from(DrmNode { major, minor }: DrmNode) -> Self {
        Self { major, minor }
    }
}

impl From<PciAddress> for PciFacts {
    fn from(PciAddress { domain, bus, device, function }: PciAddress) -> Self {
        Self { domain, bus, device, function }
    }
}
