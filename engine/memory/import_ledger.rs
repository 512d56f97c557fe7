//! The ledger of imports: how much each device has imported, and how much it may.
//!
//! Drivers keep every import of a device resident while any submission of it runs (RADV: `radv_alloc_memory`,
//! `buffer_make_resident`; a VM of xe: all that is bound). Imported system memory counts against the GPU's window to
//! it (amdgpu: GTT), and a submission beyond that ends in a lost device.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::domain_id::DomainKind;
use super::domain_usage::ImportUsage;
use crate::device::{AdapterKind, DeviceId, DeviceInner};
use crate::error::{Error, ImportLimit, Result};

/// What the devices of an engine have imported. Its lock is the innermost.
#[derive(Debug, Default)]
pub(super) struct ImportLedger(Mutex<HashMap<DeviceId, ImportUsage>>);

impl ImportLedger {
    /// Counts an import of `bytes` bytes, which is about to be made.
    ///
    /// # Errors
    ///
    /// [`Error::ImportLimit`].
    pub(super) fn reserve(&self, device: &DeviceInner, kind: DomainKind, bytes: u64) -> Result<()> {
        let limit = import_limit(device);
        let mut devices = self.devices();
        let usage = devices.entry(device.id()).or_default();
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
        if let Some(usage) = self.devices().get_mut(&device) {
            *part(usage, kind) -= bytes;
            usage.views -= 1;
        }
    }

    /// What a device has imported, and may import.
    pub(super) fn usage(&self, device: &DeviceInner) -> ImportUsage {
        let usage = self.devices().get(&device.id()).copied();
        ImportUsage { limit: import_limit(device), ..usage.unwrap_or_default() }
    }

    /// The bytes that a device has imported.
    pub(super) fn bytes(&self, device: DeviceId) -> u64 {
        self.devices().get(&device).map_or(0, |usage| usage.system + usage.peers)
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<DeviceId, ImportUsage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of system memory that a device may import. GPUs reach it through a heap of their own (RADV: that of the
/// GTT); where all memory is the device's, that is the largest heap.
fn import_limit(device: &DeviceInner) -> u64 {
    if let Some(limit) = device.calls().import_limit() {
        return limit;
    }
    // A software device uses the address itself.
    if device.adapter().kind() == AdapterKind::Cpu {
        return u64::MAX;
    }
    let heaps = device.adapter().heaps();
    let largest = |own: bool| {
        heaps.iter().filter(|heap| heap.device_local == own).map(|heap| heap.size).max()
    };
    largest(false).or_else(|| largest(true)).unwrap_or(u64::MAX)
}

/// The part of the usage that imports of a kind of domain are counted in.
fn part(usage: &mut ImportUsage, kind: DomainKind) -> &mut u64 {
    match kind {
        DomainKind::System => &mut usage.system,
        DomainKind::Vram => &mut usage.peers,
    }
}
