//! Access of the host to an allocation: the mapping, and what makes caches coherent around an access.
//!
//! A dma-buf needs `DMA_BUF_IOCTL_SYNC` around an access. Its begin waits for the fences in the dma-buf's own
//! `dma_resv`, without a time limit (`__dma_buf_begin_cpu_access`: `MAX_SCHEDULE_TIMEOUT`). They are those of all
//! work of all devices on the whole slab, and peerbuf does not know them. So the fd is polled first, with a bound,
//! and never while a reservation is held.
//!
//! The ioctl has no range: on a machine whose devices are not coherent, each access maintains the caches of the
//! whole slab, for each device that has attached it (`system_heap_dma_buf_begin_cpu_access`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::allocation::Allocation;
use super::dma_buf;
use super::host::HostMemory;
use super::view::View;
use super::volatile::HostPtr;
use crate::access::Access;
use crate::error::{Error, Result};

/// How long an access of the host may wait for the fences that the kernel keeps for a dma-buf.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostWait {
    /// Not at all, because the caller holds a reservation. Memory with such fences is then not accessed.
    Never,
    /// Until `end`, which is `after` from the begin of the operation.
    Until {
        /// The end of the wait.
        end: Instant,
        /// The timeout that an error names.
        after: Duration,
    },
}

impl HostWait {
    /// For at most `timeout` from now.
    pub(crate) fn within(timeout: Duration) -> Self {
        Self::Until { end: Instant::now() + timeout, after: timeout }
    }
}

impl Allocation {
    /// Whether the host accesses it through its caches, at once, and it is not known outside this process.
    pub(crate) fn is_fast_for_host(&self) -> bool {
        self.is_cached_for_host() && self.synced_host().is_none()
    }

    /// As [`Allocation::is_fast_for_host`], and no call is needed to make the host's writes visible to devices.
    pub(crate) fn is_coherent_and_fast_for_host(&self) -> bool {
        self.is_fast_for_host() && self.host_visible_view().is_none_or(|view| view.is_coherent())
    }

    /// Counts bytes that the host has zeroed.
    pub(crate) fn note_zeroed(&self, bytes: u64) {
        if bytes > 0 {
            self.origin.calls.note_zeroed(bytes);
        }
    }

    /// Counts bytes that the host has copied here.
    pub(super) fn note_host_copied(&self, bytes: u64) {
        self.origin.calls.note_host_copied(bytes);
    }

    /// Whether the host accesses it through its caches, and it is not known outside this process.
    pub(super) fn is_cached_for_host(&self) -> bool {
        let cached = || self.exporters_view().is_some_and(|view| view.is_host_cached());
        !self.is_external() && (self.host.is_some() || cached())
    }

    /// The host's mapping of the bytes; `Ok(None)` if the host cannot map them.
    ///
    /// Memory that a device has imported is mapped by its fd or not at all, and never through Vulkan: on drivers
    /// based on TTM, the first access to such a mapping raises `SIGBUS` (`ttm_bo_vm_reserve`: "Refuse to fault
    /// imported pages").
    ///
    /// Locks: the allocation's.
    pub(crate) fn host(&self) -> Result<Option<HostPtr>> {
        if let Some(host) = &self.host {
            return Ok(Some(host.pointer()));
        }
        let Some(exporter) = self.exporters_view() else { return Ok(None) };
        if let Some(pointer) = exporter.mapped() {
            return Ok(Some(pointer));
        }
        let _locked = self.state();
        exporter.host()
    }

    /// As [`Allocation::host`], but `Ok(None)` for memory that cannot be accessed within `wait`.
    pub(crate) fn host_within(&self, wait: HostWait) -> Result<Option<HostPtr>> {
        match wait {
            HostWait::Never if self.synced_host().is_some() => Ok(None),
            _ => self.host(),
        }
    }

    /// Begins an access of the host to `len` bytes at `offset`: invalidates caches, or `DMA_BUF_IOCTL_SYNC`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if work on the dma-buf does not end within `wait`; or the error of a call.
    pub(crate) fn begin_host_access(
        &self,
        access: Access,
        (offset, len): (u64, u64),
        wait: HostWait,
    ) -> Result<()> {
        let Some(host) = self.synced_host() else {
            return self.host_visible_view().map_or(Ok(()), |view| view.invalidate(offset, len));
        };
        let calls = &self.origin.calls;
        let (end, after) = match wait {
            HostWait::Never => (Instant::now(), Duration::ZERO),
            HostWait::Until { end, after } => (end, after),
        };
        if !dma_buf::wait_until_ready(host.fd()?, access, end, calls)? {
            let what = format!("the work of devices on a dma-buf of {} bytes", self.size);
            return Err(Error::Timeout { what, after });
        }
        // Work that another process submits between the poll and this call is still waited for here.
        if host.is_dma_buf() {
            dma_buf::begin_cpu_access(host.fd()?, access, calls)?;
        }
        Ok(())
    }

    /// Ends an access of the host: flushes caches, or `DMA_BUF_IOCTL_SYNC`, which does not wait at the end of an
    /// access.
    pub(crate) fn end_host_access(&self, access: Access, offset: u64, len: u64) -> Result<()> {
        if let Some(host) = self.host.as_ref().filter(|host| host.is_dma_buf()) {
            return dma_buf::end_cpu_access(host.fd()?, access, &self.origin.calls);
        }
        match access {
            Access::Read => Ok(()),
            _ => self.host_visible_view().map_or(Ok(()), |view| view.flush(offset, len)),
        }
    }

    /// The host memory, for holders that keep its pages longer than the allocation.
    pub(crate) fn host_memory(&self) -> Option<Arc<HostMemory>> {
        self.host.clone()
    }

    /// Whether the kernel keeps fences for it that an access of the host waits for.
    pub(crate) fn has_kernel_fences(&self) -> bool {
        self.synced_host().is_some()
    }

    /// The host memory, if the kernel keeps fences for it that an access must wait for.
    fn synced_host(&self) -> Option<&Arc<HostMemory>> {
        self.host.as_ref().filter(|host| host.is_dma_buf() || self.origin.calls.busy_host_memory())
    }

    fn host_visible_view(&self) -> Option<&Arc<View>> {
        if self.host.is_some() { None } else { self.exporters_view() }
    }
}
