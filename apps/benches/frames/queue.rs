//! A device's queue by hand: one command buffer, recorded anew for each frame, and a timeline.
#![expect(unsafe_code, reason = "commands, semaphores and submissions by hand")]

use std::time::{Duration, Instant};

use ash::vk;
use peerbuf::Device;

use crate::Outcome;

/// Polled for so long before a thread sleeps, as peerbuf does.
const POLL: Duration = Duration::from_micros(50);

/// # Invariants
///
/// The handles are live objects of the device. `submitted` is the last value that the timeline will reach.
pub(crate) struct Queue {
    pub(crate) device: Device,
    pool: vk::CommandPool,
    commands: vk::CommandBuffer,
    timeline: vk::Semaphore,
    submitted: u64,
}

impl Queue {
    pub(crate) fn new(device: &Device) -> Outcome<Self> {
        let raw = device.raw();
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER)
            .queue_family_index(device.queue_family());
        // SAFETY: the device is live, and has the family.
        let pool = unsafe { raw.create_command_pool(&info, None) }?;
        let (commands, timeline) = (vk::CommandBuffer::null(), vk::Semaphore::null());
        let mut this = Self { device: device.clone(), pool, commands, timeline, submitted: 0 };
        let info =
            vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
        // SAFETY: the pool is live.
        this.commands = unsafe { raw.allocate_command_buffers(&info) }?[0];
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: timelines are on in every device that peerbuf adopts.
        this.timeline = unsafe { raw.create_semaphore(&info, None) }?;
        Ok(this)
    }

    /// Records commands anew. The last submission has ended.
    pub(crate) fn record(&self, record: impl FnOnce(&Device, vk::CommandBuffer)) -> Outcome<()> {
        let raw = self.device.raw();
        let info = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: not pending, since each submission is waited for; the pool lets it be reset.
        unsafe { raw.begin_command_buffer(self.commands, &info) }?;
        record(&self.device, self.commands);
        // SAFETY: begun above.
        Ok(unsafe { raw.end_command_buffer(self.commands) }?)
    }

    /// Submits what was recorded, behind a binary semaphore, and signals another one.
    pub(crate) fn submit(&mut self, binary: Option<[vk::Semaphore; 2]>) -> Outcome<()> {
        let (waits, signals): (Vec<_>, Vec<_>) =
            binary.map_or_else(Default::default, |[wait, signal]| (vec![wait], vec![signal]));
        let signals = [&[self.timeline][..], &signals].concat();
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let (values, commands) = ([self.submitted + 1, 0], [self.commands]);
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&[0][..waits.len()])
            .signal_semaphore_values(&values[..signals.len()]);
        let info = [vk::SubmitInfo::default()
            .wait_semaphores(&waits)
            .wait_dst_stage_mask(&stages[..waits.len()])
            .command_buffers(&commands)
            .signal_semaphores(&signals)
            .push_next(&mut timeline)];
        self.device.with_queue(|queue| {
            // SAFETY: the queue is locked; the commands are executable and not pending; the value grows.
            unsafe { self.device.raw().queue_submit(queue, &info, vk::Fence::null()) }
        })?;
        self.submitted += 1;
        Ok(())
    }

    /// Waits until all submissions have ended.
    pub(crate) fn wait(&self) -> Outcome<()> {
        let (raw, begun) = (self.device.raw(), Instant::now());
        while begun.elapsed() < POLL {
            // SAFETY: a live timeline of this device.
            if unsafe { raw.get_semaphore_counter_value(self.timeline) }? >= self.submitted {
                return Ok(());
            }
            std::thread::yield_now();
        }
        let (semaphores, values) = ([self.timeline], [self.submitted]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // SAFETY: as above.
        Ok(unsafe { raw.wait_semaphores(&info, 60_000_000_000) }?)
    }

    /// Records, submits and waits.
    pub(crate) fn run(&mut self, record: impl FnOnce(&Device, vk::CommandBuffer)) -> Outcome<()> {
        self.record(record)?;
        self.submit(None)?;
        self.wait()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A failed wait ends the run, and what is in use is left to the process.
        if self.wait().is_err() {
            return;
        }
        let raw = self.device.raw();
        // SAFETY: nothing runs; the command buffer is freed with its pool.
        unsafe { raw.destroy_command_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_semaphore(self.timeline, None) };
    }
}
