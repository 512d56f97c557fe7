//! The lock-order check, and what a thread drops once it holds no reservation any more.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

use super::primitive::thread_local;

thread_local! {
    /// How many reservations this thread holds.
    static HELD: Cell<u32> = const { Cell::new(0) };
    /// Objects whose drop may take a reservation or be the application's code. It has no destructor, so that it
    /// outlives the thread-locals of the application, which may own mappings. It is empty when nothing is held.
    static LEFT: ManuallyDrop<RefCell<Vec<Box<dyn Any>>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// Asserts that this thread holds no reservation.
///
/// Waiting for a single reservation while holding another one is the deadlock that lock sets prevent. It is checked
/// in all builds, since an application's callback may do it, and on the uncontended path as well (kernel:
/// `might_lock`, lockdep).
///
/// # Panics
///
/// If it holds one.
#[inline]
pub(super) fn assert_nothing_held() {
    if is_anything_held() {
        misused();
    }
}

#[cold]
fn misused() -> ! {
    panic!(
        "this thread takes a reservation while it holds another one: an importer's callback or a recording closure \
         must not use a buffer (dropping a mapping, an attachment or a pin is allowed)"
    );
}

/// Whether this thread holds a reservation.
#[inline]
pub(super) fn is_anything_held() -> bool {
    HELD.with(Cell::get) != 0
}

#[inline]
pub(super) fn note_held() {
    HELD.with(|held| held.set(held.get() + 1));
}

/// Notes that reservations were released; to be called after that. Drops what was left for this moment if the
/// thread holds none any more.
#[inline]
pub(super) fn note_released(count: u32) {
    let left = HELD.with(|held| {
        held.set(held.get() - count);
        held.get()
    });
    if left == 0 {
        drop_left();
    }
}

/// Drops `object` when this thread holds no reservation any more.
pub(super) fn leave(object: Box<dyn Any>) {
    LEFT.with(|left| left.borrow_mut().push(object));
}

#[inline]
fn drop_left() {
    if LEFT.with(|left| !left.borrow().is_empty()) {
        drop_all_left();
    }
}

#[cold]
fn drop_all_left() {
    // Without the borrow: a drop may leave more.
    let left = LEFT.with(|left| std::mem::take(&mut *left.borrow_mut()));
    drop(left);
}
