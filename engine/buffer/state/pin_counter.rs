//! Pins per attachment and reason: what keeps a buffer in place, and why.
//!
//! A move must see the pins of its buffer; nothing else needs to. So the pins of one attachment for one
//! reason are a counter in an atomic word, beside the flag that a move sets to keep further pins out. Pinning
//! and unpinning are one atomic operation each. The reservation is taken for the first pin, and for the first
//! after a move.
#![expect(unsafe_code, reason = "a pin is counted, so it holds no reference")]
use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::attachment_table::AttachmentId;
use crate::core::PinQuota;
use crate::device::DeviceId;
use crate::observe::Live;
use crate::sync::primitive::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The object that pins keep in place and alive: a buffer.
pub(in crate::buffer) trait PinOwner: Any + Send + Sync {
    /// The pin quota of an attached device.
    fn quota(&self, device: DeviceId) -> &PinQuota;

    /// Removes a counter from the state: its attachment is gone, and its last pin has ended.
    ///
    /// Locks: takes the reservation if it is free; otherwise its owner removes the counter.
    fn forget(self: Arc<Self>, counter: NonNull<PinCounter>);
}

/// # Invariants
///
/// The buffer's state holds the counter as long as its word says that its attachment is alive or that it has
/// pins. So an owner of one of its pins, or its attachment, may dereference its address.
///
/// While the counter is open, the buffer's bytes are valid and in place. It is opened and closed under the
/// reservation: opened by [`PinCounter::open`] once they are, closed by a move before it reads the count.
// In this order: the fields that pinning reads are together.
#[repr(C)]
pub(in crate::buffer) struct PinCounter {
    /// The flags, and above them the number of pins.
    word: AtomicU64,
    reason: Cow<'static, str>,
    live: Arc<Live>,
    /// Keeps the buffer alive while it is pinned. This is no cycle: the state drops a counter without
    /// attachment and pins.
    owner: Arc<dyn PinOwner>,
    /// The buffer's size, for the quota.
    bytes: u64,
    attachment: AttachmentId,
    device: DeviceId,
}

/// The attachment is alive.
const ATTACHED: u64 = 1 << 0;

/// A pin must take the reservation first.
const CLOSED: u64 = 1 << 1;

/// Pins are charged to the device's quota.
const METERED: u64 = 1 << 2;

/// The attachment finds the counter without the reservation.
const FIRST: u64 = 1 << 3;

const ONE: u64 = 1 << 4;

fn count(word: u64) -> u64 {
    word / ONE
}

/// Compares two reasons. Most are the same constant, so comparing their addresses usually suffices.
fn same(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

/// The result of an attempt to pin without the reservation.
pub(in crate::buffer) enum Quick {
    Pinned(Pinned),
    /// The reservation is needed.
    No,
    /// The quota is exceeded: the bytes that are pinned, and the limit.
    Refused(u64, u64),
}

/// One counted pin.
///
/// # Invariants
///
/// It is counted in the counter's word until it is dropped.
pub(in crate::buffer) struct Pinned(NonNull<PinCounter>);

// SAFETY: it is a shared reference to a counter, which is `Sync` and alive as long as it is.
unsafe impl Send for Pinned {}

// SAFETY: as above.
unsafe impl Sync for Pinned {}

/// The counter that an attachment usually pins with: that of its first reason.
///
/// # Invariants
///
/// Null, or a counter of this attachment, which is alive.
#[derive(Default)]
pub(in crate::buffer) struct FirstCounter(AtomicPtr<PinCounter>);

impl FirstCounter {
    /// Pins without the reservation, if the reason is that of the first counter and the counter is open.
    pub(in crate::buffer) fn pin(&self, reason: &str) -> Quick {
        // Acquire: the counter is seen as it was made.
        let Some(counter) = NonNull::new(self.0.load(Ordering::Acquire)) else { return Quick::No };
        // SAFETY: by the invariant it is a counter of this attachment; so the state holds it.
        let this = unsafe { counter.as_ref() };
        if same(&this.reason, reason) { this.pin_open() } else { Quick::No }
    }

    /// Makes `counter` the attachment's first one, if there is none yet. The reservation must be held.
    pub(in crate::buffer) fn offer(&self, counter: &Arc<PinCounter>) {
        if self.0.load(Ordering::Relaxed).is_null() {
            counter.word.fetch_or(FIRST, Ordering::Relaxed);
            // INVARIANT: a counter of this attachment, which keeps it as its first.
            self.0.store(Arc::as_ptr(counter).cast_mut(), Ordering::Release);
        }
    }
}

impl PinCounter {
    /// A closed counter without pins.
    pub(in crate::buffer) fn new(
        owner: Arc<dyn PinOwner>,
        (bytes, live): (u64, Arc<Live>),
        attachment: AttachmentId,
        device: DeviceId,
        reason: Cow<'static, str>,
    ) -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU64::new(ATTACHED | CLOSED),
            reason,
            live,
            bytes,
            owner,
            attachment,
            device,
        })
    }

    pub(in crate::buffer) fn device(&self) -> DeviceId {
        self.device
    }

    pub(in crate::buffer) fn reason(&self) -> &Cow<'static, str> {
        &self.reason
    }

    pub(in crate::buffer) fn owner(&self) -> &Arc<dyn PinOwner> {
        &self.owner
    }

    pub(in crate::buffer) fn live(&self) -> &Live {
        &self.live
    }

    /// Whether it counts the pins of this attachment, which is alive, for `reason`.
    pub(super) fn is_of(&self, attachment: AttachmentId, reason: &str) -> bool {
        self.attachment == attachment && self.is_attached() && same(&self.reason, reason)
    }

    /// The number of pins.
    pub(in crate::buffer) fn pins(&self) -> u64 {
        count(self.word.load(Ordering::Relaxed))
    }

    /// Counts one more pin, if the counter is open.
    ///
    /// A pin is counted only if it is to stay: a move that reads the counter meanwhile would take it for a
    /// pin.
    fn pin_open(&self) -> Quick {
        let mut seen = self.word.load(Ordering::Relaxed);
        while seen & (CLOSED | METERED) == 0 {
            match self.count_one(seen) {
                Ok(pinned) => return Quick::Pinned(pinned),
                Err(now) => seen = now,
            }
        }
        self.pin_slowly(seen)
    }

    #[cold]
    fn pin_slowly(&self, mut seen: u64) -> Quick {
        if seen & CLOSED != 0 {
            return Quick::No;
        }
        if let Err((used, limit)) = self.quota().charge(self.bytes) {
            return Quick::Refused(used, limit);
        }
        // METERED is never cleared.
        while seen & CLOSED == 0 {
            match self.count_one(seen) {
                Ok(pinned) => return Quick::Pinned(pinned),
                Err(now) => seen = now,
            }
        }
        self.quota().credit(self.bytes);
        Quick::No
    }

    /// Counts one more pin if the word still is `seen`; otherwise returns the current word.
    fn count_one(&self, seen: u64) -> Result<Pinned, u64> {
        // Acquire: what the thread that opened the counter has seen of the bytes is seen here.
        let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
        let counted = self.word.compare_exchange_weak(seen, seen + ONE, order, failed);
        counted.map(|_| self.pinned())
    }

    /// Counts one more pin and opens the counter. The reservation must be held, and the bytes must be valid
    /// and in place.
    ///
    /// # Errors
    ///
    /// If the quota is exceeded: the bytes that are pinned, and the limit.
    pub(in crate::buffer) fn open(&self) -> Result<Pinned, (u64, u64)> {
        if self.quota().is_limited() {
            self.meter();
            self.quota().charge(self.bytes)?;
        }
        self.word.fetch_add(ONE, Ordering::Relaxed);
        // Release: a thread that pins without the reservation sees what this thread has seen.
        self.word.fetch_and(!CLOSED, Ordering::Release);
        Ok(self.pinned())
    }

    /// Keeps further pins out, and returns the number of live ones. The reservation must be held.
    pub(super) fn close(&self) -> u64 {
        // Acquire: what was done under a pin that has ended is seen.
        count(self.word.fetch_or(CLOSED, Ordering::Acquire))
    }

    /// Charges all pins to the device's quota from now on, including the live ones. The reservation must be
    /// held.
    pub(in crate::buffer) fn meter(&self) {
        let before = self.word.fetch_or(METERED, Ordering::Relaxed);
        if before & METERED == 0 {
            self.quota().charge_earlier(count(before) * self.bytes);
        }
    }

    /// Notes the end of the attachment, if it is this counter's. Returns whether the counter is of no further
    /// use.
    pub(super) fn detach(&self, attachment: AttachmentId) -> bool {
        if self.attachment != attachment || !self.is_attached() {
            return false;
        }
        count(self.word.fetch_and(!ATTACHED, Ordering::AcqRel)) == 0
    }

    /// Whether the counter has no pins and can get one only under the reservation: the attachment's first
    /// reason was another. The reservation must be held.
    pub(super) fn is_idle(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        // A counter whose attachment is gone belongs to its last pin.
        word & (ATTACHED | FIRST) == ATTACHED && count(word) == 0
    }

    fn is_attached(&self) -> bool {
        self.word.load(Ordering::Relaxed) & ATTACHED != 0
    }

    fn quota(&self) -> &PinQuota {
        self.owner.quota(self.device)
    }

    /// The pin that the caller has counted.
    fn pinned(&self) -> Pinned {
        // INVARIANT: it is counted.
        Pinned(NonNull::from(self))
    }
}

impl Pinned {
    pub(in crate::buffer) fn counter(&self) -> &PinCounter {
        // SAFETY: by the invariant it is counted, so the state holds the counter.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let counter = self.counter();
        let mut before = counter.word.load(Ordering::Relaxed);
        let mut charged = true;
        loop {
            if before & METERED != 0 && charged {
                // Credited first, because the counter may be gone afterwards.
                counter.quota().credit(counter.bytes);
                charged = false;
            }
            // Release: what was done under the pin is seen by the next move of the buffer. Acquire, in case
            // it was the last pin.
            let (after, order) = (before - ONE, Ordering::AcqRel);
            match counter.word.compare_exchange_weak(before, after, order, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        if count(before) == 1 && before & ATTACHED == 0 {
            forget(self.0);
        }
    }
}

/// Removes a counter whose last pin has ended after its attachment. It takes a pointer: the state may drop
/// the counter, so no call that borrows it may be in progress.
#[cold]
fn forget(counter: NonNull<PinCounter>) {
    // SAFETY: this is the last pin, so the state still holds the counter.
    let owner = Arc::clone(unsafe { &counter.as_ref().owner });
    owner.forget(counter);
}

impl fmt::Debug for PinCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The buffer is not printed: its state holds this counter.
        f.debug_struct("PinCounter")
            .field("device", &self.device)
            .field("reason", &self.reason)
            .field("pins", &self.pins())
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    // `Pinned` and `FirstCounter`, which hold its address, rely on this.
    shareable::<PinCounter>();
};
