//! Allocations: one fixed, exportable piece of memory, and each device's view of it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::changes::Changes;
use super::device_set::DeviceSet;
use super::domain::Domain;
use super::host::HostMemory;
use super::memory_type::MemoryPriority;
use super::origin::Origin;
use super::provider::Provider;
use super::view::View;
use super::view_slots::ViewSlots;
use crate::device::DeviceId;
use crate::error::Result;
use crate::observe::Object;

/// One fixed piece of memory that can be shared: what an fd names.
///
/// Its payload never moves; buffers move by changing allocations. Its methods are in this file and in
/// `allocation_views`, `allocation_host`, `allocation_fd` and `allocation_import`, by topic.
pub(crate) struct Allocation {
    // Constant after creation.
    /// For the list of unused views.
    pub(super) this: Weak<Self>,
    pub(super) origin: Origin,
    pub(super) size: u64,
    /// Bytes that the domain's ledger counts for it; 0 if the memory was imported from outside.
    pub(super) held: u64,
    pub(super) zeroed: bool,
    /// Set once: the memory may be known outside this process. Release/acquire is not needed: it is set
    /// under the buffer's reservation and read when the buffer's backing is dropped.
    pub(super) external: AtomicBool,
    /// Constant. The view that alone can export the memory, or state what an importer of an `OPAQUE_FD` must: the
    /// exporter's, or that of the first importer of a foreign `OPAQUE_FD`. It is never removed.
    pub(super) exporter: Option<Arc<View>>,
    /// Constant. Views that imported the address hold it too.
    pub(super) host: Option<Arc<HostMemory>>,
    /// Constant. All views have it.
    pub(super) changes: Arc<Changes>,
    /// The views of all other devices. They are added and removed under the lock, and found without it.
    pub(super) views: ViewSlots,
    // Protected by this mutex, which is the innermost lock but that of the ledger of imports.
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    /// Exported when a second device needs it, and kept. A new export for each import costs an fd each time
    /// (ROCm/rocm-systems#10604), and re-exporting an import is unspecified (KhronosGroup/Vulkan-Docs#2645).
    pub(super) fd: Option<OwnedFd>,
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
                Ok(Arc::new_cyclic(|this| Self {
                    this: Weak::clone(this),
                    changes: Self::changes_of(view.as_deref()),
                    exporter: view,
                    views: ViewSlots::default(),
                    size: host.as_ref().map_or(size, |host| host.size()),
                    held,
                    host: host.map(Arc::new),
                    zeroed: origin.provider.fresh_is_zero(origin.exporter.as_deref()),
                    origin: origin.clone(),
                    external: AtomicBool::new(false),
                    state: Mutex::new(State { fd: None }),
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
            let view = View::export(device, size, handle, (domain, origin.priority))
                .map_err(|error| origin.allocation_error(device, error, size))?;
            return Ok((Some(Arc::new(view)), None));
        }
        if let (Provider::Private { .. }, Some(device)) = (origin.provider, &origin.exporter) {
            let view = View::private(device, size, origin.priority)
                .map_err(|error| origin.allocation_error(device, error, size))?;
            return Ok((Some(Arc::new(view)), None));
        }
        HostMemory::create(origin.provider, size, &origin.calls).map(|host| (None, host))
    }

    pub(crate) fn provider(&self) -> Provider {
        self.origin.provider
    }

    /// Whether the memory is lost with this device's view of it.
    pub(crate) fn is_exported_by(&self, device: DeviceId) -> bool {
        self.exporters_view().is_some_and(|view| view.device().id() == device)
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The devices that share its buffers. Only a buffer that cannot move, or a copy, makes another device import it.
    pub(crate) fn sharers(&self) -> DeviceSet {
        self.origin.sharers
    }

    pub(super) fn priority(&self) -> MemoryPriority {
        self.origin.priority
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

    /// Notes that mappings of a buffer in this allocation have lost their validity. The buffer's status says so already.
    pub(crate) fn note_change(&self) {
        self.changes.count();
    }

    /// The count of an allocation with this exporter's view.
    pub(super) fn changes_of(exporter: Option<&View>) -> Arc<Changes> {
        exporter.map_or_else(Arc::default, |view| Arc::clone(&view.changes))
    }

    /// The view that is never removed: the exporter's, if there is an exporter.
    pub(super) fn exporters_view(&self) -> Option<&Arc<View>> {
        self.exporter.as_ref()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
