//! All live buffers of one engine, with the services they use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::buffer::BufferInner;
use crate::core::{Core, ExportTable, Registry};

/// The set that a buffer belongs to.
// Dropped in this order: the engine's services wait for what is still running before the lists go.
#[derive(Debug)]
pub(crate) struct Buffers {
    pub(crate) core: Core,
    /// Every buffer that is alive.
    pub(in crate::buffer) live: Registry<BufferInner>,
    /// Buffers that were exported, by the identity of the file.
    pub(in crate::buffer) exports: ExportTable<BufferInner>,
    /// How many buffers keep a clean copy. Relaxed: it says whether to look for any.
    pub(in crate::buffer) clean_copies: AtomicUsize,
    /// Where in the registry one was given up last. Relaxed: whose goes next is no matter.
    pub(in crate::buffer) clean_at: AtomicUsize,
    next: AtomicU64,
}

/// What is done when devices were found to be lost.
pub(in crate::buffer) trait LossHandler {
    /// Handles every device that was found to be lost and was not handled yet.
    ///
    /// # Panics
    ///
    /// If an importer does, when all devices are done.
    ///
    /// Locks: none may be held.
    fn handle_lost(&self);
}

impl Buffers {
    pub(crate) fn new(core: Core) -> Arc<Self> {
        Arc::new(Self {
            core,
            live: Registry::default(),
            exports: ExportTable::default(),
            clean_copies: AtomicUsize::new(0),
            clean_at: AtomicUsize::new(0),
            next: AtomicU64::new(0),
        })
    }

    /// The number of the next buffer.
    pub(in crate::buffer) fn next_id(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Handles devices that were found to be lost since the last call. Every operation that takes a reservation
    /// begins with this, since the call that finds a loss may hold any lock.
    ///
    /// # Panics
    ///
    /// As [`crate::Engine::abandon`].
    ///
    /// Locks: none may be held.
    #[inline]
    pub(crate) fn give_up_lost(&self) {
        if self.core.calls.has_lost_device() {
            self.handle_lost();
        }
    }
}
