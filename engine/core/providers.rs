//! The memory providers of one engine, and what a backing must be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::sharing_habits::SharingHabits;
use crate::device::{AdapterKind, DeviceInner};
use crate::memory::{
    DeviceSet, DomainId, DomainKind, GroupId, Placement, Pool, Pools, Provider, SlabGrouping,
    SparseBlocks, candidates, host_exports,
};
use crate::residency::Priority;
use crate::transfer;

/// What a backing must be.
#[derive(Clone, Copy)]
pub(crate) struct BackingRequest<'a> {
    pub(crate) home: &'a DeviceInner,
    pub(crate) placement: Placement,
    pub(crate) size: u64,
    /// Whether it needs an allocation of its own, whatever its size.
    pub(crate) dedicated: bool,
    /// Whether its memory need not be exportable, if only the home device is to reach it.
    pub(crate) private: bool,
    /// The devices that share the buffer, or will.
    pub(crate) sharers: DeviceSet,
    /// The priority that the buffer was created with, for an allocation of its own.
    pub(crate) priority: Priority,
    /// The client group that it is charged to.
    pub(crate) group: GroupId,
}

/// The providers of one engine, with a pool each.
#[derive(Debug)]
pub(crate) struct Providers {
    /// The host providers that this machine has, found out once.
    host: SmallVec<[Provider; 4]>,
    pub(super) pools: Pools,
    grouping: SlabGrouping,
    /// Whether slabs are grouped. Relaxed: it is set once, and older slabs are those of all devices.
    groups: AtomicBool,
    pub(super) habits: SharingHabits,
}

impl Providers {
    pub(super) fn new(grouping: SlabGrouping) -> Self {
        let host = [Provider::DmaHeap, Provider::Udmabuf, Provider::Memfd, Provider::Anonymous];
        let has = |provider: &Provider| provider.missing_on_host().is_none();
        Self {
            host: host.into_iter().filter(has).collect(),
            pools: Pools::default(),
            grouping,
            groups: AtomicBool::new(grouping == SlabGrouping::BySharers),
            habits: SharingHabits::default(),
        }
    }

    /// Whether the buffers of a slab are those that the same devices share.
    pub(crate) fn are_grouped(&self) -> bool {
        self.groups.load(Ordering::Relaxed)
    }

    /// Notes that a device has joined. From the first one on whose memory its kernel driver can move, slabs are grouped
    /// by default.
    pub(crate) fn joined(&self, device: &DeviceInner) {
        if self.grouping == SlabGrouping::Auto && device.adapter().kind() != AdapterKind::Cpu {
            self.groups.store(true, Ordering::Relaxed);
        }
    }

    /// The providers of a kind of domain that may suit buffers with the home device `home`.
    pub(crate) fn possible(&self, home: &DeviceInner, kind: DomainKind) -> SmallVec<[Provider; 6]> {
        let mut list = candidates(home, kind);
        list.retain(|provider| match *provider {
            Provider::Device { handle, .. } => transfer::can_export(home, handle),
            Provider::Private { .. } => transfer::can_export_any(home),
            host => {
                self.host.contains(&host)
                    && host.imports_of(home).iter().any(|kind| transfer::can_import(home, *kind))
            }
        });
        list
    }

    /// The providers of host-visible memory that other devices than the home device export, from what their drivers
    /// report. A buffer may use them while their exporter is attached.
    pub(crate) fn exports_of(exporter: &DeviceInner) -> impl Iterator<Item = Provider> {
        host_exports(exporter).filter(|provider| match provider {
            Provider::Device { handle, .. } => transfer::can_export(exporter, *handle),
            _ => false,
        })
    }

    /// Returns unused memory of a domain to its providers. Returns the number of bytes.
    pub(crate) fn trim(&self, domain: DomainId) -> u64 {
        self.pools_in(Some(domain)).map(|pool| pool.trim()).sum()
    }

    /// Frees blocks without buffers, of one domain or of all. Returns the number of bytes.
    pub(crate) fn free_blocks(&self, within: Option<DomainId>) -> u64 {
        self.pools_in(within).map(|pool| pool.free_blocks()).sum()
    }

    /// Closes the blocks that are at most `fullest` eighths full and whose buffers have room elsewhere, of one domain or of
    /// all.
    pub(crate) fn close_sparse(&self, within: Option<DomainId>, fullest: u64) -> Vec<SparseBlocks> {
        let closed = self.pools_in(within).map(|pool| pool.close_sparse(fullest));
        closed.filter(|blocks| !blocks.is_empty()).collect()
    }

    fn pools_in(&self, domain: Option<DomainId>) -> impl Iterator<Item = &Arc<Pool>> {
        let is_there =
            move |pool: &&Arc<Pool>| domain.is_none_or(|domain| pool.provider().domain() == domain);
        self.pools.iter().filter(is_there)
    }
}
