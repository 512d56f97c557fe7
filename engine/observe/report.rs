//! What there is and who uses it, at one moment.
//!
//! Kernel counterpart: `dma_buf_debug_show` (`debugfs dma_buf/bufinfo`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::device::DeviceId;
use crate::memory::{DomainId, DomainUsage, GroupUsage, Provider};
use crate::observe::{MoveCause, Moved, StallCause, Stalls};
use crate::sync::Usage;

/// What an engine has and who uses it: [`crate::Engine::report`]. Printed, it is a text for people.
///
/// Each buffer is told as it was at one moment; but not all of them at the same one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The devices that take part, by number.
    pub devices: Vec<DeviceReport>,
    /// Where bytes live: the VRAM of each device, then system memory.
    pub domains: Vec<DomainReport>,
    /// What client groups have in use in them, or may have.
    pub groups: Vec<GroupReport>,
    /// The live buffers, by number.
    pub buffers: Vec<BufferReport>,
    /// How much has moved since the engine began, by cause.
    pub moved: Vec<(MoveCause, Moved)>,
    /// How long callers have waited since the engine began, by cause.
    pub stalls: Vec<(StallCause, Stalls)>,
}

/// A device that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceReport {
    /// Its number.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
}

/// A place where bytes live.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainReport {
    /// Which.
    pub id: DomainId,
    /// Bytes: how many there may be, and how many are in use.
    pub usage: DomainUsage,
    /// Who has what is in use.
    pub shares: Shares,
    /// Whose memory the buffers that are there have, in bytes: [`Shares::resident`] by provider. Those share
    /// the place's budget.
    pub providers: Vec<(Provider, u64)>,
}

/// What a client group has in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupReport {
    /// The group's name.
    pub name: String,
    /// Where.
    pub domain: DomainId,
    /// Bytes: how many there may be, and how many are in use.
    pub usage: GroupUsage,
}

/// Who has the bytes of a place that are in use. While nobody moves, makes or drops a buffer, the sum of all
/// but the pinned ones is [`DomainUsage::used`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Shares {
    /// Buffers that are there.
    pub buffers: u64,
    /// Bytes of those.
    pub resident: u64,
    /// Bytes of those that are pinned.
    pub pinned: u64,
    /// Bytes of buffers that are elsewhere, kept as their clean copies.
    pub clean_copies: u64,
    /// Bytes that buffers have left and mappings still show.
    pub ghosts: u64,
    /// Bytes that nobody has any more, and that devices still work on: copies that run, buffers that were
    /// dropped.
    pub in_flight: u64,
}

/// A buffer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BufferReport {
    /// Its number, from 0 in the order of creation; never used again.
    pub id: u64,
    /// The name that it was given.
    pub name: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Where they are; if it is purged, where they were.
    pub domain: DomainId,
    /// Bytes that it has in use there: a slot, or an allocation of its own; none if it is purged.
    pub footprint: u64,
    /// Where it wants to be.
    pub wanted: DomainId,
    /// Bytes that it has in use elsewhere, as its clean copy.
    pub clean_copy: Option<(DomainId, u64)>,
    /// Who provides the memory, or did.
    pub provider: Provider,
    /// The device it is at home on.
    pub home: DeviceId,
    /// How often it has moved.
    pub generation: u32,
    /// Whether it was taken away from everybody ([`crate::SharedBuffer::revoke`]).
    pub revoked: bool,
    /// Whether its content was dropped, and it has no memory until it is renewed
    /// ([`crate::SharedBuffer::is_purged`]).
    pub purged: bool,
    /// What went wrong when it was written or moved, if its bytes are not what anybody thinks
    /// ([`crate::SharedBuffer::is_poisoned`]).
    pub poisoned: Option<String>,
    /// Whether a move is waiting for somebody who is still using the old place.
    pub moving: bool,
    /// Whether it came in as a stranger's fd.
    pub imported: bool,
    /// Live exports to strangers. Each is a pin as well.
    pub handed_out: u32,
    /// Live accesses by the host, and those that an application is submitting.
    pub host_accesses: u32,
    /// Who keeps it where it is, and why.
    pub pins: Vec<PinReport>,
    /// What has not ended yet.
    pub fences: Vec<FenceReport>,
    /// The seats that are taken.
    pub attachments: Vec<AttachmentReport>,
    /// Places it has left that mappings still look at, oldest first.
    pub ghosts: Vec<GhostReport>,
}

/// Pins of one attachment for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinReport {
    /// Whose; `None` for a stranger's.
    pub device: Option<DeviceId>,
    /// Why. [`PinReport::HANDED_OUT`] for what a stranger has.
    pub reason: Cow<'static, str>,
    /// How many: pins nest.
    pub count: u64,
    /// Bytes that each of them keeps in place.
    pub bytes: u64,
}

impl PinReport {
    /// The reason of those pins that are [`crate::ForeignExport`]s.
    pub const HANDED_OUT: &'static str = "handed out";
}

/// A fence that has not signalled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FenceReport {
    /// What the work behind it does to the buffer.
    pub usage: Usage,
    /// The device that does it; `None` for the host.
    pub device: Option<DeviceId>,
    /// The work, in words.
    pub on: String,
}

/// A device's seat.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachmentReport {
    /// Whose.
    pub device: DeviceId,
    /// The device's name.
    pub device_name: String,
    /// Whether the attachment is alive; if not, mappings keep the seat.
    pub attached: bool,
    /// Whether it is told when the buffer moves.
    pub dynamic: bool,
    /// Whether it may be given another device's own memory.
    pub peer_to_peer: bool,
    /// Live mappings of the current generation.
    pub mapped: u32,
    /// Live mappings of older ones that its device has, by whatever seat: which of them is told in
    /// [`BufferReport::ghosts`], and they are counted there.
    pub mapped_before: u32,
}

/// A place that a buffer has left, and that mappings still look at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GhostReport {
    /// The generation that those mappings are of.
    pub generation: u32,
    /// Where it is.
    pub domain: DomainId,
    /// Bytes that it has in use; none if the buffer was evicted, and the place is somebody else's.
    pub bytes: u64,
    /// How many mappings each device has.
    pub mapped: Vec<(DeviceId, u32)>,
}

/// Sums over a [`Report`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Buffers.
    pub buffers: usize,
    /// Bytes of buffers, without what slabs keep beside them. A purged one has none.
    pub bytes: u64,
    /// The same, by where they are.
    pub bytes_by_domain: Vec<(DomainId, u64)>,
    /// Seats taken.
    pub attachments: usize,
    /// Mappings, those of places that were left included.
    pub mappings: u64,
    /// Pins, strangers' included.
    pub pins: u64,
    /// Accesses by the host, and those that an application is submitting.
    pub host_accesses: u64,
    /// Fences that have not signalled.
    pub fences: usize,
    /// Places that were left and are still mapped.
    pub ghosts: usize,
}

impl Report {
    /// The buffers with that name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a BufferReport> {
        self.buffers.iter().filter(move |buffer| buffer.name.as_deref() == Some(name))
    }

    /// The sums.
    pub fn totals(&self) -> Totals {
        let mut domains = BTreeMap::new();
        let mut totals = Totals { buffers: self.buffers.len(), ..Totals::default() };
        for buffer in &self.buffers {
            if !buffer.purged {
                totals.bytes += buffer.size;
                *domains.entry(buffer.domain).or_default() += buffer.size;
            }
            totals.attachments += buffer.attachments.len();
            totals.mappings += buffer.mappings();
            totals.pins += buffer.pins.iter().map(|pin| pin.count).sum::<u64>();
            totals.host_accesses += u64::from(buffer.host_accesses);
            totals.fences += buffer.fences.len();
            totals.ghosts += buffer.ghosts.len();
        }
        totals.bytes_by_domain = domains.into_iter().collect();
        totals
    }
}

impl BufferReport {
    /// Live mappings, of whatever generation.
    pub fn mappings(&self) -> u64 {
        let current = self.attachments.iter().map(|seat| seat.mapped);
        let old = self.ghosts.iter().flat_map(|ghost| &ghost.mapped).map(|(_, mapped)| *mapped);
        current.chain(old).map(u64::from).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Domains, in bytes")?;
        for DomainReport { id, usage, shares, providers } in &self.domains {
            writeln!(
                f,
                "  {:<20} {:>16} of {:>16} used",
                id.to_string(),
                usage.used,
                usage.budget
            )?;
            for (provider, bytes) in providers {
                writeln!(f, "  {:<20} {bytes:>16} by {}", "", provider.name())?;
            }
            for (bytes, what) in [
                (shares.pinned, "pinned"),
                (shares.clean_copies, "clean copies"),
                (shares.ghosts, "ghosts"),
                (shares.in_flight, "in flight"),
            ] {
                if bytes > 0 {
                    writeln!(f, "  {:<20} {bytes:>16} {what}", "")?;
                }
            }
        }
        for (nth, GroupReport { name, domain, usage }) in self.groups.iter().enumerate() {
            if nth == 0 {
                writeln!(f, "Client groups, in bytes")?;
            }
            let of = usage.cap.map_or(String::new(), |cap| format!(" of {cap:>16}"));
            writeln!(f, "  {name:<20} {:>16}{of} used, {domain}", usage.used)?;
        }
        let moved = self.moved.iter().filter(|(_, moved)| moved.moves > 0);
        for (nth, (cause, Moved { moves, bytes, copied })) in moved.enumerate() {
            if nth == 0 {
                writeln!(f, "Moves")?;
            }
            writeln!(f, "  {cause:<20} {moves:>16} of {bytes} bytes, {copied} copied")?;
        }
        let stalls = self.stalls.iter().filter(|(_, stalls)| stalls.waits > 0);
        for (nth, (cause, Stalls { waits, total, longest })) in stalls.enumerate() {
            if nth == 0 {
                writeln!(f, "Waits")?;
            }
            writeln!(f, "  {cause:<20} {waits:>16} of {total:.1?}, the longest {longest:.1?}")?;
        }
        writeln!(f, "Buffers")?;
        writeln!(
            f,
            "  {:>6}  {:<16} {:>14}  {:<16} {:<12} {:<9} {:>10}",
            "number", "name", "bytes", "domain", "provider", "home", "generation"
        )?;
        self.buffers.iter().try_for_each(|buffer| buffer.fmt(f))?;
        let totals = self.totals();
        writeln!(
            f,
            "Total: {} buffers, {} bytes, {} attachments, {} mappings, {} pins,\n       \
             {} host accesses, {} fences, {} ghosts",
            totals.buffers,
            totals.bytes,
            totals.attachments,
            totals.mappings,
            totals.pins,
            totals.host_accesses,
            totals.fences,
            totals.ghosts,
        )
    }
}

/// A line, and one more for each thing that belongs to it.
impl fmt::Display for BufferReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:>6}  {:<16} {:>14}  {:<16} {:<12} {:<9} {:>10}",
            self.id,
            self.name.as_deref().unwrap_or("–"),
            self.size,
            self.domain.to_string(),
            self.provider.name(),
            self.home.to_string(),
            self.generation,
        )?;
        let line = "          ";
        for seat in &self.attachments {
            let kind = if seat.dynamic { "dynamic" } else { "static" };
            let peer = if seat.peer_to_peer { ", peer to peer" } else { "" };
            let left = if seat.attached { "" } else { ", attachment gone" };
            let (device, name) = (seat.device, &seat.device_name);
            writeln!(f, "{line}attached: {device}, {name}")?;
            write!(f, "{line}          {kind}{peer}, mapped {} ×", seat.mapped)?;
            if seat.mapped_before > 0 {
                write!(f, ", and {} × where it was before", seat.mapped_before)?;
            }
            writeln!(f, "{left}")?;
        }
        for ghost in &self.ghosts {
            let mapped: Vec<_> =
                ghost.mapped.iter().map(|(device, count)| format!("{device} {count} ×")).collect();
            let (generation, domain) = (ghost.generation, ghost.domain);
            let mapped = mapped.join(", ");
            writeln!(f, "{line}ghost:    generation {generation} in {domain}, mapped by {mapped}")?;
        }
        for PinReport { device, reason, count, bytes } in &self.pins {
            let who = device.map_or_else(|| "a stranger".into(), |device| device.to_string());
            writeln!(f, "{line}pinned:   by {who}, {count} × {bytes} bytes: {reason}")?;
        }
        for FenceReport { usage, on, .. } in &self.fences {
            writeln!(f, "{line}fence:    {usage:?}, {on}")?;
        }
        if self.host_accesses > 0 {
            writeln!(f, "{line}host:     open {} ×", self.host_accesses)?;
        }
        if self.revoked {
            writeln!(f, "{line}revoked:  nobody may use it")?;
        }
        if self.purged {
            writeln!(f, "{line}purged:   it has no memory until it is renewed")?;
        }
        if let Some(cause) = &self.poisoned {
            writeln!(f, "{line}poisoned: {cause}")?;
        }
        if self.moving {
            writeln!(f, "{line}moving:   as soon as nobody uses the old place")?;
        }
        if self.imported {
            writeln!(f, "{line}imported: from a stranger")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::DomainKind;

    const MS: std::time::Duration = std::time::Duration::from_millis(1);

    #[test]
    fn everything_is_in_the_text_and_in_the_sums() {
        let device = |number| DeviceId(number);
        let home = device(0);
        let seat = |number, mapped| AttachmentReport {
            device: device(number),
            device_name: format!("GPU {number}"),
            attached: mapped == 0,
            dynamic: number == 1,
            peer_to_peer: number == 1,
            mapped,
            mapped_before: if number == 1 { 5 } else { 0 },
        };
        let buffer = BufferReport {
            id: 7,
            name: Some("frame".into()),
            size: 4096,
            domain: DomainId::Vram(home),
            footprint: 4096,
            wanted: DomainId::Vram(home),
            clean_copy: None,
            provider: Provider::Device {
                device: home,
                handle: crate::device::HandleType::DmaBuf,
                domain: DomainKind::Vram,
            },
            home,
            generation: 3,
            revoked: true,
            purged: false,
            poisoned: Some("the host said no".into()),
            moving: true,
            imported: true,
            handed_out: 1,
            host_accesses: 2,
            pins: vec![
                PinReport { device: Some(home), reason: "scanout".into(), count: 2, bytes: 4096 },
                PinReport { device: None, reason: "handed out".into(), count: 1, bytes: 4096 },
            ],
            fences: vec![FenceReport { usage: Usage::Write, device: None, on: "the host".into() }],
            attachments: vec![seat(0, 4), seat(1, 0)],
            ghosts: vec![GhostReport {
                generation: 2,
                domain: DomainId::System,
                bytes: 4096,
                mapped: vec![(device(1), 5)],
            }],
        };
        let system = BufferReport { domain: DomainId::System, name: None, ..buffer.clone() };
        // It has no bytes, and is otherwise counted like the others.
        let purged = BufferReport { purged: true, ..system.clone() };
        let usage =
            DomainUsage { capacity: 9999, budget: 9999, used: 8888, peak: 8888, held: 8888 };
        let shares = Shares { pinned: 128, in_flight: 64, ..Shares::default() };
        let report = Report {
            devices: vec![DeviceReport { id: home, name: "GPU 0".into() }],
            domains: vec![DomainReport {
                id: DomainId::System,
                usage,
                shares,
                providers: vec![(Provider::Memfd, 8824)],
            }],
            groups: vec![GroupReport {
                name: "browser".into(),
                domain: DomainId::Vram(home),
                usage: GroupUsage { cap: Some(8192), used: 4096, peak: 8192 },
            }],
            buffers: vec![buffer, system, purged],
            moved: vec![
                (MoveCause::Asked, Moved::default()),
                (MoveCause::Evicted, Moved { moves: 3, bytes: 300, copied: 200 }),
            ],
            stalls: vec![
                (StallCause::Room, Stalls { waits: 2, total: 3 * MS, longest: 2 * MS }),
                (StallCause::Work, Stalls::default()),
            ],
        };
        let text = report.to_string();
        for part in [
            "system memory                    8888 of             9999 used\n                                   8824 by memfd\n                                    128 pinned\n",
            "  64 in flight\n",
            "Client groups, in bytes\n  browser                          4096 of             8192 used, VRAM of device 0\n",
            "Moves\n  evicted                             3 of 300 bytes, 200 copied\nWaits\n  for room                            2 of 3.0ms, the longest 2.0ms\nBuffers\n",
            "       7  frame                      4096  VRAM of device 0 dma_buf      device 0           3",
            "attached: device 0, GPU 0\n                    static, mapped 4 ×, attachment gone",
            "attached: device 1, GPU 1\n                    dynamic, peer to peer, mapped 0 ×, \
             and 5 × where it was before\n",
            "ghost:    generation 2 in system memory, mapped by device 1 5 ×",
            "pinned:   by device 0, 2 × 4096 bytes: scanout",
            "pinned:   by a stranger, 1 × 4096 bytes: handed out",
            "fence:    Write, the host",
            "host:     open 2 ×",
            "revoked:",
            "purged:",
            "poisoned: the host said no",
            "moving:",
            "imported:",
            "Total: 3 buffers, 8192 bytes, 6 attachments, 27 mappings, 9 pins,\n",
            "6 host accesses, 3 fences, 3 ghosts",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{widest:?} columns:\n{text}");
        let by_domain = [(DomainId::Vram(home), 4096), (DomainId::System, 4096)];
        assert_eq!(report.totals().bytes_by_domain, by_domain);
        assert_eq!(report.named("frame").count(), 1);
    }
}
