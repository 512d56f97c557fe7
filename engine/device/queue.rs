//! A queue: externally synchronised, so guarded; with a timeline that counts submissions.
#![expect(
    unsafe_code,
    reason = "command pools, timeline semaphores and submission on a live device"
)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ash::vk;
use smallvec::SmallVec;

use super::calls::{Call, Calls};
use super::external::SemaphoreHandle;
use super::in_flight::{InFlight, Pending};
use super::queue_lock::RawQueue;
use super::submit::{Body, NOT_LOCKED, NOT_ONCE, Submit};
use super::wait_semaphores::Waits;

/// A queue and its timeline: the n-th submission signals the value n.
///
/// # Invariants
///
/// `raw`, `timeline` and the pool in `in_flight` belong to the same live device, which the owner of this
/// destroys after calling [`Queue::destroy`]; the pool is of the queue's family.
pub(crate) struct Queue {
    // Constant after creation.
    raw: Arc<RawQueue>,
    timeline: vk::Semaphore,
    // Protected by this mutex, which is taken before the lock of `raw`: the command pool and everything from it
    // are externally synchronised (VUID-vkBeginCommandBuffer-commandBuffer-recording).
    in_flight: Mutex<InFlight>,
}

impl Queue {
    /// A new timeline on `raw`.
    ///
    /// # Safety
    ///
    /// `device` is live, has that queue and timeline semaphores on, and exports timelines as `export`,
    /// unless that is empty.
    pub(super) unsafe fn new(
        device: &ash::Device,
        raw: Arc<RawQueue>,
        export: SemaphoreHandle,
    ) -> Result<Self, vk::Result> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let mut exported = vk::ExportSemaphoreCreateInfo::default().handle_types(export);
        let mut info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        if !export.is_empty() {
            info = info.push_next(&mut exported);
        }
        // SAFETY: timeline semaphores are on (VUID-VkSemaphoreTypeCreateInfo-timelineSemaphore-03252),
        // and, as the caller says, exportable as this (VUID-VkExportSemaphoreCreateInfo-handleTypes-01124).
        let timeline = unsafe { device.create_semaphore(&info, None) }?;
        let info = vk::CommandPoolCreateInfo::default()
            .flags(
                vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER
                    | vk::CommandPoolCreateFlags::TRANSIENT,
            )
            .queue_family_index(raw.family());
        // SAFETY: the family exists.
        let pool = match unsafe { device.create_command_pool(&info, None) } {
            Ok(pool) => pool,
            Err(code) => {
                // SAFETY: created above, not used yet.
                unsafe { device.destroy_semaphore(timeline, None) };
                return Err(code);
            }
        };
        Ok(Self { raw, timeline, in_flight: Mutex::new(InFlight::new(pool)) })
    }

    /// The timeline that counts submissions.
    pub(crate) fn timeline(&self) -> vk::Semaphore {
        self.timeline
    }

    pub(crate) fn family(&self) -> u32 {
        self.raw.family()
    }

    /// Calls an application's `work` with the raw queue while nothing else uses it; `None` if the
    /// application's lock did not call it.
    pub(crate) fn with_raw<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> Option<R> {
        self.raw.expose();
        self.raw.locked(work)
    }

    /// Records and submits; returns the timeline value that will be signalled. On an error the binary
    /// semaphores of the waits are destroyed, and nothing else has changed.
    ///
    /// `other` is the device's other queue, whose timeline earlier submissions may wait for.
    ///
    /// Locks: the queue's own, for the time of recording and submitting.
    pub(crate) fn submit(
        &self,
        device: &ash::Device,
        calls: &Calls,
        submit: Submit<'_>,
        other: Option<&Self>,
    ) -> Result<u64, vk::Result> {
        let mut state = self.in_flight();
        let Submit { waits, body, signal } = submit;
        let mut own = SmallVec::new();
        let value = state.submitted + 1;
        let result = calls.enter(Call::QueueSubmit).and_then(|()| {
            self.reclaim(device, &mut state)?;
            if signal.is_some() && !self.may_signal_once(device, &state, other)? {
                return Err(NOT_ONCE);
            }
            let all = self.record(device, &mut state, body, &mut own)?;
            self.submit_raw(device, &waits, &all, signal, value)
        });
        match result {
            Ok(()) => {
                state.submitted = value;
                let timelines = waits.timelines().collect();
                state.push(Pending { value, commands: own, timelines, once: waits.once });
                Ok(value)
            }
            Err(code) => {
                // Not pending, so they may be begun again: the pool allows resets.
                state.return_idle(own);
                for semaphore in waits.once {
                    // SAFETY: by the invariant of `Waits` a live one of this device that nothing else
                    // uses, and the submission was not made.
                    unsafe { device.destroy_semaphore(semaphore, None) };
                }
                Err(code)
            }
        }
    }

    /// Records into command buffers of this queue, which are added to `own`; returns all command buffers of
    /// the submission in their order.
    fn record(
        &self,
        device: &ash::Device,
        state: &mut InFlight,
        body: Body<'_>,
        own: &mut SmallVec<[vk::CommandBuffer; 2]>,
    ) -> Result<SmallVec<[vk::CommandBuffer; 4]>, vk::Result> {
        let mut one = |work: &mut dyn FnMut(vk::CommandBuffer)| {
            let commands = state.take_idle(device)?;
            own.push(commands);
            let begin = vk::CommandBufferBeginInfo::default()
                .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
            // SAFETY: `commands` is idle, and its pool is locked through `state`.
            unsafe { device.begin_command_buffer(commands, &begin) }?;
            work(commands);
            // SAFETY: it was begun above and is being recorded.
            unsafe { device.end_command_buffer(commands) }?;
            Ok(commands)
        };
        let mut all = SmallVec::new();
        match body {
            Body::Record(work) => all.push(one(work)?),
            Body::Around { before, commands, after } => {
                all.push(one(before)?);
                all.extend_from_slice(commands);
                all.push(one(after)?);
            }
            Body::Nothing => {}
        }
        Ok(all)
    }

    fn submit_raw(
        &self,
        device: &ash::Device,
        waits: &Waits,
        commands: &[vk::CommandBuffer],
        signal: Option<vk::Semaphore>,
        value: u64,
    ) -> Result<(), vk::Result> {
        let mut signals: SmallVec<[_; 2]> = SmallVec::from_slice(&[self.timeline]);
        signals.extend(signal);
        // The value of a binary semaphore is ignored.
        let values = [value, 0];
        // The commands may be anything, and an ownership transfer comes first.
        let stages: SmallVec<[_; 4]> =
            waits.semaphores.iter().map(|_| vk::PipelineStageFlags::ALL_COMMANDS).collect();
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waits.values)
            .signal_semaphore_values(&values[..signals.len()]);
        let info = [vk::SubmitInfo::default()
            .wait_semaphores(&waits.semaphores)
            .wait_dst_stage_mask(&stages)
            .command_buffers(commands)
            .signal_semaphores(&signals)
            .push_next(&mut timeline)];
        let submitted = self.raw.locked(|raw| {
            // Checked under the lock: what others' submissions wait for is not known.
            if signal.is_some() && self.raw.is_exposed() {
                return Err(NOT_ONCE);
            }
            // SAFETY: the command buffers are executable and belong to the queue's family; the value is
            // larger than any before (VUID-VkSubmitInfo-pSignalSemaphores-03242), because `submitted`
            // only grows under its lock; the semaphores are live ones of this device by the invariant of
            // `Waits`, and the binary ones have a pending signal; the queue is locked.
            unsafe { device.queue_submit(raw, &info, vk::Fence::null()) }
        });
        submitted.unwrap_or(Err(NOT_LOCKED))
    }

    /// Whether a binary semaphore may be signalled behind what was submitted here, and waited for
    /// elsewhere.
    ///
    /// Not while a submission may depend on a signal that is not submitted yet
    /// (VUID-VkSemaphoreGetFdInfoKHR-handleType-03254, VUID-vkQueueSubmit-pWaitSemaphores-03238). Not while
    /// many binary semaphores are in flight either, since each is an fd or two.
    ///
    /// What the device's other queue signals was submitted before it was waited for. So it is enough that
    /// nothing there depends on other devices.
    fn may_signal_once(
        &self,
        device: &ash::Device,
        state: &InFlight,
        other: Option<&Self>,
    ) -> Result<bool, vk::Result> {
        const MANY: usize = 64;
        if state.binary_semaphores() >= MANY {
            return Ok(false);
        }
        let timeline = other.map(|other| other.timeline);
        if state.waits_for_others(device, timeline)? {
            return Ok(false);
        }
        let Some(other) = other.filter(|_| state.waits_for(timeline)) else { return Ok(true) };
        // Both queues may get here at once, each with its own lock held.
        let Ok(theirs) = other.in_flight.try_lock() else { return Ok(false) };
        Ok(!other.raw.is_exposed() && !theirs.waits_for_others(device, Some(self.timeline))?)
    }

    /// The largest value that has been signalled.
    pub(crate) fn completed(&self, device: &ash::Device) -> Result<u64, vk::Result> {
        // SAFETY: the semaphore is a live timeline of this device.
        unsafe { device.get_semaphore_counter_value(self.timeline) }
    }

    /// Waits until `value` is signalled: polls, yields for a while, then blocks. `Ok(false)` if `timeout`
    /// passes first.
    ///
    /// Waking a sleeping thread costs 50 µs where halted processors are slow to wake; a few yields
    /// cost 10 µs (measured, BENCHMARKS.md). So short work is polled for.
    pub(crate) fn wait(
        &self,
        device: &ash::Device,
        calls: &Calls,
        value: u64,
        timeout: Duration,
    ) -> Result<bool, vk::Result> {
        // The cost of a wake-up, so that the wait never takes more than twice the time of the better way.
        const YIELD_FOR: Duration = Duration::from_micros(50);
        if self.completed(device)? >= value {
            return Ok(true);
        }
        if timeout.is_zero() {
            return Ok(false);
        }
        let start = Instant::now();
        while start.elapsed() < YIELD_FOR.min(timeout) {
            std::thread::yield_now();
            if self.completed(device)? >= value {
                return Ok(true);
            }
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
        // SAFETY: the caller's contract.
        unsafe { self.in_flight().destroy(device) };
        // SAFETY: as above.
        unsafe { device.destroy_semaphore(self.timeline, None) };
    }

    /// The value of the last submission.
    pub(crate) fn submitted(&self) -> u64 {
        self.in_flight().submitted
    }

    /// Destroys `semaphore`, which a submission signals, when the timeline has reached `value`.
    pub(crate) fn keep_until(&self, value: u64, semaphore: vk::Semaphore) {
        let once = SmallVec::from_slice(&[semaphore]);
        let (commands, timelines) = (SmallVec::new(), SmallVec::new());
        self.in_flight().push(Pending { value, commands, timelines, once });
    }

    /// Reclaims what finished submissions used.
    fn reclaim(&self, device: &ash::Device, state: &mut InFlight) -> Result<(), vk::Result> {
        if !state.is_empty() {
            let completed = self.completed(device)?;
            // SAFETY: the value was read from this queue's timeline; the pool is of this device.
            unsafe { state.reclaim(device, completed) };
        }
        Ok(())
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("family", &self.family())
            .field("submitted", &self.submitted())
            .finish_non_exhaustive()
    }
}
