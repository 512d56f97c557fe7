//! Command buffers for what is recorded before and behind wgpu's commands.
#![expect(unsafe_code, reason = "recording command buffers")]

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

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
/// A buffer in the list is in the state that follows a submission whose fence is beside it, or was never submitted, or
/// its fence is `None`, which says that it is not pending.
pub(crate) struct Commands {
    device: Arc<RawDevice>,
    pool: vk::CommandPool,
    buffers: Vec<Used>,
}

/// A command buffer that is not being recorded.
struct Used {
    raw: vk::CommandBuffer,
    fence: Option<Fence>,
    kept: Vec<Kept>,
}

/// A recorded command buffer, in the list of its pool again once it was submitted or dropped.
#[must_use = "it has to be submitted"]
pub(crate) struct Recorded<'a> {
    commands: &'a Mutex<Commands>,
    pub(crate) raw: vk::CommandBuffer,
    fence: Option<Fence>,
    kept: Vec<Kept>,
    /// Whether it was given to a submission of unknown end.
    lost: bool,
}

impl Commands {
    pub(crate) fn new(device: &Arc<RawDevice>) -> Result<Self> {
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER)
            .queue_family_index(device.family);
        // SAFETY: the device is live and has a queue of this family.
        let pool = unsafe { device.raw.create_command_pool(&info, None) }
            .map_err(Error::vulkan("vkCreateCommandPool"))?;
        Ok(Self { device: Arc::clone(device), pool, buffers: vec![] })
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
            pool.buffers.push(Used { raw, fence: None, kept: vec![] });
            return Err(error);
        }
        drop(pool);
        Ok(Recorded { commands, raw, fence: None, kept, lost: false })
    }

    /// Drops the fences of all that has ended, and what it has kept.
    pub(crate) fn collect(commands: &Mutex<Self>) {
        let mut pool = commands.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = vec![];
        for used in pool.buffers.iter_mut().filter(|used| used.has_ended()) {
            used.fence = None;
            kept.append(&mut used.kept);
        }
        // Without the lock.
        drop(pool);
        drop(kept);
    }
}

impl Used {
    fn has_ended(&self) -> bool {
        self.fence.as_ref().is_none_or(has_ended)
    }
}

/// Whether the work behind a fence has ended, well or not.
fn has_ended(fence: &Fence) -> bool {
    match fence.is_signalled() {
        Ok(signalled) => signalled,
        Err(error) => matches!(error, peerbuf::Error::WorkFailed { .. }),
    }
}

impl Recorded<'_> {
    /// Notes the fence of the submission.
    pub(crate) fn submitted(mut self, submission: peerbuf::Result<Fence>) -> Result<Fence> {
        match submission {
            Ok(fence) => {
                self.fence = Some(fence.clone());
                Ok(fence)
            }
            Err(error) => {
                // Then it counts as submitted, and its end is unknown.
                self.lost = matches!(error, peerbuf::Error::DeviceLost { .. });
                Err(error.into())
            }
        }
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        if self.lost {
            // The device may still be at work.
            std::mem::forget(kept);
            return;
        }
        let (raw, fence) = (self.raw, self.fence.take());
        let kept = if fence.is_some() { kept } else { vec![] };
        let mut pool = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        pool.buffers.push(Used { raw, fence, kept });
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        // SAFETY: the guest that owns this has waited for what was submitted, or leaks the device.
        unsafe { self.device.raw.destroy_command_pool(self.pool, None) };
    }
}
