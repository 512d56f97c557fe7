//! The three usual kinds of importers, ready to use.
//!
//! Kernel counterparts: amdgpu and xe *refault* (the mapping is marked stale and rebuilt before the next job).
//! amdkfd *fences and resumes* (its queues are stopped, drained, rebuilt and restarted). vfio and iommufd *are
//! revoked* (`drivers/vfio/pci/vfio_pci_dmabuf.c`).

use std::fmt;

use crate::access::Access;
use crate::buffer::state::{Importer, Invalidation, InvalidationCause};
use crate::sync::Fence;
use crate::sync::primitive::atomic::{AtomicBool, AtomicU64, Ordering};

/// An importer that notes each notification. The application checks for it before its next use of the buffer,
/// and maps again.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use peerbuf::{Access, Device, Refault, Result, SharedBuffer};
/// # fn example(buffer: &SharedBuffer, device: &Device) -> Result<()> {
/// let importer = Arc::new(Refault::new());
/// let attachment = buffer.attach_dynamic(device, Arc::clone(&importer) as _)?;
/// let mut mapping = attachment.map(Access::Read)?;
/// loop {
///     if importer.take_stale() {
///         attachment.remap(&mut mapping)?; // and rebuild descriptors and addresses
///     }
///     // ... record and submit on `mapping.view()`
/// #   return Ok(());
/// }
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Refault {
    notifications: Notifications,
}

/// An importer that stops its own use of the buffer when the buffer moves. It returns a fence that signals once
/// that use has stopped. The move waits for the fence; afterwards the application maps again and resumes.
pub struct FenceAndResume {
    access: Access,
    stop: Box<dyn Fn() -> Fence + Send + Sync>,
    notifications: Notifications,
}

/// An importer that handles moves as [`Refault`] does, and calls a function when the buffer is revoked, so that
/// the application drops its mappings.
pub struct Revocable {
    on_revoke: Box<dyn Fn() + Send + Sync>,
    notifications: Notifications,
    revoked: AtomicBool,
}

/// The notifications that an importer has received.
#[derive(Debug, Default)]
struct Notifications {
    /// Set by a notification. Release/acquire: a thread that reads `true` sees what the move did before it
    /// notified the importer.
    stale: AtomicBool,
    /// The number of notifications. Relaxed: a count only.
    count: AtomicU64,
}

impl Notifications {
    fn record(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.stale.store(true, Ordering::Release);
    }

    fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::AcqRel)
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Refault {
    /// Creates an importer that has received no notification.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether a notification has arrived since the last call.
    pub fn take_stale(&self) -> bool {
        self.notifications.take_stale()
    }

    /// Returns the number of notifications.
    #[doc(alias = "times_told")]
    pub fn notifications(&self) -> u64 {
        self.notifications.count()
    }
}

impl Importer for Refault {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        self.notifications.record();
    }
}

impl FenceAndResume {
    /// Creates an importer that uses the buffer for `access` until the fence that `stop` returns has signalled.
    ///
    /// `stop` is called once per move, also for a move that then fails; the use may thus have stopped already.
    /// It is called under the buffer's reservation: it must not lock a reservation, nor wait for a device. It
    /// may notify a thread of its own and return a fence from [`crate::Engine::host_fence`], or return
    /// [`crate::Device::submitted`].
    pub fn new(access: Access, stop: impl Fn() -> Fence + Send + Sync + 'static) -> Self {
        Self { access, stop: Box::new(stop), notifications: Notifications::default() }
    }

    /// Returns whether a notification has arrived since the last call: if so, map again and resume.
    pub fn take_stale(&self) -> bool {
        self.notifications.take_stale()
    }

    /// Returns the number of notifications.
    #[doc(alias = "times_told")]
    pub fn notifications(&self) -> u64 {
        self.notifications.count()
    }
}

impl Importer for FenceAndResume {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        invalidation.add_fence(self.access, (self.stop)());
        self.notifications.record();
    }
}

impl Revocable {
    /// Creates an importer that calls `on_revoke` when the buffer is revoked. The application must then drop
    /// all its mappings soon, because the revocation waits for them.
    ///
    /// `on_revoke` is called under the buffer's reservation. It may drop the mappings itself, or notify a thread of
    /// its own to do so; it must not use the buffer otherwise.
    pub fn new(on_revoke: impl Fn() + Send + Sync + 'static) -> Self {
        let (notifications, revoked) = (Notifications::default(), AtomicBool::new(false));
        Self { on_revoke: Box::new(on_revoke), notifications, revoked }
    }

    /// Returns whether a notification has arrived since the last call.
    pub fn take_stale(&self) -> bool {
        self.notifications.take_stale()
    }

    /// Returns whether the buffer was ever revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }
}

impl Importer for Revocable {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let revoked = invalidation.cause() == InvalidationCause::Revoke;
        // Before the notification is recorded: a thread that sees the notification must see its cause.
        self.revoked.fetch_or(revoked, Ordering::Release);
        self.notifications.record();
        if revoked {
            (self.on_revoke)();
        }
    }
}

impl fmt::Debug for FenceAndResume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceAndResume")
            .field("access", &self.access)
            .field("notifications", &self.notifications)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Revocable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocable")
            .field("notifications", &self.notifications)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}
