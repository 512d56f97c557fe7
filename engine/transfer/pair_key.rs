//! Which pair of devices a verdict is about: hardware and drivers, not this opening of them.

use super::capability::has_extension;
use crate::device::{Adapter, DeviceInner, DrmNode, HandleType, PciAddress, QueueKind, Uuid};

/// Identifies a pair of devices by what a verdict depends on: hardware and drivers, not this opening of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PairKey {
    pub(super) from: AdapterKey,
    pub(super) to: AdapterKey,
    pub(super) same_device: bool,
}

/// Identifies an adapter, and what of it is used. UUIDs alone do not: drivers were seen to give one UUID to several
/// devices (llama.cpp#19026).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AdapterKey {
    /// Its position in the loader's list, which may change from process to process.
    pub(super) index: usize,
    pub(super) pci: Option<PciAddress>,
    pub(super) drm: [Option<DrmNode>; 2],
    pub(super) device: Uuid,
    pub(super) driver: Uuid,
    pub(super) version: u32,
    /// Per handle type, whether the device has its extensions enabled: an adopted device may lack extensions
    /// that its adapter has.
    pub(super) enabled: [bool; HandleType::ALL.len()],
    /// The families of its main queue and of the one for moves.
    pub(super) families: [u32; 2],
}

impl AdapterKey {
    fn new(device: &DeviceInner) -> Self {
        let adapter: &Adapter = device.adapter();
        Self {
            index: adapter.index(),
            pci: adapter.pci(),
            drm: [adapter.drm_render(), adapter.drm_primary()],
            device: adapter.device_uuid(),
            driver: adapter.driver_uuid(),
            version: adapter.driver_version(),
            enabled: std::array::from_fn(|at| has_extension(device, HandleType::ALL[at])),
            families: [QueueKind::Main, device.queue_for_moves()]
                .map(|kind| device.queue_family(kind)),
        }
    }
}

impl PairKey {
    pub(crate) fn new(from: &DeviceInner, to: &DeviceInner) -> Self {
        let same_device = std::ptr::eq(from, to);
        Self { from: AdapterKey::new(from), to: AdapterKey::new(to), same_device }
    }
}
