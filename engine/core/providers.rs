//! The memory providers of one engine, and what a backing must be.

use smallvec::SmallVec;

use crate::device::DeviceInner;
use crate::memory::{
    DomainId, DomainKind, GroupId, Placement, Pool, Pools, Provider, SparseSlabs, candidates,
    host_exports,
};
use crate::transfer;

/// What a backing must be.
#[derive(Clone, Copy)]
pub(crate) struct BackingRequest<'a> {
    pub(crate) home: &'a DeviceInner,
    pub(crate) placement: Placement,
    pub(crate) size: u64,
    /// Whether it needs an allocation of its own, whatever its size.
    pub(crate) dedicated: bool,
    /// The client group that it is charged to.
    pub(crate) group: GroupId,
}

/// The providers of one engine, with a pool each.
#[derive(Debug)]
pub(crate) struct Providers {
    /// The host providers that this machine has, found out once.
    host: SmallVec<[Provider; 4]>,
    pub(super) pools: Pools,
}

impl Providers {
    pub(super) fn new() -> Self {
        let host = [Provider::DmaHeap, Provider::Udmabuf, Provider::Memfd, Provider::Anonymous];
        let has = |provider: &Provider| provider.missing_on_host().is_none();
        Self { host: host.into_iter().filter(has).collect(), pools: Pools::default() }
    }

    /// The providers of a kind of domain that may suit buffers with the home device `home`.
    pub(crate) fn possible(&self, home: &DeviceInner, kind: DomainKind) -> SmallVec<[Provider; 6]> {
        let mut list = candidates(home, kind);
        list.retain(|provider| match *provider {
            Provider::Device { handle, .. } => transfer::can_export(home, handle),
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
        let pools = self.pools.iter().filter(|pool| pool.provider().domain() == domain);
        pools.map(|pool| pool.trim()).sum()
    }

    /// Closes the half-empty slabs of all domains whose buffers have room elsewhere.
    pub(crate) fn close_sparse(&self) -> Vec<SparseSlabs> {
        let closed = self.pools.iter().map(Pool::close_sparse);
        closed.filter(|slabs| !slabs.is_empty()).collect()
    }
}
