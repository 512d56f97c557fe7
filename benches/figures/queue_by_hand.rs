//! Submissions in plain Vulkan: command buffers with the same barriers as peerbuf's, and a timeline semaphore.
#![expect(unsafe_code, reason = "raw Vulkan, on the devices that peerbuf has opened")]

use std::time::{Duration, Instant};

use ash::vk;
use peerbuf::{Device, HandleType};

use crate::Outcome;

/// A range of a `VkBuffer`.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) buffer: vk::Buffer,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// How a wait for a submission is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// `vkWaitSemaphores`.
    Plain,
    /// As peerbuf waits: the counter is polled for 50 µs between yields, then `vkWaitSemaphores`.
    PollFirst,
}

/// A command pool, its command buffers, and a timeline, for one thread.
///
/// # Invariants
///
/// All are live objects of `device`. The timeline has reached `submitted` before a command buffer is reset, and before
/// `drop`.
pub(crate) struct Queue<'a> {
    device: &'a Device,
    handle: HandleType,
    pool: vk::CommandPool,
    pub(crate) commands: Vec<vk::CommandBuffer>,
    timeline: vk::Semaphore,
    submitted: u64,
}

impl<'a> Queue<'a> {
    pub(crate) fn new(device: &'a Device, handle: HandleType, count: u32) -> Outcome<Self> {
        let raw = device.raw();
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER)
            .queue_family_index(device.queue_family());
        // SAFETY: the family exists.
        let pool = unsafe { raw.create_command_pool(&info, None) }?;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(count);
        // SAFETY: the pool is live and used by this thread alone.
        let commands = unsafe { raw.allocate_command_buffers(&info) }?;
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: peerbuf opens devices with timeline semaphores on.
        let timeline = unsafe { raw.create_semaphore(&info, None) }?;
        // INVARIANT: created above; nothing is submitted.
        Ok(Self { device, handle, pool, commands, timeline, submitted: 0 })
    }

    /// Records command buffer `index`: acquires the ranges, fills the first bytes of the first one, and releases them,
    /// with the barriers that peerbuf records.
    pub(crate) fn record(&self, index: usize, ranges: &[Range]) -> Outcome<()> {
        let (raw, commands) = (self.device.raw(), self.commands[index]);
        // SAFETY: what was submitted has finished by the callers' order of calls.
        unsafe { raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }?;
        self.barriers(commands, ranges, true);
        fill(self.device, commands, ranges[0]);
        self.barriers(commands, ranges, false);
        // SAFETY: the recording was begun above.
        Ok(unsafe { raw.end_command_buffer(commands) }?)
    }

    /// Records command buffer `index` without a command.
    pub(crate) fn record_nothing(&self, index: usize) -> Outcome<()> {
        let (raw, commands) = (self.device.raw(), self.commands[index]);
        // SAFETY: as in `record`.
        unsafe { raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }?;
        // SAFETY: the recording was begun above.
        Ok(unsafe { raw.end_command_buffer(commands) }?)
    }

    /// Records command buffer `index`: a copy, behind earlier copies of the queue.
    pub(crate) fn record_copy(&self, index: usize, from: Range, to: Range) -> Outcome<()> {
        let (raw, commands) = (self.device.raw(), self.commands[index]);
        // SAFETY: as in `record`.
        unsafe { raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }?;
        let all = vk::AccessFlags::TRANSFER_READ | vk::AccessFlags::TRANSFER_WRITE;
        let barrier = [vk::MemoryBarrier::default().src_access_mask(all).dst_access_mask(all)];
        let (stage, flags) = (vk::PipelineStageFlags::TRANSFER, vk::DependencyFlags::empty());
        // SAFETY: being recorded.
        unsafe { raw.cmd_pipeline_barrier(commands, stage, stage, flags, &barrier, &[], &[]) };
        let size = from.size.min(to.size);
        let region = [vk::BufferCopy { src_offset: from.offset, dst_offset: to.offset, size }];
        // SAFETY: both ranges are within live buffers of this device.
        unsafe { raw.cmd_copy_buffer(commands, from.buffer, to.buffer, &region) };
        // SAFETY: the recording was begun above.
        Ok(unsafe { raw.end_command_buffer(commands) }?)
    }

    fn barriers(&self, commands: vk::CommandBuffer, ranges: &[Range], acquire: bool) {
        let ours = self.device.queue_family();
        let outside = match self.handle {
            HandleType::OpaqueFd => vk::QUEUE_FAMILY_EXTERNAL,
            _ => vk::QUEUE_FAMILY_FOREIGN_EXT,
        };
        let all = vk::AccessFlags::TRANSFER_READ | vk::AccessFlags::TRANSFER_WRITE;
        let none = vk::AccessFlags::empty();
        let (from, to, before, after) =
            if acquire { (outside, ours, none, all) } else { (ours, outside, all, none) };
        let barriers: Vec<_> = ranges
            .iter()
            .map(|range| {
                vk::BufferMemoryBarrier::default()
                    .buffer(range.buffer)
                    .offset(range.offset)
                    .size(range.size)
                    .src_access_mask(before)
                    .dst_access_mask(after)
                    .src_queue_family_index(from)
                    .dst_queue_family_index(to)
            })
            .collect();
        let host = [vk::MemoryBarrier::default()
            .src_access_mask(all)
            .dst_access_mask(vk::AccessFlags::HOST_READ | vk::AccessFlags::HOST_WRITE)];
        use vk::PipelineStageFlags as Stages;
        let (stages, memory): (_, &[_]) = if acquire {
            ((Stages::ALL_COMMANDS, Stages::TRANSFER), &[])
        } else {
            ((Stages::TRANSFER, Stages::ALL_COMMANDS | Stages::HOST), &host)
        };
        let flags = vk::DependencyFlags::empty();
        // SAFETY: being recorded; the ranges are within live buffers of this device.
        unsafe {
            let raw = self.device.raw();
            raw.cmd_pipeline_barrier(commands, stages.0, stages.1, flags, memory, &barriers, &[]);
        }
    }

    /// Submits command buffer `index`, and returns the value that the timeline will reach.
    pub(crate) fn submit(&mut self, index: usize) -> Outcome<u64> {
        let raw = self.device.raw();
        let value = self.submitted + 1;
        let (commands, semaphores, values) = ([self.commands[index]], [self.timeline], [value]);
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let info = [vk::SubmitInfo::default()
            .command_buffers(&commands)
            .signal_semaphores(&semaphores)
            .push_next(&mut timeline)];
        self.device.with_queue(|queue| {
            // SAFETY: the queue is locked; the command buffer is executable and not pending; the value grows.
            unsafe { raw.queue_submit(queue, &info, vk::Fence::null()) }
        })?;
        self.submitted = value;
        Ok(value)
    }

    /// Waits until the timeline reaches `value`.
    pub(crate) fn wait(&self, value: u64, wait: Wait) -> Outcome<()> {
        const POLL: Duration = Duration::from_micros(50);
        let raw = self.device.raw();
        if wait == Wait::PollFirst {
            let start = Instant::now();
            loop {
                // SAFETY: a live timeline of this device.
                if unsafe { raw.get_semaphore_counter_value(self.timeline) }? >= value {
                    return Ok(());
                }
                if start.elapsed() >= POLL {
                    break;
                }
                std::thread::yield_now();
            }
        }
        let (semaphores, values) = ([self.timeline], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // SAFETY: a live timeline of this device.
        Ok(unsafe { raw.wait_semaphores(&info, 10_000_000_000) }?)
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        let raw = self.device.raw();
        // A failed wait ends the run; the device is destroyed afterwards in any case.
        let _ = self.wait(self.submitted, Wait::Plain);
        // SAFETY: nothing is running; the command buffers are freed with their pool.
        unsafe { raw.destroy_command_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_semaphore(self.timeline, None) };
    }
}

/// Records a fill of the first bytes of a range: little work, so that the submission is what is measured.
pub(crate) fn fill(device: &Device, commands: vk::CommandBuffer, range: Range) {
    // SAFETY: being recorded, for a live buffer of this device, within the range.
    unsafe {
        device.raw().cmd_fill_buffer(commands, range.buffer, range.offset, 256.min(range.size), 7);
    }
}
