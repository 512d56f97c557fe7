//! Buffers: created, imported, moved together.
#![expect(unsafe_code, reason = "importing what only the caller can vouch for")]

use std::os::fd::BorrowedFd;

use super::engine::Engine;
use crate::buffer::{self, BufferDescriptor, ForeignInfo, Migration, SharedBuffer};
use crate::device::Device;
use crate::error::Result;
use crate::memory::DomainId;

/// # Buffers
impl Engine {
    /// Creates a buffer whose home device is `home`. Its bytes are zero.
    ///
    /// A small buffer is a slot of a slab, and costs no call into the driver while a slab has room. A buffer of
    /// more than 8 MiB has an allocation of its own.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidSize`]; [`crate::Error::OutOfMemory`] with the numbers of the last domain that was
    /// tried; [`crate::Error::FdLimit`]; [`crate::Error::Unsupported`] for a usage that needs a buffer of its own,
    /// for a size beyond [`crate::Adapter::max_allocation`], and if the device can share no memory; [`crate::Error::ForeignEngine`]; or the error of a call.
    pub fn create_buffer(
        &self,
        home: &Device,
        descriptor: BufferDescriptor,
    ) -> Result<SharedBuffer> {
        SharedBuffer::create(&self.refs, &home.0, descriptor)
    }

    /// Imports memory that was exported outside this engine, as a buffer whose home device is `device`.
    ///
    /// The buffer has the bytes that are in the memory, and never moves. The fd remains the caller's. The import
    /// of an fd that this engine has exported returns the buffer that it was exported from.
    ///
    /// While the buffer lives, a second import of the same bytes of the same file returns it again, once `device`
    /// can reach it, so that all uses are ordered. It keeps its first home device and name. That holds for
    /// dma-bufs and memfds, also as `OPAQUE_FD`s; other files have no identity.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignFd`] if the fd is closed, of another type than stated, too small, much too large,
    /// not writable, imported before in a way that overlaps, of another driver, or refused by this driver;
    /// [`crate::Error::Misaligned`] for an offset that is no multiple of 256; [`crate::Error::InvalidSize`];
    /// [`crate::Error::Unsupported`]; [`crate::Error::FdLimit`]; the driver's error, if it has no memory left.
    ///
    /// # Safety
    ///
    /// * `fd` is what `info` says; for an `OPAQUE_FD` nothing can check that, and a wrong size or memory
    ///   type is undefined behaviour (VUID-VkMemoryAllocateInfo-allocationSize-01742);
    /// * other users of the memory are ordered with this engine's use by the application: between engines there
    ///   are no fences.
    pub unsafe fn import_foreign(
        &self,
        device: &Device,
        fd: BorrowedFd<'_>,
        info: ForeignInfo,
        name: Option<&str>,
    ) -> Result<SharedBuffer> {
        buffer::import(&self.set, &device.0, fd, info, name)
    }

    /// Moves many buffers, each to its domain, as [`SharedBuffer::migrate`] does.
    ///
    /// Copies that one device makes share one submission. Each move has its own result, in the order of `moves`;
    /// a move that fails does not delay the others.
    ///
    /// # Errors
    ///
    /// In each result as [`SharedBuffer::migrate`], and [`crate::Error::ForeignEngine`].
    ///
    /// Locks: the reservations of up to 64 buffers, none of them waited for while another one is held.
    pub fn migrate_many(&self, moves: &[(&SharedBuffer, DomainId)]) -> Vec<Result<Migration>> {
        buffer::migrate_many(&self.set, moves)
    }
}
