//! Something that the host does, and says when it has: the host's kind of fence.
//!
//! Kernel counterparts: `dma_fence_signal`, `dma_fence_set_error`, `dma_fence_add_callback`.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::primitive::{Arc, Condvar, Mutex, lock, wait_until, yield_now};

/// What is called when a fence signals.
pub(super) type Callback = Box<dyn FnOnce() + Send>;

/// Calls it. If it panics that is its owner's fault, and nobody else's loss: it is told of, and others are
/// called all the same.
pub(super) fn call(callback: Callback) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        tracing::error!("a fence's callback panicked");
    }
}

/// When a wait is over that begins now. A bound that no clock reaches is as good as one of many years.
pub(super) fn end_of(timeout: Duration) -> Instant {
    const YEARS: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    Instant::now() + timeout.min(YEARS)
}

/// An event that happens once, with or without an error.
#[derive(Default)]
pub(super) struct Event {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// `Some` once it has happened; then with the reason if it went wrong.
    done: Option<Outcome>,
    callbacks: Vec<(CallbackId, Callback)>,
}

/// How the work behind an event ended: `None` if well, else why not.
type Outcome = Option<&'static str>;

/// Which callback, among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallbackId(u64);

impl CallbackId {
    /// One that no other callback of this process has, so that naming it to the wrong fence takes nobody
    /// else's back.
    pub(super) fn new() -> Self {
        // The standard library's, since a number that is unique in all interleavings has none to check.
        // Relaxed: only uniqueness matters.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Self(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

impl Event {
    /// `None` until it has happened.
    pub(super) fn outcome(&self) -> Option<Result<(), &'static str>> {
        lock(&self.state).done.map(into_result)
    }

    /// Waits until it has happened: looks, yields a few times, then sleeps. `None` if `timeout` came
    /// first.
    pub(super) fn wait(&self, timeout: Duration) -> Option<Result<(), &'static str>> {
        const YIELDS: u32 = 5;
        for _ in 0..YIELDS {
            if let Some(outcome) = self.outcome() {
                return Some(outcome);
            }
            yield_now();
        }
        let end = end_of(timeout);
        wait_until(&self.changed, lock(&self.state), end, |state| state.done).map(into_result)
    }

    /// Calls `callback` when it happens, on the thread that makes it happen. `Err` with the callback if
    /// it has happened already.
    pub(super) fn add_callback(&self, callback: Callback) -> Result<CallbackId, Callback> {
        let mut state = lock(&self.state);
        if state.done.is_some() {
            return Err(callback);
        }
        let id = CallbackId::new();
        state.callbacks.push((id, callback));
        Ok(id)
    }

    /// Takes a callback back. Whether it had not been called, and now will not be.
    pub(super) fn remove_callback(&self, id: CallbackId) -> bool {
        let mut state = lock(&self.state);
        let at = state.callbacks.iter().position(|(of, _)| *of == id);
        let removed = at.map(|at| state.callbacks.swap_remove(at));
        // A callback's drop is somebody else's code.
        drop(state);
        removed.is_some()
    }

    /// Makes it happen. The first outcome stays.
    fn signal(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        if state.done.is_some() {
            return;
        }
        state.done = Some(outcome);
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        self.changed.notify_all();
        // Outside the lock: they may look at the fence.
        callbacks.into_iter().for_each(|(_, callback)| call(callback));
    }
}

fn into_result(outcome: Outcome) -> Result<(), &'static str> {
    outcome.map_or(Ok(()), Err)
}

/// Signals a host fence when it is dropped, so that no fence outlives its work unsignalled: not after
/// an error, and not after a panic. From [`crate::Engine::host_fence`].
///
/// Whoever holds it owes the others its drop in bounded time; it may not depend on a user. Dropped while
/// its thread panics, it signals an error.
#[must_use = "dropping it signals the fence"]
pub struct Signal(Arc<Event>);

impl Signal {
    pub(super) fn new() -> (Arc<Event>, Self) {
        let event = Arc::<Event>::default();
        (Arc::clone(&event), Self(event))
    }

    /// Signals that the work went wrong: whoever waits gets [`crate::Error::WorkFailed`] with `why`.
    #[doc(alias = "dma_fence_set_error")]
    pub fn fail(self, why: &'static str) {
        self.0.signal(Some(why));
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.0.signal(std::thread::panicking().then_some("its thread panicked"));
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signal")
    }
}
