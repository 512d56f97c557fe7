//! The report of an engine: its devices, domains, client groups and buffers.

use std::sync::Arc;

use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::state::{AttachmentEntry, CleanCopy, Ghost, State};
use crate::device::DeviceId;
use crate::memory::{DomainId, Provider};
use crate::observe::{
    AttachmentReport, BufferReport, DeviceReport, DomainReport, FenceReport, GhostReport,
    GroupReport, MoveCause, PinReport, Report, Shares, StallCause,
};
use crate::residency::Group;

/// Makes the report of an engine.
///
/// Locks: each buffer's reservation for a moment, one at a time.
pub(crate) fn report(set: &Buffers) -> Report {
    set.handle_lost_devices();
    let devices: Vec<_> = set
        .core
        .devices
        .iter()
        .map(|entry| &entry.device)
        .map(|device| DeviceReport {
            id: device.id(),
            name: device.name().to_owned(),
            imports: set.core.imports.usage(device),
        })
        .collect();
    let domains = devices.iter().map(|device| DomainId::Vram(device.id)).chain([DomainId::System]);
    let mut buffers = Vec::new();
    set.live.for_each(|buffer| buffers.push(buffer.report()));
    buffers.sort_unstable_by_key(|buffer| buffer.id);
    let domain = |id| DomainReport {
        id,
        usage: set.core.domain_state(id).ledger.usage(),
        shares: shares(&buffers, id, set.core.retire.bytes_in(id)),
        providers: providers(&buffers, id),
    };
    let mut domains: Vec<_> = domains.map(domain).collect();
    let is_part = |id| set.core.domain_state(id).ledger.is_part();
    let parts = domains.iter().filter(|domain| is_part(domain.id));
    let integrated = parts.map(|domain| domain.usage.used).sum();
    for system in domains.iter_mut().filter(|domain| domain.id == DomainId::System) {
        system.shares.integrated = integrated;
    }
    let moved =
        MoveCause::ALL.iter().map(|&cause| (cause, set.core.counters.moved.get(cause))).collect();
    let stalls =
        StallCause::ALL.iter().map(|&cause| (cause, set.core.counters.stalls.get(cause))).collect();
    let groups = group_reports(set);
    Report { devices, domains, groups, buffers, moved, stalls }
}

/// The use of a domain, by kind.
fn shares(buffers: &[BufferReport], id: DomainId, in_flight: u64) -> Shares {
    let mut shares = Shares { in_flight, ..Shares::default() };
    for buffer in buffers {
        if buffer.domain == id {
            shares.buffers += 1;
            shares.resident += buffer.footprint;
            shares.pinned += if buffer.pins.is_empty() { 0 } else { buffer.footprint };
        }
        let ghosts = buffer.ghosts.iter().filter(|ghost| ghost.domain == id);
        shares.ghosts += ghosts.map(|ghost| ghost.bytes).sum::<u64>();
        let clean = buffer.clean_copy.filter(|(domain, _)| *domain == id);
        shares.clean_copies += clean.map_or(0, |(_, bytes)| bytes);
    }
    shares
}

/// The providers of the buffers in a domain with their bytes, the largest first.
fn providers(buffers: &[BufferReport], id: DomainId) -> Vec<(Provider, u64)> {
    let mut providers: Vec<(Provider, u64)> = vec![];
    for buffer in buffers.iter().filter(|buffer| buffer.domain == id && buffer.footprint > 0) {
        match providers.iter_mut().find(|(provider, _)| *provider == buffer.provider) {
            Some((_, bytes)) => *bytes += buffer.footprint,
            None => providers.push((buffer.provider, buffer.footprint)),
        }
    }
    providers.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    providers
}

impl BufferInner {
    fn report(&self) -> BufferReport {
        let mut state = self.lock();
        let poisoned = self.poison(&mut state);
        let provider = state.location().provider();
        BufferReport {
            id: self.id(),
            name: self.given_name().map(String::from),
            size: self.size,
            domain: provider.domain(),
            footprint: state.location().footprint(),
            preferred: state.entry().preferred(),
            clean_copy: state.clean().and_then(CleanCopy::footprint),
            provider,
            home: self.home_id(),
            generation: self.generation(),
            revoked: self.status.is_revoked(),
            purged: self.status.is_purged(),
            poisoned,
            moving: state.moving().is_some(),
            imported: matches!(provider, Provider::Foreign(_)),
            exports: state.exported(),
            known_outside: state.must_leave_exported(),
            host_accesses: state.host(),
            pins: pins(&state, self.size),
            fences: fences(&mut state),
            attachments: self.attachments(&state),
            ghosts: ghosts(&state),
        }
    }

    fn attachments(&self, state: &State) -> Vec<AttachmentReport> {
        let name = |device: DeviceId| self.core().member(device).device.name().to_owned();
        let before = |device: DeviceId| {
            let old = state.ghosts().flat_map(Ghost::mapped);
            old.filter(|(of, _)| *of == device).map(|(_, mapped)| mapped).sum()
        };
        let report = |attachment: AttachmentEntry| AttachmentReport {
            device: attachment.device,
            device_name: name(attachment.device),
            attached: attachment.is_attached(),
            dynamic: attachment.is_dynamic(),
            peer_to_peer: attachment.allows_peer_to_peer(),
            mapped: attachment.mapped(),
            mapped_before: before(attachment.device),
        };
        state.attachments().map(report).collect()
    }
}

/// The pins of a buffer of `bytes` bytes, by device and reason.
pub(super) fn pins(state: &State, bytes: u64) -> Vec<PinReport> {
    let pins = state.pin_counters().iter().map(|counter| PinReport {
        device: Some(counter.device()),
        reason: counter.reason().clone(),
        count: counter.pins(),
        bytes,
    });
    let handed_out = PinReport {
        device: None,
        reason: PinReport::EXPORTED.into(),
        count: u64::from(state.exported()),
        bytes,
    };
    pins.chain([handed_out]).filter(|pins| pins.count > 0).collect()
}

fn fences(state: &mut State) -> Vec<FenceReport> {
    let running = state.fences().running().into_iter();
    running
        .map(|(usage, fence)| FenceReport { usage, device: fence.device(), on: fence.to_string() })
        .collect()
}

fn ghosts(state: &State) -> Vec<GhostReport> {
    let mut ghosts: Vec<_> = state
        .ghosts()
        .map(|ghost| GhostReport {
            generation: ghost.generation,
            domain: ghost.domain(),
            bytes: ghost.bytes(),
            mapped: ghost.mapped().collect(),
        })
        .collect();
    ghosts.sort_unstable_by_key(|ghost| ghost.generation);
    ghosts
}

/// The use and cap of each client group in each domain, except where it has neither.
pub(super) fn group_reports(set: &Buffers) -> Vec<GroupReport> {
    let groups = set.core.groups.all();
    let reports = set.core.domains().flat_map(|domain| {
        let report = |group: &Arc<Group>| {
            let usage = set.core.domain_state(domain).ledger.group(group.id);
            let is_shown = usage.used > 0 || usage.cap.is_some();
            is_shown.then(|| GroupReport { name: group.name.to_string(), domain, usage })
        };
        groups.iter().filter_map(report).collect::<Vec<_>>()
    });
    reports.collect()
}
