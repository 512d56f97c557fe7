//! A lane's queue: externally synchronised, so guarded; with a timeline that counts submissions.
#![expect(
    unsafe_code,
    reason = "command pools, timeline semaphores and submission on a live device"
)]

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ash::vk;
use smallvec::SmallVec;

use super::calls::{Call, Calls};
use super::queue_lock::RawQueue;
use super::semaphore::{SemaphoreHandle, Waits};

/// A queue and its timeline: the n-th submission signals the value n.
///
/// # Invariants
///
/// `raw`, `timeline` and the pool in `state` belong to the same live device, which the owner of this
/// destroys after calling [`Queue::destroy`]; the pool is of the queue's family.
pub(crate) struct Queue {
    // Constant after creation.
    raw: Arc<RawQueue>,
    timeline: vk::Semaphore,
    // Protected by this mutex, which is taken before the lock of `raw`: the command pool and everything from it
    // are externally synchronised (VUID-vkBeginCommandBuffer-commandBuffer-recording).
    state: Mutex<State>,
}

struct State {
    pool: vk::CommandPool,
    submitted: u64,
    idle: Vec<vk::CommandBuffer>,
    busy: VecDeque<Busy>,
}

impl State {
    /// Whether something here waits for a timeline that has not come so far, other than `own`.
    fn waits_for_others(
        &self,
        device: &ash::Device,
        own: Option<vk::Semaphore>,
    ) -> Result<bool, vk::Result> {
        let gates = self.busy.iter().flat_map(|busy| &busy.gates);
        for &(semaphore, value) in gates.filter(|(semaphore, _)| Some(*semaphore) != own) {
            // SAFETY: timelines that were waited for stay alive as long as the device.
            if unsafe { device.get_semaphore_counter_value(semaphore) }? < value {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether something here that is not known to be over waits for `own`.
    fn waits_for(&self, own: Option<vk::Semaphore>) -> bool {
        let mut gates = self.busy.iter().flat_map(|busy| &busy.gates);
        gates.any(|(semaphore, _)| Some(*semaphore) == own)
    }
}

/// What a submission uses until it has finished.
struct Busy {
    value: u64,
    commands: SmallVec<[vk::CommandBuffer; 2]>,
    /// Timelines, signalled elsewhere, that it waits for.
    gates: SmallVec<[(vk::Semaphore, u64); 1]>,
    /// Binary semaphores that it waits for or signals, and nothing else does.
    once: SmallVec<[vk::Semaphore; 2]>,
}

/// That a binary semaphore cannot be signalled now, and nothing was submitted; no driver's answer.
pub(super) const NOT_ONCE: vk::Result = vk::Result::NOT_READY;
/// That an application's lock has not done the work that it was given; no driver's answer either.
pub(super) const NOT_LOCKED: vk::Result = vk::Result::EVENT_RESET;

/// A submission.
pub(crate) struct Submit<'a> {
    pub(crate) waits: Waits,
    pub(crate) body: Body<'a>,
    /// A binary semaphore to signal when everything so far has finished.
    pub(crate) signal: Option<SignalOnce<'a>>,
}

/// A binary semaphore that is to be signalled.
pub(crate) struct SignalOnce<'a> {
    pub(super) semaphore: vk::Semaphore,
    /// The device's other lane, whose timeline this one may wait for.
    pub(super) beside: Option<&'a Queue>,
}

/// What a submission does.
pub(crate) enum Body<'a> {
    /// Commands that are recorded now.
    Record(&'a mut dyn FnMut(vk::CommandBuffer)),
    /// Command buffers of an application, between commands that are recorded now.
    Around {
        before: &'a mut dyn FnMut(vk::CommandBuffer),
        commands: &'a [vk::CommandBuffer],
        after: &'a mut dyn FnMut(vk::CommandBuffer),
    },
    /// Nothing: a point behind everything submitted so far.
    Nothing,
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
        let state = State { pool, submitted: 0, idle: vec![], busy: VecDeque::new() };
        Ok(Self { raw, timeline, state: Mutex::new(state) })
    }

    /// The timeline that counts submissions.
    pub(crate) fn timeline(&self) -> vk::Semaphore {
        self.timeline
    }

    pub(crate) fn family(&self) -> u32 {
        self.raw.family()
    }

    /// Calls an application's `work` with the raw queue while nobody else uses it; `None` if its lock does
    /// not.
    pub(crate) fn with_raw<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> Option<R> {
        self.raw.expose();
        self.raw.locked(work)
    }

    /// Records and submits; returns the timeline value that will be signalled. On an error the waits that
    /// can be used only once are gone, and nothing else has changed.
    ///
    /// Locks: the queue's own, for the time of recording and submitting.
    pub(crate) fn submit(
        &self,
        device: &ash::Device,
        calls: &Calls,
        submit: Submit<'_>,
    ) -> Result<u64, vk::Result> {
        let mut state = self.state();
        let Submit { waits, body, signal } = submit;
        let mut own = SmallVec::new();
        let value = state.submitted + 1;
        let result = calls.enter(Call::QueueSubmit).and_then(|()| {
            self.reap(device, &mut state)?;
            if let Some(signal) = &signal
                && !self.may_signal_once(device, &state, signal.beside)?
            {
                return Err(NOT_ONCE);
            }
            let signal = signal.map(|signal| signal.semaphore);
            let all = self.record(device, &mut state, body, &mut own)?;
            self.submit_raw(device, &waits, &all, signal, value)
        });
        match result {
            Ok(()) => {
                state.submitted = value;
                let gates = waits.timelines().collect();
                state.busy.push_back(Busy { value, commands: own, gates, once: waits.once });
                Ok(value)
            }
            Err(code) => {
                // Not pending, so they may be begun again: the pool allows resets.
                state.idle.extend(own);
                for semaphore in waits.once {
                    // SAFETY: by the invariant of `Waits` a live one of this device that nothing else
                    // uses, and the submission did not come about.
                    unsafe { device.destroy_semaphore(semaphore, None) };
                }
                Err(code)
            }
        }
    }

    /// Records what has to be recorded into buffers of our own, which are added to `own`; returns all
    /// buffers in their order.
    fn record(
        &self,
        device: &ash::Device,
        state: &mut State,
        body: Body<'_>,
        own: &mut SmallVec<[vk::CommandBuffer; 2]>,
    ) -> Result<SmallVec<[vk::CommandBuffer; 4]>, vk::Result> {
        let mut one = |work: &mut dyn FnMut(vk::CommandBuffer)| {
            let commands = self.take_idle(device, state)?;
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
        // What follows may be anything, a transfer of ownership first of all.
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
            // Looked at under the lock: nobody knows what others' submissions wait for.
            if signal.is_some() && self.raw.is_exposed() {
                return Err(NOT_ONCE);
            }
            // SAFETY: the command buffers are executable and belong to the queue's family; the value is
            // larger than any before (VUID-VkSubmitInfo-pSignalSemaphores-03242), because `submitted`
            // only grows under its lock; the semaphores are live ones of this device by the invariant of
            // `Waits`, and the binary ones have a signal under way; the queue is locked.
            unsafe { device.queue_submit(raw, &info, vk::Fence::null()) }
        });
        submitted.unwrap_or(Err(NOT_LOCKED))
    }

    /// Whether a binary semaphore may be signalled behind what was submitted here, and waited for
    /// elsewhere: not while something may depend on a signal that nobody has submitted yet
    /// (VUID-VkSemaphoreGetFdInfoKHR-handleType-03254, VUID-vkQueueSubmit-pWaitSemaphores-03238), and not
    /// while a good number of them is under way, each of which is an fd or two.
    ///
    /// What the other lane signals was submitted before it was waited for, so it is enough that nothing there
    /// depends on anybody else.
    fn may_signal_once(
        &self,
        device: &ash::Device,
        state: &State,
        beside: Option<&Self>,
    ) -> Result<bool, vk::Result> {
        const MANY: usize = 64;
        if state.busy.iter().map(|busy| busy.once.len()).sum::<usize>() >= MANY {
            return Ok(false);
        }
        let other = beside.map(|other| other.timeline);
        if state.waits_for_others(device, other)? {
            return Ok(false);
        }
        let Some(beside) = beside.filter(|_| state.waits_for(other)) else { return Ok(true) };
        // Both lanes may come here at once, each with its own lock.
        let Ok(theirs) = beside.state.try_lock() else { return Ok(false) };
        Ok(!beside.raw.is_exposed() && !theirs.waits_for_others(device, Some(self.timeline))?)
    }

    /// The largest value that has been signalled.
    pub(crate) fn completed(&self, device: &ash::Device) -> Result<u64, vk::Result> {
        // SAFETY: the semaphore is a live timeline of this device.
        unsafe { device.get_semaphore_counter_value(self.timeline) }
    }

    /// Waits until `value` is signalled: looks, yields for a while, then blocks. `Ok(false)` when
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
        // As long as a wake-up costs: so it takes never more than twice the time of the better way.
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
        let state = self.state();
        for semaphore in state.busy.iter().flat_map(|busy| &busy.once) {
            // SAFETY: the caller says that nothing is running, so the waits for it are over.
            unsafe { device.destroy_semaphore(*semaphore, None) };
        }
        // SAFETY: as above; command buffers go with their pool.
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

    /// Destroys `semaphore`, which a submission signals, when the timeline has reached `value`.
    pub(crate) fn keep_until(&self, value: u64, semaphore: vk::Semaphore) {
        let once = SmallVec::from_slice(&[semaphore]);
        let (commands, gates) = (SmallVec::new(), SmallVec::new());
        self.state().busy.push_back(Busy { value, commands, gates, once });
    }

    /// Takes back what finished submissions used.
    fn reap(&self, device: &ash::Device, state: &mut State) -> Result<(), vk::Result> {
        if state.busy.is_empty() {
            return Ok(());
        }
        let completed = self.completed(device)?;
        while state.busy.front().is_some_and(|busy| busy.value <= completed) {
            let Some(Busy { commands, once, .. }) = state.busy.pop_front() else { break };
            state.idle.extend(commands);
            for semaphore in once {
                // SAFETY: a live one of this device, whose only wait is over.
                unsafe { device.destroy_semaphore(semaphore, None) };
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
