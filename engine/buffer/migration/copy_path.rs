//! By what a buffer's bytes can be moved from one place to another.

use std::sync::Arc;

use crate::buffer::object::BufferInner;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::{Allocation, View};
use crate::transfer::path::{BounceEnd, BouncePath};

/// By what.
pub(in crate::buffer) enum CopyPath {
    /// The device's views of both places.
    Device { from: Arc<View>, to: Arc<View> },
    /// No device sees both.
    BouncePath(BouncePath),
    /// None: the bytes are gone with the device that had them, and nothing is to be copied.
    Nothing,
}

impl CopyPath {
    /// The new home, if it sees both places, else the old one, else both with the host between them; and whose
    /// move it then is. Without the reservation, because it may prove a route.
    pub(in crate::buffer) fn find(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        old: &Allocation,
        new: &Allocation,
    ) -> Result<Option<(Arc<DeviceInner>, Self)>> {
        for device in [Arc::clone(home), buffer.home()] {
            let Some(from) = see(buffer, home, old, &device)? else { continue };
            if let Some(to) = see(buffer, home, new, &device)? {
                return Ok(Some((device, Self::Device { from, to })));
            }
        }
        let Some(from) = end(buffer, home, old, [buffer.home(), Arc::clone(home)])? else {
            return Ok(None);
        };
        let Some(to) = end(buffer, home, new, [Arc::clone(home), buffer.home()])? else {
            return Ok(None);
        };
        Ok(Some((Arc::clone(home), Self::BouncePath(BouncePath { from, to }))))
    }
}

/// Who sees one end, where no device sees both: the host, if it does so at full speed, else one of `devices`, else
/// the host.
fn end(
    buffer: &BufferInner,
    home: &Arc<DeviceInner>,
    allocation: &Allocation,
    devices: [Arc<DeviceInner>; 2],
) -> Result<Option<BounceEnd>> {
    let host = allocation.host()?.is_some();
    if host && allocation.is_fast_for_host() {
        return Ok(Some(BounceEnd::Host));
    }
    for device in devices {
        if let Some(view) = see(buffer, home, allocation, &device)? {
            return Ok(Some(BounceEnd::Device { view, staging: buffer.core().staging(&device)? }));
        }
    }
    Ok(host.then_some(BounceEnd::Host))
}

/// `device`'s view of an allocation; `None` if it cannot have one.
fn see(
    buffer: &BufferInner,
    home: &Arc<DeviceInner>,
    allocation: &Allocation,
    device: &Arc<DeviceInner>,
) -> Result<Option<Arc<View>>> {
    if let Some(view) = allocation.existing_view(device.id()) {
        return Ok(Some(view));
    }
    let provider = allocation.provider();
    match buffer.core().take(provider, home, device, &mut Vec::new())? {
        Some(take) => allocation.view(device, take).map(Some),
        None => Ok(None),
    }
}
