//! The lock-order check of debug builds.

use std::cell::Cell;

use super::primitive::thread_local;

thread_local! {
    /// How many reservations this thread holds.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Asserts that this thread holds no reservation.
///
/// Waiting for a single reservation while holding another one is the deadlock that lock sets prevent. Debug
/// builds check it on the uncontended path as well (kernel: `might_lock`, lockdep).
pub(super) fn assert_nothing_held() {
    debug_assert_eq!(
        HELD.with(Cell::get),
        0,
        "a reservation is taken while another one is held; lock them together in a LockSet"
    );
}

pub(super) fn note_held() {
    if cfg!(debug_assertions) {
        HELD.with(|held| held.set(held.get() + 1));
    }
}

pub(super) fn note_released(count: u32) {
    if cfg!(debug_assertions) {
        HELD.with(|held| held.set(held.get() - count));
    }
}
