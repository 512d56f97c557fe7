//! How the bytes can be copied: by a device that sees both backings, through the host, or not at all.

use std::sync::Arc;

use crate::buffer::object::BufferInner;
use crate::core::DeviceEntry;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::{Allocation, View};
use crate::transfer::path::{BounceEnd, BouncePath};

/// How bytes get from one allocation to another one: the same for all buffers in them that are alike.
pub(super) struct CopyWay {
    /// The device that copies; without one, the new home device.
    pub(super) device: Arc<DeviceInner>,
    pub(super) copy_path: CopyPath,
    pub(super) old: Arc<Allocation>,
    /// The device whose own memory the destination is.
    pub(super) owner: Option<Arc<DeviceEntry>>,
}

/// How the bytes of a move can be copied.
pub(super) enum CopyPath {
    /// By one device, with its views of both backings.
    Device { from: Arc<View>, to: Arc<View> },
    /// Through the host, because no device sees both backings.
    BouncePath(BouncePath),
    /// Not at all: the content was lost with its device, so there is nothing to copy.
    Nothing,
}

impl CopyPath {
    /// Finds a path, and the device that the move is assigned to. The new home device comes first, then the
    /// old one; a bounce copy is last. `Ok(None)` if there is no path.
    ///
    /// Call without the reservation, because this may prove a route.
    pub(super) fn find(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        old: &Allocation,
        new: &Allocation,
    ) -> Result<Option<(Arc<DeviceInner>, Self)>> {
        // A device that shares neither slab comes last: its import would concern the buffers of others.
        for import in [Import::OwnSlabs, Import::Any] {
            for device in [Arc::clone(home), buffer.home()] {
                let Some(from) = view_for(buffer, home, old, &device, import)? else { continue };
                if let Some(to) = view_for(buffer, home, new, &device, import)? {
                    return Ok(Some((device, Self::Device { from, to })));
                }
            }
        }
        let Some(from) = bounce_end(buffer, home, old, [buffer.home(), Arc::clone(home)])? else {
            return Ok(None);
        };
        let Some(to) = bounce_end(buffer, home, new, [Arc::clone(home), buffer.home()])? else {
            return Ok(None);
        };
        Ok(Some((Arc::clone(home), Self::BouncePath(BouncePath { from, to }))))
    }
}

/// How a bounce copy accesses one backing: by the host at full speed, else by one of `devices`, else by the
/// host.
fn bounce_end(
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
        if let Some(view) = view_for(buffer, home, allocation, &device, Import::Any)? {
            return Ok(Some(BounceEnd::Device { view, staging: buffer.core().staging(&device)? }));
        }
    }
    Ok(host.then_some(BounceEnd::Host))
}

/// Which allocations a device may import to copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Import {
    /// Those whose buffers it shares.
    OwnSlabs,
    Any,
}

/// The device's view of an allocation; `None` if it cannot have one, or is not to: the buffer's descriptor forbids
/// peer-to-peer access, or the import would move the exporter's memory to the host.
fn view_for(
    buffer: &BufferInner,
    home: &Arc<DeviceInner>,
    allocation: &Allocation,
    device: &Arc<DeviceInner>,
    import: Import,
) -> Result<Option<Arc<View>>> {
    let provider = allocation.provider();
    if !buffer.caps_of(device.id()).accepts(provider) {
        return Ok(None);
    }
    if let Some(view) = allocation.existing_view(device.id()) {
        return Ok(Some(view));
    }
    if import == Import::OwnSlabs && !allocation.sharers().contains(device.id()) {
        return Ok(None);
    }
    match buffer.core().import_kind(provider, home, device, &mut Vec::new())? {
        Some(kind) if !buffer.core().drags_out(provider, device) => {
            buffer.core().view(allocation, device, kind).map(Some)
        }
        _ => Ok(None),
    }
}
