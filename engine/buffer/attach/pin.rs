//! Pins: keeping a buffer where it is, for a reason.
//!
//! Kernel counterpart: `dma_buf_pin`, with the quota that others added after they had been burnt
//! (ROCm/amdgpu#212).

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::attachment::Attachment;
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::buffer::state::{PinCounter, PinOwner, Pinned, Quick};
use crate::core::PinQuota;
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::observe::Object;

/// Keeps a buffer where it is while it lives, from [`Attachment::pin`].
///
/// For what cannot be interrupted, such as scanout. Pins nest. They count against the device's quota
/// ([`crate::Engine::set_pin_quota`]), and stay when their attachment is dropped.
///
/// Locks: dropping one takes none; the last one of a reason whose attachment is gone takes the reservation.
#[doc(alias = "dma_buf_pin")]
#[must_use = "the buffer may move as soon as the pin is dropped"]
pub struct Pin(Pinned);

impl Pin {
    pub(in crate::buffer) fn new(
        attachment: &Attachment,
        reason: Cow<'static, str>,
    ) -> Result<Self> {
        let pinned = match attachment.first_pins().pin(&reason) {
            Quick::Pinned(pinned) => pinned,
            Quick::Refused(used, quota) => return Err(over_quota(attachment, used, quota)),
            Quick::No => under_reservation(attachment, reason)?,
        };
        pinned.line().live().born(Object::Pin);
        tracing::debug!(
            buffer = attachment.buffer_inner().name(),
            device = attachment.device_inner().name(),
            reason = pinned.line().reason().as_ref(),
            "pinned"
        );
        Ok(Self(pinned))
    }

    /// The buffer.
    pub fn buffer(&self) -> SharedBuffer {
        let owner: Arc<dyn Any + Send + Sync> = Arc::<dyn PinOwner>::clone(self.0.line().owner());
        let Ok(buffer) = owner.downcast() else { unreachable!("buffers alone own pins") };
        SharedBuffer(buffer)
    }

    /// Why.
    pub fn reason(&self) -> &str {
        self.0.line().reason()
    }
}

#[cold]
fn under_reservation(attachment: &Attachment, reason: Cow<'static, str>) -> Result<Pinned> {
    let (buffer, seat) = (attachment.buffer_inner(), attachment.seat());
    buffer.set.handle_lost_devices();
    // What a pin promises (kernel: the contract of `dma_buf_attach_ops::pin`): the memory is there,
    // an old owner's bytes are not, and no move is under way.
    let mut state = buffer.lock_owned()?;
    let line = state.pin_counter(seat, &reason.clone(), || {
        let accounted = (buffer.size, Arc::clone(&buffer.core().live));
        PinCounter::new(Arc::clone(buffer) as _, accounted, seat, attachment.device_id(), reason)
    });
    let pinned = line.open().map_err(|(used, quota)| over_quota(attachment, used, quota))?;
    attachment.first_pins().offer(&line);
    Ok(pinned)
}

#[cold]
fn over_quota(attachment: &Attachment, used: u64, quota: u64) -> Error {
    let device = attachment.device_inner().name().to_owned();
    Error::PinQuota { device, requested: attachment.buffer_inner().size, used, quota }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.line().live().died(Object::Pin);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.0.line();
        f.debug_struct("Pin")
            .field("buffer", &self.buffer().name())
            .field("device", &line.device())
            .field("reason", line.reason())
            .finish()
    }
}

impl PinOwner for BufferInner {
    fn quota(&self, device: DeviceId) -> &PinQuota {
        &self.core().member(device).pin_quota
    }

    fn forget(&self, counter: NonNull<PinCounter>) {
        let forgotten = self.lock().forget_pins(counter);
        // Not under the reservation: it may hold the last reference to the buffer.
        drop(forgotten);
    }
}

/// Sets how many bytes a device may keep pinned. Its pins of before are counted here.
pub(crate) fn limit_pins(set: &Buffers, device: DeviceId, bytes: u64) {
    let member = set.core.member(device);
    let counted = member.pin_quota.is_limited();
    // First, so that pins which are not found below are charged by whoever makes them.
    member.pin_quota.set_limit(bytes);
    if counted {
        return;
    }
    set.live.for_each(|buffer| {
        let state = buffer.lock();
        let lines = state.pin_counters().iter();
        lines.filter(|line| line.device() == device).for_each(|line| line.meter());
    });
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Pin>();
};

impl Attachment {
    /// Keeps the buffer where it is until the guard is dropped, because of `reason`. Waits, in bounds,
    /// for a move that is under way.
    ///
    /// Pins for the same reason as the attachment's first one are cheap: two atomic operations each.
    ///
    /// # Errors
    ///
    /// [`Error::PinQuota`]; [`Error::Revoked`]; [`Error::Purged`], [`Error::Poisoned`] if that was found
    /// before, or by a pin that takes the reservation; [`Error::Timeout`], [`Error::DeviceLost`].
    ///
    /// Locks: the reservation, but not while waiting; none for the same reason as the first time, unless
    /// somebody has moved, revoked or found poisoned the buffer since, or tried to move it.
    #[doc(alias = "dma_buf_pin")]
    pub fn pin(&self, reason: impl Into<Cow<'static, str>>) -> Result<Pin> {
        Pin::new(self, reason.into())
    }
}
