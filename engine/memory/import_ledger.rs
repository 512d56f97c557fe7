//! The ledger of imports: how much each device has imported, and how much it may.
//!
//! Drivers keep every import of a device resident while any submission of it runs (RADV: `radv_alloc_memory`,
//! `buffer_make_resident`; a VM of xe: all that is bound). Imported system memory counts against the GPU's window to
//! it (amdgpu: GTT), and a submission beyond that ends in a lost device.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::domain_id::DomainKind;
use super::domain_usage::ImportUsage;
use crate::device::{AdapterKind, DeviceId, DeviceInner, HeapBudget};
use crate::error::{Error, ImportLimit, Result};

/// What the devices of an engine have imported. Its lock is the innermost.
#[derive(Debug, Default)]
pub(super) struct ImportLedger(Mutex<HashMap<DeviceId, Imported>>);

/// What one device has imported.
#[derive(Clone, Copy, Debug)]
struct Imported {
    usage: ImportUsage,
    /// What the driver's budget allows, beside what else the process has there, when it was asked last.
    budget: u64,
}

impl Default for Imported {
    fn default() -> Self {
        Self { usage: ImportUsage::default(), budget: u64::MAX }
    }
}

impl ImportLedger {
    /// Counts an import of `bytes` bytes, which is about to be made.
    ///
    /// # Errors
    ///
    /// [`Error::ImportLimit`].
    pub(super) fn reserve(&self, device: &DeviceInner, kind: DomainKind, bytes: u64) -> Result<()> {
        let limit = import_limit(device);
        let mut devices = self.devices();
        let Imported { usage, budget } = devices.entry(device.id()).or_default();
        let limit = limit.min(*budget);
        if kind == DomainKind::System && bytes > limit.saturating_sub(usage.system) {
            return Err(Error::ImportLimit(ImportLimit {
                device: device.name().to_owned(),
                requested: bytes,
                imported: usage.system,
                limit,
            }));
        }
        *part(usage, kind) += bytes;
        usage.views += 1;
        Ok(())
    }

    /// Ends the count of an import.
    pub(super) fn release(&self, device: DeviceId, kind: DomainKind, bytes: u64) {
        if let Some(Imported { usage, .. }) = self.devices().get_mut(&device) {
            *part(usage, kind) -= bytes;
            usage.views -= 1;
        }
    }

    /// Forgets a device that has left and has no imports.
    pub(super) fn forget(&self, device: DeviceId) {
        self.devices().remove(&device);
    }

    /// What a device has imported, and may import.
    pub(super) fn usage(&self, device: &DeviceInner) -> ImportUsage {
        let imported = self.devices().get(&device.id()).copied().unwrap_or_default();
        let limit = import_limit(device).min(imported.budget);
        ImportUsage { limit, ..imported.usage }
    }

    /// Notes what the driver reports about the heap through which the device reaches system memory. Its usage counts imports
    /// (RADV: `radv_amdgpu_bo_from_fd` adds them to `allocated_gtt`), so what it leaves is left beside
    /// them, and what it exceeds is to be given back.
    pub(super) fn reported(&self, device: DeviceId, HeapBudget { budget, usage }: HeapBudget) {
        let mut devices = self.devices();
        let imported = devices.entry(device).or_default();
        imported.budget = imported.usage.system.saturating_add(budget).saturating_sub(usage);
    }

    /// The bytes that a device has imported.
    pub(super) fn bytes(&self, device: DeviceId) -> u64 {
        self.devices().get(&device).map_or(0, |of| of.usage.system + of.usage.peers)
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<DeviceId, Imported>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of system memory that a device may import, whatever the driver's budget is.
fn import_limit(device: &DeviceInner) -> u64 {
    if let Some(limit) = device.calls().import_limit() {
        return limit;
    }
    let heaps = device.adapter().heaps();
    import_heap(device).and_then(|heap| heaps.get(heap)).map_or(u64::MAX, |heap| heap.size)
}

/// The index of the heap that imports of system memory are counted in. GPUs reach it through a heap of their own (RADV:
/// that of the GTT); where all memory is the device's, that is the largest heap. `None` for a software device, which uses
/// the address itself.
pub(crate) fn import_heap(device: &DeviceInner) -> Option<usize> {
    if device.adapter().kind() == AdapterKind::Cpu {
        return None;
    }
    let heaps = device.adapter().heaps();
    let largest = |own: bool| {
        let such = heaps.iter().enumerate().filter(|(_, heap)| heap.device_local == own);
        such.max_by_key(|(_, heap)| heap.size).map(|(index, _)| index)
    };
    largest(false).or_else(|| largest(true))
}

/// The part of the usage that imports of a kind of domain are counted in.
fn part(usage: &mut ImportUsage, kind: DomainKind) -> &mut u64 {
    match kind {
        DomainKind::System => &mut usage.system,
        DomainKind::Vram => &mut usage.peers,
    }
}
