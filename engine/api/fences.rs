//! Fences: those of the host, and callbacks.

use super::engine::Engine;
use crate::device::Device;
use crate::error::Result;
use crate::sync::{CallbackId, Fence, FenceSemaphore, Signal};

/// # Fences
///
/// Waits are methods of [`Fence`]: [`Fence::wait`], [`Fence::wait_any`], [`Fence::wait_all`]. Those for all work
/// on a buffer are methods of [`crate::SharedBuffer`].
impl Engine {
    /// A timeline semaphore of `device`, and the value that it has when `fence` has signalled, so that work that the
    /// application submits itself can wait for it. `None` if the fence has signalled; also for work of the host and
    /// external fences, which no queue waits for: call [`Fence::wait`].
    ///
    /// If the fence is of another device, the value may be one that the host signals later. What must not depend on
    /// that, such as a present, calls [`Fence::wait`] or [`Fence::wait_submitted`] first.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`]; the error of creating or importing a semaphore, or of starting a thread.
    pub fn fence_semaphore(
        &self,
        device: &Device,
        fence: &Fence,
    ) -> Result<Option<FenceSemaphore>> {
        self.set.core.check(&device.0)?;
        fence.semaphore_on(&self.set.core.bridges, &device.0)
    }

    /// Creates a fence for work of the host, and the [`Signal`] that signals it when it is dropped. An importer
    /// that stops work of its own needs one ([`crate::Invalidation::add_fence`]).
    pub fn host_fence(&self) -> (Fence, Signal) {
        Fence::host()
    }

    /// Calls `callback` when `fence` signals or its work fails, for executors that do not block.
    ///
    /// The callback runs here if the fence has signalled, on the signalling thread for work of the host, and on a
    /// thread for callbacks otherwise. That thread calls the callbacks of an engine one after the other. So one that
    /// waits delays those behind it, and no device; it must not wait for another one. It must not own
    /// the last handle of an engine, a buffer or a device. It is also called if the engine is dropped
    /// first; the drop waits for each one at most the engine timeout. Returns `None` if the fence had signalled already; then the callback has been called.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Unsupported`] for an external fence (poll its file instead); the error of starting a
    /// thread.
    #[doc(alias = "dma_fence_add_callback")]
    pub fn on_signal(
        &self,
        fence: &Fence,
        callback: impl FnOnce() + Send + 'static,
    ) -> Result<Option<CallbackId>> {
        fence.on_signal(&self.set.core.bridges, Box::new(callback))
    }

    /// Removes a callback. Returns whether it was removed before it was called.
    ///
    /// # Errors
    ///
    /// As [`Engine::on_signal`].
    #[doc(alias = "dma_fence_remove_callback")]
    pub fn forget_callback(&self, fence: &Fence, callback: CallbackId) -> Result<bool> {
        fence.forget_callback(&self.set.core.bridges, callback)
    }
}
