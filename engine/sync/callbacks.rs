//! The thread that calls the callbacks of fences on timelines.
//!
//! A bridge's thread signals the timelines that other devices wait for. A callback is code of the application and may
//! take long, so it is called on another thread.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::host_fence::{Callback, CallbackId, call};

/// The callbacks of an engine, and the thread that calls them one after the other; it is started for the first one.
#[derive(Debug)]
pub(super) struct Callbacks {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// How long the last drop waits for one callback.
    last: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that were neither called nor removed.
    all: HashMap<CallbackId, Callback>,
    /// Those to call, in order. One that was removed is passed over.
    due: VecDeque<CallbackId>,
    /// How many callbacks have returned.
    returned: u64,
    /// Whether the thread ends after those that are due, and whether it has.
    ends: bool,
    has_ended: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("State").field("all", &self.all.len()).field("due", &self.due).finish()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls what is due, until [`State::ends`].
    fn run(&self) {
        let mut state = self.state();
        loop {
            if let Some(id) = state.due.pop_front() {
                let due = state.all.remove(&id);
                drop(state);
                due.into_iter().for_each(call);
                state = self.state();
                state.returned += 1;
                self.changed.notify_all();
            } else if state.ends {
                break;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.has_ended = true;
        self.changed.notify_all();
    }
}

impl Callbacks {
    /// `last` is how long the last drop waits for one callback.
    pub(super) fn new(last: Duration) -> Self {
        Self { shared: Arc::default(), thread: Mutex::default(), last }
    }

    /// Keeps a callback until it is due.
    pub(super) fn add(&self, callback: Callback) -> CallbackId {
        let id = CallbackId::new();
        self.shared.state().all.insert(id, callback);
        id
    }

    /// Removes a callback. Returns whether it was removed before it was called.
    pub(super) fn remove(&self, id: CallbackId) -> bool {
        let removed = self.shared.state().all.remove(&id);
        // Dropped without the lock: the drop of a callback is code of the caller.
        removed.is_some()
    }

    /// Has a callback called on the thread; on this one if there is no other.
    pub(super) fn call(&self, id: CallbackId) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let named = std::thread::Builder::new().name("peerbuf-callbacks".into());
            match named.spawn(move || shared.run()) {
                Ok(started) => *thread = Some(started),
                Err(error) => tracing::error!(%error, "no thread for callbacks"),
            }
        }
        let is_running = thread.is_some();
        drop(thread);
        let mut state = self.shared.state();
        if is_running {
            state.due.push_back(id);
            drop(state);
            self.shared.changed.notify_all();
        } else {
            let here = state.all.remove(&id);
            drop(state);
            here.into_iter().for_each(call);
        }
    }
}

impl Drop for Callbacks {
    /// Waits until all due callbacks were called, while they return.
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let mut state = self.shared.state();
        state.ends = true;
        self.shared.changed.notify_all();
        // This may run on the thread itself: a callback may have dropped the engine.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        while !state.has_ended {
            let before = state.returned;
            let waited = self.shared.changed.wait_timeout_while(state, self.last, |state| {
                !state.has_ended && state.returned == before
            });
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            if timeout.timed_out() {
                // The thread owns nothing of the engine.
                tracing::error!(after = ?self.last, "a callback has not returned; it is left to itself");
                return;
            }
        }
        drop(state);
        if thread.join().is_err() {
            tracing::error!("the thread of callbacks panicked");
        }
    }
}
