//! The fd of an allocation: exported once, kept, and duplicated for every other owner.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::allocation::{Allocation, State};
use super::dma_buf;
use super::provider::Provider;
use crate::device::HandleType;
use crate::error::Result;

impl Allocation {
    /// Whether its fd is a dma-buf.
    pub(crate) fn is_dma_buf(&self) -> bool {
        match self.origin.provider {
            Provider::Device { handle, .. } | Provider::Foreign(handle) => {
                handle == HandleType::DmaBuf
            }
            Provider::DmaHeap | Provider::Udmabuf => true,
            Provider::Memfd | Provider::Anonymous | Provider::Private { .. } => false,
        }
    }

    /// Calls `work` with the memory's fd.
    ///
    /// Locks: the allocation's.
    pub(crate) fn with_fd<R>(&self, work: impl FnOnce(BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        let mut state = self.state();
        work(self.fd(&mut state)?)
    }

    /// A duplicate of the memory's fd, for an export.
    pub(crate) fn duplicate_fd(&self) -> Result<OwnedFd> {
        let mut state = self.state();
        let fd = self.fd(&mut state)?;
        dma_buf::duplicate(fd.as_fd(), &self.origin.calls)
    }

    /// The size and memory type that an importer of an `OPAQUE_FD` must state.
    pub(crate) fn opaque_facts(&self) -> Option<(u64, u32)> {
        self.exporters_view().map(|view| (view.memory_size(), view.memory_type()))
    }

    pub(super) fn fd<'a>(&'a self, state: &'a mut State) -> Result<BorrowedFd<'a>> {
        if let Some(host) = &self.host {
            return host.fd();
        }
        if state.fd.is_none() {
            let Some(exporter) = self.exporters_view() else {
                unreachable!("an allocation without host memory has its exporter's view, or an fd")
            };
            state.fd = Some(exporter.export_fd()?);
        }
        match &state.fd {
            Some(fd) => Ok(fd.as_fd()),
            None => unreachable!("stored just above"),
        }
    }
}
