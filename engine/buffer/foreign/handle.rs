//! An fd with the properties that an importer outside this engine needs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::device::{HandleType, Uuid};

/// The properties of exported memory, which an importer outside this engine needs besides the fd.
#[doc(alias = "ForeignFacts")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForeignInfo {
    /// The type of handle that the fd is.
    pub handle: HandleType,
    /// The size of the buffer in bytes.
    pub size: u64,
    /// Where the buffer begins in the memory, in bytes: a multiple of 256. Several buffers of one file (a pool) have
    /// different offsets.
    pub offset: u64,
    /// The UUID of the exporting device. An `OPAQUE_FD` can be imported only on the same device.
    pub device_uuid: Uuid,
    /// The UUID of the exporting driver. An `OPAQUE_FD` can be imported only by the same driver.
    pub driver_uuid: Uuid,
    /// The size of the memory in bytes. An importer of an `OPAQUE_FD` must specify the same size.
    pub memory_size: u64,
    /// The memory type index of an `OPAQUE_FD`, which its importer must specify; 0 for other handle types.
    pub memory_type: u32,
    /// Whether a dma-buf may be imported that has more than twice the claimed bytes and 512 KiB. An import takes all
    /// of it, and a device pins all of its pages, so a small claim on a large file can exhaust memory.
    ///
    /// The decision is the importer's, so it is no part of [`ForeignInfo::to_bytes`]. Off by default.
    pub allow_larger: bool,
}

impl ForeignInfo {
    /// The properties of an fd whose exporter is not peerbuf: a buffer of `size` bytes that is the whole memory. The
    /// UUIDs are zero; set them, and the memory type, for an `OPAQUE_FD`.
    pub fn new(handle: HandleType, size: u64) -> Self {
        Self {
            handle,
            size,
            offset: 0,
            device_uuid: Uuid([0; 16]),
            driver_uuid: Uuid([0; 16]),
            memory_size: size,
            memory_type: 0,
            allow_larger: false,
        }
    }

    /// The length of [`ForeignInfo::to_bytes`], in bytes.
    pub const BYTES: usize = 64;

    /// Encodes the properties for a socket, to be sent beside the fd. The format is little-endian on every
    /// machine.
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
        bytes[56..64].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// Decodes properties that were received from a socket; `None` if the handle type is unknown.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let handle = match u32::from_le_bytes(field(bytes, 52)) {
            0 => HandleType::DmaBuf,
            1 => HandleType::OpaqueFd,
            2 => HandleType::HostPointer,
            _ => return None,
        };
        Some(Self {
            handle,
            size: u64::from_le_bytes(field(bytes, 0)),
            offset: u64::from_le_bytes(field(bytes, 56)),
            memory_size: u64::from_le_bytes(field(bytes, 8)),
            device_uuid: Uuid(field(bytes, 16)),
            driver_uuid: Uuid(field(bytes, 32)),
            memory_type: u32::from_le_bytes(field(bytes, 48)),
            allow_larger: false,
        })
    }
}

/// An fd with its properties.
#[derive(Debug)]
pub struct ForeignHandle {
    pub(super) fd: OwnedFd,
    info: ForeignInfo,
}

impl ForeignHandle {
    /// Combines an fd from outside this engine with its stated properties.
    pub fn new(fd: OwnedFd, info: ForeignInfo) -> Self {
        Self { fd, info }
    }

    /// Describes a dma-buf of at least `size` bytes, without any other known property.
    pub fn dma_buf(fd: OwnedFd, size: u64) -> Self {
        let info = ForeignInfo::new(HandleType::DmaBuf, size);
        Self { fd, info }
    }

    /// Returns the stated properties.
    #[doc(alias = "facts")]
    pub fn info(&self) -> ForeignInfo {
        self.info
    }
}

impl AsFd for ForeignHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn field<const N: usize>(bytes: &[u8; ForeignInfo::BYTES], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_survive_encoding() {
        for &handle in HandleType::ALL {
            let info = ForeignInfo {
                handle,
                size: 0x0123_4567_89ab_cdef,
                offset: 0xfedc_ba98_7654_3210,
                device_uuid: Uuid([7; 16]),
                driver_uuid: Uuid(*b"0123456789abcdef"),
                memory_size: u64::MAX,
                memory_type: 31,
                allow_larger: false,
            };
            assert_eq!(ForeignInfo::from_bytes(&info.to_bytes()), Some(info));
            let sent = ForeignInfo { allow_larger: true, ..info }.to_bytes();
            assert_eq!(ForeignInfo::from_bytes(&sent), Some(info), "a sender cannot allow it");
        }
        assert_eq!(ForeignInfo::from_bytes(&[0xff; ForeignInfo::BYTES]), None);
    }
}
