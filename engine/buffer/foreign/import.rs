//! Import: memory from outside this engine becomes a buffer, by an fd.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::handle::{ForeignHandle, ForeignInfo};
use crate::buffer::object::{BufferDescriptor, Buffers, SharedBuffer};
use crate::buffer::placement::retry_on_oom;
use crate::device::{DeviceInner, HandleType};
use crate::error::{Error, ForeignFdReason, Result};
use crate::memory::{Allocation, Backing, Provider, dma_buf};
use crate::transfer;

impl From<ForeignHandle> for OwnedFd {
    fn from(handle: ForeignHandle) -> Self {
        handle.fd
    }
}

/// Imports external memory on `device`. If the fd is an export of this engine, it returns the exported buffer
/// instead. The fd stays the caller's.
///
/// The contract is that of [`crate::Engine::import_foreign`].
pub(crate) fn import(
    set: &Arc<Buffers>,
    device: &Arc<DeviceInner>,
    fd: BorrowedFd<'_>,
    info: ForeignInfo,
    name: Option<&str>,
) -> Result<SharedBuffer> {
    set.core.check(device)?;
    let descriptor = BufferDescriptor::new(info.size);
    let descriptor = name.map_or(descriptor.clone(), |name| descriptor.name(name));
    descriptor.check(device.name())?;
    let handle = info.handle;
    dma_buf::check_foreign(fd, handle, info.size)?;
    check_driver(device, info)?;
    if let Some((exported, generation)) = set.exports.find(fd)?
        // A buffer that has moved since its export is no longer in that file.
        && exported.generation() == generation
        && exported.size >= info.size
    {
        return Ok(SharedBuffer(exported));
    }
    let provider = Provider::Foreign(handle);
    let mut kinds = provider.imports_of(device).iter().copied();
    let Some(kind) = kinds.find(|kind| transfer::can_import(device, *kind)) else {
        return Err(Error::Unsupported {
            device: device.name().to_owned(),
            missing: format!("import of {handle}"),
        });
    };
    let opaque = (handle == HandleType::OpaqueFd).then_some((info.memory_size, info.memory_type));
    let origin = set.core.origin(provider);
    let allocation = retry_on_oom(set, device.id(), [], || {
        let duplicate = dma_buf::duplicate(fd, &set.core.calls)?;
        Allocation::import_foreign(&origin, device, duplicate, handle, info.size, opaque, kind)
    })?;
    let backing = Backing::foreign(allocation);
    Ok(SharedBuffer::new(set, device.id(), descriptor, backing, None))
}

/// Checks that an opaque fd comes from the same driver on the same device. Only those can import it, and
/// drivers do not check.
fn check_driver(device: &DeviceInner, info: ForeignInfo) -> Result<()> {
    if info.handle != HandleType::OpaqueFd {
        return Ok(());
    }
    let adapter = device.adapter();
    let pairs =
        [(info.driver_uuid, adapter.driver_uuid()), (info.device_uuid, adapter.device_uuid())];
    for (theirs, ours) in pairs {
        if theirs != ours {
            let reason = ForeignFdReason::OtherDriver { theirs, ours };
            return Err(Error::ForeignFd { handle: info.handle, reason });
        }
    }
    Ok(())
}
