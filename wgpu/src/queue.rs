//! The lock of the queue that wgpu and peerbuf share.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerbuf::device::QueueLock;
use peerbuf::{Device, Fence};
use wgpu::hal::vulkan as hal;

use crate::error::{Error, Result};
use crate::raw::RawDevice;

thread_local! {
    /// The address of the [`SharedQueue`] whose empty submission this thread makes, to wait for what is ahead of it.
    static LOOKS_AT: Cell<usize> = const { Cell::new(0) };
    /// Its address stands for the thread.
    static THREAD: u8 = const { 0 };
}

/// How often [`SharedQueue::lock_for_wgpu`] waits anew because other threads have submitted meanwhile.
const ATTEMPTS: u32 = 100;

/// The lock, which peerbuf takes around its submissions, and this package around wgpu's.
#[derive(Debug, Default)]
pub(crate) struct SharedQueue {
    lock: Mutex<()>,
    /// How often peerbuf has taken it, other than for empty submissions of [`SharedQueue::look`]. Changed within the lock
    /// alone.
    submissions: AtomicU64,
    /// The thread that has the lock, or 0. Relaxed: a thread finds itself here only if it has written that.
    owner: AtomicUsize,
}

/// The lock, held.
struct Held<'a> {
    owner: &'a AtomicUsize,
    _guard: MutexGuard<'a, ()>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Before the guard, which is a field.
        self.owner.store(0, Ordering::Relaxed);
    }
}

impl QueueLock for SharedQueue {
    /// Does not call `work` if this thread has the lock: peerbuf then says that it was not called.
    fn locked(&self, work: &mut dyn FnMut()) {
        if self.is_held_here() {
            return;
        }
        let _held = self.hold();
        if LOOKS_AT.get() != self.address() {
            self.submissions.fetch_add(1, Ordering::Relaxed);
        }
        work();
    }
}

impl SharedQueue {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn is_held_here(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == this_thread()
    }

    fn hold(&self) -> Held<'_> {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.owner.store(this_thread(), Ordering::Relaxed);
        Held { owner: &self.owner, _guard: guard }
    }

    /// Locks the queue for a submission of wgpu's, behind what `first` submits, if anything.
    ///
    /// wgpu chains its submissions with binary semaphores. Vulkan allows a wait for one only when all is submitted that
    /// its signal depends on (VUID-vkQueueSubmit-pWaitSemaphores-03238), and what is ahead in the queue counts: work of
    /// peerbuf's may wait for a value that the host signals when another device gets there. So this waits until it has.
    ///
    /// # Errors
    ///
    /// [`Error::Reentrant`]; that of `first`. Nothing is submitted then. Those of [`Device::submitted`] and
    /// [`Fence::wait_submitted`]; [`Error::BusyQueue`]. What `first` submits runs then.
    fn lock_for_wgpu(
        &self,
        device: &Device,
        timeout: Duration,
        first: Option<impl FnOnce() -> Result<Fence>>,
    ) -> Result<Held<'_>> {
        if self.is_held_here() {
            return Err(Error::Reentrant { device: device.name().to_owned() });
        }
        let mut seen = self.submissions.load(Ordering::Relaxed);
        let mut all = match first {
            Some(first) => {
                let fence = first()?;
                // If peerbuf submitted more meanwhile, such as a move, the fence is not of all.
                seen += 1;
                fence
            }
            None => self.look(device)?,
        };
        for _ in 0..ATTEMPTS {
            all.wait_submitted(timeout)?;
            let held = self.hold();
            let now = self.submissions.load(Ordering::Relaxed);
            if now == seen {
                return Ok(held);
            }
            drop(held);
            seen = now;
            all = self.look(device)?;
        }
        Err(Error::BusyQueue { device: device.name().to_owned(), times: ATTEMPTS })
    }

    /// A fence of all that is submitted. Its own submission, which is empty, is not counted.
    fn look(&self, device: &Device) -> Result<Fence> {
        let _looking = Looking(LOOKS_AT.replace(self.address()));
        Ok(device.submitted()?)
    }
}

fn this_thread() -> usize {
    THREAD.with(|thread| std::ptr::from_ref(thread).addr())
}

/// Its drop ends a look at a queue.
struct Looking(usize);

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKS_AT.set(self.0);
    }
}

/// wgpu's queue, which is used within the lock alone.
pub(crate) struct LockedQueue {
    /// `None` once it has ended.
    queue: Option<wgpu::Queue>,
    lock: Arc<SharedQueue>,
    raw: Arc<RawDevice>,
    timeout: Duration,
}

impl LockedQueue {
    pub(crate) fn new(
        queue: wgpu::Queue,
        lock: Arc<SharedQueue>,
        raw: Arc<RawDevice>,
        timeout: Duration,
    ) -> Self {
        Self { queue: Some(queue), lock, raw, timeout }
    }

    /// Calls `work` with the queue, locked behind what `first` submits.
    ///
    /// # Errors
    ///
    /// As [`SharedQueue::lock_for_wgpu`].
    pub(crate) fn locked<R>(
        &self,
        device: &Device,
        first: Option<impl FnOnce() -> Result<Fence>>,
        work: impl FnOnce(&wgpu::Queue) -> R,
    ) -> Result<R> {
        let ended = || Error::Wgpu { call: "wgpu::Queue", message: "the guest is closed".into() };
        let queue = self.queue.as_ref().ok_or_else(ended)?;
        let _held = self.lock.lock_for_wgpu(device, self.timeout, first)?;
        Ok(work(queue))
    }

    /// Calls `work` within the lock, behind nothing.
    pub(crate) fn alone<R>(&self, work: impl FnOnce() -> R) -> R {
        let _held = (!self.lock.is_held_here()).then(|| self.lock.hold());
        work()
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

    /// Drops wgpu's queue. wgpu waits for it then, without a bound, so it is leaked if it does not get idle in time.
    pub(crate) fn end(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let (raw, timeout) = (&self.raw, self.timeout);
        let lock = Arc::clone(&self.lock);
        let _held = (!lock.is_held_here()).then(|| lock.hold());
        if raw.wait_idle(timeout) {
            drop(queue);
        } else {
            std::mem::forget(queue);
        }
    }
}

impl Drop for LockedQueue {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "a device for two libraries, and a semaphore that holds work")]
mod tests {
    use std::sync::atomic::AtomicBool;

    use peerbuf::ash::vk;
    use peerbuf::{Engine, EngineDescriptor, WaitRoute};

    use super::*;
    use crate::guest::{Guest, GuestDescriptor};

    #[test]
    fn wgpu_submits_behind_all_that_peerbuf_submits_beside_the_first_submission() {
        let engine = Engine::open(&EngineDescriptor::new()).expect("Vulkan");
        let [ours, theirs] = engine.adapters() else { panic!("two devices are needed") };
        for (ours, theirs) in [(ours, theirs), (theirs, ours)] {
            // SAFETY: wgpu's queue is not used.
            let guest = unsafe { Guest::open(&engine, ours, &GuestDescriptor::default()) };
            let guest = guest.expect("a guest");
            let other = engine.open_device(theirs).expect("a device");
            let route = engine.wait_route(&other, guest.device()).expect("devices of the engine");
            assert_eq!(route, WaitRoute::Bridge);
            let mut kind =
                vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
            let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
            // SAFETY: the device has timeline semaphores.
            let timeline = unsafe { other.raw().create_semaphore(&info, None) }.expect("created");
            let held = engine.submit(&other, |submission| {
                // SAFETY: live until the work has ended, and signalled below.
                unsafe { submission.wait_semaphore(timeline, 1) };
                Ok(())
            });
            let held = held.expect("submitted");
            let is_released = AtomicBool::new(false);
            let first = || {
                let fence = engine.submit(guest.device(), |_| Ok(()))?;
                engine.submit(guest.device(), |submission| {
                    submission.after(&held);
                    Ok(())
                })?;
                Ok(fence)
            };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // Long enough for a submission that does not wait.
                    std::thread::sleep(Duration::from_millis(300));
                    is_released.store(true, Ordering::Relaxed);
                    let signal = vk::SemaphoreSignalInfo::default().semaphore(timeline).value(1);
                    // SAFETY: a live timeline, whose value is 0.
                    unsafe { other.raw().signal_semaphore(&signal) }.expect("signalled");
                });
                let behind =
                    guest.with_queue_behind(first, |_| is_released.load(Ordering::Relaxed));
                assert!(behind.expect("the queue"), "a signal is not submitted yet");
            });
            held.wait(Duration::from_secs(60)).expect("it ends");
            // SAFETY: the only work that uses it has ended.
            unsafe { other.raw().destroy_semaphore(timeline, None) };
            drop(held);
            assert!(guest.close().is_ok(), "nothing uses it");
        }
    }
}
