//! The set of all buffers of one engine, and the check for lost devices that every operation begins with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::buffer::Buffers;
use crate::core::{Core, EndedExports, ExportTable, Ids, ImportTable, Registry};

/// Handles lost devices. Implemented in `loss`, a room above this one.
pub(in crate::buffer) trait LossHandler {
    /// Handles every device that was found to be lost and was not handled yet.
    ///
    /// # Panics
    ///
    /// If an importer panics; then the panic continues after all devices are handled.
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
            ended_exports: EndedExports::default(),
            imports: ImportTable::default(),
            clean_copies: AtomicUsize::new(0),
            clean_at: AtomicUsize::new(0),
            compacting: AtomicBool::new(false),
            compacted_at: AtomicUsize::new(0),
            ids: Ids::default(),
        })
    }

    /// Handles devices that were found to be lost since the last call.
    ///
    /// Every operation that takes a reservation calls this first, because the call that detects a loss may
    /// hold any lock.
    ///
    /// # Panics
    ///
    /// As [`crate::Engine::unplug`].
    ///
    /// Locks: none may be held.
    #[inline]
    pub(crate) fn handle_lost_devices(&self) {
        if self.core.calls.has_lost_device() {
            self.handle_lost();
        }
    }
}
