//! Command buffers for what is recorded before and behind wgpu's commands.
#![expect(unsafe_code, reason = "recording command buffers")]

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peerbuf::Fence;
use peerbuf::ash::vk;

use crate::error::{Error, Result};
use crate::raw::RawDevice;

/// What a command buffer names: an image or a buffer, which lives until the commands have ended. wgpu's callback alone would
/// come too early, since it knows nothing of what is behind wgpu's commands.
pub(crate) type Kept = Arc<dyn Any + Send + Sync>;

/// Command buffers of a device, used in turn.
///
/// # Invariants
///
/// A buffer in the list is not pending, or it was submitted, and [`End`] says how far that is.
pub(crate) struct Commands {
    device: Arc<RawDevice>,
    pool: vk::CommandPool,
    buffers: Vec<Used>,
    /// How long the drop waits.
    timeout: Duration,
}

/// A command buffer that is not being recorded.
struct Used {
    raw: vk::CommandBuffer,
    end: End,
    kept: Vec<Kept>,
}

/// When a command buffer is not pending any more.
enum End {
    /// It is not.
    Now,
    /// Once this has signalled.
    At(Fence),
    /// Its submission has reported the loss of the device: only a wait for the queue says.
    Unknown,
}

/// A recorded command buffer, in the list of its pool again once it was submitted or dropped.
#[must_use = "it has to be submitted"]
pub(crate) struct Recorded<'a> {
    commands: &'a Mutex<Commands>,
    pub(crate) raw: vk::CommandBuffer,
    end: End,
    kept: Vec<Kept>,
}

impl Commands {
    pub(crate) fn new(device: &Arc<RawDevice>, timeout: Duration) -> Result<Self> {
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER)
            .queue_family_index(device.family);
        // SAFETY: the device is live and has a queue of this family.
        let pool = unsafe { device.raw.create_command_pool(&info, None) }
            .map_err(Error::vulkan("vkCreateCommandPool"))?;
        Ok(Self { device: Arc::clone(device), pool, buffers: vec![], timeout })
    }

    /// Takes a command buffer that is not pending, or makes one.
    fn take(&mut self) -> Result<vk::CommandBuffer> {
        if let Some(at) = self.buffers.iter().position(Used::has_ended) {
            return Ok(self.buffers.swap_remove(at).raw);
        }
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .command_buffer_count(1);
        // SAFETY: the pool is live, and used under the lock of this alone.
        let made = unsafe { self.device.raw.allocate_command_buffers(&info) }
            .map_err(Error::vulkan("vkAllocateCommandBuffers"))?;
        made.first().copied().ok_or(Error::Vulkan {
            call: "vkAllocateCommandBuffers",
            code: vk::Result::ERROR_UNKNOWN,
        })
    }

    /// Records a command buffer.
    ///
    /// # Errors
    ///
    /// That of `record`, or of a call.
    pub(crate) fn record(
        commands: &Mutex<Self>,
        kept: Vec<Kept>,
        record: impl FnOnce(vk::CommandBuffer) -> Result<()>,
    ) -> Result<Recorded<'_>> {
        // Held while it is recorded, since that uses the pool.
        let mut pool = commands.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = pool.take()?;
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: it is not pending, and its pool allows the reset.
        let begun = unsafe { pool.device.raw.begin_command_buffer(raw, &begin) }
            .map_err(Error::vulkan("vkBeginCommandBuffer"));
        let recorded = begun.and_then(|()| {
            let recorded = record(raw);
            // SAFETY: it is being recorded.
            let ended = unsafe { pool.device.raw.end_command_buffer(raw) };
            recorded.and(ended.map_err(Error::vulkan("vkEndCommandBuffer")))
        });
        if let Err(error) = recorded {
            pool.buffers.push(Used { raw, end: End::Now, kept: vec![] });
            return Err(error);
        }
        drop(pool);
        Ok(Recorded { commands, raw, end: End::Now, kept })
    }

    /// Drops the fences of all that has ended, and what it has kept.
    pub(crate) fn collect(commands: &Mutex<Self>) {
        Self::free(commands, Used::has_ended);
    }

    /// As [`Commands::collect`], for all. A wait for the queue has said that nothing of it is in use.
    pub(crate) fn end_all(commands: &Mutex<Self>) {
        Self::free(commands, |_| true);
    }

    fn free(commands: &Mutex<Self>, has_ended: impl Fn(&Used) -> bool) {
        let mut pool = commands.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = vec![];
        for used in pool.buffers.iter_mut().filter(|used| has_ended(used)) {
            used.end = End::Now;
            kept.append(&mut used.kept);
        }
        // Without the lock.
        drop(pool);
        drop(kept);
    }
}

impl Used {
    /// Whether its work has ended, well or not.
    fn has_ended(&self) -> bool {
        self.has_ended_within(Duration::ZERO)
    }

    fn has_ended_within(&self, timeout: Duration) -> bool {
        match &self.end {
            End::Now => true,
            End::At(fence) => {
                matches!(fence.wait(timeout), Ok(()) | Err(peerbuf::Error::WorkFailed { .. }))
            }
            End::Unknown => false,
        }
    }
}

impl Recorded<'_> {
    /// Notes the fence of the submission.
    pub(crate) fn submitted(mut self, submission: peerbuf::Result<Fence>) -> Result<Fence> {
        match submission {
            Ok(fence) => {
                self.end = End::At(fence.clone());
                Ok(fence)
            }
            Err(error) => {
                // Then it counts as submitted.
                if matches!(error, peerbuf::Error::DeviceLost { .. }) {
                    self.end = End::Unknown;
                }
                Err(error.into())
            }
        }
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        let (raw, end) = (self.raw, std::mem::replace(&mut self.end, End::Now));
        let kept = match end {
            End::Now => vec![],
            _ => std::mem::take(&mut self.kept),
        };
        let mut pool = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        pool.buffers.push(Used { raw, end, kept });
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        let end = Instant::now() + self.timeout;
        let left = || end.saturating_duration_since(Instant::now());
        if self.buffers.iter().all(|used| used.has_ended_within(left())) {
            // SAFETY: no command buffer of the pool is pending (VUID-vkDestroyCommandPool-commandPool-00041).
            unsafe { self.device.raw.destroy_command_pool(self.pool, None) };
            return;
        }
        // It may still use them. The guest was not closed, so that its device is leaked as well.
        let kept: Vec<_> =
            self.buffers.iter_mut().map(|used| std::mem::take(&mut used.kept)).collect();
        std::mem::forget(kept);
    }
}
