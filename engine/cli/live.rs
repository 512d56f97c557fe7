//! `Engine::report` as the JSON that the program prints.
//!
//! The types here copy those of the library, so that the library does not depend on serde.

use std::collections::BTreeMap;

use peerbuf::DomainId;
use peerbuf::observe::{
    AttachmentReport, BufferReport, DomainReport, FenceReport, GhostReport, MoveCause, Moved,
    PinReport, Report, StallCause, Stalls,
};
use serde::Serialize;

/// The live buffers and their users.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LiveFacts {
    pub(crate) domains: Vec<DomainFacts>,
    pub(crate) buffers: Vec<BufferFacts>,
    /// By cause.
    pub(crate) moved: Vec<MovedFacts>,
    pub(crate) stalls: Vec<StallFacts>,
    pub(crate) totals: TotalFacts,
    /// The same as text for people.
    #[serde(skip)]
    pub(crate) text: String,
}

/// A memory domain.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DomainFacts {
    pub(crate) domain: &'static str,
    /// The device whose memory it is; null for system memory.
    pub(crate) device: Option<usize>,
    pub(crate) capacity: u64,
    pub(crate) budget: u64,
    pub(crate) used: u64,
    pub(crate) peak: u64,
    pub(crate) held: u64,
    pub(crate) buffers: u64,
    pub(crate) resident: u64,
    pub(crate) pinned: u64,
    pub(crate) clean_copies: u64,
    pub(crate) ghosts: u64,
    pub(crate) in_flight: u64,
    pub(crate) integrated: u64,
    /// Resident bytes, by provider.
    pub(crate) providers: BTreeMap<&'static str, u64>,
}

/// The moves for one cause.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct MovedFacts {
    pub(crate) cause: &'static str,
    pub(crate) moves: u64,
    pub(crate) bytes: u64,
    pub(crate) copied: u64,
}

/// The waits of callers for one cause.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct StallFacts {
    pub(crate) cause: &'static str,
    pub(crate) waits: u64,
    pub(crate) seconds: f64,
    pub(crate) longest_seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct BufferFacts {
    pub(crate) id: u64,
    /// Null if the buffer has none.
    pub(crate) name: Option<String>,
    pub(crate) size: u64,
    pub(crate) domain: &'static str,
    /// The device whose memory it is; null for system memory.
    pub(crate) domain_device: Option<usize>,
    /// Bytes in use by it in that domain.
    pub(crate) footprint: u64,
    /// Its preferred domain.
    pub(crate) wanted: &'static str,
    pub(crate) wanted_device: Option<usize>,
    /// Bytes in use by its clean copy in another domain.
    pub(crate) clean_copy: u64,
    pub(crate) provider: &'static str,
    pub(crate) home: usize,
    pub(crate) generation: u32,
    pub(crate) revoked: bool,
    pub(crate) purged: bool,
    /// The cause; null if it is not poisoned.
    pub(crate) poisoned: Option<String>,
    pub(crate) moving: bool,
    pub(crate) imported: bool,
    pub(crate) handed_out: u32,
    pub(crate) host_accesses: u32,
    pub(crate) pins: Vec<PinFacts>,
    pub(crate) fences: Vec<FenceFacts>,
    pub(crate) attachments: Vec<AttachmentFacts>,
    pub(crate) ghosts: Vec<GhostFacts>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct PinFacts {
    /// Null for an export to another process.
    pub(crate) device: Option<usize>,
    pub(crate) reason: String,
    pub(crate) count: u64,
    /// Bytes that each pin keeps in place.
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct FenceFacts {
    pub(crate) usage: &'static str,
    /// Null for the host.
    pub(crate) device: Option<usize>,
    pub(crate) on: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct AttachmentFacts {
    pub(crate) device: usize,
    pub(crate) device_name: String,
    pub(crate) attached: bool,
    pub(crate) dynamic: bool,
    pub(crate) peer_to_peer: bool,
    /// Mappings of the current generation.
    pub(crate) mapped: u32,
    /// Mappings of older generations by this device. The ghosts count them too.
    pub(crate) mapped_before: u32,
}

/// A backing that the buffer has left and that is still mapped.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GhostFacts {
    pub(crate) generation: u32,
    pub(crate) domain: &'static str,
    pub(crate) mapped: Vec<MappedFacts>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct MappedFacts {
    pub(crate) device: usize,
    pub(crate) count: u32,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TotalFacts {
    pub(crate) buffers: usize,
    pub(crate) bytes: u64,
    /// The same by domain, without empty domains.
    pub(crate) bytes_by_domain: Vec<DomainBytes>,
    pub(crate) attachments: usize,
    pub(crate) mappings: u64,
    pub(crate) pins: u64,
    pub(crate) host_accesses: u64,
    pub(crate) fences: usize,
    pub(crate) ghosts: usize,
}

/// Bytes of buffers in a domain.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DomainBytes {
    pub(crate) domain: &'static str,
    /// The device whose memory it is; null for system memory.
    pub(crate) device: Option<usize>,
    pub(crate) bytes: u64,
}

impl From<(DomainId, u64)> for DomainBytes {
    fn from((domain, bytes): (DomainId, u64)) -> Self {
        let (domain, device) = place(domain);
        Self { domain, device, bytes }
    }
}

/// The short name of a domain, and its device.
fn place(domain: DomainId) -> (&'static str, Option<usize>) {
    match domain {
        DomainId::Vram(device) => ("vram", Some(device.index())),
        _ => ("system", None),
    }
}

impl From<Report> for LiveFacts {
    fn from(report: Report) -> Self {
        let totals = report.totals();
        Self {
            text: report.to_string(),
            domains: report.domains.iter().map(DomainFacts::from).collect(),
            buffers: report.buffers.into_iter().map(BufferFacts::from).collect(),
            moved: report.moved.into_iter().map(MovedFacts::from).collect(),
            stalls: report.stalls.into_iter().map(StallFacts::from).collect(),
            totals: TotalFacts {
                buffers: totals.buffers,
                bytes: totals.bytes,
                bytes_by_domain: totals.bytes_by_domain.into_iter().map(Into::into).collect(),
                attachments: totals.attachments,
                mappings: totals.mappings,
                pins: totals.pins,
                host_accesses: totals.host_accesses,
                fences: totals.fences,
                ghosts: totals.ghosts,
            },
        }
    }
}

impl From<&DomainReport> for DomainFacts {
    fn from(report: &DomainReport) -> Self {
        let (domain, device) = place(report.id);
        let DomainReport { usage, shares, .. } = report;
        let mut providers = BTreeMap::new();
        for (provider, bytes) in &report.providers {
            *providers.entry(provider.name()).or_default() += bytes;
        }
        Self {
            domain,
            device,
            capacity: usage.capacity,
            budget: usage.budget,
            used: usage.used,
            peak: usage.peak,
            held: usage.held,
            buffers: shares.buffers,
            resident: shares.resident,
            pinned: shares.pinned,
            clean_copies: shares.clean_copies,
            ghosts: shares.ghosts,
            in_flight: shares.in_flight,
            integrated: shares.integrated,
            providers,
        }
    }
}

impl From<(MoveCause, Moved)> for MovedFacts {
    fn from((cause, moved): (MoveCause, Moved)) -> Self {
        let Moved { moves, bytes, copied, .. } = moved;
        Self { cause: cause.name(), moves, bytes, copied }
    }
}

impl From<(StallCause, Stalls)> for StallFacts {
    fn from((cause, stalls): (StallCause, Stalls)) -> Self {
        Self {
            cause: cause.name(),
            waits: stalls.waits,
            seconds: stalls.total.as_secs_f64(),
            longest_seconds: stalls.longest.as_secs_f64(),
        }
    }
}

impl From<BufferReport> for BufferFacts {
    fn from(report: BufferReport) -> Self {
        let (domain, domain_device) = place(report.domain);
        let (wanted, wanted_device) = place(report.preferred);
        Self {
            id: report.id,
            name: report.name,
            size: report.size,
            domain,
            domain_device,
            footprint: report.footprint,
            wanted,
            wanted_device,
            clean_copy: report.clean_copy.map_or(0, |(_, bytes)| bytes),
            provider: report.provider.name(),
            home: report.home.index(),
            generation: report.generation,
            revoked: report.revoked,
            purged: report.purged,
            poisoned: report.poisoned,
            moving: report.moving,
            imported: report.imported,
            handed_out: report.exports,
            host_accesses: report.host_accesses,
            pins: report.pins.into_iter().map(PinFacts::from).collect(),
            fences: report.fences.into_iter().map(FenceFacts::from).collect(),
            attachments: report.attachments.into_iter().map(AttachmentFacts::from).collect(),
            ghosts: report.ghosts.iter().map(GhostFacts::from).collect(),
        }
    }
}

impl From<PinReport> for PinFacts {
    fn from(report: PinReport) -> Self {
        Self {
            device: report.device.map(|device| device.index()),
            reason: report.reason.into_owned(),
            count: report.count,
            bytes: report.bytes,
        }
    }
}

impl From<FenceReport> for FenceFacts {
    fn from(report: FenceReport) -> Self {
        use peerbuf::Usage;
        let usage = match report.usage {
            Usage::Move => "move",
            Usage::Write => "write",
            Usage::Read => "read",
            Usage::Bookkeep => "bookkeep",
        };
        Self { usage, device: report.device.map(|device| device.index()), on: report.on }
    }
}

impl From<AttachmentReport> for AttachmentFacts {
    fn from(report: AttachmentReport) -> Self {
        Self {
            device: report.device.index(),
            device_name: report.device_name,
            attached: report.attached,
            dynamic: report.dynamic,
            peer_to_peer: report.peer_to_peer,
            mapped: report.mapped,
            mapped_before: report.mapped_before,
        }
    }
}

impl From<&GhostReport> for GhostFacts {
    fn from(report: &GhostReport) -> Self {
        let mapped = report.mapped.iter();
        Self {
            generation: report.generation,
            domain: place(report.domain).0,
            mapped: mapped
                .map(|&(device, count)| MappedFacts { device: device.index(), count })
                .collect(),
        }
    }
}
