//! Waits for a state, for a bounded number of rounds.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use peerbuf::Engine;

/// The rounds that only yield, and those that then sleep for a millisecond or more each.
const YIELDS: u32 = 1000;
const SLEEPS: u32 = 300_000;

/// The rounds of a wait for other threads, with a pause before each but the first.
pub(crate) fn rounds() -> impl Iterator<Item = u32> {
    (0..YIELDS + SLEEPS).inspect(|&round| match round {
        0 => {}
        1..YIELDS => std::thread::yield_now(),
        _ => std::thread::sleep(Duration::from_millis(1)),
    })
}

/// Waits until another thread has made `state` `done`.
///
/// # Panics
///
/// Prints the last state if no round has met it.
#[track_caller]
pub(crate) fn until<S: Debug>(state: impl Fn() -> S, done: impl Fn(&S) -> bool) {
    if !rounds().any(|_| done(&state())) {
        panic!("not met in {} rounds: the state is {:?}", YIELDS + SLEEPS, state());
    }
}

/// Repeats `work` until `state` is `done`, each time a second later by the engine's clock: a driver's budget is
/// queried twice a second at most. The clock stays where it is at the end, since it never goes back.
///
/// # Panics
///
/// Prints the last state if no round has met it.
#[track_caller]
pub(crate) fn each_second<S: Debug>(
    engine: &Engine,
    mut work: impl FnMut(),
    state: impl Fn() -> S,
    done: impl Fn(&S) -> bool,
) {
    const ROUNDS: u64 = 100;
    /// Seconds, far ahead of the age of any engine.
    static CLOCK: AtomicU64 = AtomicU64::new(1 << 20);
    for _ in 0..ROUNDS {
        let now = CLOCK.fetch_add(1, Ordering::Relaxed);
        engine.calls().set_clock(Some(Duration::from_secs(now)));
        work();
        if done(&state()) {
            return;
        }
    }
    panic!("not met in {ROUNDS} seconds of the engine's clock: the state is {:?}", state());
}
