//! The lock of the queue that wgpu and peerbuf share.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerbuf::device::QueueLock;
use peerbuf::{Device, Fence};
use wgpu::hal::vulkan as hal;

use crate::error::{Error, Result};

thread_local! {
    /// Whether this thread submits what it then waits for.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// How often [`SharedQueue::lock_for_wgpu`] waits anew because other threads have submitted meanwhile.
const ATTEMPTS: u32 = 100;

/// The lock, which peerbuf takes around its submissions, and this package around wgpu's.
#[derive(Debug, Default)]
pub(crate) struct SharedQueue {
    lock: Mutex<()>,
    /// How often peerbuf has taken it. Changed within the lock alone.
    submissions: AtomicU64,
}

impl QueueLock for SharedQueue {
    fn locked(&self, work: &mut dyn FnMut()) {
        let _guard = self.guard();
        if !LOOKS.get() {
            self.submissions.fetch_add(1, Ordering::Relaxed);
        }
        work();
    }
}

impl SharedQueue {
    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the queue for a submission of wgpu's, behind what `first` submits.
    ///
    /// wgpu chains its submissions with binary semaphores. Vulkan allows a wait for one only when all is submitted that
    /// its signal depends on (VUID-vkQueueSubmit-pWaitSemaphores-03238), and what is ahead in the queue counts: work of
    /// peerbuf's may wait for a value that the host signals when another device gets there. So this waits until it has.
    ///
    /// # Errors
    ///
    /// That of `first`; nothing is submitted then. Those of [`Device::submitted`] and
    /// [`peerbuf::Fence::wait_submitted`]; [`Error::BusyQueue`]. What `first` submits runs then.
    fn lock_for_wgpu(
        &self,
        device: &Device,
        timeout: Duration,
        first: impl FnOnce() -> Result<Fence>,
    ) -> Result<MutexGuard<'_, ()>> {
        let mut first = Some(first);
        for _ in 0..ATTEMPTS {
            let seen = self.submissions.load(Ordering::Relaxed);
            let all = Looking::now(|| match first.take() {
                Some(first) => first(),
                None => Ok(device.submitted()?),
            });
            all?.wait_submitted(timeout)?;
            let guard = self.guard();
            if self.submissions.load(Ordering::Relaxed) == seen {
                return Ok(guard);
            }
        }
        Err(Error::BusyQueue { device: device.name().to_owned(), times: ATTEMPTS })
    }
}

/// wgpu's queue, which is used within the lock alone.
pub(crate) struct LockedQueue {
    /// Taken in the drop.
    queue: Option<wgpu::Queue>,
    lock: Arc<SharedQueue>,
}

impl LockedQueue {
    pub(crate) fn new(queue: wgpu::Queue, lock: Arc<SharedQueue>) -> Self {
        Self { queue: Some(queue), lock }
    }

    /// Calls `work` with the queue, locked behind what `first` submits.
    ///
    /// # Errors
    ///
    /// As [`SharedQueue::lock_for_wgpu`].
    pub(crate) fn locked<R>(
        &self,
        (device, timeout): (&Device, Duration),
        first: impl FnOnce() -> Result<Fence>,
        work: impl FnOnce(&wgpu::Queue) -> R,
    ) -> Result<R> {
        let _guard = self.lock.lock_for_wgpu(device, timeout, first)?;
        let ended = || Error::Wgpu { call: "wgpu::Queue", message: "it is dropped".into() };
        Ok(work(self.queue.as_ref().ok_or_else(ended)?))
    }

    /// Calls `work` with the queue as wgpu-hal has it, which locks its lists itself.
    #[expect(unsafe_code, reason = "reaching below wgpu")]
    pub(crate) fn with_hal(&self, work: impl FnOnce(&hal::Queue)) {
        // SAFETY: nothing of it is destroyed.
        let queue = self.queue.as_ref().and_then(|queue| unsafe { queue.as_hal::<hal::Api>() });
        // INVARIANT: the queue was made of one of this type.
        if let Some(queue) = queue {
            work(&queue);
        }
    }
}

impl Drop for LockedQueue {
    /// wgpu waits for the queue when its last handle is dropped.
    fn drop(&mut self) {
        let queue = self.queue.take();
        let _guard = self.lock.guard();
        drop(queue);
    }
}

/// While this lives, submissions of this thread are not counted.
struct Looking;

impl Looking {
    fn now<R>(work: impl FnOnce() -> R) -> R {
        LOOKS.set(true);
        let _end = Self;
        work()
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKS.set(false);
    }
}
