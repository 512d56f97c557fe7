//! Host fences: software fences, signalled by the host.
//!
//! Kernel counterparts: `dma_fence_signal`, `dma_fence_set_error`, `dma_fence_add_callback`.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::primitive::{Arc, Condvar, Mutex, lock, wait_until, yield_now};

/// A function to call when a fence signals.
pub(super) type Callback = Box<dyn FnOnce() + Send>;

/// Calls a callback. A panic in it is logged and does not propagate, so that other callbacks are still called.
pub(super) fn call(callback: Callback) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        tracing::error!("a fence's callback panicked");
    }
}

/// The end of a wait that begins now. Timeouts that the clock cannot represent are shortened to many years.
pub(super) fn end_of(timeout: Duration) -> Instant {
    const YEARS: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    Instant::now() + timeout.min(YEARS)
}

/// A fence that the host signals once, with or without an error.
#[derive(Default)]
pub(super) struct HostFence {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// `Some` once it has signalled.
    done: Option<Outcome>,
    callbacks: Vec<(CallbackId, Callback)>,
}

/// How the work behind a fence ended: `None` if it succeeded, else why it failed.
type Outcome = Option<&'static str>;

/// Identifies a callback in this process, to remove it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallbackId(u64);

impl CallbackId {
    /// An id that is unique in this process: removing it from the wrong fence removes no other callback.
    pub(super) fn new() -> Self {
        // An atomic of the standard library: the model checker has no interleaving to check here.
        // Relaxed: only uniqueness matters.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Self(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

impl HostFence {
    /// How the work ended; `None` until it has signalled.
    pub(super) fn outcome(&self) -> Option<Result<(), &'static str>> {
        lock(&self.state).done.map(into_result)
    }

    /// Waits until it has signalled: polls, yields a few times, then sleeps. `None` after `timeout`.
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

    /// Calls `callback` when it signals, on the signalling thread. `Err` with the callback if it has signalled
    /// already.
    pub(super) fn add_callback(&self, callback: Callback) -> Result<CallbackId, Callback> {
        let mut state = lock(&self.state);
        if state.done.is_some() {
            return Err(callback);
        }
        let id = CallbackId::new();
        state.callbacks.push((id, callback));
        Ok(id)
    }

    /// Removes a callback. Returns whether it was removed before it was called.
    pub(super) fn remove_callback(&self, id: CallbackId) -> bool {
        let mut state = lock(&self.state);
        let at = state.callbacks.iter().position(|(of, _)| *of == id);
        let removed = at.map(|at| state.callbacks.swap_remove(at));
        // Without the lock: the drop of a callback is code of the caller.
        drop(state);
        removed.is_some()
    }

    /// Signals the fence. The first outcome is kept.
    fn signal(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        if state.done.is_some() {
            return;
        }
        state.done = Some(outcome);
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        self.changed.notify_all();
        // Without the lock: callbacks may query the fence.
        callbacks.into_iter().for_each(|(_, callback)| call(callback));
    }
}

fn into_result(outcome: Outcome) -> Result<(), &'static str> {
    outcome.map_or(Ok(()), Err)
}

/// Signals a host fence when it is dropped. Created by [`crate::Engine::host_fence`].
///
/// Because the drop signals, no fence outlives its work unsignalled, even after an error or a panic. The
/// holder must drop it within bounded time, because other work waits for it; the time may not depend on a
/// user's action. If it is dropped while its thread panics, it signals an error.
#[must_use = "dropping it signals the fence"]
pub struct Signal(Arc<HostFence>);

impl Signal {
    pub(super) fn new() -> (Arc<HostFence>, Self) {
        let fence = Arc::<HostFence>::default();
        (Arc::clone(&fence), Self(fence))
    }

    /// Signals that the work failed: every wait for the fence returns [`crate::Error::WorkFailed`] with `why`.
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
