//! A shared buffer as a buffer of wgpu's.
#![expect(
    unsafe_code,
    reason = "giving a buffer of peerbuf's to wgpu, and recording its transfers"
)]

use std::fmt;
use std::sync::Arc;

use peerbuf::ash::vk;
use peerbuf::{Access, AliasedBuffer, Attachment, Mapping, SharedBuffer};
use wgpu::hal::vulkan as hal;

use crate::commands::Kept;
use crate::error::{Error, Result};
use crate::format::buffer_usages;
use crate::guest::Guest;

/// A [`SharedBuffer`] as a buffer of wgpu's, which follows the buffer when it moves.
///
/// wgpu's is a `VkBuffer` over exactly these bytes ([`Mapping::aliased_buffer`]), and a move makes another one. As for
/// [`crate::GuestTexture`], [`crate::Frame::buffer`] returns the present one, and [`GuestBuffer::version`] says when bind groups
/// have to be made again.
pub struct GuestBuffer {
    attachment: Attachment,
    buffer: SharedBuffer,
    usages: wgpu::BufferUsages,
    flags: vk::BufferUsageFlags,
    current: Option<Arc<Current>>,
    version: u64,
}

/// The buffer of one generation. From the drop of its last handle on wgpu refuses it, and its callback comes when no frame
/// uses it any more: bind groups that the application has do not keep the memory.
pub(crate) struct Current {
    /// Also in the callback of `buffer`, and in commands that name it.
    aliased: Arc<AliasedBuffer>,
    buffer: wgpu::Buffer,
}

impl GuestBuffer {
    /// Takes an attachment of the guest's device: one of [`SharedBuffer::attach_dynamic`], so that the buffer may move. The
    /// importer may be a [`peerbuf::Refault`]: each frame looks anew.
    ///
    /// `usages` are copies, vertices, indices, uniforms, storage and indirect arguments.
    ///
    /// # Errors
    ///
    /// [`Error::BufferUsage`] for others; [`Error::OtherDevice`].
    pub fn new(guest: &Guest, attachment: Attachment, usages: wgpu::BufferUsages) -> Result<Self> {
        let (buffer, device) = (attachment.buffer(), attachment.device());
        if device != *guest.device() {
            return Err(Error::OtherDevice {
                name: buffer.name(),
                owner: device.name().to_owned(),
                used: guest.device().name().to_owned(),
            });
        }
        let flags = buffer_usages(usages)?;
        Ok(Self { attachment, buffer, usages, flags, current: None, version: 0 })
    }

    /// The buffer.
    pub fn shared(&self) -> &SharedBuffer {
        &self.buffer
    }

    /// The attachment.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// What wgpu may do with it.
    pub fn usages(&self) -> wgpu::BufferUsages {
        self.usages
    }

    /// How many buffers of wgpu's there have been. Bind groups of another version are of no use.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Maps the buffer as it is now. Moves it back first, if that is due.
    pub(crate) fn map(&self) -> Result<Arc<Mapping>> {
        Ok(Arc::new(self.attachment.map(Access::ReadWrite)?))
    }

    /// Makes wgpu's buffer of a mapping that is current, if there is none.
    pub(crate) fn follow(&mut self, guest: &Guest, mapping: &Arc<Mapping>) -> Result<()> {
        let is_current = self
            .current
            .as_ref()
            .is_some_and(|current| current.aliased.mapping().generation() == mapping.generation());
        if is_current {
            return Ok(());
        }
        let aliased = Arc::new(mapping.aliased_buffer(self.flags)?);
        let (raw, kept) = (aliased.raw(), Arc::clone(&aliased));
        let callback = Box::new(move || drop(kept));
        // SAFETY: the buffer is live until the callback. It is not mappable, and wgpu maps none without such a usage.
        let for_hal = unsafe { hal::Buffer::from_raw_externally_owned(raw, callback) };
        let name = self.buffer.name();
        let described = wgpu::BufferDescriptor {
            label: Some(&name),
            size: self.buffer.size(),
            usage: self.usages,
            mapped_at_creation: false,
        };
        // SAFETY: a buffer of this device, size and usage. Its bytes are defined, and its size is not zero.
        let buffer =
            unsafe { guest.wgpu().create_buffer_from_hal::<hal::Api>(for_hal, &described) };
        self.version += 1;
        self.current = Some(Arc::new(Current { aliased, buffer }));
        Ok(())
    }

    /// The present buffer. There is one after [`GuestBuffer::follow`].
    pub(crate) fn current(&self) -> Option<&Arc<Current>> {
        self.current.as_ref()
    }
}

impl Current {
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        self.aliased.mapping()
    }

    /// What commands name that transfer it.
    pub(crate) fn kept(&self) -> Kept {
        Arc::clone(&self.aliased) as _
    }

    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Records that this device acquires the bytes, or that it releases them: as [`Mapping::acquire`] and
    /// [`Mapping::release`] do, for the buffer that wgpu has.
    ///
    /// # Safety
    ///
    /// As [`Mapping::acquire`] and [`Mapping::release`].
    pub(crate) unsafe fn transfer(&self, guest: &Guest, commands: vk::CommandBuffer, half: Half) {
        let Self { aliased, .. } = self;
        let (inside, outside) = (guest.raw().family, aliased.mapping().outside_queue_family());
        let all = vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE;
        let barrier = vk::BufferMemoryBarrier::default().buffer(aliased.raw()).size(vk::WHOLE_SIZE);
        let (barrier, stages, for_host) = match half {
            Half::Acquire => {
                let barrier = barrier
                    .dst_access_mask(all)
                    .src_queue_family_index(outside)
                    .dst_queue_family_index(inside);
                (barrier, vk::PipelineStageFlags::ALL_COMMANDS, vec![])
            }
            Half::Release => {
                let barrier = barrier
                    .src_access_mask(all)
                    .src_queue_family_index(inside)
                    .dst_queue_family_index(outside);
                // The host reads and writes after a wait for a fence, and needs the writes to be available to it.
                let host = vk::MemoryBarrier::default()
                    .src_access_mask(all)
                    .dst_access_mask(vk::AccessFlags::HOST_READ | vk::AccessFlags::HOST_WRITE);
                let stages = vk::PipelineStageFlags::ALL_COMMANDS | vk::PipelineStageFlags::HOST;
                (barrier, stages, vec![host])
            }
        };
        // SAFETY: the caller's contract. The buffer is live, and exactly one of the families is an external one
        // (VUID-VkBufferMemoryBarrier-buffer-09095).
        unsafe {
            guest.raw().raw.cmd_pipeline_barrier(
                commands,
                vk::PipelineStageFlags::ALL_COMMANDS,
                stages,
                vk::DependencyFlags::empty(),
                &for_host,
                &[barrier],
                &[],
            );
        }
    }
}

/// The halves of a transfer of ownership.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Half {
    Acquire,
    Release,
}

impl Drop for Current {
    fn drop(&mut self) {
        self.buffer.destroy();
    }
}

impl fmt::Debug for GuestBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestBuffer")
            .field("attachment", &self.attachment)
            .field("usages", &self.usages)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
