//! A thread that makes calls which may not return, one at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use super::id::DeviceId;
use crate::error::{Error, Result};

/// A device's thread for exports, started at its first call. It ends when this is dropped and the last call has returned.
#[derive(Debug, Default)]
pub(super) struct ExportThread {
    // Taken alone.
    thread: Mutex<Option<Thread>>,
    progress: Arc<Progress>,
}

/// A call. What it holds is dropped before it answers.
pub(super) type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
struct Thread {
    jobs: Sender<Job>,
    /// How many it was given.
    given: u64,
}

/// Which calls have ended, by their numbers from 1. Relaxed: it spares callers a wait, and nothing else depends on it.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    /// The last one whose caller has given up waiting.
    abandoned: AtomicU64,
}

impl ExportThread {
    /// Whether a call that has not returned was given up.
    pub(super) fn is_stuck(&self) -> bool {
        let Progress { done, abandoned } = &*self.progress;
        abandoned.load(Ordering::Relaxed) > done.load(Ordering::Relaxed)
    }

    /// Notes that the caller of that number waits no longer.
    pub(super) fn give_up(&self, number: u64) {
        self.progress.abandoned.fetch_max(number, Ordering::Relaxed);
    }

    /// Gives the thread a call, and starts the thread if there is none. Returns the call's number.
    pub(super) fn give(&self, of: DeviceId, job: Job) -> Result<u64> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Thread { jobs, given } = match &mut *thread {
            Some(thread) => thread,
            none => none.insert(Thread { jobs: self.start(of)?, given: 0 }),
        };
        // The thread ends with this sender, or by a panic.
        let ended = |_| Error::os("clone (a thread)", rustix::io::Errno::AGAIN);
        jobs.send(job).map_err(ended)?;
        *given += 1;
        Ok(*given)
    }

    fn start(&self, of: DeviceId) -> Result<Sender<Job>> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let progress = Arc::clone(&self.progress);
        let run = move || {
            for job in jobs {
                job();
                progress.done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let name = format!("peerbuf-export-{}", of.index());
        std::thread::Builder::new().name(name).spawn(run).map_err(|error| {
            let errno = rustix::io::Errno::from_io_error(&error);
            Error::os("clone (a thread)", errno.unwrap_or(rustix::io::Errno::AGAIN))
        })?;
        Ok(sender)
    }
}
