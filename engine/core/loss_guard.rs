//! Serialises device-loss handling: one thread does it, the others wait.
//!
//! An operation that began meanwhile could spoil it. For example, a host access to a clean copy keeps the
//! copy from replacing the lost buffer.

use std::cell::Cell;
use std::time::Duration;

use crate::sync::primitive::{Mutex, MutexGuard, lock, thread_local};
use crate::sync::{Fence, Signal};

thread_local! {
    /// Whether this thread handles a loss. A notified importer may call the engine.
    static MINE: Cell<bool> = const { Cell::new(false) };
}

/// The turn to handle lost devices.
#[derive(Debug, Default)]
pub(crate) struct LossGuard {
    /// Signalled when the thread that has the turn has ended. The innermost lock; held across no call.
    under_way: Mutex<Option<Fence>>,
}

/// The turn of this thread, until it is dropped.
pub(crate) struct Turn<'a> {
    guard: &'a LossGuard,
    _end: Signal,
}

impl LossGuard {
    /// Takes the turn. If another thread has it, waits for the end of that, for at most `timeout`, and
    /// returns `None`. So it does at once if this thread has it already.
    pub(crate) fn turn<'a>(&'a self, timeout: Duration) -> Option<Turn<'a>> {
        if MINE.with(Cell::get) {
            return None;
        }
        let mut under_way = self.under_way();
        if let Some(end) = under_way.clone() {
            drop(under_way);
            if let Err(error) = end.wait_until_over(timeout) {
                tracing::warn!(%error, "device-loss handling still running after the timeout");
            }
            return None;
        }
        let (fence, end) = Fence::host();
        *under_way = Some(fence);
        MINE.with(|mine| mine.set(true));
        Some(Turn { guard: self, _end: end })
    }

    fn under_way(&self) -> MutexGuard<'_, Option<Fence>> {
        lock(&self.under_way)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        MINE.with(|mine| mine.set(false));
        // Cleared before `_end` is dropped, which wakes the waiters.
        *self.guard.under_way() = None;
    }
}
