//! The views of an allocation by device: found without a lock, counted by their users, removed while unused.
//!
//! A slot counts what needs its device's view for longer than one call: entries in the attachment tables of buffers
//! in the allocation, and ghosts that the device has mapped. The exporter's view has no slot, since it is never
//! removed.
#![expect(unsafe_code, reason = "an `Arc` in an atomic pointer")]

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::view::View;
use crate::device::DeviceId;
use crate::observe::note_shared_write;

/// How many slots one block has. Few allocations have more importers.
const SLOTS: usize = 3;

/// The slots of an allocation. A slot is never removed, and has one device for good.
#[derive(Debug, Default)]
pub(super) struct ViewSlots {
    slots: [Slot; SLOTS],
    more: OnceLock<Box<Self>>,
}

/// The view of one device.
///
/// # Invariants
///
/// `view` is null, or came from [`Arc::into_raw`] and owns that count. While [`OPEN`] is set it is not null. Only
/// [`Slot::take`] clears `OPEN`, and only while the slot has no user; only the thread that has cleared it changes
/// `view` before `OPEN` is set again.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// The device's number plus 1; 0 if the slot is vacant. Written once, under the allocation's lock.
    device: AtomicU32,
    /// Whether the list of unused views has it, or is about to. Sequentially consistent, as is `word` where both
    /// are read: a thread that lists nothing has seen a mark that is cleared before the users are counted again.
    listed: AtomicBool,
    /// Whether an attachment has ever needed it. Relaxed: it only chooses how long an unused view is kept.
    attached: AtomicBool,
    /// Bit 0 is [`OPEN`], bits 1 to 31 count the users, and the rest counts how often a user was added.
    word: AtomicU64,
    view: AtomicPtr<View>,
}

/// The slot has a view.
const OPEN: u64 = 1;
/// One user.
const USER: u64 = 1 << 1;
/// All users.
const USERS: u64 = (1 << 32) - USER;
/// One use. The count of uses wraps around.
const USE: u64 = 1 << 32;

/// A view that no user needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unused {
    /// How often it was used. [`Slot::take`] refuses if that has changed.
    pub(super) uses: u32,
    /// Whether an attachment has ever needed it.
    pub(super) attached: bool,
    /// Bytes that it imports.
    pub(super) bytes: u64,
}

impl ViewSlots {
    /// The slot of a device.
    pub(super) fn find(&self, device: DeviceId) -> Option<&Slot> {
        let wanted = number(device);
        let mut block = self;
        loop {
            for slot in &block.slots {
                match slot.device.load(Ordering::Acquire) {
                    0 => return None,
                    found if found == wanted => return Some(slot),
                    _ => {}
                }
            }
            block = block.more.get()?;
        }
    }

    /// Whether a device that `of` accepts has a view.
    pub(super) fn any_open(&self, of: impl Fn(DeviceId) -> bool) -> bool {
        let mut block = Some(self);
        while let Some(ViewSlots { slots, more }) = block {
            let is_such = |slot: &Slot| slot.device().is_some_and(&of) && slot.is_open();
            if slots.iter().any(is_such) {
                return true;
            }
            block = more.get().map(|more| &**more);
        }
        false
    }

    /// The slot of a device, taken if it has none. The caller holds the allocation's lock.
    pub(super) fn find_or_add(&self, device: DeviceId) -> &Slot {
        if let Some(found) = self.find(device) {
            return found;
        }
        let mut block = self;
        loop {
            let is_vacant = |slot: &&Slot| slot.device.load(Ordering::Relaxed) == 0;
            if let Some(vacant) = block.slots.iter().find(is_vacant) {
                vacant.device.store(number(device), Ordering::Release);
                return vacant;
            }
            block = block.more.get_or_init(Box::default);
        }
    }
}

fn number(device: DeviceId) -> u32 {
    u32::from(device.0) + 1
}

impl Slot {
    /// Its device, unless it is vacant.
    fn device(&self) -> Option<DeviceId> {
        let number = self.device.load(Ordering::Acquire).checked_sub(1)?;
        // CAST: `number` made it from a device's number.
        Some(DeviceId(number as u16))
    }

    /// Whether there is a view.
    pub(super) fn is_open(&self) -> bool {
        self.word.load(Ordering::Acquire) & OPEN != 0
    }

    /// The view. The second result says whether the caller must list the slot as unused.
    pub(super) fn get(&self) -> (Option<Arc<View>>, bool) {
        let before = self.word.fetch_add(USE + USER, Ordering::AcqRel);
        let view = (before & OPEN != 0).then(|| {
            let raw = self.view.load(Ordering::Acquire).cast_const();
            // SAFETY: `OPEN` was set when this user was added, so `raw` is an `Arc`'s, which owns a count until the
            // slot has no user.
            unsafe { Arc::increment_strong_count(raw) };
            // SAFETY: the count that was added just now belongs to the new `Arc`.
            unsafe { Arc::from_raw(raw) }
        });
        (view, self.remove_users(1))
    }

    /// The view, as an `Arc`'s pointer. If the slot has a user, the view is alive until that user is removed.
    pub(super) fn get_held(&self) -> Option<NonNull<View>> {
        self.is_open().then(|| NonNull::new(self.view.load(Ordering::Acquire))).flatten()
    }

    /// Counts users.
    pub(super) fn add_users(&self, users: u32) {
        note_shared_write();
        self.word.fetch_add(USE + u64::from(users) * USER, Ordering::AcqRel);
        if !self.attached.load(Ordering::Relaxed) {
            self.attached.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the count of users. Returns whether the caller must list the slot as unused.
    pub(super) fn remove_users(&self, users: u32) -> bool {
        note_shared_write();
        let users = u64::from(users) * USER;
        let before = self.word.fetch_sub(users, Ordering::SeqCst);
        debug_assert!(before & USERS >= users, "only users that were added are removed");
        before & USERS == users && before & OPEN != 0 && self.list()
    }

    /// Gives a slot without a view one. Returns whether the caller must list it as unused. The caller holds the
    /// allocation's lock.
    pub(super) fn publish(&self, view: Arc<View>) -> bool {
        debug_assert!(!self.is_open(), "a device has one view");
        self.view.store(Arc::into_raw(view).cast_mut(), Ordering::Release);
        let before = self.word.fetch_or(OPEN, Ordering::SeqCst);
        before & USERS == 0 && self.list()
    }

    /// Marks it as listed. Returns whether it was not.
    fn list(&self) -> bool {
        !self.listed.load(Ordering::SeqCst) && !self.listed.swap(true, Ordering::SeqCst)
    }

    /// Ends the mark. Returns whether the caller must list it again, since it is unused by now.
    pub(super) fn unlist(&self) -> bool {
        self.listed.store(false, Ordering::SeqCst);
        let word = self.word.load(Ordering::SeqCst);
        word & USERS == 0 && word & OPEN != 0 && self.list()
    }

    /// What is known of a view without users; `None` if it has some, or there is no view.
    pub(super) fn unused(&self) -> Option<(u32, bool)> {
        let word = self.word.load(Ordering::SeqCst);
        // CAST: the upper half.
        let uses = (word >> 32) as u32;
        (word & USERS == 0 && word & OPEN != 0)
            .then(|| (uses, self.attached.load(Ordering::Relaxed)))
    }

    /// Takes the view, if it was not used since `uses` was read and nothing else owns it. The caller holds the
    /// allocation's lock.
    pub(super) fn take(&self, uses: u32) -> Option<View> {
        let unused = u64::from(uses) << 32;
        self.word
            .compare_exchange(unused | OPEN, unused, Ordering::SeqCst, Ordering::Relaxed)
            .ok()?;
        let raw = self.view.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: it was open, so `raw` is an `Arc`'s with a count of its own; this thread has cleared `OPEN`.
        let view = unsafe { Arc::from_raw(raw.cast_const()) };
        Arc::try_unwrap(view)
            .map_err(|shared| {
                // A copy that is being recorded owns it.
                self.view.store(Arc::into_raw(shared).cast_mut(), Ordering::Release);
                self.word.fetch_or(OPEN, Ordering::SeqCst);
            })
            .ok()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let raw = *self.view.get_mut();
        if !raw.is_null() {
            // SAFETY: not null, so it is an `Arc`'s with a count of its own; nothing else has the slot.
            drop(unsafe { Arc::from_raw(raw.cast_const()) });
        }
    }
}
