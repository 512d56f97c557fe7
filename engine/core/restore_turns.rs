//! Turns for required restores: threads whose buffers do not fit at the same time do not evict each other's for ever.
//!
//! Kernel counterpart: the tickets of `ww_acquire_ctx`, with which one of two submissions that need each other's
//! memory makes progress. Reservations cannot do that here: none is held across a wait.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::sync::primitive::{Condvar, Mutex, MutexGuard, lock, thread_local, wait_while};

thread_local! {
    /// Whether this thread has a turn. A closure of a submission may call the engine.
    static MINE: Cell<bool> = const { Cell::new(false) };
}

/// Who restores buffers that a use requires: any number of threads at once, or one alone.
///
/// A thread that takes its turn alone waits until the moves of the others are committed; from then on no required
/// restore evicts what it has restored, until it has submitted.
#[derive(Debug, Default)]
pub(crate) struct RestoreTurns {
    /// Held across no call.
    taken: Mutex<Taken>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    /// Threads that have a turn together.
    together: u32,
    /// Whether a thread has its turn alone.
    alone: bool,
    /// Threads that wait for a turn alone. No other one begins meanwhile.
    waiting: u32,
}

/// The turn of this thread, until it is dropped.
#[derive(Debug)]
pub(crate) struct RestoreTurn<'a> {
    /// `None` if the thread had a turn before.
    turns: Option<&'a RestoreTurns>,
    alone: bool,
}

impl RestoreTurns {
    /// Takes a turn, alone or together with others. A thread that has one already gets it at once. `None` if others
    /// have not ended after `timeout`.
    ///
    /// Locks: no reservation may be held.
    pub(crate) fn take(&self, alone: bool, timeout: Duration) -> Option<RestoreTurn<'_>> {
        if MINE.with(Cell::get) {
            return Some(RestoreTurn { turns: None, alone: false });
        }
        let end = Instant::now() + timeout;
        let is_free = |taken: &Taken| match alone {
            true => taken.together == 0 && !taken.alone,
            false => !taken.alone && taken.waiting == 0,
        };
        let mut taken = self.taken();
        if !is_free(&taken) {
            taken.waiting += u32::from(alone);
            taken = wait_while(&self.changed, taken, end, |taken| !is_free(taken));
            taken.waiting -= u32::from(alone);
        }
        // With the lock held since the end of the wait: no other thread has begun meanwhile.
        if !is_free(&taken) {
            drop(taken);
            // The others need not wait for this thread any more.
            self.changed.notify_all();
            return None;
        }
        if alone {
            taken.alone = true;
        } else {
            taken.together += 1;
        }
        MINE.with(|mine| mine.set(true));
        Some(RestoreTurn { turns: Some(self), alone })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        lock(&self.taken)
    }
}

impl Drop for RestoreTurn<'_> {
    fn drop(&mut self) {
        let Some(turns) = self.turns else { return };
        MINE.with(|mine| mine.set(false));
        let mut taken = turns.taken();
        if self.alone {
            taken.alone = false;
        } else {
            taken.together -= 1;
        }
        drop(taken);
        turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    /// Whether another thread could take a turn now.
    fn other_takes(turns: &RestoreTurns, alone: bool) -> bool {
        std::thread::scope(|scope| {
            scope.spawn(|| turns.take(alone, AT_ONCE).is_some()).join().expect("no panic")
        })
    }

    #[test]
    fn a_turn_alone_excludes_all_other_turns() {
        let turns = RestoreTurns::default();
        let together = turns.take(false, AT_ONCE).expect("free");
        assert!(other_takes(&turns, false) && !other_takes(&turns, true));
        drop(together);
        let alone = turns.take(true, AT_ONCE).expect("free");
        assert!(!other_takes(&turns, false) && !other_takes(&turns, true));
        let again = turns.take(true, AT_ONCE).expect("it has a turn already");
        drop(again);
        assert!(!other_takes(&turns, false), "the first turn goes on");
        drop(alone);
        assert!(other_takes(&turns, true) && other_takes(&turns, false));
    }
}
