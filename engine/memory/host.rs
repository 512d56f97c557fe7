//! System memory with an fd: from a dma-heap, udmabuf, a memfd, or a foreign exporter; mapped once.
#![expect(unsafe_code, reason = "mmap and munmap of memory that this type owns")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags};

use super::dma_buf;
use super::provider::Provider;
use super::volatile::HostPtr;
use crate::device::{Call, Calls};
use crate::error::{Error, Result};

/// System memory that an fd names, mapped into this process.
///
/// # Invariants
///
/// `pointer` is the start of a shared, readable and writable mapping of the whole file behind `fd`,
/// `size` bytes long, page-aligned, and unmapped only by `drop`. The file does not shrink: it is a
/// dma-buf, whose size is fixed, or a memfd sealed against shrinking.
#[derive(Debug)]
pub(crate) struct HostMemory {
    pointer: HostPtr,
    size: u64,
    fd: OwnedFd,
    dma_buf: bool,
}

/// The size of host memory is a multiple of this many bytes. 64 KiB is the largest page size and the
/// largest `minImportedHostPointerAlignment` of Linux machines.
pub(crate) const HOST_GRANULE: u64 = 64 << 10;

impl HostMemory {
    /// Allocates zeroed memory of at least `size` bytes. `Ok(None)` if `provider` does not provide host memory.
    pub(crate) fn create(provider: Provider, size: u64, calls: &Calls) -> Result<Option<Self>> {
        let size = size.next_multiple_of(HOST_GRANULE);
        let fd = match provider {
            Provider::DmaHeap => dma_buf::dma_heap(size, calls)?,
            Provider::Udmabuf => {
                let memfd = dma_buf::memfd(size, calls)?;
                dma_buf::udmabuf(memfd.as_fd(), size, calls)?
            }
            Provider::Memfd => dma_buf::memfd(size, calls)?,
            Provider::Device { .. } | Provider::Foreign(_) => return Ok(None),
        };
        Self::map(fd, size, calls).map(Some)
    }

    /// Maps foreign memory.
    ///
    /// The caller has checked with [`dma_buf::check_foreign`] that `fd` is a dma-buf or a sealed memfd
    /// of at least `size` bytes.
    pub(crate) fn foreign(fd: OwnedFd, size: u64, calls: &Calls) -> Result<Self> {
        Self::map(fd, size, calls)
    }

    fn map(fd: OwnedFd, size: u64, calls: &Calls) -> Result<Self> {
        let dma_buf = dma_buf::is_dma_buf(&fd).map_err(|errno| Error::os("fstatfs", errno))?;
        let len = usize::try_from(size)
            .map_err(|_| Error::InvalidSize { size, rule: "fits the address space" })?;
        let mapped = calls.enter_os(Call::Mmap).and_then(|()| {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, &fd, 0) }
        });
        let address = mapped.map_err(|errno| Error::os(Call::Mmap.name(), errno))?;
        let pointer = NonNull::new(address.cast::<u8>()).expect("mmap does not map page zero");
        // INVARIANT: mapped above with this size; the address is not known elsewhere.
        Ok(Self { pointer: HostPtr::new(pointer), size, fd, dma_buf })
    }

    pub(crate) fn pointer(&self) -> HostPtr {
        self.pointer
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the fd is a dma-buf, so that CPU access needs `DMA_BUF_IOCTL_SYNC` around it.
    pub(crate) fn is_dma_buf(&self) -> bool {
        self.dma_buf
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // CAST: it was a usize when it was mapped.
        let len = self.size as usize;
        // SAFETY: by the type invariant the mapping is ours; views that imported its address hold an
        // `Arc` of this.
        let result = unsafe { rustix::mm::munmap(self.pointer.as_ptr().cast(), len) };
        debug_assert!(result.is_ok(), "munmap of our own mapping: {result:?}");
    }
}
