//! One fixed, exportable piece of memory, and every device's view of it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use smallvec::SmallVec;

use super::dma_buf;
use super::domain::Domain;
use super::host::HostMemory;
use super::pool::Pool;
use super::provider::Provider;
use super::view::{Source, View, ViewError};
use super::volatile::HostPtr;
use crate::Access;
use crate::device::{Call, Calls, DeviceId, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::observe::{Live, Object};

/// How a device takes an allocation in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Take {
    /// By importing its fd.
    Fd(HandleType),
    /// By importing the address at which the host sees it.
    HostPointer,
}

impl Take {
    pub(crate) fn handle(self) -> HandleType {
        match self {
            Self::Fd(handle) => handle,
            Self::HostPointer => HandleType::HostPointer,
        }
    }
}

/// What can make allocations: the exporter, if there is one, and the domain that pays.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) provider: Provider,
    pub(crate) exporter: Option<Arc<DeviceInner>>,
    pub(crate) domain: Arc<Domain>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) live: Arc<Live>,
}

/// One fixed piece of memory that can be shared: what an fd names.
///
/// Its payload never moves; buffers move by changing allocations.
pub(crate) struct Allocation {
    // Constant after creation.
    origin: Origin,
    size: u64,
    /// Bytes that the domain's ledger counts for it: none if they are a stranger's.
    held: u64,
    zeroed: bool,
    /// Where it returns to when it backed a buffer of its own.
    pool: Weak<Pool>,
    /// Set once: somebody outside the process may know it. Release/acquire is not needed: it is set
    /// under the buffer's reservation and read when the buffer's backing is dropped.
    escaped: AtomicBool,
    /// The first views, for those who look without the lock. Filled in order, under it.
    first_views: [OnceLock<Arc<View>>; FIRST_VIEWS],
    // Protected by this mutex; it is the innermost lock.
    state: Mutex<State>,
    /// Constant. Views that imported the address hold it too.
    host: Option<Arc<HostMemory>>,
}

/// How many devices find their view without a lock.
const FIRST_VIEWS: usize = 4;

struct State {
    /// All of them; none is ever taken out.
    views: SmallVec<[Arc<View>; 2]>,
    /// Exported when the first other device needs it, and kept: a fresh export each time costs an fd
    /// each time (ROCm/rocm-systems#10604), and re-exporting an import is unspecified
    /// (KhronosGroup/Vulkan-Docs#2645).
    fd: Option<OwnedFd>,
}

impl Allocation {
    /// Allocates `size` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::FdLimit`], [`Error::Unsupported`], or what the calls said.
    pub(crate) fn create(origin: &Origin, size: u64, pool: Weak<Pool>) -> Result<Arc<Self>> {
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
                    pool,
                    escaped: AtomicBool::new(false),
                    state: Mutex::new(State { views: view.into_iter().collect(), fd: None }),
                }))
            }
            Err(error) => {
                origin.domain.let_go(held);
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
                .map_err(|error| origin.translate(device, error, size))?;
            return Ok((Some(Arc::new(view)), None));
        }
        HostMemory::create(origin.provider, size, &origin.calls).map(|host| (None, host))
    }

    /// Takes in a stranger's memory on `device`, which becomes its first importer.
    pub(crate) fn import_foreign(
        origin: &Origin,
        device: &Arc<DeviceInner>,
        fd: OwnedFd,
        handle: HandleType,
        size: u64,
        opaque: Option<(u64, u32)>,
        take: Take,
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
            pool: Weak::new(),
            escaped: AtomicBool::new(true),
            first_views: first_views(view.as_ref()),
            state: Mutex::new(State {
                views: view.into_iter().collect(),
                fd: host.is_none().then_some(fd),
            }),
            host: host.map(Arc::new),
        });
        allocation.view(device, take)?;
        Ok(allocation)
    }

    /// Maps a stranger's memory for the host and for devices that take it by address. `Ok(None)` where
    /// only the driver can: an `OPAQUE_FD`, or a dma-buf whose exporter does not let it be mapped.
    fn map_foreign(fd: &OwnedFd, handle: HandleType, calls: &Calls) -> Result<Option<HostMemory>> {
        if handle == HandleType::OpaqueFd {
            return Ok(None);
        }
        // The whole file, since only whole pages can be imported; the caller has checked that it holds
        // as many bytes as were claimed.
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

    /// The ledger of the place that it is in.
    pub(super) fn domain(&self) -> &Domain {
        &self.origin.domain
    }

    /// Bytes that count as in use when one buffer has it all.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Whether new bytes in it are known to be zero.
    pub(crate) fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    pub(crate) fn pool(&self) -> Option<Arc<Pool>> {
        self.pool.upgrade()
    }

    /// Remembers that somebody outside the process may know the memory, so that it is never given to
    /// another buffer.
    pub(crate) fn mark_escaped(&self) {
        self.escaped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_escaped(&self) -> bool {
        self.escaped.load(Ordering::Relaxed)
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
            // They are filled in order, so there are no others behind an empty one.
            let view = view.get()?;
            if view.device().id() == device {
                return Some(found(view));
            }
        }
        find(&self.state().views, device).map(found)
    }

    /// `device`'s view, made by `take` if there is none yet.
    ///
    /// Locks: the allocation's.
    pub(crate) fn view(&self, device: &Arc<DeviceInner>, take: Take) -> Result<Arc<View>> {
        let mut state = self.state();
        if let Some(view) = find(&state.views, device.id()) {
            return Ok(Arc::clone(view));
        }
        let imported = match (take, &self.host) {
            (Take::HostPointer, Some(host)) => {
                View::import(device, self.size, Source::Host { memory: host })
            }
            (Take::HostPointer, None) => Err(ViewError::NoMemoryType),
            (Take::Fd(handle), _) => {
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
        let view = imported.map_err(|error| self.origin.taking_in(device, take.handle(), error))?;
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
            Provider::Memfd => false,
        }
    }

    /// Calls `work` with the memory's fd.
    ///
    /// Locks: the allocation's.
    pub(crate) fn with_fd<R>(&self, work: impl FnOnce(BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        let mut state = self.state();
        work(self.fd(&mut state)?)
    }

    /// A second fd of the memory, for handing out.
    pub(crate) fn duplicate_fd(&self) -> Result<OwnedFd> {
        let mut state = self.state();
        let fd = self.fd(&mut state)?;
        dma_buf::duplicate(fd.as_fd(), &self.origin.calls)
    }

    /// Size and memory type that an importer of an `OPAQUE_FD` must repeat.
    pub(crate) fn opaque_facts(&self) -> Option<(u64, u32)> {
        self.state().views.first().map(|view| (view.memory_size(), view.memory_type()))
    }

    /// Whether the host reads and writes it at full speed, and it is nobody's but this engine's.
    pub(crate) fn is_quick_for_host(&self) -> bool {
        let cached = || self.exporters_view().is_some_and(|view| view.is_host_cached());
        !self.has_escaped() && (self.host.is_some() || cached())
    }

    /// Where the host sees the bytes; `Ok(None)` if it cannot.
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

    /// Says that the host is about to touch `len` bytes at `offset`.
    pub(crate) fn begin_host_access(&self, access: Access, offset: u64, len: u64) -> Result<()> {
        if let Some(host) = self.host.as_ref().filter(|host| host.is_dma_buf()) {
            return dma_buf::begin_cpu_access(host.fd(), access, &self.origin.calls);
        }
        self.host_visible_view().map_or(Ok(()), |view| view.invalidate(offset, len))
    }

    /// Says that the host has finished.
    pub(crate) fn end_host_access(&self, access: Access, offset: u64, len: u64) -> Result<()> {
        if let Some(host) = self.host.as_ref().filter(|host| host.is_dma_buf()) {
            return dma_buf::end_cpu_access(host.fd(), access, &self.origin.calls);
        }
        match access {
            Access::Read => Ok(()),
            _ => self.host_visible_view().map_or(Ok(()), |view| view.flush(offset, len)),
        }
    }

    fn host_visible_view(&self) -> Option<&Arc<View>> {
        if self.host.is_some() { None } else { self.exporters_view() }
    }

    /// The first view of all.
    fn exporters_view(&self) -> Option<&Arc<View>> {
        self.first_views[0].get()
    }

    fn fd<'a>(&'a self, state: &'a mut State) -> Result<BorrowedFd<'a>> {
        if let Some(host) = &self.host {
            return Ok(host.fd());
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

impl Origin {
    /// Counts `size` bytes as allocated; returns how many to let go of.
    fn hold(&self, size: u64) -> Result<u64> {
        let domain = &self.domain;
        domain.hold(size).map(|()| size).map_err(|held| Error::OutOfMemory {
            domain: domain.id(),
            requested: size,
            budget: domain.budget(),
            used: held,
            code: None,
            obstacles: Box::default(),
        })
    }

    /// An error of taking the memory in. Only what came from outside is called a foreign fd.
    fn taking_in(&self, device: &DeviceInner, handle: HandleType, error: ViewError) -> Error {
        match error {
            error if matches!(self.provider, Provider::Foreign(_)) => {
                error.importing(device, handle)
            }
            ViewError::Vulkan(code) => device.error(Call::ImportMemory.name(), code),
            ViewError::NoMemoryType => Error::Unsupported {
                device: device.name().to_owned(),
                missing: format!("a memory type for {}", self.provider),
            },
            error => error.importing(device, handle),
        }
    }

    fn translate(&self, device: &DeviceInner, error: ViewError, size: u64) -> Error {
        use ash::vk::Result as Code;
        let code = match error {
            ViewError::Vulkan(code) => code,
            ViewError::NoMemoryType => {
                return Error::Unsupported {
                    device: device.name().to_owned(),
                    missing: format!("a memory type for {}", self.provider),
                };
            }
            other => return other.importing(device, HandleType::OpaqueFd),
        };
        match code {
            Code::ERROR_OUT_OF_DEVICE_MEMORY | Code::ERROR_OUT_OF_HOST_MEMORY => {
                Error::fd_limit(Call::AllocateMemory.name()).unwrap_or_else(|| Error::OutOfMemory {
                    domain: self.domain.id(),
                    requested: size,
                    budget: self.domain.budget(),
                    used: self.domain.used(),
                    code: Some(code),
                    obstacles: Box::default(),
                })
            }
            code => device.error(Call::AllocateMemory.name(), code),
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.origin.domain.let_go(self.held);
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
