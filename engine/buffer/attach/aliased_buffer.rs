//! A separate `VkBuffer` over the bytes of a mapping.
#![expect(unsafe_code, reason = "creating, binding and destroying a Vulkan buffer")]

use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::attachment::Attachment;
use super::mapping::Mapping;
use crate::device::Call;
use crate::error::{Error, Result};

/// A `VkBuffer` over exactly the bytes of a mapping, from [`Mapping::aliased_buffer`].
///
/// It is for APIs that take a buffer without an offset, and for usages that the slab's buffer does not have. It
/// keeps its mapping alive. Drop it after the device has finished with it. When the buffer has moved,
/// [`Attachment::remap_aliased`] replaces it.
#[doc(alias = "OwnBuffer")]
pub struct AliasedBuffer {
    raw: vk::Buffer,
    usage: vk::BufferUsageFlags,
    mapping: Arc<Mapping>,
}

/// The usages of Vulkan 1.0, which need no feature.
const CORE_USAGES: vk::BufferUsageFlags = {
    use vk::BufferUsageFlags as Usage;
    Usage::from_raw(
        Usage::TRANSFER_SRC.as_raw()
            | Usage::TRANSFER_DST.as_raw()
            | Usage::UNIFORM_TEXEL_BUFFER.as_raw()
            | Usage::STORAGE_TEXEL_BUFFER.as_raw()
            | Usage::UNIFORM_BUFFER.as_raw()
            | Usage::STORAGE_BUFFER.as_raw()
            | Usage::INDEX_BUFFER.as_raw()
            | Usage::VERTEX_BUFFER.as_raw()
            | Usage::INDIRECT_BUFFER.as_raw(),
    )
};

impl AliasedBuffer {
    fn new(mapping: &Arc<Mapping>, usage: vk::BufferUsageFlags) -> Result<Self> {
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
        let this = Self { raw, usage, mapping: Arc::clone(mapping) };
        this.bind()?;
        Ok(this)
    }

    /// Returns the raw handle, which is valid while this object lives.
    pub fn raw(&self) -> vk::Buffer {
        self.raw
    }

    /// Returns the mapping.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    fn bind(&self) -> Result<()> {
        let (device, view) = (self.mapping.device_inner(), self.mapping.raw_view());
        let offset = self.mapping.offset();
        // SAFETY: the buffer is live.
        let requirements = unsafe { device.raw().get_buffer_memory_requirements(self.raw) };
        if !offset.is_multiple_of(requirements.alignment) {
            let what = "the offset of the buffer in its slab";
            return Err(Error::Misaligned { what, value: offset, align: requirements.alignment });
        }
        view.check_fits(offset, requirements)?;
        let bound = device.calls().enter(Call::BindBufferMemory).and_then(|()| {
            // SAFETY: the buffer is unbound, of the memory's device and handle type; offset, size and
            // memory type were checked against its requirements
            // (VUID-vkBindBufferMemory-memoryOffset-01036, -size-01037, -memory-01035).
            unsafe { device.raw().bind_buffer_memory(self.raw, view.memory(), offset) }
        });
        bound.map_err(|code| device.error(Call::BindBufferMemory.name(), code))
    }
}

impl Drop for AliasedBuffer {
    fn drop(&mut self) {
        // SAFETY: created in `new` on this device, and destroyed only here; the device has finished with it.
        unsafe { self.mapping.device_inner().raw().destroy_buffer(self.raw, None) };
    }
}

impl fmt::Debug for AliasedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AliasedBuffer")
            .field("raw", &self.raw)
            .field("mapping", &self.mapping)
            .finish_non_exhaustive()
    }
}

impl Attachment {
    /// Replaces an aliased buffer whose mapping is stale by one over the buffer's present bytes, for the same access
    /// and usage. Returns the old one, which must be dropped after the device has finished with it; `Ok(None)` if the
    /// aliased buffer is current.
    ///
    /// # Errors
    ///
    /// As [`Attachment::remap`] and [`Mapping::aliased_buffer`]. The aliased buffer is then unchanged.
    ///
    /// Locks: as [`Attachment::remap`].
    pub fn remap_aliased(&self, aliased: &mut AliasedBuffer) -> Result<Option<AliasedBuffer>> {
        self.check_mapping(&aliased.mapping)?;
        match aliased.mapping.view() {
            Ok(_) => return Ok(None),
            Err(Error::Stale { .. }) => {}
            Err(error) => return Err(error),
        }
        let mapping = Arc::new(self.map(aliased.mapping.access())?);
        let current = AliasedBuffer::new(&mapping, aliased.usage)?;
        Ok(Some(std::mem::replace(aliased, current)))
    }
}

impl Mapping {
    /// Creates a separate `VkBuffer` over exactly the bytes of this mapping, with `usage`. Wrap the mapping in
    /// an `Arc` first: the buffer keeps it alive.
    ///
    /// Ownership transfers ([`Mapping::acquire`]) name the mapping's buffer. For the separate buffer, record
    /// transfers of your own, with the same queue families.
    ///
    /// The usages are those that need no feature and no extension: copies, texel buffers, uniform and storage
    /// buffers, index and vertex buffers, indirect commands. [`Mapping::aliased_buffer_unchecked`] takes others.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] without a usage, for other usages, or if the driver dedicates the memory to one
    /// buffer; [`Error::Misaligned`] if it requires an alignment above 256 bytes; or the error of a Vulkan call.
    #[doc(alias = "own_buffer")]
    pub fn aliased_buffer(self: &Arc<Self>, usage: vk::BufferUsageFlags) -> Result<AliasedBuffer> {
        let others = usage & !CORE_USAGES;
        if usage.is_empty() || !others.is_empty() {
            let missing = if others.is_empty() {
                "a buffer without any usage: name at least one".to_owned()
            } else {
                format!("{others:?} from safe code: use aliased_buffer_unchecked")
            };
            return Err(Error::Unsupported { device: self.device_inner().name().into(), missing });
        }
        AliasedBuffer::new(self, usage)
    }

    /// As [`Mapping::aliased_buffer`], for any usage.
    ///
    /// # Errors
    ///
    /// As [`Mapping::aliased_buffer`], except for the usages.
    ///
    /// # Safety
    ///
    /// `usage` is not empty. The device was created with the features and extensions that it needs. It fits memory
    /// that was allocated as [`crate::Device`] does: not `SHADER_DEVICE_ADDRESS` unless the memory has an address
    /// (VUID-vkBindBufferMemory-bufferDeviceAddress-03339), nor usages that need more structures at the creation of
    /// the buffer (video).
    pub unsafe fn aliased_buffer_unchecked(
        self: &Arc<Self>,
        usage: vk::BufferUsageFlags,
    ) -> Result<AliasedBuffer> {
        AliasedBuffer::new(self, usage)
    }
}
