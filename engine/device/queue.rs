//! A device's queue: externally synchronised, so guarded; with a timeline that counts submissions.
#![expect(
    unsafe_code,
    reason = "command pools, timeline semaphores and submission on a live device"
)]

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ash::vk;

use super::calls::{Call, Calls};

/// Guards a `VkQueue` that an application shares with peerbuf.
///
/// Vulkan wants every use of a queue to be externally synchronised (VUID-vkQueueSubmit-queue…,
/// "Host access to queue must be externally synchronized"), so both sides must take the same lock.
pub trait QueueLock: Send + Sync {
    /// Calls `work` while nobody else uses the queue: exactly once, before it returns; peerbuf panics
    /// otherwise. Do not call into peerbuf while you hold the lock: it takes locks of its own first.
    fn locked(&self, work: &mut dyn FnMut());
}

/// The lock of a queue that peerbuf has for itself.
#[derive(Debug, Default)]
struct OwnLock(Mutex<()>);

impl QueueLock for OwnLock {
    fn locked(&self, work: &mut dyn FnMut()) {
        let _guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work();
    }
}

/// A queue and its timeline: the n-th submission signals the value n.
///
/// # Invariants
///
/// `raw`, `timeline` and the pool in `state` belong to the same live device, which the owner of this
/// destroys after calling [`Queue::destroy`].
pub(crate) struct Queue {
    // Constant after creation.
    raw: vk::Queue,
    family: u32,
    timeline: vk::Semaphore,
    lock: Arc<dyn QueueLock>,
    // Protected by this mutex, which is taken before `lock`: the command pool and everything from it
    // are externally synchronised (VUID-vkBeginCommandBuffer-commandBuffer-recording).
    state: Mutex<State>,
}

struct State {
    pool: vk::CommandPool,
    submitted: u64,
    idle: Vec<vk::CommandBuffer>,
    busy: VecDeque<(u64, vk::CommandBuffer)>,
}

impl Queue {
    /// Takes queue `index` of `family`.
    ///
    /// # Safety
    ///
    /// `device` is live, was created with that queue (no flags) and with timeline semaphores on.
    pub(crate) unsafe fn new(
        device: &ash::Device,
        family: u32,
        index: u32,
        lock: Option<Arc<dyn QueueLock>>,
    ) -> Result<Self, vk::Result> {
        // SAFETY: the caller says that the device was created with this queue.
        let raw = unsafe { device.get_device_queue(family, index) };
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: timeline semaphores are on (VUID-VkSemaphoreTypeCreateInfo-timelineSemaphore-03252).
        let timeline = unsafe { device.create_semaphore(&info, None) }?;
        let info = vk::CommandPoolCreateInfo::default()
            .flags(
                vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER
                    | vk::CommandPoolCreateFlags::TRANSIENT,
            )
            .queue_family_index(family);
        // SAFETY: the family exists.
        let pool = match unsafe { device.create_command_pool(&info, None) } {
            Ok(pool) => pool,
            Err(code) => {
                // SAFETY: created above, not used yet.
                unsafe { device.destroy_semaphore(timeline, None) };
                return Err(code);
            }
        };
        let state = State { pool, submitted: 0, idle: vec![], busy: VecDeque::new() };
        Ok(Self {
            raw,
            family,
            timeline,
            lock: lock.unwrap_or_else(|| Arc::<OwnLock>::default()),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn family(&self) -> u32 {
        self.family
    }

    /// Calls `work` with the raw queue while nobody else uses it.
    pub(crate) fn with_raw<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> R {
        let mut work = Some(work);
        let mut out = None;
        self.lock.locked(&mut || {
            out = work.take().map(|work| work(self.raw));
        });
        out.expect("QueueLock::locked calls the work that it is given")
    }

    /// Records commands with `record` and submits them; returns the timeline value they signal.
    ///
    /// Locks: the queue's own, for the time of recording and submitting.
    pub(crate) fn submit(
        &self,
        device: &ash::Device,
        calls: &Calls,
        record: impl FnOnce(vk::CommandBuffer),
    ) -> Result<u64, vk::Result> {
        let mut state = self.state();
        calls.enter(Call::QueueSubmit)?;
        let commands = self.take_idle(device, &mut state)?;
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: `commands` is idle, and its pool is locked through `state`.
        let mut result = unsafe { device.begin_command_buffer(commands, &begin) };
        if result.is_ok() {
            record(commands);
            // SAFETY: it was begun above and is being recorded.
            result = unsafe { device.end_command_buffer(commands) };
        }
        let value = state.submitted + 1;
        let result = result.and_then(|()| self.submit_raw(device, commands, value));
        match result {
            Ok(()) => {
                state.submitted = value;
                state.busy.push_back((value, commands));
                Ok(value)
            }
            Err(code) => {
                // Not pending, so it may be begun again: the pool allows resets.
                state.idle.push(commands);
                Err(code)
            }
        }
    }

    fn submit_raw(
        &self,
        device: &ash::Device,
        commands: vk::CommandBuffer,
        value: u64,
    ) -> Result<(), vk::Result> {
        let (commands, semaphores, values) = ([commands], [self.timeline], [value]);
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let info = [vk::SubmitInfo::default()
            .command_buffers(&commands)
            .signal_semaphores(&semaphores)
            .push_next(&mut timeline)];
        self.with_raw(|raw| {
            // SAFETY: the command buffer is executable and belongs to the queue's family; the value
            // is larger than any before (VUID-VkSubmitInfo-pSignalSemaphores-03242), because
            // `submitted` only grows under its lock; the queue is locked.
            unsafe { device.queue_submit(raw, &info, vk::Fence::null()) }
        })
    }

    /// The largest value that has been signalled.
    pub(crate) fn completed(&self, device: &ash::Device) -> Result<u64, vk::Result> {
        // SAFETY: the semaphore is a live timeline of this device.
        unsafe { device.get_semaphore_counter_value(self.timeline) }
    }

    /// Waits until `value` is signalled: looks, yields a few times, then blocks. `Ok(false)` when
    /// `timeout` came first.
    ///
    /// Waking a sleeping thread costs 50 µs where halted processors are slow to wake, a few yields
    /// cost 10 (measured, BENCHMARKS.md), so short work is polled for.
    pub(crate) fn wait(
        &self,
        device: &ash::Device,
        calls: &Calls,
        value: u64,
        timeout: Duration,
    ) -> Result<bool, vk::Result> {
        const YIELDS: u32 = 5;
        let start = Instant::now();
        for _ in 0..=YIELDS {
            if self.completed(device)? >= value {
                return Ok(true);
            }
            if timeout.is_zero() {
                return Ok(false);
            }
            std::thread::yield_now();
        }
        calls.enter(Call::WaitSemaphores)?;
        let (semaphores, values) = ([self.timeline], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        let left = timeout.saturating_sub(start.elapsed());
        let nanos = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the semaphore is a live timeline of this device.
        match unsafe { device.wait_semaphores(&info, nanos) } {
            Ok(()) => Ok(true),
            Err(vk::Result::TIMEOUT) => Ok(false),
            Err(code) => Err(code),
        }
    }

    /// Destroys what was created here.
    ///
    /// # Safety
    ///
    /// `device` is the one given to [`Queue::new`]; nothing submitted here is still running; called
    /// once.
    pub(crate) unsafe fn destroy(&self, device: &ash::Device) {
        let state = self.state();
        // SAFETY: the caller says that nothing is running; command buffers go with their pool.
        unsafe { device.destroy_command_pool(state.pool, None) };
        // SAFETY: as above.
        unsafe { device.destroy_semaphore(self.timeline, None) };
    }

    /// The value of the last submission.
    pub(crate) fn submitted(&self) -> u64 {
        self.state().submitted
    }

    fn take_idle(
        &self,
        device: &ash::Device,
        state: &mut State,
    ) -> Result<vk::CommandBuffer, vk::Result> {
        if !state.busy.is_empty() {
            let completed = self.completed(device)?;
            while let Some((value, commands)) = state.busy.front().copied() {
                if value > completed {
                    break;
                }
                state.busy.pop_front();
                state.idle.push(commands);
            }
        }
        if let Some(commands) = state.idle.pop() {
            return Ok(commands);
        }
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(state.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is live and locked through `state`.
        unsafe { device.allocate_command_buffers(&info) }.map(|list| list[0])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("family", &self.family)
            .field("submitted", &self.submitted())
            .finish_non_exhaustive()
    }
}
