//! Taking in memory by an fd from somebody who is not part of this engine.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::descriptor::BufferDescriptor;
use super::relief::with_relief;
use super::shared::SharedBuffer;
use crate::core::Core;
use crate::device::{DeviceInner, HandleType, Uuid};
use crate::error::{Error, ForeignFdReason, Result};
use crate::memory::{Allocation, Backing, Provider, dma_buf};
use crate::transfer;

/// What goes with an fd so that somebody else can take its memory in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignFacts {
    /// What kind of handle the fd is.
    pub handle: HandleType,
    /// The buffer's size in bytes; its first byte is the memory's first.
    pub size: u64,
    /// UUID of the exporting device. An `OPAQUE_FD` is of use only on the same one.
    pub device_uuid: Uuid,
    /// UUID of the exporting driver, likewise.
    pub driver_uuid: Uuid,
    /// Size of the memory in bytes; for an `OPAQUE_FD` an importer must repeat it.
    pub memory_size: u64,
    /// Memory type of an `OPAQUE_FD`, which an importer must repeat; else 0.
    pub memory_type: u32,
}

impl ForeignFacts {
    /// Length of [`ForeignFacts::to_bytes`].
    pub const BYTES: usize = 56;

    /// As bytes for a socket, to send beside the fd: little-endian, the same on every machine.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let kind = match self.handle {
            HandleType::DmaBuf => 0u32,
            HandleType::OpaqueFd => 1,
            HandleType::HostPointer => 2,
        };
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.memory_size.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.device_uuid.0);
        bytes[32..48].copy_from_slice(&self.driver_uuid.0);
        bytes[48..52].copy_from_slice(&self.memory_type.to_le_bytes());
        bytes[52..56].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    /// From bytes that came from a socket; `None` if they name no known kind of handle.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let handle = match u32::from_le_bytes(part(bytes, 52)) {
            0 => HandleType::DmaBuf,
            1 => HandleType::OpaqueFd,
            2 => HandleType::HostPointer,
            _ => return None,
        };
        Some(Self {
            handle,
            size: u64::from_le_bytes(part(bytes, 0)),
            memory_size: u64::from_le_bytes(part(bytes, 8)),
            device_uuid: Uuid(part(bytes, 16)),
            driver_uuid: Uuid(part(bytes, 32)),
            memory_type: u32::from_le_bytes(part(bytes, 48)),
        })
    }
}

fn part<const N: usize>(bytes: &[u8; ForeignFacts::BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// An fd with its facts.
#[derive(Debug)]
pub struct ForeignHandle {
    fd: OwnedFd,
    facts: ForeignFacts,
}

impl ForeignHandle {
    /// An fd that came from somebody else, and what was said about it.
    pub fn new(fd: OwnedFd, facts: ForeignFacts) -> Self {
        Self { fd, facts }
    }

    /// A plain dma-buf of at least `size` bytes, of which nothing else is known.
    pub fn dma_buf(fd: OwnedFd, size: u64) -> Self {
        let none = Uuid([0; 16]);
        let facts = ForeignFacts {
            handle: HandleType::DmaBuf,
            size,
            device_uuid: none,
            driver_uuid: none,
            memory_size: size,
            memory_type: 0,
        };
        Self { fd, facts }
    }

    /// What was said about it.
    pub fn facts(&self) -> ForeignFacts {
        self.facts
    }
}

impl AsFd for ForeignHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<ForeignHandle> for OwnedFd {
    fn from(handle: ForeignHandle) -> Self {
        handle.fd
    }
}

/// Takes a stranger's memory in on `device`; if it is no stranger's but our own, that buffer again. The
/// fd stays the caller's.
///
/// The contract is that of [`crate::Engine::import_foreign`].
pub(crate) fn import(
    core: &Arc<Core>,
    device: &Arc<DeviceInner>,
    fd: BorrowedFd<'_>,
    facts: ForeignFacts,
    name: Option<&str>,
) -> Result<SharedBuffer> {
    core.check(device)?;
    let descriptor = BufferDescriptor::new(facts.size);
    let descriptor = name.map_or(descriptor.clone(), |name| descriptor.name(name));
    descriptor.check(device.name())?;
    let handle = facts.handle;
    dma_buf::check_foreign(fd, handle, facts.size)?;
    check_driver(device, facts)?;
    if let Some(ours) = core.exports.find(fd)?
        && ours.size >= facts.size
    {
        return Ok(SharedBuffer(ours));
    }
    let provider = Provider::Foreign(handle);
    let takes = provider.takes().iter().copied();
    let Some(take) = takes.into_iter().find(|take| transfer::can_take(device, *take)) else {
        return Err(Error::Unsupported {
            device: device.name().to_owned(),
            missing: format!("import of {handle}"),
        });
    };
    let opaque = (handle == HandleType::OpaqueFd).then_some((facts.memory_size, facts.memory_type));
    let origin = core.origin(provider);
    let allocation = with_relief(core, device.id(), [], || {
        let own = dma_buf::duplicate(fd, &core.calls)?;
        Allocation::import_foreign(&origin, device, own, handle, facts.size, opaque, take)
    })?;
    let backing = Backing::foreign(allocation);
    Ok(SharedBuffer::new(core, device.id(), descriptor, backing, None))
}

/// Opaque fds are only for the same driver on the same device, and drivers do not look.
fn check_driver(device: &DeviceInner, facts: ForeignFacts) -> Result<()> {
    if facts.handle != HandleType::OpaqueFd {
        return Ok(());
    }
    let adapter = device.adapter();
    let pairs =
        [(facts.driver_uuid, adapter.driver_uuid()), (facts.device_uuid, adapter.device_uuid())];
    for (theirs, ours) in pairs {
        if theirs != ours {
            let reason = ForeignFdReason::OtherDriver { theirs, ours };
            return Err(Error::ForeignFd { handle: facts.handle, reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_the_socket() {
        for handle in HandleType::ALL {
            let facts = ForeignFacts {
                handle,
                size: 0x0123_4567_89ab_cdef,
                device_uuid: Uuid([7; 16]),
                driver_uuid: Uuid(*b"0123456789abcdef"),
                memory_size: u64::MAX,
                memory_type: 31,
            };
            assert_eq!(ForeignFacts::from_bytes(&facts.to_bytes()), Some(facts));
        }
        assert_eq!(ForeignFacts::from_bytes(&[0xff; ForeignFacts::BYTES]), None);
    }
}
