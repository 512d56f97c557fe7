//! The report as text for people, in at most 80 columns unless names are long.

use std::fmt;

use super::buffer::{AttachmentReport, BufferReport, FenceReport, PinReport};
use super::engine::{DeviceReport, DomainReport, GroupReport, Report};
use crate::memory::ImportUsage;
use crate::observe::moved::Moved;
use crate::observe::stalls::Stalls;

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
                (shares.integrated, "of integrated devices"),
            ] {
                if bytes > 0 {
                    writeln!(f, "  {:<20} {bytes:>16} {what}", "")?;
                }
            }
        }
        let importing = self.devices.iter().filter(|device| device.imports.views > 0);
        for (nth, DeviceReport { name, imports, .. }) in importing.enumerate() {
            if nth == 0 {
                writeln!(f, "Imports, in bytes")?;
            }
            let ImportUsage { system, peers, limit, .. } = imports;
            let of = if *limit == u64::MAX { String::new() } else { format!(" of {limit:>16}") };
            writeln!(f, "  {name:<20} {system:>16}{of} of system memory")?;
            if *peers > 0 {
                writeln!(f, "  {:<20} {peers:>16} of other devices", "")?;
            }
        }
        for (nth, GroupReport { name, domain, usage }) in self.groups.iter().enumerate() {
            if nth == 0 {
                writeln!(f, "Client groups, in bytes")?;
            }
            let of = usage.cap.map_or(String::new(), |cap| format!(" of {cap:>16}"));
            writeln!(f, "  {name:<20} {:>16}{of} in {domain}", usage.used)?;
        }
        let moved = self.moved.iter().filter(|(_, moved)| moved.moves > 0);
        for (nth, (cause, Moved { moves, bytes, copied })) in moved.enumerate() {
            if nth == 0 {
                writeln!(f, "Moves")?;
            }
            writeln!(f, "  {cause:<14} {moves:>8} moves, {bytes} bytes, {copied} copied")?;
        }
        let stalls = self.stalls.iter().filter(|(_, stalls)| stalls.waits > 0);
        for (nth, (cause, Stalls { waits, total, longest })) in stalls.enumerate() {
            if nth == 0 {
                writeln!(f, "Waits")?;
            }
            writeln!(
                f,
                "  {cause:<14} {waits:>8} waits, {total:.1?} together, the longest {longest:.1?}"
            )?;
        }
        writeln!(f, "Buffers")?;
        writeln!(
            f,
            "  {:>6} {:<14} {:>12} {:<16} {:<10} {:<8} {:>5}",
            "number", "name", "bytes", "domain", "provider", "home", "moves"
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
            "  {:>6} {:<14} {:>12} {:<16} {:<10} {:<8} {:>5}",
            self.id,
            self.name.as_deref().unwrap_or("–"),
            self.size,
            self.domain.to_string(),
            self.provider.name(),
            self.home.to_string(),
            self.generation,
        )?;
        let line = "          ";
        for attachment in &self.attachments {
            attachment.fmt_below(f, line)?;
        }
        for ghost in &self.ghosts {
            let mapped: Vec<_> =
                ghost.mapped.iter().map(|(device, count)| format!("{device} {count} ×")).collect();
            let (generation, domain) = (ghost.generation, ghost.domain);
            let mapped = mapped.join(", ");
            writeln!(f, "{line}ghost:    generation {generation} in {domain}")?;
            writeln!(f, "{line}          mapped by {mapped}")?;
        }
        for PinReport { device, reason, count, bytes } in &self.pins {
            let by = device.map_or_else(|| "an export".into(), |device| device.to_string());
            writeln!(f, "{line}pinned:   by {by}, {count} × {bytes} bytes: {reason}")?;
        }
        for FenceReport { usage, on, .. } in &self.fences {
            writeln!(f, "{line}fence:    {usage:?}, {on}")?;
        }
        if self.host_accesses > 0 {
            writeln!(f, "{line}host:     {} accesses open", self.host_accesses)?;
        }
        if self.revoked {
            writeln!(f, "{line}revoked:  all access is denied until `unrevoke`")?;
        }
        if self.purged {
            writeln!(f, "{line}purged:   content discarded, no memory until `repopulate`")?;
        }
        if let Some(cause) = &self.poisoned {
            writeln!(f, "{line}poisoned: {cause}")?;
        }
        if self.moving {
            writeln!(f, "{line}moving:   waits for users of the old backing")?;
        }
        if self.imported {
            writeln!(f, "{line}imported: from outside this engine")?;
        }
        if self.known_outside {
            writeln!(f, "{line}export:   has ended; it moves before its next use")?;
        }
        Ok(())
    }
}

impl AttachmentReport {
    /// Two lines below that of the buffer.
    fn fmt_below(&self, f: &mut fmt::Formatter<'_>, line: &str) -> fmt::Result {
        let (device, name) = (self.device, &self.device_name);
        let state = if self.attached { "attached:" } else { "detached:" };
        let kind = if self.dynamic { "dynamic" } else { "static" };
        let peer = if self.peer_to_peer { ", peer to peer" } else { "" };
        writeln!(f, "{line}{state} {device}, {name}")?;
        write!(f, "{line}          {kind}{peer}, mapped {} ×", self.mapped)?;
        if self.mapped_before > 0 {
            write!(f, " ({} × before it moved)", self.mapped_before)?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GhostReport, Shares};
    use super::*;
    use crate::device::DeviceId;
    use crate::memory::{DomainId, DomainKind, DomainUsage, GroupUsage, Provider};
    use crate::observe::move_cause::MoveCause;
    use crate::observe::stalls::StallCause;
    use crate::sync::Usage;

    const MS: std::time::Duration = std::time::Duration::from_millis(1);

    #[test]
    fn everything_is_in_the_text_and_in_the_sums() {
        let device = |number| DeviceId(number);
        let home = device(0);
        let attachment = |number, mapped| AttachmentReport {
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
            preferred: DomainId::Vram(home),
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
            exports: 1,
            known_outside: true,
            host_accesses: 2,
            pins: vec![
                PinReport { device: Some(home), reason: "scanout".into(), count: 2, bytes: 4096 },
                PinReport { device: None, reason: "handed out".into(), count: 1, bytes: 4096 },
            ],
            fences: vec![FenceReport { usage: Usage::Write, device: None, on: "the host".into() }],
            attachments: vec![attachment(0, 4), attachment(1, 0)],
            ghosts: vec![GhostReport {
                generation: 2,
                domain: DomainId::System,
                bytes: 4096,
                mapped: vec![(device(1), 5)],
            }],
        };
        let system = BufferReport { domain: DomainId::System, name: None, ..buffer.clone() };
        // A purged buffer has no bytes. Its other numbers count.
        let purged = BufferReport { purged: true, ..system.clone() };
        let usage =
            DomainUsage { capacity: 9999, budget: 9999, used: 8888, peak: 8888, held: 8888 };
        let imports = ImportUsage { system: 4096, peers: 64, views: 2, limit: 8192 };
        let shares = Shares { pinned: 128, in_flight: 64, integrated: 512, ..Shares::default() };
        let report = Report {
            devices: vec![DeviceReport { id: home, name: "GPU 0".into(), imports }],
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
            "  64 in flight\n                                    512 of integrated devices\n",
            "Client groups, in bytes\n  browser                          4096 of             8192 in VRAM of device 0\n",
            "Moves\n  evicted               3 moves, 300 bytes, 200 copied\nWaits\n  for room              2 waits, 3.0ms together, the longest 2.0ms\nBuffers\n",
            "       7 frame                  4096 VRAM of device 0 dma_buf    device 0     3\n",
            "detached: device 0, GPU 0\n                    static, mapped 4 ×\n",
            "attached: device 1, GPU 1\n                    dynamic, peer to peer, mapped 0 × \
             (5 × before it moved)\n",
            "ghost:    generation 2 in system memory\n                    mapped by device 1 5 ×\n",
            "pinned:   by device 0, 2 × 4096 bytes: scanout",
            "pinned:   by an export, 1 × 4096 bytes: handed out",
            "fence:    Write, the host",
            "host:     2 accesses open",
            "revoked:",
            "purged:",
            "poisoned: the host said no",
            "moving:",
            "imported:",
            "export:   has ended",
            "Total: 3 buffers, 8192 bytes, 6 attachments, 27 mappings, 9 pins,\n",
            "6 host accesses, 3 fences, 3 ghosts",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{widest:?} columns:\n{text}");
        let by_domain = [(DomainId::Vram(home), 4096), (DomainId::System, 4096)];
        assert_eq!(report.totals().bytes_by_domain, by_domain);
        assert_eq!(report.named("frame").count(), 1);
    }
}
