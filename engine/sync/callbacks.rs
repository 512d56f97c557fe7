//! The thread that calls the callbacks of fences on timelines.
//!
//! A bridge's thread signals the timelines that other devices wait for. A callback is code of the application and may
//! take long, so it is called on another thread.

use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::host_fence::{Callback, call};

/// The thread of an engine that calls callbacks, in their order; started at the first one.
#[derive(Debug, Default)]
pub(super) struct Callbacks(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    queue: Sender<Callback>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start() -> std::io::Result<Self> {
        let (queue, callbacks) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("peerbuf-callbacks".into())
            .spawn(move || callbacks.into_iter().for_each(call))?;
        Ok(Self { queue, thread })
    }
}

impl Callbacks {
    /// Calls `callback` on the thread; on this one if there is no other.
    pub(super) fn add(&self, callback: Callback) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            match Running::start() {
                Ok(started) => *running = Some(started),
                Err(error) => tracing::error!(%error, "no thread for callbacks"),
            }
        }
        let refused = match &*running {
            Some(running) => running.queue.send(callback).err().map(|refused| refused.0),
            None => Some(callback),
        };
        drop(running);
        refused.into_iter().for_each(call);
    }
}

impl Drop for Callbacks {
    /// Waits until all callbacks were called.
    fn drop(&mut self) {
        let running = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { queue, thread }) = running else { return };
        drop(queue);
        // This may run on the thread itself: a callback may have dropped the engine.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the thread of callbacks panicked");
        }
    }
}
