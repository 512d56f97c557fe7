//! A queue: externally synchronised, so guarded; with a timeline that counts submissions.
#![expect(unsafe_code, reason = "command pools and submission on a live device")]

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ash::vk;
use smallvec::SmallVec;

use super::calls::{Call, Calls};
use super::external::SemaphoreHandle;
use super::in_flight::{InFlight, Pending};
use super::queue_lock::RawQueue;
use super::queue_progress::{Awaited, Progress};
use super::spare_semaphores::{Once, SpareSemaphores};
use super::submit::{Body, NOT_LOCKED, NOT_ONCE, NotSubmitted, Submit};
use super::timeline::{Reading, Timeline};
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
    timeline: Timeline,
    // What callers ask that may hold the application's lock of `raw`: without `in_flight`, which a thread holds while it
    // waits for that lock.
    progress: Progress,
    /// What unfinished submissions wait for.
    awaited: Mutex<Awaited>,
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
        (export, spare): (SemaphoreHandle, Arc<SpareSemaphores>),
    ) -> Result<Self, vk::Result> {
        // SAFETY: the caller's contract.
        let timeline = unsafe { Timeline::new(device, export) }?;
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
                unsafe { timeline.destroy(device) };
                return Err(code);
            }
        };
        let (progress, awaited) = (Progress::default(), Mutex::default());
        let in_flight = Mutex::new(InFlight::new(pool, spare));
        Ok(Self { raw, timeline, progress, awaited, in_flight })
    }

    /// The timeline that counts submissions.
    pub(super) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub(crate) fn family(&self) -> u32 {
        self.raw.family()
    }

    /// Calls an application's `work` with the raw queue while nothing else uses it; `None` if the
    /// application's lock did not call it.
    pub(crate) fn with_raw<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> Option<R> {
        self.raw.expose_to_application();
        self.raw.locked(work)
    }

    /// Records and submits; returns the timeline value that will be signalled. On an error the binary
    /// semaphores of the waits are destroyed, and nothing else has changed.
    ///
    /// The exception is a *rejected* submission, for which `vkQueueSubmit` reported `VK_ERROR_DEVICE_LOST`: it
    /// counts as submitted. It has a value, which the timeline may never reach, and its command buffers and
    /// binary semaphores, `signal` included, are kept as long as those of any other submission
    /// (VUID-vkDestroySemaphore-semaphore-05149, VUID-vkResetCommandBuffer-commandBuffer-00045).
    ///
    /// `lost` is the mark of the device: nothing is submitted once it is set. `other` is the device's other queue,
    /// whose timeline earlier submissions may wait for.
    ///
    /// Locks: the queue's own, for the time of recording and submitting.
    pub(crate) fn submit(
        &self,
        device: &ash::Device,
        calls: &Calls,
        submit: Submit<'_>,
        (lost, other): (&AtomicBool, Option<&Self>),
    ) -> Result<u64, NotSubmitted> {
        let mut state = self.in_flight();
        let uses_binary = submit.uses_binary();
        let Submit { waits, body, signal, signals, reading } = submit;
        if waits.may_be_unsubmitted {
            self.raw.expose();
        }
        let mut own = SmallVec::new();
        let value = self.submitted() + 1;
        let mut panicked = None;
        let prepared = calls.enter(Call::QueueSubmit).and_then(|()| {
            self.reclaim(device, calls, &mut state, reading)?;
            if signal.is_some() && !self.may_signal_once(device, &state, other)? {
                return Err(NOT_ONCE);
            }
            let record = || self.record((device, calls), &mut state, body, (&mut own, uses_binary));
            // The application's code may panic while it records.
            catch_unwind(AssertUnwindSafe(record)).unwrap_or_else(|panic| {
                panicked = Some(panic);
                Err(vk::Result::ERROR_UNKNOWN)
            })
        });
        if panicked.is_some() {
            for &commands in &own {
                // SAFETY: from this queue's pool, which allows resets and is locked; not pending, since nothing
                // was submitted. One of them is still in the recording state. An error leaves it there, and it
                // is freed with the pool.
                let _ = unsafe {
                    device.reset_command_buffer(commands, vk::CommandBufferResetFlags::empty())
                };
            }
        }
        let result = prepared.map_err(NotSubmitted::from).and_then(|all| {
            self.submit_raw((device, lost), &waits, &all, (signal, signals), value)
        });
        let failed = match result {
            Err(failed) if !failed.rejected => failed,
            made => {
                let timelines: SmallVec<_> = waits.timelines().collect();
                self.awaited_list().push(value, &timelines);
                let mut once = waits.once;
                once.extend(signal.filter(|_| made.is_err()).map(Once::last));
                state.push(Pending { value, commands: own, timelines, once });
                return made.map(|()| value);
            }
        };
        // Not pending, so they may be begun again: the pool allows resets.
        state.return_idle(own);
        for semaphore in waits.once {
            // SAFETY: by the invariant of `Waits` a live one of this device that nothing else uses, and the submission
            // was not made.
            unsafe { device.destroy_semaphore(semaphore.raw, None) };
        }
        drop(state);
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        Err(failed)
    }

    /// Records into command buffers of this queue, which are added to `own`; returns all command buffers of
    /// the submission in their order.
    fn record(
        &self,
        (device, calls): (&ash::Device, &Calls),
        state: &mut InFlight,
        body: Body<'_>,
        (own, uses_binary): (&mut SmallVec<[vk::CommandBuffer; 2]>, bool),
    ) -> Result<SmallVec<[vk::CommandBuffer; 4]>, vk::Result> {
        let mut one = |work: &mut dyn FnMut(vk::CommandBuffer)| {
            let commands = state.take_idle(device)?;
            own.push(commands);
            let begin = vk::CommandBufferBeginInfo::default()
                .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
            calls.enter(Call::BeginCommandBuffer)?;
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
            Body::Around { before: Some(before), commands: [], after: Some(after) } => {
                all.push(one(&mut |commands| {
                    before(commands);
                    after(commands);
                })?);
            }
            Body::Around { before, commands, after } => {
                if let Some(before) = before {
                    all.push(one(before)?);
                }
                all.extend_from_slice(commands);
                if let Some(after) = after {
                    all.push(one(after)?);
                }
            }
            Body::Nothing => {}
        }
        // Some drivers hang on a binary semaphore without commands (doitsujin/dxvk#4380).
        if uses_binary && all.is_empty() {
            all.push(one(&mut |_| {})?);
        }
        Ok(all)
    }

    fn submit_raw(
        &self,
        (device, lost): (&ash::Device, &AtomicBool),
        waits: &Waits,
        commands: &[vk::CommandBuffer],
        (signal, others): (Option<vk::Semaphore>, &[(vk::Semaphore, u64)]),
        value: u64,
    ) -> Result<(), NotSubmitted> {
        let mut signals: SmallVec<[_; 4]> = SmallVec::from_slice(&[self.timeline.raw()]);
        signals.extend(signal);
        // The value of a binary semaphore is ignored.
        let mut values: SmallVec<[u64; 4]> = SmallVec::from_slice(&[value]);
        values.extend(signal.map(|_| 0));
        for &(semaphore, value) in others {
            signals.push(semaphore);
            values.push(value);
        }
        // The commands may be anything, and an ownership transfer comes first.
        let stages: SmallVec<[_; 4]> =
            waits.semaphores.iter().map(|_| vk::PipelineStageFlags::ALL_COMMANDS).collect();
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waits.values)
            .signal_semaphore_values(&values);
        let info = [vk::SubmitInfo::default()
            .wait_semaphores(&waits.semaphores)
            .wait_dst_stage_mask(&stages)
            .command_buffers(commands)
            .signal_semaphores(&signals)
            .push_next(&mut timeline)];
        let submitted = self.raw.locked(|raw| {
            // Checked under the lock: what others' submissions wait for is not known.
            if signal.is_some() && self.raw.is_exposed() {
                return Err(NOT_ONCE.into());
            }
            let Some(attempt) = self.progress.begin(value, lost) else {
                return Err(vk::Result::ERROR_DEVICE_LOST.into());
            };
            // SAFETY: the command buffers are executable and belong to the queue's family; the value is
            // larger than any before (VUID-VkSubmitInfo-pSignalSemaphores-03242), because the value
            // of the last submission only grows, under the lock of `in_flight`; the semaphores are live ones of this device by the invariant of
            // `Waits`, and the binary ones have a pending signal; the queue is locked.
            attempt.end(unsafe { device.queue_submit(raw, &info, vk::Fence::null()) })
        });
        submitted.unwrap_or_else(|| Err(NOT_LOCKED.into()))
    }

    /// Whether a binary semaphore may be signalled behind what was submitted here, and waited for elsewhere.
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
        let timeline = other.map(|other| other.timeline.raw());
        if state.waits_for_others(device, timeline)? {
            return Ok(false);
        }
        let Some(other) = other.filter(|_| state.waits_for(timeline)) else { return Ok(true) };
        // Both queues may get here at once, each with its own lock held.
        let Ok(theirs) = other.in_flight.try_lock() else { return Ok(false) };
        Ok(!other.raw.is_exposed()
            && !theirs.waits_for_others(device, Some(self.timeline.raw()))?)
    }

    /// Waits until `vkWaitSemaphores` says that no submission to this queue is in use any more: it succeeds for
    /// the last one, or reports that the device is lost. `Ok(false)` if neither happens until `end`.
    ///
    /// Only a wait can say that. Other calls report a loss while earlier submissions still run (Vulkan, "Lost
    /// Device").
    pub(super) fn wait_until_unused(
        &self,
        device: &ash::Device,
        end: Instant,
    ) -> Result<bool, vk::Result> {
        let Some((accepted, submitted)) = self.progress.wait_for_attempt(end) else {
            return Ok(false);
        };
        // The rejected submission, if there is one, may have reached the device. It is waited for second, since
        // the timeline may never reach it.
        for value in [accepted, submitted] {
            match self.timeline.wait_for_evidence(device, value, end) {
                Ok(true) => {}
                Err(vk::Result::ERROR_DEVICE_LOST) => return Ok(true),
                other => return other,
            }
        }
        Ok(true)
    }

    /// The value of the last submission if it was rejected.
    pub(super) fn rejected(&self) -> Option<u64> {
        self.progress.rejected()
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
        unsafe { self.timeline.destroy(device) };
    }

    /// What the unfinished submissions up to `value` wait for beside the timelines `own`.
    pub(super) fn awaited(
        &self,
        value: u64,
        own: &[vk::Semaphore],
    ) -> SmallVec<[(vk::Semaphore, u64); 4]> {
        self.awaited_list().up_to(value, own)
    }

    /// The value of the last submission that has been made.
    pub(crate) fn submitted(&self) -> u64 {
        self.progress.submitted()
    }

    /// As [`Queue::submitted`], or the value of one that is being made.
    pub(crate) fn attempted(&self) -> u64 {
        self.progress.attempted()
    }

    /// Keeps a semaphore, which a submission signals, until the timeline has reached `value`.
    pub(super) fn keep_until(&self, value: u64, semaphore: Once) {
        let once = SmallVec::from_slice(&[semaphore]);
        let (commands, timelines) = (SmallVec::new(), SmallVec::new());
        self.in_flight().push(Pending { value, commands, timelines, once });
    }

    /// Reclaims what finished submissions used.
    pub(super) fn reclaim(
        &self,
        device: &ash::Device,
        calls: &Calls,
        state: &mut InFlight,
        reading: Option<Reading>,
    ) -> Result<(), vk::Result> {
        if !state.is_empty() {
            let completed = match reading {
                Some(reading) => reading.reached(),
                None => self.timeline.completed(device, calls)?,
            };
            // SAFETY: the value was read from this queue's timeline; the pool is of this device.
            unsafe { state.reclaim(device, completed) };
            self.awaited_list().forget(completed);
        }
        Ok(())
    }

    fn awaited_list(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn in_flight(&self) -> MutexGuard<'_, InFlight> {
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
