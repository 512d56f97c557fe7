//! Pins: a pin keeps a buffer in its backing, for a stated reason.
//!
//! Kernel counterpart: `dma_buf_pin`. The quota per device is an addition, as drivers have made after failures
//! from unlimited pinning (ROCm/amdgpu#212).

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::attachment::Attachment;
use super::map::RESTORES;
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::buffer::state::{PinCounter, PinOwner, Pinned, Quick, State};
use crate::core::PinQuota;
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::observe::Object;
use crate::sync::Guard;

/// Keeps a buffer in its backing while the pin lives, from [`Attachment::pin`].
///
/// It is for uses that cannot be interrupted, such as scanout. Pins nest. They count against the device's quota
/// ([`crate::Engine::set_pin_quota`]), and outlive their attachment.
///
/// Locks: dropping a pin takes none, except that dropping the last pin of a reason whose attachment is gone
/// takes the reservation.
#[doc(alias = "dma_buf_pin")]
#[must_use = "the buffer may move as soon as the pin is dropped"]
pub struct Pin(Pinned);

impl Pin {
    fn new(attachment: &Attachment, reason: Cow<'static, str>) -> Result<Self> {
        // A pin under the reservation finds whether the buffer must leave its memory first.
        let quick = match attachment.buffer_inner().set.ended_exports.is_empty() {
            true => attachment.first_pins().pin(&reason),
            false => Quick::No,
        };
        let pinned = match quick {
            Quick::Pinned(pinned) => pinned,
            Quick::Refused(used, quota) => return Err(over_quota(attachment, used, quota)),
            Quick::No => pin_locked(attachment, reason)?,
        };
        pinned.counter().live().born(Object::Pin);
        tracing::debug!(
            buffer = attachment.buffer_inner().name(),
            device = attachment.device_inner().name(),
            reason = pinned.counter().reason().as_ref(),
            "pinned"
        );
        Ok(Self(pinned))
    }

    /// Returns the buffer.
    pub fn buffer(&self) -> SharedBuffer {
        let owner: Arc<dyn Any + Send + Sync> =
            Arc::<dyn PinOwner>::clone(self.0.counter().owner());
        let Ok(buffer) = owner.downcast() else { unreachable!("buffers alone own pins") };
        SharedBuffer(buffer)
    }

    /// Returns the reason of the pin.
    pub fn reason(&self) -> &str {
        self.0.counter().reason()
    }
}

/// Pins under the reservation: for the first pin of a reason, and after a move has closed the counter.
#[cold]
fn pin_locked(attachment: &Attachment, reason: Cow<'static, str>) -> Result<Pinned> {
    let (buffer, id) = (attachment.buffer_inner(), attachment.id());
    buffer.set.handle_lost_devices();
    buffer.leave_exported()?;
    // A pin guarantees (kernel: the contract of `dma_buf_attach_ops::pin`) that the memory is allocated, that
    // an earlier owner's bytes are zeroed, and that no move is in progress.
    let mut state = lock_where_usable(attachment)?;
    let counter = state.pin_counter(id, &reason.clone(), || {
        let accounting = (buffer.size, Arc::clone(&buffer.core().live));
        PinCounter::new(Arc::clone(buffer) as _, accounting, id, attachment.device_id(), reason)
    });
    let pinned = counter.open().map_err(|(used, quota)| over_quota(attachment, used, quota))?;
    attachment.first_pins().offer(&counter);
    Ok(pinned)
}

/// Locks the reservation of a buffer whose bytes are valid, and in a domain where devices may use them.
fn lock_where_usable(attachment: &Attachment) -> Result<Guard<'_, State>> {
    let buffer = attachment.buffer_inner();
    for _ in 0..RESTORES {
        buffer.restore_for_use(attachment.device_id())?;
        let state = buffer.lock_valid()?;
        if !buffer.needs_restore(&state) {
            return Ok(state);
        }
    }
    Err(buffer.busy(&buffer.lock()))
}

#[cold]
fn over_quota(attachment: &Attachment, used: u64, quota: u64) -> Error {
    let device = attachment.device_inner().name().to_owned();
    Error::PinQuota { device, requested: attachment.buffer_inner().size, used, quota }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.counter().live().died(Object::Pin);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = self.0.counter();
        f.debug_struct("Pin")
            .field("buffer", &self.buffer().name())
            .field("device", &counter.device())
            .field("reason", counter.reason())
            .finish()
    }
}

impl PinOwner for BufferInner {
    fn quota(&self, device: DeviceId) -> &PinQuota {
        &self.core().member(device).pin_quota
    }

    fn forget(self: Arc<Self>, counter: NonNull<PinCounter>) {
        let address = counter.addr();
        // The counter keeps its buffer alive, and is its last reference, perhaps.
        self.do_or_defer(move |_, state| state.forget_pins(address).map(|it| Box::new(it) as _));
    }
}

/// Sets how many bytes a device may keep pinned. If the device had no limit before, its existing pins are
/// charged here.
pub(crate) fn limit_pins(set: &Buffers, device: DeviceId, bytes: u64) {
    let member = set.core.member(device);
    let was_limited = member.pin_quota.is_limited();
    // The limit is set first, so that a pin that is taken too late to be found below is charged by its own
    // thread.
    member.pin_quota.set_limit(bytes);
    if was_limited {
        return;
    }
    set.live.for_each(|buffer| {
        let state = buffer.lock();
        let counters = state.pin_counters().iter();
        counters.filter(|counter| counter.device() == device).for_each(|counter| counter.meter());
    });
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Pin>();
};

impl Attachment {
    /// Pins the buffer: it stays in its backing until the guard is dropped. `reason` is shown in reports.
    ///
    /// A buffer that may be used only in its device's memory, and was evicted, first returns there. A pin counts
    /// against the quota, a placement does not: an unpinned buffer can be evicted, whatever its placement.
    ///
    /// Waits, for at most the engine timeout, for a move in progress. Pins for the same reason as the
    /// attachment's first pin are cheap: two atomic operations each.
    ///
    /// # Errors
    ///
    /// [`Error::PinQuota`]; [`Error::Revoked`]; [`Error::Purged`], [`Error::Poisoned`] if that was found
    /// before, or by a pin that takes the reservation; [`Error::Timeout`], [`Error::DeviceLost`];
    /// [`Error::OutOfMemory`] or [`Error::Busy`] if the buffer cannot return.
    ///
    /// Locks: the reservation, but not while waiting. A pin for the same reason as the first takes none, unless
    /// the buffer was moved, revoked or found poisoned since, or a move was attempted.
    #[doc(alias = "dma_buf_pin")]
    pub fn pin(&self, reason: impl Into<Cow<'static, str>>) -> Result<Pin> {
        Pin::new(self, reason.into())
    }
}
