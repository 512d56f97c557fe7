//! An fd with what an importer outside this engine needs to know about it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::device::{HandleType, Uuid};

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

/// An fd with its facts.
#[derive(Debug)]
pub struct ForeignHandle {
    pub(super) fd: OwnedFd,
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

fn part<const N: usize>(bytes: &[u8; ForeignFacts::BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
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
