//! When a run ends before everything was measured: Ctrl-C, or its time limit.
#![expect(
    unsafe_code,
    reason = "a handler of SIGINT: neither the standard library nor rustix has one"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Whether the user has asked for the end. Relaxed: it orders nothing.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// `SIGINT`, of every architecture that Linux has.
const SIGINT: i32 = 2;
/// `SIG_DFL`.
const DEFAULT: usize = 0;

unsafe extern "C" {
    /// `signal` of the C library, with which the standard library is linked.
    fn signal(number: i32, handler: usize) -> usize;
}

/// Says when to end.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) start: Instant,
    limit: Duration,
}

impl Stop {
    /// Ends after `limit`, or at the first Ctrl-C. The second one ends the process.
    pub(super) fn new(limit: Duration) -> Self {
        let handler: extern "C" fn(i32) = on_interrupt;
        // SAFETY: the handler stores to an atomic and calls `signal`, both of which may be done in a handler
        // (signal-safety(7)); it has the type of one.
        unsafe { signal(SIGINT, handler as usize) };
        Self { start: Instant::now(), limit }
    }

    /// Why to end now; `None` if there is time.
    pub(super) fn reason(&self) -> Option<String> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Some("interrupted".to_owned());
        }
        let is_over = self.start.elapsed() >= self.limit;
        is_over.then(|| format!("the time limit of {} s", self.limit.as_secs()))
    }

    /// How much time is left.
    pub(super) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }
}

extern "C" fn on_interrupt(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    // SAFETY: as in `Stop::new`.
    unsafe { signal(SIGINT, DEFAULT) };
}
