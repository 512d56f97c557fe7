//! Memory from outside this engine, as an allocation.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};

use super::allocation::{Allocation, State};
use super::dma_buf;
use super::foreign_file::ForeignClaim;
use super::host::HostMemory;
use super::import_kind::ImportKind;
use super::origin::Origin;
use super::view::View;
use super::view_create::Source;
use super::view_slots::ViewSlots;
use crate::device::{Calls, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::observe::Object;

/// A file from outside this engine, which [`ForeignClaim::check`] has found to be what its sender claims.
pub(crate) struct ForeignFile {
    pub(crate) fd: OwnedFd,
    /// The size of the file.
    pub(crate) size: u64,
    pub(crate) claim: ForeignClaim,
    /// The memory type of an `OPAQUE_FD`.
    pub(crate) memory_type: u32,
}

impl Allocation {
    /// Imports memory from outside this engine on `device`, which becomes its first importer. Returns it with the
    /// offset of the claimed bytes in it.
    pub(crate) fn import_foreign(
        origin: &Origin,
        device: &Arc<DeviceInner>,
        file: ForeignFile,
        kind: ImportKind,
    ) -> Result<(Arc<Self>, u64)> {
        let host = Self::map_foreign(&file, device, &origin.calls)?;
        let ForeignFile { fd, size, claim, memory_type } = file;
        let (size, view) = match claim.handle {
            HandleType::OpaqueFd => {
                let (handle, size) = (claim.handle, claim.end()?);
                let memory_size = claim.memory_size;
                let (fd, memory_type) = (fd.as_fd(), Some(memory_type));
                let source = Source::Fd { fd, handle, memory_size, memory_type };
                let view = View::import(
                    device,
                    size,
                    source,
                    (origin.imports.ledger(), origin.domain_kind()),
                )
                .map_err(|error| error.importing(device, handle))?;
                (size, Some(Arc::new(view)))
            }
            _ => (host.as_ref().map_or(size, HostMemory::size), None),
        };
        let start = host.as_ref().map_or(0, HostMemory::file_offset);
        origin.live.born(Object::Allocation);
        let allocation = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            origin: origin.clone(),
            size,
            held: 0,
            zeroed: false,
            external: AtomicBool::new(true),
            changes: Self::changes_of(view.as_deref()),
            exporter: view,
            views: ViewSlots::default(),
            state: Mutex::new(State { fd: host.is_none().then_some(fd) }),
            host: host.map(Arc::new),
        });
        allocation.view(device, kind)?;
        Ok((allocation, claim.offset - start))
    }

    /// Maps memory from outside, for the host and for devices that import it by address: of a memfd the pages
    /// around the claimed bytes, of a dma-buf all. `Ok(None)` if the host cannot map it: an `OPAQUE_FD`, or a
    /// dma-buf whose exporter does not support `mmap`.
    fn map_foreign(
        file: &ForeignFile,
        device: &DeviceInner,
        calls: &Calls,
    ) -> Result<Option<HostMemory>> {
        let ForeignFile { fd, size, claim, .. } = file;
        let part = match claim.handle {
            HandleType::OpaqueFd => return Ok(None),
            // An import of the fd takes all of it.
            HandleType::DmaBuf => (0, *size),
            HandleType::HostPointer => {
                // CAST: 64 KiB at most.
                let page = rustix::param::page_size() as u64;
                let unit = device.adapter().host_pointer_alignment().unwrap_or(1).max(page);
                claim.part_of_file(*size, unit, page)?
            }
        };
        let own = dma_buf::duplicate(fd.as_fd(), calls)?;
        match HostMemory::foreign(own, part, calls) {
            Ok(host) => Ok(Some(host)),
            Err(Error::Os { .. }) if claim.handle == HandleType::DmaBuf => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the allocation begins in the file that its fd names.
    pub(crate) fn file_offset(&self) -> u64 {
        self.host.as_ref().map_or(0, |host| host.file_offset())
    }
}
