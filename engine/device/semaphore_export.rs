//! Exports of sync files, with a bound.
//!
//! `vkGetSemaphoreFdKHR` of a sync file needs a fence of the kernel's. Mesa waits for it without a bound while the thread
//! that makes a device's submissions has not reached the signal (`vulkan/runtime/vk_semaphore.c`), and that thread waits
//! for as long as the kernel accepts nothing. Callers hold reservations, so a thread of peerbuf's makes the call.
#![expect(unsafe_code, reason = "exporting a semaphore of a live device")]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ash::vk;

use super::external::SemaphoreHandle;
use super::id::DeviceId;
use super::inner::DeviceInner;
use super::queues::QueueKind;
use super::semaphore::OwnedSemaphore;
use crate::error::{Error, Result};

/// How long a caller waits for the call, at most. It holds reservations, and there is another way.
const BOUND: Duration = Duration::from_millis(250);

/// A device's thread for exports, started at the first one. It ends when the device does.
///
/// It keeps the device for the time of a call only. A call that never returns keeps the device for ever, as work
/// that makes no progress does.
#[derive(Debug, Default)]
pub(super) struct SemaphoreExports {
    // Taken alone.
    thread: Mutex<Option<Thread>>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Thread {
    jobs: Sender<Job>,
    /// How many it was given.
    given: u64,
}

/// Which jobs have ended, by their numbers from 1. Relaxed: it spares callers a wait, and nothing else depends on it.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    /// The last one whose caller has given up waiting.
    abandoned: AtomicU64,
}

/// One export.
#[derive(Debug)]
struct Job {
    device: Arc<DeviceInner>,
    /// Its signal is submitted, with the value of the queue that is named.
    semaphore: vk::Semaphore,
    at: (QueueKind, u64),
    reply: SyncSender<Result<Option<OwnedFd>>>,
}

impl DeviceInner {
    /// Whether an export of a sync file is not worth a try: an earlier one has not returned.
    pub(crate) fn exports_are_stuck(&self) -> bool {
        let Progress { done, abandoned } = &*self.exports.progress;
        abandoned.load(Ordering::Relaxed) > done.load(Ordering::Relaxed)
    }

    /// Exports the payload of a semaphore as a sync file, and keeps the semaphore until the queue's timeline has reached
    /// the value. `Ok(None)` if the driver says that it has signalled already.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after 250 ms: the file is closed once the call returns. What the call or the start of the thread
    /// reports.
    ///
    /// # Safety
    ///
    /// `semaphore` is one of this device, created for export as a `SYNC_FD`. Its signal has been submitted to the queue
    /// `at` with that value, as has everything that it depends on, and nothing waits for it.
    ///
    /// Locks: the queue's, on the other thread.
    pub(crate) unsafe fn export_sync_file(
        self: &Arc<Self>,
        at: (QueueKind, u64),
        semaphore: OwnedSemaphore<'_>,
    ) -> Result<Option<OwnedFd>> {
        let (reply, answer) = mpsc::sync_channel(1);
        let raw = semaphore.raw();
        let job = Job { device: Arc::clone(self), semaphore: raw, at, reply };
        let number = match self.exports.give(self.id(), job) {
            Ok(number) => number,
            Err(error) => {
                self.keep_until(at, semaphore, false);
                return Err(error);
            }
        };
        // It is the job's now.
        semaphore.into_raw();
        answer.recv_timeout(BOUND).unwrap_or_else(|_| {
            self.exports.progress.abandoned.fetch_max(number, Ordering::Relaxed);
            let what = format!("vkGetSemaphoreFdKHR of {}", self.name());
            Err(Error::Timeout { what, after: BOUND })
        })
    }
}

impl SemaphoreExports {
    /// Gives the thread a job, and starts the thread if there is none. Returns the job's number.
    fn give(&self, of: DeviceId, job: Job) -> Result<u64> {
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
                job.run();
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

impl Job {
    fn run(self) {
        let Self { device, semaphore, at, reply } = self;
        // SAFETY: the contract of `export_sync_file`.
        let fd = unsafe { device.export_semaphore(semaphore, SemaphoreHandle::SYNC_FD) };
        device.keep_raw_until(at, semaphore, matches!(fd, Ok(Some(_))));
        // Before the answer: the caller's device must not end on this thread.
        drop(device);
        // Nothing waits for it after the bound; the file is closed then.
        let _ = reply.send(fd);
    }
}
