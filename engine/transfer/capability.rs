//! Which handle types a device can export and import, according to its driver and its enabled extensions.

use crate::device::{DeviceInner, HandleType};
use crate::memory::ImportKind;

/// Whether the driver reports that it can export the handle type.
pub(crate) fn can_export(device: &DeviceInner, handle: HandleType) -> bool {
    device.adapter().external_buffer(handle).exportable && has_extension(device, handle)
}

/// Whether the driver reports that it can export memory in any way.
pub(crate) fn can_export_any(device: &DeviceInner) -> bool {
    [HandleType::DmaBuf, HandleType::OpaqueFd].into_iter().any(|handle| can_export(device, handle))
}

/// Whether the driver reports that it can import memory in this way.
pub(crate) fn can_import(device: &DeviceInner, kind: ImportKind) -> bool {
    let handle = kind.handle();
    device.adapter().external_buffer(handle).importable && has_extension(device, handle)
}

/// Whether the extensions for the handle type are enabled. An adopted device may lack extensions that its
/// adapter has.
pub(crate) fn has_extension(device: &DeviceInner, handle: HandleType) -> bool {
    match handle {
        HandleType::DmaBuf => device.memory_fd().is_some() && device.has_dma_buf(),
        HandleType::OpaqueFd => device.memory_fd().is_some(),
        HandleType::HostPointer => device.memory_host().is_some(),
    }
}
