//! What keeps a buffer in place, counted: host accesses, pins, exports. And revocations, which wait for its users.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::attachment_table::AttachmentId;
use super::pin_counter::PinCounter;
use super::protected::State;
use crate::memory::Provider;
use crate::sync::{Fence, Signal};

impl State {
    // ---- accesses ----

    /// Live host accesses, copies by the host, and open accesses of applications.
    pub(in crate::buffer) fn host(&self) -> u32 {
        u32::from(self.host) + self.more.as_ref().map_or(0, |more| more.host)
    }

    /// Counts an access that begins.
    pub(in crate::buffer) fn begin_access(&mut self) {
        match self.host.checked_add(1) {
            Some(host) => self.host = host,
            None => self.more.get_or_insert_default().host += 1,
        }
    }

    /// Counts an access that has ended.
    pub(in crate::buffer) fn end_access(&mut self) {
        match &mut self.more {
            Some(more) if more.host > 0 => more.host -= 1,
            _ => self.host -= 1,
        }
    }

    // ---- pins ----

    /// The counter for the pins of an attachment with a reason. If there is none, `make` makes it, and idle
    /// counters are dropped.
    pub(in crate::buffer) fn pin_counter(
        &mut self,
        attachment: AttachmentId,
        reason: &str,
        make: impl FnOnce() -> Arc<PinCounter>,
    ) -> Arc<PinCounter> {
        let pins = &mut self.make_rare().pins;
        if let Some(counter) = pins.iter().find(|counter| counter.is_of(attachment, reason)) {
            return Arc::clone(counter);
        }
        pins.retain(|counter| !counter.is_idle());
        let counter = make();
        pins.push(Arc::clone(&counter));
        counter
    }

    /// All pin counters; some may be at zero.
    pub(in crate::buffer) fn pin_counters(&self) -> &[Arc<PinCounter>] {
        self.rare().map_or(&[], |rare| &rare.pins)
    }

    /// Removes the counter at this address, which has neither attachment nor pins.
    pub(in crate::buffer) fn forget_pins(
        &mut self,
        counter: NonZeroUsize,
    ) -> Option<Arc<PinCounter>> {
        let pins = &mut self.rare_mut()?.pins;
        let index = pins.iter().position(|other| Arc::as_ptr(other).addr() == counter.get())?;
        Some(pins.swap_remove(index))
    }

    /// Closes all pin counters: until a pin has found the bytes in place again, every pin takes the reservation
    /// first. Returns the number of live pins, including those of exports.
    pub(in crate::buffer) fn close_pins(&self) -> u64 {
        self.pin_counters().iter().map(|counter| counter.close()).sum::<u64>()
            + u64::from(self.exported())
    }

    /// The number of live pins, including those of exports.
    pub(in crate::buffer) fn pinned(&self) -> u64 {
        self.pin_counters().iter().map(|counter| counter.pins()).sum::<u64>()
            + u64::from(self.exported())
    }

    // ---- exports ----

    /// Counts an export that begins. It pins the buffer.
    pub(in crate::buffer) fn begin_export(&mut self) {
        self.make_rare().exported += 1;
    }

    /// Counts an export that has ended. Returns whether the buffer is still in memory that is known outside this
    /// process, and must leave it before its next use.
    ///
    /// Pins take the reservation from then on, so that they see whether it has.
    pub(in crate::buffer) fn end_export(&mut self) -> bool {
        if let Some(rare) = self.rare_mut() {
            rare.exported -= 1;
        }
        let must_leave = self.must_leave_exported();
        if must_leave {
            self.close_pins();
        }
        must_leave
    }

    /// Whether the buffer has no export any more, and is still in memory that an external user knows. Imported
    /// memory is always known outside; it cannot be left.
    pub(in crate::buffer) fn must_leave_exported(&self) -> bool {
        let backing = self.location().backing();
        self.exported() == 0
            && backing.is_some_and(|backing| {
                let allocation = backing.allocation();
                allocation.is_external() && !matches!(allocation.provider(), Provider::Foreign(_))
            })
    }

    /// Live exports.
    pub(in crate::buffer) fn exported(&self) -> u32 {
        self.rare().map_or(0, |rare| rare.exported)
    }

    // ---- revocations ----

    /// Counts a revocation that begins.
    pub(in crate::buffer) fn begin_revocation(&mut self) {
        let revocations = &mut self.make_rare().revocations;
        *revocations = revocations.wrapping_add(1);
    }

    /// The number of the last revocation.
    pub(in crate::buffer) fn revocation(&self) -> u32 {
        self.rare().map_or(0, |rare| rare.revocations)
    }

    /// Whether the buffer has a mapping, of any generation, or an access.
    pub(in crate::buffer) fn has_users(&self) -> bool {
        let ghosts = self.ghosts().next().is_some();
        self.host() > 0 || ghosts || self.attachments().any(|attachment| attachment.mapped() > 0)
    }

    /// A fence that signals when the buffer has no users any more. To be called only while it has users, and
    /// no new ones are possible.
    pub(in crate::buffer) fn when_drained(&mut self) -> Fence {
        let drained = &mut self.make_rare().drained;
        drained.get_or_insert_with(Fence::host).0.clone()
    }

    /// The signal of [`State::when_drained`], if the buffer has no users any more. To be called when a mapping
    /// or an access has ended.
    ///
    /// The caller must drop it without the reservation, which the waiters take next.
    pub(in crate::buffer) fn take_drained(&mut self) -> Option<Signal> {
        self.rare()?.drained.as_ref()?;
        if self.has_users() {
            return None;
        }
        self.rare_mut()?.drained.take().map(|(_, signal)| signal)
    }
}
