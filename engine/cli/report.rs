//! The results of the commands as plain data: the JSON that they print, and the source of the tables.
//!
//! Numbers are in bytes and seconds; an unknown value is null. Within one `schema` fields are added, never
//! changed or removed.

use peerbuf::device::{DrmNode, PciAddress};
use peerbuf::transfer::Refusal;
use peerbuf::{Adapter, Device, HandleType};
use serde::Serialize;

use crate::image_report::ImageFacts;
use crate::live::LiveFacts;

/// The version of the JSON format.
pub(crate) const SCHEMA: u32 = 1;

/// The result of `peerbuf devices`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DevicesReport {
    pub(crate) schema: u32,
    pub(crate) devices: Vec<DeviceFacts>,
    /// One for each ordered pair of different devices.
    pub(crate) routes: Vec<RouteFacts>,
    /// For each format, ordered pair and size; only with `--images`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) images: Option<Vec<ImageFacts>>,
    pub(crate) unusable: Vec<UnusableFacts>,
}

/// The result of `peerbuf demo`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DemoReport {
    pub(crate) schema: u32,
    /// Bytes compared, in all parts.
    pub(crate) bytes_verified: u64,
    /// 32-bit words that were wrong, in all parts.
    pub(crate) mismatches: u64,
    /// Notifications of importers about moves, in all parts.
    pub(crate) callbacks: u64,
    // Copies of the overcommit part's numbers, at the top level.
    pub(crate) budget: u64,
    pub(crate) peak: u64,
    pub(crate) evictions: u64,
    pub(crate) restores: u64,
    pub(crate) bytes_moved: u64,
    pub(crate) bytes_optimal: u64,
    #[serde(flatten)]
    pub(crate) one: OneReport,
    pub(crate) overcommit: OvercommitFacts,
}

/// The part with one buffer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OneReport {
    /// Bytes of the buffer.
    pub(crate) size: u64,
    /// Ordered pairs of writer and reader.
    pub(crate) pairs: usize,
    /// How often it moved while all devices used it.
    pub(crate) moves: u64,
    /// The domain of the buffer at the end: `vram` of its home device, or `system`.
    pub(crate) domain: &'static str,
    /// The home device of the buffer at the end.
    pub(crate) home: usize,
    pub(crate) provider: &'static str,
    /// How often it had moved, including moves for attachments.
    pub(crate) generation: u32,
    pub(crate) seconds: f64,
    pub(crate) devices: Vec<DeviceFacts>,
    pub(crate) results: Vec<PairResult>,
    pub(crate) moving: MovingFacts,
    /// The engine's report at the end, while the buffer was alive.
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

/// The routes from one device to another.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RouteFacts {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The route to use; null if none works.
    pub(crate) route: Option<&'static str>,
    pub(crate) verified: bool,
    /// All routes that work, best first.
    pub(crate) working: Vec<WorkingFacts>,
    pub(crate) refused: Vec<RefusalFacts>,
    /// Routes that were not tried, because a device was busy or full.
    pub(crate) untried: Vec<RefusalFacts>,
    /// What was done to prove each route that was tried.
    pub(crate) trials: Vec<TrialFacts>,
    /// How the second device's queue waits for the first one's work; null if that is not known.
    pub(crate) wait: Option<&'static str>,
    /// Why no route could be tried.
    pub(crate) error: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WorkingFacts {
    pub(crate) route: &'static str,
    /// How fast the second device read the probe.
    pub(crate) read_bytes_per_second: f64,
    /// Whether it moves the first device's memory to the host, and so makes that device slow.
    pub(crate) drags_out: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct TrialFacts {
    pub(crate) route: &'static str,
    /// Bytes of the memory that was shared.
    pub(crate) bytes: u64,
    /// The passes that found the right bytes.
    pub(crate) passes: Vec<&'static str>,
    /// How long ago it was done; null if the clock was set back.
    pub(crate) age_seconds: Option<f64>,
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

/// The result of one device that wrote and another one that checked.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PairResult {
    /// The device that wrote.
    pub(crate) from: usize,
    /// The device that checked.
    pub(crate) to: usize,
    pub(crate) bytes_verified: u64,
    /// 32-bit words that were wrong.
    pub(crate) mismatches: u64,
    /// Offset in bytes of the first wrong word.
    pub(crate) first_mismatch: Option<u64>,
    pub(crate) fill_seconds: f64,
    pub(crate) verify_seconds: f64,
}

/// The part in which the buffer moves.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MovingFacts {
    pub(crate) moves: u64,
    /// Notifications: `callbacks_expected`, plus those of moves that failed after the importers were notified.
    pub(crate) callbacks: u64,
    /// `moves` times the number of devices.
    pub(crate) callbacks_expected: u64,
    /// The places that the buffer moved to, and how often.
    pub(crate) places: Vec<PlaceFacts>,
    /// The places that the buffer could not move to.
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

/// A place that the buffer could not move to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RefusedFacts {
    pub(crate) place: String,
    pub(crate) reason: String,
    /// The reason without its details.
    #[serde(skip)]
    pub(crate) summary: String,
    /// The details, where the reason is a list.
    #[serde(skip)]
    pub(crate) details: Vec<String>,
}

/// The overcommit part: four times as many bytes as the first device's memory holds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OvercommitFacts {
    pub(crate) buffers: usize,
    /// Bytes of all of them together.
    pub(crate) total: u64,
    /// Bytes of the buffers in the window of a frame.
    pub(crate) working_set: u64,
    pub(crate) frames: usize,
    /// The limit: bytes that buffers may have in the first device's memory at once.
    pub(crate) budget: u64,
    /// The most bytes that they had there at once.
    pub(crate) peak: u64,
    /// How often a buffer was evicted to make room.
    pub(crate) evictions: u64,
    /// How often a buffer was moved back because it was used.
    pub(crate) restores: u64,
    /// Bytes of the buffers that were evicted and moved back.
    pub(crate) bytes_moved: u64,
    /// Bytes of those moves that were copied: fewer, if the destination was a clean copy.
    pub(crate) bytes_copied: u64,
    /// `bytes_moved` of a policy that knows all uses in advance and moves in every buffer that is used.
    pub(crate) bytes_optimal: u64,
    pub(crate) callbacks: u64,
    /// One for each move and each device that reaches the buffers in place.
    pub(crate) callbacks_expected: u64,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_verified: u64,
    pub(crate) mismatches: u64,
    pub(crate) seconds: f64,
    pub(crate) members: Vec<MemberFacts>,
}

/// A device of the overcommit part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MemberFacts {
    /// Its number. A number not among the devices is the first device's adapter, opened again.
    pub(crate) device: usize,
    pub(crate) name: String,
    /// Whether it reaches the first device's memory; otherwise it reads copies.
    pub(crate) in_place: bool,
}

impl DemoReport {
    pub(crate) fn new(one: OneReport, overcommit: OvercommitFacts) -> Self {
        let verified = one.results.iter().map(|pair| pair.bytes_verified).sum::<u64>();
        let wrong = one.results.iter().map(|pair| pair.mismatches).sum::<u64>();
        Self {
            schema: SCHEMA,
            bytes_verified: verified + one.moving.bytes_verified + overcommit.bytes_verified,
            mismatches: wrong + one.moving.mismatches + overcommit.mismatches,
            callbacks: one.moving.callbacks + overcommit.callbacks,
            budget: overcommit.budget,
            peak: overcommit.peak,
            evictions: overcommit.evictions,
            restores: overcommit.restores,
            bytes_moved: overcommit.bytes_moved,
            bytes_optimal: overcommit.bytes_optimal,
            one,
            overcommit,
        }
    }
}

impl OvercommitFacts {
    /// Whether every byte was right, the limit was kept, and every notification was made.
    pub(crate) fn is_proved(&self) -> bool {
        self.mismatches == 0
            && self.peak <= self.budget
            && self.callbacks >= self.callbacks_expected
    }
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
