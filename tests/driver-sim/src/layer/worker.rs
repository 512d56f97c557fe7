//! A thread for each queue of a device whose queues must be independent, held back or slow.
//!
//! It forwards submissions in their order, each when all that it waits for has happened. So queues that share one
//! of the driver's do not wait for each other.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ash::vk;

use super::device::Device;
use super::queue::RealQueue;
use super::sync_files::has_signalled;
use super::{lock, origin, report};

/// How long a thread sleeps before it looks at switches again.
const SLICE: Duration = Duration::from_millis(5);

/// A semaphore of a submission.
pub(super) struct Point {
    semaphore: vk::Semaphore,
    /// The value of a timeline, `None` for a binary semaphore.
    value: Option<u64>,
    /// For a wait for a binary semaphore: how many of its signals were submitted before.
    after: u64,
    stages: vk::PipelineStageFlags2,
}

impl Point {
    pub(super) fn new(
        device: &Device,
        semaphore: vk::Semaphore,
        value: Option<u64>,
        stages: vk::PipelineStageFlags2,
    ) -> Self {
        let is_timeline = lock(&device.timelines).contains(&semaphore);
        Self { semaphore, value: value.filter(|_| is_timeline), after: 0, stages }
    }
}

/// One `VkSubmitInfo`.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) waits: Vec<Point>,
    /// Sync files that it waits for.
    pub(super) files: Vec<OwnedFd>,
    pub(super) commands: Vec<vk::CommandBuffer>,
    pub(super) signals: Vec<Point>,
}

impl Batch {
    /// Whether it waits for a binary semaphore, and does nothing.
    fn is_empty_wait(&self) -> bool {
        let waits = binary(&self.waits).next().is_some() || !self.files.is_empty();
        waits && self.commands.is_empty()
    }
}

/// One call of `vkQueueSubmit`.
pub(super) struct Job {
    /// Its number on the device, from 1.
    pub(super) number: u64,
    pub(super) batches: Vec<Batch>,
    pub(super) fence: vk::Fence,
    /// Whether it came by `vkQueueSubmit2`.
    pub(super) is_second: bool,
}

/// The thread of one queue.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    is_busy: bool,
    ends: bool,
}

impl Worker {
    pub(super) fn start(device: &Arc<Device>, real: Arc<RealQueue>) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let (own, device) = (Arc::clone(&shared), Arc::clone(device));
        let thread = std::thread::spawn(move || own.run(&device, &real));
        Self { shared, thread: Mutex::new(Some(thread)) }
    }

    pub(super) fn push(&self, device: &Device, mut job: Job) {
        let signals = &device.binary_signals;
        for batch in &mut job.batches {
            for wait in &mut batch.waits {
                wait.after = signals.submitted(wait.semaphore);
            }
            binary(&batch.signals).for_each(|semaphore| signals.submit(semaphore));
        }
        lock(&self.shared.state).jobs.push_back(job);
        self.shared.changed.notify_all();
    }

    /// Whether everything that was submitted is forwarded, or dropped with a lost device.
    pub(super) fn is_drained(&self) -> bool {
        let state = lock(&self.shared.state);
        state.jobs.is_empty() && !state.is_busy
    }

    /// Waits until then for at most `for_at_most`.
    pub(super) fn wait_until_drained(&self, for_at_most: Duration) -> bool {
        let state = lock(&self.shared.state);
        let has_work = |state: &mut State| !state.jobs.is_empty() || state.is_busy;
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, for_at_most, has_work)
            .unwrap_or_else(PoisonError::into_inner);
        state.jobs.is_empty() && !state.is_busy
    }

    /// Ends the thread. What it has not forwarded never runs.
    pub(super) fn end(&self) {
        lock(&self.shared.state).ends = true;
        self.shared.changed.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread has been printed; there is nothing to do about it here.
            let _ = thread.join();
        }
    }
}

/// The binary semaphores among these.
fn binary(points: &[Point]) -> impl Iterator<Item = vk::Semaphore> {
    points.iter().filter(|point| point.value.is_none()).map(|point| point.semaphore)
}

impl Shared {
    fn run(&self, device: &Device, real: &RealQueue) {
        while let Some(job) = self.next() {
            let forwarded = match self.may_run(device, &job) {
                true => self.forward(device, real, &job),
                false => 0,
            };
            // Nothing waits for what never runs.
            let dropped = job.batches[forwarded..].iter().flat_map(|batch| binary(&batch.signals));
            device.binary_signals.forward(dropped);
            lock(&self.state).is_busy = false;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Job> {
        let state = lock(&self.state);
        let idle = |state: &mut State| state.jobs.is_empty() && !state.ends;
        let mut state =
            self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        if state.ends {
            return None;
        }
        let job = state.jobs.pop_front();
        state.is_busy = true;
        job
    }

    fn ends(&self) -> bool {
        lock(&self.state).ends
    }

    /// Waits while the switches hold the job back. `false` if it never runs.
    fn may_run(&self, device: &Device, job: &Job) -> bool {
        let mut told = false;
        loop {
            let switches = device.switches();
            if self.ends() || device.is_lost() && !switches.work_after_lost {
                return false;
            }
            let held = if switches.hung_after.is_some_and(|after| job.number > after) {
                "hung_after"
            } else if switches.empty_wait_hangs && job.batches.iter().any(Batch::is_empty_wait) {
                "empty_wait_hangs"
            } else {
                return true;
            };
            if !told {
                report::event(
                    held,
                    format_args!("{}: submission {} is held", device.label(), job.number),
                );
                told = true;
            }
            std::thread::sleep(SLICE);
        }
    }

    /// Returns how many batches were forwarded.
    fn forward(&self, device: &Device, real: &RealQueue, job: &Job) -> usize {
        let last = job.batches.len().saturating_sub(1);
        for (at, batch) in job.batches.iter().enumerate() {
            if !self.is_ready(device, batch) {
                return at;
            }
            let fence = if at == last { job.fence } else { vk::Fence::null() };
            let slow = device
                .switches()
                .slow_exporter
                .filter(|_| origin::is_imported(device.physical.index));
            // SAFETY: the application's objects are alive until the batch is executed.
            let result = unsafe {
                match slow {
                    Some(times) => slowly(device, real, batch, fence, job.is_second, times),
                    None => run(device, real, Some(batch), fence, job.is_second),
                }
            };
            failed(device, result);
            if result == vk::Result::SUCCESS {
                device.sync_files.forwarded(binary(&batch.waits), binary(&batch.signals));
            }
            device.binary_signals.forward(binary(&batch.signals));
        }
        if job.batches.is_empty() {
            // SAFETY: the application's fence is alive until it is signalled.
            failed(device, unsafe { run(device, real, None, job.fence, job.is_second) });
        }
        job.batches.len()
    }

    /// Waits until all semaphores of the batch are signalled, or their signals are with the driver.
    fn is_ready(&self, device: &Device, batch: &Batch) -> bool {
        for file in &batch.files {
            while !has_signalled(file, SLICE) {
                if self.ends() || device.is_lost() && !device.switches().work_after_lost {
                    return false;
                }
            }
        }
        for point in &batch.waits {
            match point.value {
                Some(value) => loop {
                    if self.ends() || device.is_lost() && !device.switches().work_after_lost {
                        return false;
                    }
                    // SAFETY: the application keeps the semaphore until the batch is executed.
                    let waited = unsafe { wait_for(device, point.semaphore, value) };
                    match waited {
                        vk::Result::SUCCESS => break,
                        vk::Result::TIMEOUT => {}
                        _ => return false,
                    }
                },
                None => {
                    while !device.binary_signals.wait(point.semaphore, point.after, SLICE) {
                        if self.ends() {
                            return false;
                        }
                    }
                }
            }
        }
        true
    }
}

impl Device {
    /// Waits until the signals of these binary semaphores are with the driver: what a driver with a submit thread
    /// does where the kernel needs them.
    pub(super) fn wait_until_forwarded(&self, semaphores: &[vk::Semaphore]) {
        let signals = &self.binary_signals;
        for semaphore in semaphores {
            let submitted = signals.submitted(*semaphore);
            while !signals.wait(*semaphore, submitted, SLICE) {
                if self.is_lost() {
                    return;
                }
            }
        }
    }
}

/// Waits one slice for a timeline.
unsafe fn wait_for(device: &Device, semaphore: vk::Semaphore, value: u64) -> vk::Result {
    let (semaphores, values) = ([semaphore], [value]);
    let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
    // CAST: 5 ms in nanoseconds.
    device.wait_semaphores()(device.raw, (&raw const info).cast(), SLICE.as_nanos() as u64)
}

fn failed(device: &Device, result: vk::Result) {
    if result != vk::Result::SUCCESS {
        report::event(
            "driver",
            format_args!("{}: a submission failed: {result:?}", device.label()),
        );
        device.lose("driver");
    }
}

unsafe fn run(
    device: &Device,
    real: &RealQueue,
    batch: Option<&Batch>,
    fence: vk::Fence,
    is_second: bool,
) -> vk::Result {
    let Some(batch) = batch else {
        return first(device, real, None, fence);
    };
    if is_second {
        second(device, real, batch, fence)
    } else {
        first(device, real, Some(batch), fence)
    }
}

/// Work first, then a pause that makes it take `times` as long, then the signals.
unsafe fn slowly(
    device: &Device,
    real: &RealQueue,
    batch: &Batch,
    fence: vk::Fence,
    is_second: bool,
    times: u32,
) -> vk::Result {
    let done = match device.fns.create_fence(&vk::FenceCreateInfo::default(), None) {
        Ok(done) => done,
        Err(code) => return code,
    };
    report::event("slow_exporter", format_args!("{}: {times} times as long", device.label()));
    let work =
        Batch { waits: copies(&batch.waits), commands: batch.commands.clone(), ..Batch::default() };
    let begun = Instant::now();
    let mut result = run(device, real, Some(&work), done, is_second);
    if result == vk::Result::SUCCESS {
        let waited = device.fns.wait_for_fences(&[done], true, u64::MAX);
        result = waited.map_or_else(|code| code, |()| vk::Result::SUCCESS);
    }
    device.fns.destroy_fence(done, None);
    if result != vk::Result::SUCCESS {
        return result;
    }
    std::thread::sleep(begun.elapsed() * times.saturating_sub(1));
    let end = Batch { signals: copies(&batch.signals), ..Batch::default() };
    run(device, real, Some(&end), fence, is_second)
}

fn copies(points: &[Point]) -> Vec<Point> {
    let copy = |point: &Point| Point {
        semaphore: point.semaphore,
        value: point.value,
        after: point.after,
        stages: point.stages,
    };
    points.iter().map(copy).collect()
}

unsafe fn first(
    device: &Device,
    real: &RealQueue,
    batch: Option<&Batch>,
    fence: vk::Fence,
) -> vk::Result {
    let _turn = lock(&real.turn);
    let submit = device.fns.fp_v1_0().queue_submit;
    let Some(batch) = batch else {
        return submit(real.raw, 0, std::ptr::null(), fence);
    };
    let semaphores =
        |points: &[Point]| points.iter().map(|point| point.semaphore).collect::<Vec<_>>();
    let values =
        |points: &[Point]| points.iter().map(|point| point.value.unwrap_or(0)).collect::<Vec<_>>();
    let (waits, signals) = (semaphores(&batch.waits), semaphores(&batch.signals));
    let (wait_values, signal_values) = (values(&batch.waits), values(&batch.signals));
    // CAST: `vkQueueSubmit` was called with these 32 bits.
    let stages = batch
        .waits
        .iter()
        .map(|point| vk::PipelineStageFlags::from_raw(point.stages.as_raw() as u32));
    let stages: Vec<_> = stages.collect();
    let mut timelines = vk::TimelineSemaphoreSubmitInfo::default()
        .wait_semaphore_values(&wait_values)
        .signal_semaphore_values(&signal_values);
    let has_timelines = batch.waits.iter().chain(&batch.signals).any(|point| point.value.is_some());
    let mut info = vk::SubmitInfo::default()
        .wait_semaphores(&waits)
        .wait_dst_stage_mask(&stages)
        .command_buffers(&batch.commands)
        .signal_semaphores(&signals);
    if has_timelines {
        info = info.push_next(&mut timelines);
    }
    submit(real.raw, 1, (&raw const info).cast(), fence)
}

unsafe fn second(device: &Device, real: &RealQueue, batch: &Batch, fence: vk::Fence) -> vk::Result {
    let _turn = lock(&real.turn);
    let point = |point: &Point| {
        vk::SemaphoreSubmitInfo::default()
            .semaphore(point.semaphore)
            .value(point.value.unwrap_or(0))
            .stage_mask(point.stages)
    };
    let waits: Vec<_> = batch.waits.iter().map(point).collect();
    let signals: Vec<_> = batch.signals.iter().map(point).collect();
    let commands = batch
        .commands
        .iter()
        .map(|raw| vk::CommandBufferSubmitInfo::default().command_buffer(*raw));
    let commands: Vec<_> = commands.collect();
    let info = vk::SubmitInfo2::default()
        .wait_semaphore_infos(&waits)
        .command_buffer_infos(&commands)
        .signal_semaphore_infos(&signals);
    match device.submit2() {
        Some(submit) => submit(real.raw, 1, (&raw const info).cast(), fence),
        None => vk::Result::ERROR_DEVICE_LOST,
    }
}
