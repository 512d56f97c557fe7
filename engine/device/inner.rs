//! What everything made on a device holds: its handles and tables, and how it ends.
#![expect(unsafe_code, reason = "destroying the device")]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ash::{ext, khr, vk};

use super::adapter::Adapter;
use super::calls::Calls;
use super::device::DeviceId;
use super::lane::{Lane, Lanes};
use super::queue::Queue;
use crate::error::{Error, Result};
use crate::observe::{Live, Object};

/// # Invariants
///
/// `raw` is live until the end of `drop`, and was created on `adapter` with timeline semaphores. The
/// extension tables are there exactly if the extension was enabled.
pub(crate) struct DeviceInner {
    // Constant after creation.
    pub(super) id: DeviceId,
    pub(super) name: String,
    pub(super) adapter: Adapter,
    pub(super) raw: ash::Device,
    pub(super) owned: bool,
    pub(super) lanes: Lanes,
    pub(super) memory_fd: Option<khr::external_memory_fd::Device>,
    pub(super) memory_host: Option<ext::external_memory_host::Device>,
    pub(super) semaphore_fd: Option<khr::external_semaphore_fd::Device>,
    pub(super) dma_buf: bool,
    pub(super) foreign_queue_family: bool,
    pub(super) calls: Arc<Calls>,
    pub(super) live: Arc<Live>,
    /// Set once, never cleared. Release/acquire, so that who sees it sees what led to it.
    pub(super) lost: AtomicBool,
    /// Timelines on this device that show how far another one's has come; kept as long as the device.
    /// Protected by this mutex, which is taken alone.
    pub(super) images: Mutex<Vec<(Weak<DeviceInner>, Lane, Image)>>,
}

/// A timeline on one device that shows how far another one's has come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Image {
    /// It is the other one's, taken in.
    Shared(vk::Semaphore),
    /// The host signals it.
    Shown(vk::Semaphore),
}

impl DeviceInner {
    pub(crate) fn id(&self) -> DeviceId {
        self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(crate) fn raw(&self) -> &ash::Device {
        &self.raw
    }

    pub(super) fn queue(&self, lane: Lane) -> &Queue {
        self.lanes.get(lane)
    }

    /// The lane that moves go to: one of their own where there is one.
    pub(crate) fn lane_for_moves(&self) -> Lane {
        self.lanes.for_moves()
    }

    pub(crate) fn queue_family(&self, lane: Lane) -> u32 {
        self.queue(lane).family()
    }

    pub(crate) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// `VK_KHR_external_memory_fd`, if it is on.
    pub(crate) fn memory_fd(&self) -> Option<&khr::external_memory_fd::Device> {
        self.memory_fd.as_ref()
    }

    /// `VK_EXT_external_memory_host`, if it is on.
    pub(crate) fn memory_host(&self) -> Option<&ext::external_memory_host::Device> {
        self.memory_host.as_ref()
    }

    /// Whether `VK_EXT_external_memory_dma_buf` is on.
    pub(crate) fn has_dma_buf(&self) -> bool {
        self.dma_buf
    }

    /// Whether `VK_EXT_queue_family_foreign` is on.
    pub(crate) fn has_foreign_queue_family(&self) -> bool {
        self.foreign_queue_family
    }

    /// `VK_KHR_external_semaphore_fd`, if it is on.
    pub(crate) fn semaphore_fd(&self) -> Option<&khr::external_semaphore_fd::Device> {
        self.semaphore_fd.as_ref()
    }

    /// Checks that the main queue's family has the stages (VUID-vkCmdPipelineBarrier-srcStageMask-06461).
    pub(crate) fn check_stages(&self, stages: vk::PipelineStageFlags) -> Result<()> {
        use vk::PipelineStageFlags as Stages;
        let everywhere =
            Stages::TOP_OF_PIPE | Stages::BOTTOM_OF_PIPE | Stages::ALL_COMMANDS | Stages::HOST;
        let compute = Stages::TRANSFER | Stages::COMPUTE_SHADER | Stages::DRAW_INDIRECT;
        let graphics = Stages::ALL_GRAPHICS
            | Stages::VERTEX_INPUT
            | Stages::VERTEX_SHADER
            | Stages::FRAGMENT_SHADER
            | Stages::EARLY_FRAGMENT_TESTS
            | Stages::LATE_FRAGMENT_TESTS
            | Stages::COLOR_ATTACHMENT_OUTPUT;
        let family = self.queue_family(Lane::Main);
        let flags = self.adapter.queue_flags(family);
        let mut has = everywhere | compute;
        if flags.contains(vk::QueueFlags::GRAPHICS) {
            has |= graphics;
        }
        let missing = stages & !has;
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Unsupported {
            device: self.name.clone(),
            missing: format!("{missing:?} on queue family {family}"),
        })
    }

    /// The timeline that counts a lane's submissions.
    pub(crate) fn timeline(&self, lane: Lane) -> vk::Semaphore {
        self.queue(lane).timeline()
    }

    /// The timeline on this device that shows how far a lane of `other` has come, made by `make` if there is
    /// none. Devices are told apart by their addresses, since their numbers repeat from engine to engine.
    pub(crate) fn image_of(
        &self,
        other: &Arc<Self>,
        lane: Lane,
        make: impl FnOnce() -> Result<Image>,
    ) -> Result<Image> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        // A weak one keeps the address from being used again.
        let known = |(of, on, _): &&(Weak<Self>, Lane, Image)| {
            std::ptr::eq(of.as_ptr(), Arc::as_ptr(other)) && *on == lane
        };
        if let Some((.., image)) = images.iter().find(known) {
            return Ok(*image);
        }
        let image = make()?;
        images.push((Arc::downgrade(other), lane, image));
        Ok(image)
    }

    /// Translates a code, and remembers a loss.
    pub(crate) fn error(&self, call: &'static str, code: vk::Result) -> Error {
        if code == vk::Result::ERROR_DEVICE_LOST && !self.lost.swap(true, Ordering::AcqRel) {
            self.calls.note_lost_device();
            tracing::error!(device = self.name, call, "device lost");
        }
        Error::vulkan(call, &self.name, code)
    }
}

impl Drop for DeviceInner {
    /// The only wait for a GPU in the drop of an object: whoever holds a device keeps it alive, so when
    /// the last one is gone only our own finished or abandoned work can be left on it. Bounded: a device
    /// that does not come to its end is leaked.
    fn drop(&mut self) {
        self.live.died(Object::Device);
        if !self.comes_to_its_end() {
            tracing::error!(device = self.name, "the device did not come to its end; leaked");
            // The instance may not be destroyed before the device.
            std::mem::forget(self.adapter.clone());
            return;
        }
        let images = self.images.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (.., Image::Shared(image) | Image::Shown(image)) in images.drain(..) {
            // SAFETY: nothing submitted here is running; whoever signals it from the host holds the
            // device.
            unsafe { self.raw.destroy_semaphore(image, None) };
        }
        for queue in self.lanes.iter() {
            // SAFETY: the wait above says that nothing submitted here is running.
            unsafe { queue.destroy(&self.raw) };
        }
        if self.owned {
            // SAFETY: everything made on the device holds an `Arc` of it, so all of it is destroyed;
            // what an application made or submitted itself is gone by the contract of `Device::raw`.
            unsafe { self.raw.destroy_device(None) };
        }
    }
}

impl fmt::Debug for DeviceInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceInner").field("name", &self.name).finish_non_exhaustive()
    }
}
