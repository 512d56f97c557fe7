//! System memory: from a dma-heap, udmabuf, a memfd, a foreign exporter, or without an fd; mapped once.
#![expect(unsafe_code, reason = "mmap and munmap of memory that this type owns")]

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::dma_buf;
use super::provider::Provider;
use super::volatile::HostPtr;
use crate::device::{Call, Calls};
use crate::error::{Error, Result};
use crate::fd;

/// System memory, mapped into this process.
///
/// # Invariants
///
/// `pointer` is the start of a readable and writable mapping, `size` bytes long, page-aligned, and unmapped only by
/// `drop`. With an fd the mapping is shared, and of the file behind it, from `file_offset` on. The file has pages for all
/// of it and does not shrink: it is a dma-buf, whose size is fixed, or a memfd sealed against shrinking. The mapping of a udmabuf is that of its memfd: the same pages, mapped as any file is.
/// Without an fd it is private anonymous memory that no other process can see.
#[derive(Debug)]
pub(crate) struct HostMemory {
    pointer: HostPtr,
    size: u64,
    /// `None` for anonymous memory.
    fd: Option<OwnedFd>,
    file_offset: u64,
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
                let dma_buf = dma_buf::udmabuf(memfd.as_fd(), size, calls)?;
                let mapped = Self::map(memfd, (0, size), calls)?;
                // The mapping keeps the memfd's pages, and so does the dma-buf.
                return Ok(Some(Self::with_fd(mapped, dma_buf)));
            }
            Provider::Memfd => dma_buf::memfd(size, calls)?,
            Provider::Anonymous => return Self::anonymous(size, calls).map(Some),
            Provider::Device { .. } | Provider::Private { .. } | Provider::Foreign(_) => {
                return Ok(None);
            }
        };
        Self::map(fd, (0, size), calls).map(Some)
    }

    /// Maps `size` bytes at `file_offset` of foreign memory.
    ///
    /// The caller has checked with [`super::foreign_file::ForeignClaim`] that `fd` is a dma-buf or a sealed
    /// memfd, and that it has pages for all of them.
    pub(super) fn foreign(fd: OwnedFd, part: (u64, u64), calls: &Calls) -> Result<Self> {
        Self::map(fd, part, calls)
    }

    fn map(fd: OwnedFd, (file_offset, size): (u64, u64), calls: &Calls) -> Result<Self> {
        let dma_buf = fd::is_dma_buf(&fd).map_err(|errno| Error::os("fstatfs", errno))?;
        let len = usize::try_from(size)
            .map_err(|_| Error::InvalidSize { size, rule: "fits the address space" })?;
        let mapped = calls.enter_os(Call::Mmap).and_then(|()| {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
            unsafe {
                rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, &fd, file_offset)
            }
        });
        let address = mapped.map_err(|errno| Error::os(Call::Mmap.name(), errno))?;
        // INVARIANT: mapped above with this size; the address is not known elsewhere.
        let (pointer, fd) = (start_of(address)?, Some(fd));
        let this = Self { pointer, size, fd, file_offset, dma_buf };
        this.keep_private(len)?;
        Ok(this)
    }

    /// Keeps the mapping out of forked children, which would keep the memory alive, and out of core files.
    fn keep_private(&self, len: usize) -> Result<()> {
        for advice in [Advice::LinuxDontFork, Advice::LinuxDontDump] {
            // SAFETY: our own mapping; neither advice changes what this process sees.
            unsafe { rustix::mm::madvise(self.pointer.as_ptr().cast(), len, advice) }
                .map_err(|errno| Error::os("madvise", errno))?;
        }
        Ok(())
    }

    /// The mapping of a memfd, named by the udmabuf over all of it.
    fn with_fd(mut mapped: Self, udmabuf: OwnedFd) -> Self {
        mapped.fd = Some(udmabuf);
        mapped.dma_buf = true;
        mapped
    }

    /// Maps zeroed private memory. Its pages are there when this returns, so that a driver can look them up. A forked
    /// child does not get them: a page that both processes have is copied at the next write, and a device would keep
    /// the old one.
    fn anonymous(size: u64, calls: &Calls) -> Result<Self> {
        let len = usize::try_from(size)
            .map_err(|_| Error::InvalidSize { size, rule: "fits the address space" })?;
        let mapped = calls.enter_os(Call::Mmap).and_then(|()| {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, prot, flags) }
        });
        let address = mapped.map_err(|errno| Error::os(Call::Mmap.name(), errno))?;
        // INVARIANT: mapped above with this size; the address is not known elsewhere.
        let pointer = start_of(address)?;
        let this = Self { pointer, size, fd: None, file_offset: 0, dma_buf: false };
        this.keep_private(len)?;
        Ok(this)
    }

    /// Where the mapping begins in the file.
    pub(super) fn file_offset(&self) -> u64 {
        self.file_offset
    }

    pub(crate) fn pointer(&self) -> HostPtr {
        self.pointer
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The fd that names it.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for anonymous memory. Nothing asks for its fd: it is imported by address, and a buffer in
    /// it moves before it is exported.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd).ok_or_else(|| Error::Unsupported {
            device: "anonymous memory".into(),
            missing: "an fd".into(),
        })
    }

    /// Whether the fd is a dma-buf, so that CPU access needs `DMA_BUF_IOCTL_SYNC` around it.
    pub(crate) fn is_dma_buf(&self) -> bool {
        self.dma_buf
    }
}

/// The start of a new mapping. The kernel maps page zero only where a caller asks for it.
fn start_of(address: *mut c_void) -> Result<HostPtr> {
    let start = NonNull::new(address.cast::<u8>());
    start.map(HostPtr::new).ok_or_else(|| Error::os(Call::Mmap.name(), Errno::FAULT))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the mapping at an address (`VmFlags` in `Documentation/filesystems/proc.rst`).
    fn flags_at(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("proc is mounted");
        let start = format!("{address:x}-");
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
        lines.find(|line| line.starts_with("VmFlags:")).expect("a mapping has flags").to_owned()
    }

    #[test]
    fn anonymous_memory_is_zero_and_neither_inherited_nor_dumped() {
        let memory = HostMemory::create(Provider::Anonymous, 5000, &Calls::default());
        let memory = memory.expect("a mapping").expect("host memory");
        assert_eq!(memory.size(), HOST_GRANULE);
        assert!(!memory.is_dma_buf() && memory.fd().is_err());
        let flags = flags_at(memory.pointer().as_ptr().addr());
        assert!(
            flags.contains(" dc") && flags.contains(" dd") && !flags.contains(" sh"),
            "{flags}"
        );
    }
}
