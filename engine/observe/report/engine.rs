//! The report of an engine: its devices, domains, client groups and counters, and the sums.

use std::collections::BTreeMap;

use super::buffer::BufferReport;
use crate::device::DeviceId;
use crate::memory::{DomainId, DomainUsage, GroupUsage, ImportUsage, Provider};
use crate::observe::move_cause::MoveCause;
use crate::observe::moved::Moved;
use crate::observe::stalls::{StallCause, Stalls};

/// The objects of an engine and their users: [`crate::Engine::report`]. Printed, it is a text for people.
///
/// Each buffer is reported as it was at one moment, but not all of them at the same moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The devices that take part, by number.
    pub devices: Vec<DeviceReport>,
    /// The domains: the VRAM of each device, then system memory.
    pub domains: Vec<DomainReport>,
    /// The use of each domain by each client group.
    pub groups: Vec<GroupReport>,
    /// The live buffers, by number.
    pub buffers: Vec<BufferReport>,
    /// The moves since the engine was opened, by cause.
    pub moved: Vec<(MoveCause, Moved)>,
    /// The waits of callers since the engine was opened, by cause.
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
    /// What it has imported.
    pub imports: ImportUsage,
}

/// A memory domain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainReport {
    /// Its id.
    pub id: DomainId,
    /// Its budget, and the bytes in use.
    pub usage: DomainUsage,
    /// The bytes in use, by the state of their buffers.
    pub shares: Shares,
    /// The bytes of [`Shares::resident`], by provider. All providers of a domain share its budget.
    pub providers: Vec<(Provider, u64)>,
}

/// The use of a domain by a client group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupReport {
    /// The group's name.
    pub name: String,
    /// The domain.
    pub domain: DomainId,
    /// The group's cap there, and the bytes in use.
    pub usage: GroupUsage,
}

/// The bytes of a domain that are in use, by the state of their buffers.
///
/// While no buffer is moved, created or dropped, the sum of all but [`Shares::pinned`] is
/// [`DomainUsage::used`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Shares {
    /// The number of buffers that are resident.
    pub buffers: u64,
    /// Bytes of resident buffers.
    pub resident: u64,
    /// Bytes of resident buffers that are pinned.
    pub pinned: u64,
    /// Bytes of clean copies of buffers that are resident in another domain.
    pub clean_copies: u64,
    /// Bytes of backings that buffers have left and that are still mapped.
    pub ghosts: u64,
    /// Bytes that no buffer owns any more and that devices still use: sources of running copies, and
    /// buffers that were dropped.
    pub in_flight: u64,
    /// Bytes of system memory that integrated devices use as their own memory: the sum of [`DomainUsage::used`] of their
    /// domains, whose shares say which buffers have them. `0` for other domains.
    pub integrated: u64,
}

/// Sums over a [`Report`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Buffers.
    pub buffers: usize,
    /// Bytes of buffers, without padding in slabs. A purged buffer has none.
    pub bytes: u64,
    /// The same bytes, by domain.
    pub bytes_by_domain: Vec<(DomainId, u64)>,
    /// Attachments, including those that only their mappings keep.
    pub attachments: usize,
    /// Mappings, including those of ghosts.
    pub mappings: u64,
    /// Pins, including those of exports.
    pub pins: u64,
    /// Accesses by the host, and those that an application is submitting.
    pub host_accesses: u64,
    /// Fences that have not signalled.
    pub fences: usize,
    /// Backings that were left and are still mapped.
    pub ghosts: usize,
}

impl Report {
    /// The buffers with the name `name`.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a BufferReport> {
        self.buffers.iter().filter(move |buffer| buffer.name.as_deref() == Some(name))
    }

    /// The sums over all buffers.
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
