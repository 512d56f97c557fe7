//! Kinds of memory handles, and the UUIDs that decide which devices can import an `OPAQUE_FD`. Imports nothing of
//! this crate.

use std::fmt;

use ash::vk;

/// A kind of handle by which devices share memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HandleType {
    /// A Linux dma-buf: any device, any driver, any process.
    DmaBuf,
    /// An fd that only the same driver can import, on the same device.
    OpaqueFd,
    /// Host memory, imported by address. As a foreign handle: a sealed memfd.
    HostPointer,
}

impl HandleType {
    /// Every kind, best first (ARCHITECTURE.md, "Where memory comes from").
    pub const ALL: &[Self] = &[Self::DmaBuf, Self::OpaqueFd, Self::HostPointer];

    /// The Vulkan bit.
    pub const fn vk(self) -> vk::ExternalMemoryHandleTypeFlags {
        match self {
            Self::DmaBuf => vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT,
            Self::OpaqueFd => vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD,
            Self::HostPointer => vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT,
        }
    }

    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DmaBuf => "dma_buf",
            Self::OpaqueFd => "opaque_fd",
            Self::HostPointer => "host_pointer",
        }
    }
}

impl fmt::Display for HandleType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A 16-byte UUID of a device or a driver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
