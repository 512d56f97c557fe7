//! Pins: keeping a buffer where it is, for a reason.
//!
//! Kernel counterpart: `dma_buf_pin`, with the quota that others added after they had been burnt
//! (ROCm/amdgpu#212).

use std::fmt;
use std::sync::Arc;

use super::shared::{BufferInner, SharedBuffer};
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::observe::Object;
use crate::sync::Usage;

/// Keeps a buffer where it is while it lives, from [`crate::Attachment::pin`].
///
/// For what cannot be interrupted, such as scanout. Pins nest. They count against the device's quota
/// ([`crate::Engine::set_pin_quota`]).
#[doc(alias = "dma_buf_pin")]
pub struct Pin {
    buffer: Arc<BufferInner>,
    device: Arc<DeviceInner>,
    reason: Box<str>,
}

impl Pin {
    pub(super) fn new(
        buffer: &Arc<BufferInner>,
        device: &Arc<DeviceInner>,
        reason: &str,
    ) -> Result<Self> {
        let member = buffer.core.member(device.id());
        member.charge_pin(buffer.size).map_err(|(used, quota)| Error::PinQuota {
            device: device.name().to_owned(),
            requested: buffer.size,
            used,
            quota,
        })?;
        // What a pin promises (kernel: the contract of `dma_buf_attach_ops::pin`): the memory is there,
        // an old owner's bytes are not, and no move is under way.
        let ready = buffer.lock_owned();
        match ready {
            Ok(mut state) => state.pinned += 1,
            Err(error) => {
                member.credit_pin(buffer.size);
                return Err(error);
            }
        }
        buffer.core.live.born(Object::Pin);
        tracing::debug!(buffer = buffer.name(), device = device.name(), reason, "pinned");
        Ok(Self { buffer: Arc::clone(buffer), device: Arc::clone(device), reason: reason.into() })
    }

    /// The buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.buffer.lock().pinned -= 1;
        self.buffer.core.member(self.device.id()).credit_pin(self.buffer.size);
        self.buffer.core.live.died(Object::Pin);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin")
            .field("buffer", &self.buffer.name())
            .field("device", &self.device.name())
            .field("reason", &self.reason)
            .finish()
    }
}

impl BufferInner {
    /// Takes the reservation of a buffer whose bytes are its own and in place.
    pub(super) fn lock_owned(&self) -> Result<crate::sync::Guard<'_, super::state::State>> {
        loop {
            let mut state = self.lock_idle(Usage::Move, |_| true)?;
            self.own(&mut state)?;
            // Scrubbing may have been left to a device.
            if state.fences.pending(Usage::Move).is_empty() {
                return Ok(state);
            }
        }
    }
}
