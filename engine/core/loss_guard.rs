//! That somebody gives up lost devices just now: others wait for the end of it. What they would begin meanwhile,
//! like a look of the host at a buffer, could keep that from becoming its clean copy.

use std::cell::Cell;
use std::time::Duration;

use crate::sync::primitive::{Mutex, MutexGuard, lock, thread_local};
use crate::sync::{Fence, Signal};

thread_local! {
    /// Whether this thread is at it: an importer that is told may ask the engine something.
    static MINE: Cell<bool> = const { Cell::new(false) };
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct LossGuard {
    /// Signalled when whoever is at it has ended. Innermost; held for no call.
    under_way: Mutex<Option<Fence>>,
}

/// This thread's turn, until it is dropped.
pub(crate) struct Turn<'a> {
    giving_up: &'a LossGuard,
    _end: Signal,
}

impl LossGuard {
    /// Takes the turn; where somebody else has it, waits for the end of that, in bounds, and takes none.
    pub(crate) fn turn<'a>(&'a self, timeout: Duration) -> Option<Turn<'a>> {
        if MINE.with(Cell::get) {
            return None;
        }
        let mut under_way = self.under_way();
        if let Some(gate) = under_way.clone() {
            drop(under_way);
            if let Err(error) = gate.wait_until_over(timeout) {
                tracing::warn!(%error, "a device is being given up, and goes on being");
            }
            return None;
        }
        let (gate, end) = Fence::host();
        *under_way = Some(gate);
        MINE.with(|mine| mine.set(true));
        Some(Turn { giving_up: self, _end: end })
    }

    fn under_way(&self) -> MutexGuard<'_, Option<Fence>> {
        lock(&self.under_way)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        MINE.with(|mine| mine.set(false));
        // Nobody waits any more once `end` is dropped, after this.
        *self.giving_up.under_way() = None;
    }
}
