//! A `VkBuffer` of its own over a mapping.
#![expect(unsafe_code, reason = "creating, binding and destroying a Vulkan buffer")]

use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::mapping::Mapping;
use crate::device::Call;
use crate::error::{Error, Result};

/// A `VkBuffer` over exactly a mapping's bytes, from [`Mapping::own_buffer`].
///
/// For APIs that take a buffer without an offset, or usages that the slab's buffer does not have. It
/// keeps its mapping alive; drop it when the device has finished with it.
pub struct OwnBuffer {
    raw: vk::Buffer,
    mapping: Arc<Mapping>,
}

impl OwnBuffer {
    pub(in crate::buffer) fn new(
        mapping: &Arc<Mapping>,
        usage: vk::BufferUsageFlags,
    ) -> Result<Self> {
        let (device, view) = (mapping.device_inner(), mapping.raw_view());
        if view.is_dedicated() {
            return Err(Error::Unsupported {
                device: device.name().to_owned(),
                missing: format!("a second buffer on its {} memory", view.handle()),
            });
        }
        mapping.view()?;
        let size = mapping.buffer_inner().size;
        let raw = crate::memory::create_buffer(device, size, view.handle(), usage)
            .map_err(|code| device.error(Call::CreateBuffer.name(), code))?;
        let this = Self { raw, mapping: Arc::clone(mapping) };
        this.bind()?;
        Ok(this)
    }

    /// The raw handle; valid while this lives.
    pub fn raw(&self) -> vk::Buffer {
        self.raw
    }

    /// The mapping.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    fn bind(&self) -> Result<()> {
        let (device, view) = (self.mapping.device_inner(), self.mapping.raw_view());
        let offset = self.mapping.offset();
        // SAFETY: the buffer is live.
        let needs = unsafe { device.raw().get_buffer_memory_requirements(self.raw) };
        if !offset.is_multiple_of(needs.alignment) {
            let what = "offset of the buffer in its slab";
            return Err(Error::Misaligned { what, value: offset, align: needs.alignment });
        }
        view.check_fits(offset, needs)?;
        let bound = device.calls().enter(Call::BindBufferMemory).and_then(|()| {
            // SAFETY: the buffer is unbound, of the memory's device and handle type; offset, size and
            // memory type were checked against its requirements
            // (VUID-vkBindBufferMemory-memoryOffset-01036, -size-01037, -memory-01035).
            unsafe { device.raw().bind_buffer_memory(self.raw, view.memory(), offset) }
        });
        bound.map_err(|code| device.error(Call::BindBufferMemory.name(), code))
    }
}

impl Drop for OwnBuffer {
    fn drop(&mut self) {
        // SAFETY: created in `new` on this device, and destroyed only here; its user has finished.
        unsafe { self.mapping.device_inner().raw().destroy_buffer(self.raw, None) };
    }
}

impl fmt::Debug for OwnBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnBuffer")
            .field("raw", &self.raw)
            .field("mapping", &self.mapping)
            .finish_non_exhaustive()
    }
}

impl Mapping {
    /// A `VkBuffer` of its own over exactly these bytes, with `usage`. Wrap the mapping in an `Arc` first;
    /// the buffer keeps it alive. Ownership transfers ([`Mapping::acquire`]) name the mapping's buffer; for
    /// this one record your own, with the same families.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the driver wants the memory for one buffer alone,
    /// [`Error::Misaligned`] where it wants a coarser offset than 256, or what a call said.
    pub fn own_buffer(self: &Arc<Self>, usage: vk::BufferUsageFlags) -> Result<OwnBuffer> {
        OwnBuffer::new(self, usage)
    }
}
