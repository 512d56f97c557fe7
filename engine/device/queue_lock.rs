//! A `VkQueue` and the lock around it, since Vulkan requires its users to synchronise.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;

/// Guards a `VkQueue` that an application shares with peerbuf.
///
/// Vulkan requires every use of a queue to be externally synchronised (VUID-vkQueueSubmit-queue…,
/// "Host access to queue must be externally synchronized"), so both sides must take the same lock.
pub trait QueueLock: Send + Sync {
    /// Calls `work` while nothing else uses the queue: exactly once, before it returns. If it does not,
    /// peerbuf's submissions fail with [`crate::Error::Unsupported`].
    ///
    /// Locks: do not call peerbuf while holding this lock, since peerbuf takes locks of its own before it. Dropping
    /// mappings, attachments, pins and open accesses is allowed: what has to wait is deferred.
    fn locked(&self, work: &mut dyn FnMut());
}

/// The lock of a queue that only peerbuf uses.
#[derive(Debug, Default)]
struct OwnLock(Mutex<()>);

impl QueueLock for OwnLock {
    fn locked(&self, work: &mut dyn FnMut()) {
        let _guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work();
    }
}

/// A `VkQueue`. All [`super::queue::Queue`]s that submit to it share this, and so its lock.
pub(super) struct RawQueue {
    // Constant after creation.
    raw: vk::Queue,
    family: u32,
    lock: Arc<dyn QueueLock>,
    /// Set once, never cleared: submissions may have been made here that one [`super::queue::Queue`] does not
    /// know of. Relaxed: it is set before the lock is taken for them, and read under the lock.
    exposed: AtomicBool,
    /// Whether the application's submissions wait for nothing that is not submitted.
    waits_are_submitted: bool,
}

impl RawQueue {
    /// Wraps a queue. `lock` is the application's, if the application uses the queue itself;
    /// `waits_are_submitted` is its promise.
    pub(super) fn new(
        raw: vk::Queue,
        family: u32,
        lock: Option<Arc<dyn QueueLock>>,
        waits_are_submitted: bool,
    ) -> Self {
        Self {
            raw,
            family,
            exposed: AtomicBool::new(lock.is_some() && !waits_are_submitted),
            lock: lock.unwrap_or_else(|| Arc::<OwnLock>::default()),
            waits_are_submitted,
        }
    }

    pub(super) fn family(&self) -> u32 {
        self.family
    }

    /// Marks that there may be submissions that one [`super::queue::Queue`] does not know of.
    pub(super) fn expose(&self) {
        self.exposed.store(true, Ordering::Relaxed);
    }

    /// Marks that the application submits here.
    pub(super) fn expose_to_application(&self) {
        if !self.waits_are_submitted {
            self.expose();
        }
    }

    pub(super) fn is_exposed(&self) -> bool {
        self.exposed.load(Ordering::Relaxed)
    }

    /// Calls `work` with the raw queue while nothing else uses it. `None` if the application's lock did not
    /// call it.
    pub(super) fn locked<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> Option<R> {
        let mut work = Some(work);
        let mut out = None;
        self.lock.locked(&mut || {
            // A second call does nothing.
            if let Some(work) = work.take() {
                out = Some(work(self.raw));
            }
        });
        out
    }
}

impl fmt::Debug for RawQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawQueue").field("family", &self.family).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls the work that it is given this many times.
    struct Times(u32);

    impl QueueLock for Times {
        fn locked(&self, work: &mut dyn FnMut()) {
            (0..self.0).for_each(|_| work());
        }
    }

    #[test]
    fn work_runs_once_or_is_reported_as_not_run() {
        for (times, expected) in [(0, None), (1, Some(1)), (2, Some(1))] {
            let queue = RawQueue::new(vk::Queue::null(), 0, Some(Arc::new(Times(times))), false);
            let mut done = 0;
            let result = queue.locked(|_| {
                done += 1;
                done
            });
            assert_eq!(result, expected, "called {times} times");
        }
    }

    #[test]
    fn an_applications_queue_is_exposed_and_an_own_one_after_expose() {
        let applications =
            |promise| RawQueue::new(vk::Queue::null(), 0, Some(Arc::new(Times(1))), promise);
        assert!(applications(false).is_exposed());
        let own = RawQueue::new(vk::Queue::null(), 0, None, false);
        assert!(!own.is_exposed());
        own.expose_to_application();
        assert!(own.is_exposed());
        let promised = applications(true);
        promised.expose_to_application();
        assert!(!promised.is_exposed());
        promised.expose();
        assert!(promised.is_exposed(), "by a wait of peerbuf's own");
    }
}
