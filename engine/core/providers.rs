//! The memory providers of one engine, and what a backing must be.

use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::sharing_habits::SharingHabits;
use crate::device::{AdapterKind, DeviceInner, HandleType};
use crate::memory::{
    DeviceSet, DomainKind, GroupId, Placement, Pools, Provider, SlabGrouping, candidates,
    host_exports, is_coherent_with_caches,
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
    /// Whether little memory is to be allocated for it, because others are to be emptied.
    pub(crate) sparing: bool,
    /// The devices that share the buffer, or will.
    pub(crate) sharers: DeviceSet,
    /// The priority that the buffer was created with, for an allocation of its own.
    pub(crate) priority: Priority,
    /// The client group that it is charged to.
    pub(crate) group: GroupId,
}

/// The providers of one engine, with the pools of those that no device exports.
#[derive(Debug)]
pub(crate) struct Providers {
    /// The host providers that this machine has, found out once.
    host: SmallVec<[Provider; 4]>,
    pub(super) pools: Pools,
    grouping: SlabGrouping,
    /// Whether slabs are grouped. Relaxed: it is set once, and older slabs are those of all devices.
    groups: AtomicBool,
    /// Whether a device is not coherent with the host's caches. Relaxed: it is set once, and only sizes depend on it.
    incoherent: AtomicBool,
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
            incoherent: AtomicBool::new(false),
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
        if !is_coherent_with_caches(device) {
            self.incoherent.store(true, Ordering::Relaxed);
        }
    }

    /// Bytes of the largest slab of a provider.
    ///
    /// An access of the host to a dma-buf maintains the caches of the whole slab for devices that are not coherent with
    /// them, since `DMA_BUF_IOCTL_SYNC` has no range (`system_heap_dma_buf_begin_cpu_access`).
    pub(super) fn largest_slab(&self, provider: Provider) -> u64 {
        const INCOHERENT: u64 = 1 << 20;
        let is_dma_buf = matches!(provider, Provider::DmaHeap | Provider::Udmabuf);
        match is_dma_buf && self.incoherent.load(Ordering::Relaxed) {
            true => INCOHERENT,
            false => u64::MAX,
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

    /// The first provider of the home device's VRAM, `private` or not. It is constant.
    pub(super) fn first_in_vram(home: &DeviceInner, private: bool) -> Option<Provider> {
        if private && transfer::can_export_any(home) {
            return Some(Provider::Private { device: home.id() });
        }
        let mut handles = [HandleType::DmaBuf, HandleType::OpaqueFd].into_iter();
        let handle = handles.find(|handle| transfer::can_export(home, *handle))?;
        Some(Provider::Device { device: home.id(), handle, domain: DomainKind::Vram })
    }

    /// The providers of host-visible memory that other devices than the home device export, from what their drivers
    /// report. A buffer may use them while their exporter is attached.
    pub(crate) fn exports_of(exporter: &DeviceInner) -> impl Iterator<Item = Provider> {
        host_exports(exporter).filter(|provider| match provider {
            Provider::Device { handle, .. } => transfer::can_export(exporter, *handle),
            _ => false,
        })
    }
}
