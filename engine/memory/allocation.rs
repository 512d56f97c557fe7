//! Allocations: one fixed, exportable piece of memory, and each device's view of it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smallvec::SmallVec;

use super::dma_buf;
use super::domain::Domain;
use super::host::HostMemory;
use super::import_kind::ImportKind;
use super::origin::Origin;
use super::provider::Provider;
use super::view::View;
use super::view_create::Source;
use super::view_error::ViewError;
use super::volatile::HostPtr;
use crate::access::Access;
use crate::device::{Calls, DeviceId, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::observe::Object;

/// One fixed piece of memory that can be shared: what an fd names.
///
/// Its payload never moves; buffers move by changing allocations.
pub(crate) struct Allocation {
    // Constant after creation.
    origin: Origin,
    size: u64,
    /// Bytes that the domain's ledger counts for it; 0 if the memory was imported from outside.
    held: u64,
    zeroed: bool,
    /// Set once: the memory may be known outside this process. Release/acquire is not needed: it is set
    /// under the buffer's reservation and read when the buffer's backing is dropped.
    external: AtomicBool,
    /// The first views, for look-ups without the lock. Filled in order, under the lock.
    first_views: [OnceLock<Arc<View>>; FIRST_VIEWS],
    // Protected by this mutex, which is the innermost lock.
    state: Mutex<State>,
    /// Constant. Views that imported the address hold it too.
    host: Option<Arc<HostMemory>>,
}

/// How many views are found without a lock.
const FIRST_VIEWS: usize = 4;

struct State {
    /// All views; none is ever removed.
    views: SmallVec<[Arc<View>; 2]>,
    /// Exported when a second device needs it, and kept. A new export for each import costs an fd each time
    /// (ROCm/rocm-systems#10604), and re-exporting an import is unspecified (KhronosGroup/Vulkan-Docs#2645).
    fd: Option<OwnedFd>,
}

impl Allocation {
    /// Allocates `size` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::FdLimit`], [`Error::Unsupported`], or what the calls report.
    pub(crate) fn create(origin: &Origin, size: u64) -> Result<Arc<Self>> {
        let held = origin.hold(size)?;
        match Self::allocate(origin, size) {
            Ok((view, host)) => {
                origin.live.born(Object::Allocation);
                Ok(Arc::new(Self {
                    first_views: first_views(view.as_ref()),
                    size: host.as_ref().map_or(size, |host| host.size()),
                    held,
                    host: host.map(Arc::new),
                    zeroed: origin.provider.fresh_is_zero(origin.exporter.as_deref()),
                    origin: origin.clone(),
                    external: AtomicBool::new(false),
                    state: Mutex::new(State { views: view.into_iter().collect(), fd: None }),
                }))
            }
            Err(error) => {
                origin.domain.release(held);
                Err(error)
            }
        }
    }

    fn allocate(origin: &Origin, size: u64) -> Result<(Option<Arc<View>>, Option<HostMemory>)> {
        if let Provider::Device { handle, domain, .. } = origin.provider {
            let Some(device) = &origin.exporter else {
                unreachable!("an exported allocation has an exporter")
            };
            let view = View::export(device, size, handle, domain)
                .map_err(|error| origin.allocation_error(device, error, size))?;
            return Ok((Some(Arc::new(view)), None));
        }
        HostMemory::create(origin.provider, size, &origin.calls).map(|host| (None, host))
    }

    /// Imports memory from outside this engine on `device`, which becomes its first importer.
    pub(crate) fn import_foreign(
        origin: &Origin,
        device: &Arc<DeviceInner>,
        fd: OwnedFd,
        handle: HandleType,
        size: u64,
        opaque: Option<(u64, u32)>,
        kind: ImportKind,
    ) -> Result<Arc<Self>> {
        let host = Self::map_foreign(&fd, handle, &origin.calls)?;
        let view = match opaque {
            Some((memory_size, memory_type)) => {
                let (fd, memory_type) = (fd.as_fd(), Some(memory_type));
                let source = Source::Fd { fd, handle, memory_size, memory_type };
                let view = View::import(device, size, source)
                    .map_err(|error| error.importing(device, handle))?;
                Some(Arc::new(view))
            }
            None => None,
        };
        origin.live.born(Object::Allocation);
        let allocation = Arc::new(Self {
            origin: origin.clone(),
            size: host.as_ref().map_or(size, |host| host.size()),
            held: 0,
            zeroed: false,
            external: AtomicBool::new(true),
            first_views: first_views(view.as_ref()),
            state: Mutex::new(State {
                views: view.into_iter().collect(),
                fd: host.is_none().then_some(fd),
            }),
            host: host.map(Arc::new),
        });
        allocation.view(device, kind)?;
        Ok(allocation)
    }

    /// Maps memory from outside, for the host and for devices that import it by address. `Ok(None)` if the host
    /// cannot map it: an `OPAQUE_FD`, or a dma-buf whose exporter does not support `mmap`.
    fn map_foreign(fd: &OwnedFd, handle: HandleType, calls: &Calls) -> Result<Option<HostMemory>> {
        if handle == HandleType::OpaqueFd {
            return Ok(None);
        }
        // The whole file, since only whole pages can be imported. The caller has checked that it is as large as
        // claimed.
        let file = dma_buf::size(fd).map_err(|errno| Error::os("lseek", errno))?;
        let own = dma_buf::duplicate(fd.as_fd(), calls)?;
        match HostMemory::foreign(own, file, calls) {
            Ok(host) => Ok(Some(host)),
            Err(Error::Os { .. }) if handle == HandleType::DmaBuf => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn provider(&self) -> Provider {
        self.origin.provider
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The ledger of its domain.
    pub(super) fn domain(&self) -> &Domain {
        &self.origin.domain
    }

    /// Bytes that a buffer uses if it has the whole allocation.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Whether bytes that were never used are known to be zero.
    pub(crate) fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    /// Marks that the memory may be known outside this process, so that it is never given to another buffer.
    pub(crate) fn mark_external(&self) {
        self.external.store(true, Ordering::Relaxed);
    }

    /// Whether the memory may be known outside this process.
    pub(crate) fn is_external(&self) -> bool {
        self.external.load(Ordering::Relaxed)
    }

    /// Whether `device` already has a view.
    ///
    /// Locks: the allocation's, if more than [`FIRST_VIEWS`] devices have one.
    pub(crate) fn has_view(&self, device: DeviceId) -> bool {
        self.existing(device, |_| ()).is_some()
    }

    /// The view that `device` already has.
    ///
    /// Locks: as [`Allocation::has_view`].
    pub(crate) fn existing_view(&self, device: DeviceId) -> Option<Arc<View>> {
        self.existing(device, Arc::clone)
    }

    fn existing<R>(&self, device: DeviceId, found: impl Fn(&Arc<View>) -> R) -> Option<R> {
        for view in &self.first_views {
            // Filled in order, so all entries behind an empty one are empty.
            let view = view.get()?;
            if view.device().id() == device {
                return Some(found(view));
            }
        }
        find(&self.state().views, device).map(found)
    }

    /// The view of `device`, created by an import if there is none yet.
    ///
    /// Locks: the allocation's.
    pub(crate) fn view(&self, device: &Arc<DeviceInner>, kind: ImportKind) -> Result<Arc<View>> {
        let mut state = self.state();
        if let Some(view) = find(&state.views, device.id()) {
            return Ok(Arc::clone(view));
        }
        let imported = match (kind, &self.host) {
            (ImportKind::HostPointer, Some(host)) => {
                View::import(device, self.size, Source::Host { memory: host })
            }
            (ImportKind::HostPointer, None) => Err(ViewError::NoMemoryType),
            (ImportKind::Fd(handle), _) => {
                let (memory_size, memory_type) = match (handle, state.views.first()) {
                    (HandleType::OpaqueFd, Some(exporter)) => {
                        (exporter.memory_size(), Some(exporter.memory_type()))
                    }
                    (_, Some(exporter)) => (exporter.memory_size(), None),
                    (_, None) => (self.size, None),
                };
                let fd = self.fd(&mut state)?;
                View::import(device, self.size, Source::Fd { fd, handle, memory_size, memory_type })
            }
        };
        let view =
            imported.map_err(|error| self.origin.import_error(device, kind.handle(), error))?;
        let view = Arc::new(view);
        if let Some(first) = self.first_views.get(state.views.len()) {
            first.get_or_init(|| Arc::clone(&view));
        }
        state.views.push(Arc::clone(&view));
        Ok(view)
    }

    /// Whether its fd is a dma-buf.
    pub(crate) fn is_dma_buf(&self) -> bool {
        match self.origin.provider {
            Provider::Device { handle, .. } | Provider::Foreign(handle) => {
                handle == HandleType::DmaBuf
            }
            Provider::DmaHeap | Provider::Udmabuf => true,
            Provider::Memfd | Provider::Anonymous => false,
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
        self.state().views.first().map(|view| (view.memory_size(), view.memory_type()))
    }

    /// Whether the host accesses it through its caches, and it is not known outside this process.
    pub(crate) fn is_fast_for_host(&self) -> bool {
        let cached = || self.exporters_view().is_some_and(|view| view.is_host_cached());
        !self.is_external() && (self.host.is_some() || cached())
    }

    /// The host's mapping of the bytes; `Ok(None)` if the host cannot map them.
    ///
    /// Locks: the allocation's.
    pub(crate) fn host(&self) -> Result<Option<HostPtr>> {
        if let Some(host) = &self.host {
            return Ok(Some(host.pointer()));
        }
        if let Some(pointer) = self.exporters_view().and_then(|view| view.mapped()) {
            return Ok(Some(pointer));
        }
        let state = self.state();
        state.views.first().map_or(Ok(None), |view| view.host())
    }

    /// Begins an access of the host to `len` bytes at `offset`: invalidates caches, or `DMA_BUF_IOCTL_SYNC`.
    pub(crate) fn begin_host_access(&self, access: Access, offset: u64, len: u64) -> Result<()> {
        if let Some(host) = self.host.as_ref().filter(|host| host.is_dma_buf()) {
            return dma_buf::begin_cpu_access(host.fd()?, access, &self.origin.calls);
        }
        self.host_visible_view().map_or(Ok(()), |view| view.invalidate(offset, len))
    }

    /// Ends an access of the host: flushes caches, or `DMA_BUF_IOCTL_SYNC`.
    pub(crate) fn end_host_access(&self, access: Access, offset: u64, len: u64) -> Result<()> {
        if let Some(host) = self.host.as_ref().filter(|host| host.is_dma_buf()) {
            return dma_buf::end_cpu_access(host.fd()?, access, &self.origin.calls);
        }
        match access {
            Access::Read => Ok(()),
            _ => self.host_visible_view().map_or(Ok(()), |view| view.flush(offset, len)),
        }
    }

    fn host_visible_view(&self) -> Option<&Arc<View>> {
        if self.host.is_some() { None } else { self.exporters_view() }
    }

    /// The first view: the exporter's, if there is an exporter.
    fn exporters_view(&self) -> Option<&Arc<View>> {
        self.first_views[0].get()
    }

    fn fd<'a>(&'a self, state: &'a mut State) -> Result<BorrowedFd<'a>> {
        if let Some(host) = &self.host {
            return host.fd();
        }
        if state.fd.is_none() {
            let exporter = state.views.first();
            let Some(exporter) = exporter else {
                unreachable!("an allocation without host memory has its exporter's view first")
            };
            state.fd = Some(exporter.export_fd()?);
        }
        match &state.fd {
            Some(fd) => Ok(fd.as_fd()),
            None => unreachable!("stored just above"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first_views(exporters: Option<&Arc<View>>) -> [OnceLock<Arc<View>>; FIRST_VIEWS] {
    let mut views = [const { OnceLock::new() }; FIRST_VIEWS];
    if let Some(view) = exporters {
        views[0] = Arc::clone(view).into();
    }
    views
}

fn find(views: &[Arc<View>], device: DeviceId) -> Option<&Arc<View>> {
    views.iter().find(|view| view.device().id() == device)
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.origin.domain.release(self.held);
        self.origin.live.died(Object::Allocation);
    }
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation")
            .field("provider", &self.origin.provider)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
