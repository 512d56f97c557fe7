//! The three usual kinds of importers, ready to use.
//!
//! Kernel counterparts: amdgpu and xe *refault* (the mapping is marked and rebuilt before the next job),
//! amdkfd *fences and resumes* (its queues are stopped, drained, rebuilt and restarted), vfio and iommufd
//! *are revoked* (`drivers/vfio/pci/vfio_pci_dmabuf.c`).

use std::fmt;

use crate::access::Access;
use crate::buffer::state::{Importer, Invalidation, InvalidationCause};
use crate::sync::Fence;
use crate::sync::primitive::atomic::{AtomicBool, AtomicU64, Ordering};

/// Rebuilds at its next use: it is told, notes it, and whoever uses the buffer next looks.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use peerbuf::{Access, Device, Refault, Result, SharedBuffer};
/// # fn example(buffer: &SharedBuffer, device: &Device) -> Result<()> {
/// let told = Arc::new(Refault::new());
/// let seat = buffer.attach_dynamic(device, Arc::clone(&told) as _)?;
/// let mut mapping = seat.map(Access::Read)?;
/// loop {
///     if told.take_stale() {
///         seat.remap(&mut mapping)?; // and descriptors, addresses, what else names the place
///     }
///     // ... record and submit on `mapping.view()`
/// #   return Ok(());
/// }
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Refault {
    told: Told,
}

/// Stops something of its own when the buffer moves, and says with a fence when that has stopped; the move
/// waits for it, and afterwards it is started again on a new mapping.
pub struct FenceAndResume {
    access: Access,
    stop: Box<dyn Fn() -> Fence + Send + Sync>,
    told: Told,
}

/// Copes with moves as [`Refault`] does, and gives up for good when the buffer is taken away.
pub struct Revocable {
    give_up: Box<dyn Fn() + Send + Sync>,
    told: Told,
    revoked: AtomicBool,
}

/// What all of them note.
#[derive(Debug, Default)]
struct Told {
    /// Release/acquire: who sees it sees what the mover did before it told.
    stale: AtomicBool,
    /// Relaxed: a count.
    times: AtomicU64,
}

impl Told {
    fn note(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.stale.store(true, Ordering::Release);
    }

    fn take(&self) -> bool {
        self.stale.swap(false, Ordering::AcqRel)
    }

    fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }
}

impl Refault {
    /// One that was not told anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it was told since the last time that somebody asked.
    pub fn take_stale(&self) -> bool {
        self.told.take()
    }

    /// How often it was told.
    pub fn times_told(&self) -> u64 {
        self.told.times()
    }
}

impl Importer for Refault {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        self.told.note();
    }
}

impl FenceAndResume {
    /// Uses the buffer for `access` until what `stop` returns has signalled.
    ///
    /// `stop` is called once per move, also one that then fails, so possibly when all has stopped already;
    /// under the buffer's reservation: it may not lock one, nor wait for a device. What it
    /// may do is to tell its own thread, with a fence from [`crate::Engine::host_fence`], or to take
    /// [`crate::Device::submitted`].
    pub fn new(access: Access, stop: impl Fn() -> Fence + Send + Sync + 'static) -> Self {
        Self { access, stop: Box::new(stop), told: Told::default() }
    }

    /// Whether it was told since the last time that somebody asked: map again, and go on.
    pub fn take_stale(&self) -> bool {
        self.told.take()
    }

    /// How often it was told.
    pub fn times_told(&self) -> u64 {
        self.told.times()
    }
}

impl Importer for FenceAndResume {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        invalidation.still_using(self.access, (self.stop)());
        self.told.note();
    }
}

impl Revocable {
    /// Calls `give_up` when the buffer is taken away: let go of all mappings, soon. It is called under the
    /// buffer's reservation, so it may not drop them itself; it may tell its own thread to.
    pub fn new(give_up: impl Fn() + Send + Sync + 'static) -> Self {
        let (told, revoked) = (Told::default(), AtomicBool::new(false));
        Self { give_up: Box::new(give_up), told, revoked }
    }

    /// Whether it was told since the last time that somebody asked.
    pub fn take_stale(&self) -> bool {
        self.told.take()
    }

    /// Whether the buffer was taken away, ever.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }
}

impl Importer for Revocable {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let revoked = invalidation.cause() == InvalidationCause::Revoke;
        // First: whoever sees that it was told sees why.
        self.revoked.fetch_or(revoked, Ordering::Release);
        self.told.note();
        if revoked {
            (self.give_up)();
        }
    }
}

impl fmt::Debug for FenceAndResume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceAndResume")
            .field("access", &self.access)
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Revocable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocable")
            .field("told", &self.told)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}
