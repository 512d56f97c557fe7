//! Import: memory from outside this engine becomes a buffer, by an fd.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::handle::{ForeignHandle, ForeignInfo};
use crate::buffer::object::{BufferDescriptor, BufferInner, Buffers, SetRef, SharedBuffer};
use crate::buffer::placement::retry_on_oom;
use crate::core::ImportedPart;
use crate::device::{DeviceInner, HandleType};
use crate::error::{Error, ForeignFdReason, Result};
use crate::memory::{
    Allocation, Backing, ForeignClaim, ForeignFile, ImportKind, Provider, SLOT_ALIGN, dma_buf,
};
use crate::transfer;

impl From<ForeignHandle> for OwnedFd {
    fn from(handle: ForeignHandle) -> Self {
        handle.fd
    }
}

/// Imports external memory on `device`. If the fd is an export of this engine, it returns the exported buffer
/// instead; and if the same bytes were imported before, the buffer of that import. The fd stays the caller's.
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
    let ForeignInfo { handle, size, offset, memory_size, memory_type, allow_larger, .. } = info;
    if !offset.is_multiple_of(SLOT_ALIGN) {
        let what = "offset of foreign memory";
        return Err(Error::Misaligned { what, value: offset, align: SLOT_ALIGN });
    }
    let claim = ForeignClaim { handle, offset, size, memory_size, allow_larger };
    let file_size = claim.check(fd)?;
    check_driver(device, info)?;
    if let Some(exported) = find_export(set, fd, info)? {
        return Ok(exported);
    }
    claim.check_not_much_larger(file_size)?;
    let mut kinds = Provider::Foreign(handle).imports_of(device).iter().copied();
    let Some(kind) = kinds.find(|kind| transfer::can_import(device, *kind)) else {
        return Err(Error::Unsupported {
            device: device.name().to_owned(),
            missing: format!("import of {handle}"),
        });
    };
    let part = ImportedPart { claim, memory_type };
    if let Some(imported) = set.imports.find(fd, &part)? {
        return reached(set, device, kind, imported);
    }
    let origin = set.core.origin(Provider::Foreign(handle), None);
    let (allocation, start) = retry_on_oom(set, device.id(), [], || {
        let fd = dma_buf::duplicate(fd, &set.core.calls)?;
        let file = ForeignFile { fd, size: file_size, claim, memory_type };
        Allocation::import_foreign(&origin, device, file, kind)
    })?;
    let backing = Backing::foreign(allocation, start);
    let imported = SharedBuffer::new(SetRef::new(set), device.id(), descriptor, backing, None);
    let first = set.imports.remember(fd, part, &imported.0)?;
    if Arc::ptr_eq(&first, &imported.0) { Ok(imported) } else { reached(set, device, kind, first) }
}

/// The buffer that a file was exported from, if it is still in that file. A buffer whose last export has ended leaves
/// the file first, unless it is kept in place: its next use would do so.
///
/// # Errors
///
/// [`Error::ForeignFd`] if the buffer is in other bytes of the file than stated, and these overlap; the errors of
/// [`SharedBuffer::relocate`], except [`Error::Busy`], from the move.
///
/// Locks: none may be held; takes the reservation, but not while waiting.
fn find_export(
    set: &Arc<Buffers>,
    fd: BorrowedFd<'_>,
    info: ForeignInfo,
) -> Result<Option<SharedBuffer>> {
    let Some((exported, generation)) = set.exports.find(fd)? else { return Ok(None) };
    exported.leave_exported()?;
    // The export of an import may begin behind the file's first byte.
    let offset = {
        let state = exported.lock();
        // A buffer that has moved since its export is no longer in that file.
        if exported.generation() != generation {
            return Ok(None);
        }
        let backing = state.location().backing();
        backing.map_or(0, |backing| backing.allocation().file_offset() + backing.offset())
    };
    let (size, end) = (exported.size, info.offset.saturating_add(info.size));
    if offset == info.offset && size >= info.size {
        return Ok(Some(SharedBuffer(exported)));
    }
    if info.offset < offset.saturating_add(size) && offset < end {
        let reason = ForeignFdReason::Overlaps { handle: info.handle, offset, size };
        return Err(Error::ForeignFd { handle: info.handle, reason });
    }
    Ok(None)
}

/// Returns an earlier import of the same bytes, once `device` can reach them, too.
fn reached(
    set: &Arc<Buffers>,
    device: &Arc<DeviceInner>,
    kind: ImportKind,
    imported: Arc<BufferInner>,
) -> Result<SharedBuffer> {
    let allocation = {
        let state = imported.lock();
        Arc::clone(imported.backing(&state)?.allocation())
    };
    retry_on_oom(set, device.id(), [], || set.core.view(&allocation, device, kind))?;
    Ok(SharedBuffer(imported))
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
