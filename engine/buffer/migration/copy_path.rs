//! How the bytes can be copied: by a device that sees both backings, through the host, or not at all.

use std::sync::Arc;

use crate::buffer::object::BufferInner;
use crate::core::DeviceEntry;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
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
    /// old one; a bounce copy is last. `Ok(None)` if there is no path. A device that may import no more has no view of
    /// the backing.
    ///
    /// Call without the reservation, because this may prove a route.
    ///
    /// # Errors
    ///
    /// Those of the imports; [`Error::ImportLimit`] only if no other path is left.
    pub(super) fn find(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        old: &Allocation,
        new: &Allocation,
    ) -> Result<Option<(Arc<DeviceInner>, Self)>> {
        let mut beyond_limit = None;
        // A device that shares neither slab comes last: its import would concern the buffers of others.
        for import in [Import::OwnSlabs, Import::Any] {
            for device in [Arc::clone(home), buffer.home()] {
                let mut view = |allocation| {
                    let view = view_for(buffer, home, allocation, &device, import);
                    within_limit(view, &mut beyond_limit)
                };
                let Some(from) = view(old)? else { continue };
                if let Some(to) = view(new)? {
                    return Ok(Some((device, Self::Device { from, to })));
                }
            }
        }
        let mut end = |allocation, devices| {
            within_limit(bounce_end(buffer, home, allocation, devices), &mut beyond_limit)
        };
        let from = end(old, [buffer.home(), Arc::clone(home)])?;
        let to = end(new, [Arc::clone(home), buffer.home()])?;
        match (from, to, beyond_limit) {
            (Some(from), Some(to), _) => {
                Ok(Some((Arc::clone(home), Self::BouncePath(BouncePath { from, to }))))
            }
            (_, _, Some(error)) => Err(error),
            _ => Ok(None),
        }
    }
}

/// Nothing, in place of what a device may not import at present; the error is kept.
fn within_limit<T>(
    found: Result<Option<T>>,
    beyond_limit: &mut Option<Error>,
) -> Result<Option<T>> {
    match found {
        Err(error @ Error::ImportLimit(_)) => {
            *beyond_limit = Some(error);
            Ok(None)
        }
        other => other,
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
    let mut beyond_limit = None;
    for device in devices {
        let view = view_for(buffer, home, allocation, &device, Import::Any);
        if let Some(view) = within_limit(view, &mut beyond_limit)? {
            return Ok(Some(BounceEnd::Device { view, staging: buffer.core().staging(&device)? }));
        }
    }
    match beyond_limit {
        Some(error) if !host => Err(error),
        _ => Ok(host.then_some(BounceEnd::Host)),
    }
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
