//! Who keeps a buffer in place, and why: what its pins are counted in.
//!
//! A pin has to be seen by whoever wants to move the buffer, and by nobody else. So the pins of one
//! attachment for one reason are a number, beside what a mover sets to keep further ones out: taking one
//! and giving it up are an atomic operation each. The reservation is taken for the first, and after a
//! move.
#![expect(unsafe_code, reason = "a pin is counted, and so needs no reference of its own")]
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

/// What pins keep in place and alive: a buffer.
pub(in crate::buffer) trait PinOwner: Any + Send + Sync {
    /// The quota of a device that is attached.
    fn quota(&self, device: DeviceId) -> &PinQuota;

    /// The last pin of a counter whose attachment is gone has ended: the state lets go of the counter.
    ///
    /// Locks: takes the reservation.
    fn forget(&self, counter: NonNull<PinCounter>);
}

/// Pins of one attachment for one reason.
///
/// # Invariants
///
/// The buffer's state holds it as long as its word says that its attachment is alive or that somebody
/// has pinned; so whoever is counted, or is the attachment, may look at it.
///
/// While it is open the buffer's bytes are its own and in place: it is opened and closed under the
/// reservation, by [`PinCounter::open`] once that is so, and by a copier before it looks at the count.
// In this order: what pinning reads lies together.
#[repr(C)]
pub(in crate::buffer) struct PinCounter {
    /// The flags, and above them the number of pins.
    word: AtomicU64,
    reason: Cow<'static, str>,
    live: Arc<Live>,
    /// A pin keeps its buffer alive. No cycle: without attachment and pins the state lets go of this.
    owner: Arc<dyn PinOwner>,
    /// What the buffer has, for the quota.
    bytes: u64,
    attachment: AttachmentId,
    device: DeviceId,
}

/// Its attachment is alive.
const ATTACHED: u64 = 1 << 0;

/// A pin has to take the reservation first.
const CLOSED: u64 = 1 << 1;

/// Pins are charged to the device's quota.
const METERED: u64 = 1 << 2;

/// Its attachment finds it without the reservation.
const FIRST: u64 = 1 << 3;

const ONE: u64 = 1 << 4;

fn count(word: u64) -> u64 {
    word / ONE
}

/// Most reasons are the same constant, so comparing their addresses is enough.
fn same(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

/// How an attempt to pin without the reservation ended.
pub(in crate::buffer) enum Quick {
    Pinned(Pinned),
    /// The reservation is needed.
    No,
    /// The quota: what is pinned, and what may be.
    Refused(u64, u64),
}

/// One that is counted in a line.
///
/// # Invariants
///
/// It is counted in the line's word until it is dropped.
pub(in crate::buffer) struct Pinned(NonNull<PinCounter>);

// SAFETY: it is a shared reference to a line, which is `Sync`, for as long as it lives.
unsafe impl Send for Pinned {}

// SAFETY: as above.
unsafe impl Sync for Pinned {}

/// The line that an attachment's pins are usually counted in: that of its first reason.
///
/// # Invariants
///
/// Null, or a line of this attachment, which is alive.
#[derive(Default)]
pub(in crate::buffer) struct FirstCounter(AtomicPtr<PinCounter>);

impl FirstCounter {
    /// Pins without the reservation, if the reason is the usual one and nothing is under way.
    pub(in crate::buffer) fn pin(&self, reason: &str) -> Quick {
        // Acquire: the line is seen as it was made.
        let Some(line) = NonNull::new(self.0.load(Ordering::Acquire)) else { return Quick::No };
        // SAFETY: by the invariant it is a line of this attachment; so the state holds it.
        let this = unsafe { line.as_ref() };
        if same(&this.reason, reason) { this.pin_open() } else { Quick::No }
    }

    /// Under the reservation: a line of the attachment's is its first one if it has none yet.
    pub(in crate::buffer) fn offer(&self, line: &Arc<PinCounter>) {
        if self.0.load(Ordering::Relaxed).is_null() {
            line.word.fetch_or(FIRST, Ordering::Relaxed);
            // INVARIANT: a line of this attachment, which keeps it as its first.
            self.0.store(Arc::as_ptr(line).cast_mut(), Ordering::Release);
        }
    }
}

impl PinCounter {
    /// A closed one without pins.
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

    /// Whether its pins are those of `seat`, which is taken, for `reason`.
    pub(in crate::buffer) fn is_of(&self, attachment: AttachmentId, reason: &str) -> bool {
        self.attachment == attachment && self.is_attached() && same(&self.reason, reason)
    }

    /// How many pins there are.
    pub(in crate::buffer) fn pins(&self) -> u64 {
        count(self.word.load(Ordering::Relaxed))
    }

    /// Counts one more, if it is open.
    ///
    /// Nobody is counted who then has to go: a mover that came by meanwhile would take that for a pin.
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
        // What is metered stays so.
        while seen & CLOSED == 0 {
            match self.count_one(seen) {
                Ok(pinned) => return Quick::Pinned(pinned),
                Err(now) => seen = now,
            }
        }
        self.quota().credit(self.bytes);
        Quick::No
    }

    /// Counts one more if the word still is what was seen; else what it is now.
    fn count_one(&self, seen: u64) -> Result<Pinned, u64> {
        // Acquire: whoever opened it saw the bytes in place.
        let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
        let counted = self.word.compare_exchange_weak(seen, seen + ONE, order, failed);
        counted.map(|_| self.pinned())
    }

    /// Counts one more and opens the line. Under the reservation, when the bytes are the buffer's and in
    /// place.
    ///
    /// # Errors
    ///
    /// The quota: what is pinned, and what may be.
    pub(in crate::buffer) fn open(&self) -> Result<Pinned, (u64, u64)> {
        if self.quota().is_limited() {
            self.meter();
            self.quota().charge(self.bytes)?;
        }
        self.word.fetch_add(ONE, Ordering::Relaxed);
        // Release: who pins without the reservation sees what this thread has seen.
        self.word.fetch_and(!CLOSED, Ordering::Release);
        Ok(self.pinned())
    }

    /// Keeps further ones out; returns how many there are. Under the reservation.
    pub(in crate::buffer) fn close(&self) -> u64 {
        // Acquire: what was done under a pin that is over.
        count(self.word.fetch_or(CLOSED, Ordering::Acquire))
    }

    /// From now on pins are charged to the device's quota, those of before as well. Under the
    /// reservation.
    pub(in crate::buffer) fn meter(&self) {
        let before = self.word.fetch_or(METERED, Ordering::Relaxed);
        if before & METERED == 0 {
            self.quota().charge_earlier(count(before) * self.bytes);
        }
    }

    /// Says that the attachment of `seat` is gone. Whether the line is of no use any more.
    pub(in crate::buffer) fn leave(&self, attachment: AttachmentId) -> bool {
        if self.attachment != attachment || !self.is_attached() {
            return false;
        }
        count(self.word.fetch_and(!ATTACHED, Ordering::AcqRel)) == 0
    }

    /// Whether nobody can pin with it but under the reservation, and nobody has: the attachment had
    /// another reason before. Under the reservation.
    pub(in crate::buffer) fn is_idle(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        // One whose attachment is gone belongs to its last pin.
        word & (ATTACHED | FIRST) == ATTACHED && count(word) == 0
    }

    fn is_attached(&self) -> bool {
        self.word.load(Ordering::Relaxed) & ATTACHED != 0
    }

    fn quota(&self) -> &PinQuota {
        self.owner.quota(self.device)
    }

    /// The caller has counted it.
    fn pinned(&self) -> Pinned {
        // INVARIANT: it is counted.
        Pinned(NonNull::from(self))
    }
}

impl Pinned {
    pub(in crate::buffer) fn line(&self) -> &PinCounter {
        // SAFETY: by the invariant it is counted, so the state holds the line.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let line = self.line();
        let mut before = line.word.load(Ordering::Relaxed);
        let mut charged = true;
        loop {
            if before & METERED != 0 && charged {
                // First, for afterwards the line may be gone.
                line.quota().credit(line.bytes);
                charged = false;
            }
            // Release: what was done under the pin is seen by whoever moves the buffer next. Acquire,
            // for the case that it was the last.
            let (after, order) = (before - ONE, Ordering::AcqRel);
            match line.word.compare_exchange_weak(before, after, order, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        if count(before) == 1 && before & ATTACHED == 0 {
            forget(self.0);
        }
    }
}

/// The last pin without an attachment is gone. By its pointer: whoever lets go of the line may not be in
/// the middle of a call that borrows it.
#[cold]
fn forget(line: NonNull<PinCounter>) {
    // SAFETY: nobody else has the last pin, so the state still holds the line.
    let owner = Arc::clone(unsafe { &line.as_ref().owner });
    owner.forget(line);
}

impl fmt::Debug for PinCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the buffer: its state holds this.
        f.debug_struct("PinCounter")
            .field("device", &self.device)
            .field("reason", &self.reason)
            .field("pins", &self.pins())
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    // What `Pinned` and `FirstLine` rely on, who have it by its address.
    shareable::<PinCounter>();
};
