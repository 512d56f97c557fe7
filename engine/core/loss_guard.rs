//! Serialises device-loss handling: one thread does it, the others wait.
//!
//! An operation that began meanwhile could spoil it. For example, a host access to a clean copy keeps the
//! copy from replacing the lost buffer.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
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
    /// Takes the turn. If another thread has it, waits for the end of that, and returns `None`. So it does at once if
    /// this thread has it already.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if the other thread has it for longer than `timeout`.
    pub(crate) fn turn(&self, timeout: Duration) -> Result<Option<Turn<'_>>> {
        if MINE.with(Cell::get) {
            return Ok(None);
        }
        let mut under_way = self.under_way();
        if let Some(end) = under_way.clone() {
            drop(under_way);
            return match end.wait_until_over(timeout) {
                Ok(_) => Ok(None),
                Err(error) => {
                    tracing::warn!(%error, "device-loss handling still running after the timeout");
                    let what = "another thread that handles the loss of a device".into();
                    Err(Error::Timeout { what, after: timeout })
                }
            };
        }
        let (fence, end) = Fence::host();
        *under_way = Some(fence);
        MINE.with(|mine| mine.set(true));
        Ok(Some(Turn { guard: self, _end: end }))
    }

    /// Takes the turn, after those of other threads. `None` if this thread has it already.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if other threads have it for longer than `timeout`.
    pub(crate) fn own_turn(&self, timeout: Duration) -> Result<Option<Turn<'_>>> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let turn = self.turn(left).map_err(|error| match error {
                Error::Timeout { what, .. } => Error::Timeout { what, after: timeout },
                other => other,
            })?;
            if turn.is_some() || MINE.with(Cell::get) {
                return Ok(turn);
            }
        }
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

#[cfg(all(test, not(peerbuf_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn an_own_turn_ends_with_an_error_while_another_thread_has_it() {
        let guard = LossGuard::default();
        let held = guard.turn(Duration::ZERO);
        assert!(matches!(held, Ok(Some(_))), "it is free");
        let other = std::thread::scope(|scope| {
            let waits = scope.spawn(|| guard.own_turn(Duration::ZERO).map(|turn| turn.is_some()));
            waits.join().expect("no panic")
        });
        assert!(matches!(other, Err(Error::Timeout { .. })), "{other:?}");
        drop(held);
        assert!(matches!(guard.own_turn(Duration::ZERO), Ok(Some(_))));
    }
}
