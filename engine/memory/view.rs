//! A device's view of an allocation: one `VkDeviceMemory`, and one `VkBuffer` over all of it.
#![expect(
    unsafe_code,
    reason = "Vulkan memory and buffers, owned from the line after their creation"
)]

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use ash::vk;

use super::changes::Changes;
use super::domain_id::DomainKind;
use super::host::HostMemory;
use super::import_ledger::ImportLedger;
use super::size_class::SLOT_ALIGN;
use super::volatile::HostPtr;
use crate::device::{Call, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::fd;
use crate::observe::Object;

/// One device's memory and buffer over a whole allocation.
///
/// # Invariants
///
/// `buffer` and `memory` are null or live objects of `device`; once constructed both are live, and
/// `buffer` is bound to `memory` at 0. Both are destroyed only by `drop`. `size` is the buffer's
/// size, which is below [`VIEW_LIMIT`], and `memory_size` the memory's.
// In this order: the fields that a look-up reads are together.
#[repr(C)]
pub(crate) struct View {
    pub(super) memory: vk::DeviceMemory,
    pub(super) buffer: vk::Buffer,
    /// The allocation's.
    pub(super) changes: Arc<Changes>,
    pub(super) device: Arc<DeviceInner>,
    pub(super) size: u64,
    pub(super) memory_size: u64,
    pub(super) memory_type: u32,
    pub(super) handle: HandleType,
    /// The memory is dedicated to the buffer, so no second buffer can be bound to it.
    pub(super) dedicated: bool,
    /// The memory is the device's alone: no other device sees it, and it cannot be exported.
    pub(super) private: bool,
    /// The ledger that counts it, and as what, if the memory is another device's, or that of an fd or address. The host
    /// never maps such memory through this device.
    pub(super) imported: Option<(Arc<ImportLedger>, DomainKind)>,
    pub(super) mapped: OnceLock<HostPtr>,
    /// The host memory that was imported by address. Unmapped only after `drop` has freed the memory, since the
    /// specification requires the range to stay accessible for the lifetime of the import.
    pub(super) host_memory: Option<Arc<HostMemory>>,
}

/// No view has so many bytes: a mapping has its offset in 40 bits, in units of 256 bytes. Devices have 48 bits of address.
pub(crate) const VIEW_LIMIT: u64 = 1 << 48;

impl View {
    /// How often mappings that show it may have lost their validity.
    #[inline]
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    pub(crate) fn device(&self) -> &Arc<DeviceInner> {
        &self.device
    }

    #[inline]
    pub(crate) fn memory(&self) -> vk::DeviceMemory {
        self.memory
    }

    #[inline]
    pub(crate) fn buffer(&self) -> vk::Buffer {
        self.buffer
    }

    /// The address of the buffer on its device; `None` if the device has no such addresses.
    pub(crate) fn device_address(&self) -> Option<vk::DeviceAddress> {
        let info = vk::BufferDeviceAddressInfo::default().buffer(self.buffer);
        // SAFETY: the feature is on, and so the buffer has the usage and its memory the flag
        // (VUID-vkGetBufferDeviceAddress-bufferDeviceAddress-03324, VUID-VkBufferDeviceAddressInfo-buffer-02601).
        let address = || unsafe { self.device.raw().get_buffer_device_address(&info) };
        self.device.has_device_addresses().then(address)
    }

    pub(super) fn memory_size(&self) -> u64 {
        self.memory_size
    }

    pub(crate) fn memory_type(&self) -> u32 {
        self.memory_type
    }

    /// The kind of handle by which the memory is shared.
    pub(crate) fn handle(&self) -> HandleType {
        self.handle
    }

    /// Whether no second `VkBuffer` can be bound to the memory.
    pub(crate) fn is_dedicated(&self) -> bool {
        self.dedicated
    }

    /// Whether the memory is the device's alone.
    pub(crate) fn is_private(&self) -> bool {
        self.private
    }

    /// Checks that a buffer, or an image, with these requirements fits into the memory at `offset`.
    pub(crate) fn check_fits(&self, offset: u64, needs: vk::MemoryRequirements) -> Result<()> {
        let room = self.memory_size.saturating_sub(offset);
        if needs.size > room || needs.memory_type_bits & (1 << self.memory_type) == 0 {
            return Err(Error::Unsupported {
                device: self.device.name().to_owned(),
                missing: format!("room for {} bytes: {room} are left", needs.size),
            });
        }
        Ok(())
    }

    /// Exports a new fd of the memory, which the caller owns.
    pub(super) fn export_fd(&self) -> Result<OwnedFd> {
        const CALL: Call = Call::GetMemoryFd;
        let device = &self.device;
        let ext = device.memory_fd().ok_or_else(|| Error::Unsupported {
            device: device.name().to_owned(),
            missing: "VK_KHR_external_memory_fd".into(),
        })?;
        let info =
            vk::MemoryGetFdInfoKHR::default().memory(self.memory).handle_type(self.handle.vk());
        let raw = device.calls().enter(CALL).and_then(|()| {
            // SAFETY: the memory is live and was allocated for export as this handle type
            // (VUID-VkMemoryGetFdInfoKHR-handleType-00671): only exporting views are asked.
            unsafe { ext.get_memory_fd(&info) }
        });
        let raw = raw.map_err(|code| device.error(CALL.name(), code))?;
        // SAFETY: the driver returned a new fd, which this process owns.
        unsafe { fd::own(raw, CALL.name()) }
    }

    /// The host mapping, if the memory was mapped before.
    pub(super) fn mapped(&self) -> Option<HostPtr> {
        self.mapped.get().copied()
    }

    /// The host mapping, made if need be; `Ok(None)` if the memory is imported or not host-visible. It stays for
    /// the life of the view.
    pub(super) fn host(&self) -> Result<Option<HostPtr>> {
        if let Some(&pointer) = self.mapped.get() {
            return Ok(Some(pointer));
        }
        let flags = self.flags();
        if self.imported.is_some()
            || !flags.contains(vk::MemoryPropertyFlags::HOST_VISIBLE)
            || self.device.calls().unmappable_device_memory()
        {
            return Ok(None);
        }
        const CALL: Call = Call::MapMemory;
        // Memory must not be mapped twice (VUID-vkMapMemory-memory-00678): the caller holds the allocation's lock,
        // so no second thread is here.
        let mapped = self.device.calls().enter(CALL).and_then(|()| {
            let flags = vk::MemoryMapFlags::empty();
            // SAFETY: live, host-visible (VUID-vkMapMemory-memory-00682) and not mapped yet.
            unsafe { self.device.raw().map_memory(self.memory, 0, vk::WHOLE_SIZE, flags) }
        });
        let address = mapped.map_err(|code| self.device.error(CALL.name(), code))?;
        let pointer = std::ptr::NonNull::new(address.cast::<u8>())
            .expect("vkMapMemory returns an address with success");
        Ok(Some(*self.mapped.get_or_init(|| HostPtr::new(pointer))))
    }

    /// Makes the device's writes to a range visible to the host, if the memory is not coherent.
    pub(super) fn invalidate(&self, offset: u64, len: u64) -> Result<()> {
        self.maintain("vkInvalidateMappedMemoryRanges", offset, len, |device, ranges| {
            // SAFETY: all of the memory is mapped (VUID-VkMappedMemoryRange-memory-00684), and the range
            // is one that `maintain` has rounded.
            unsafe { device.invalidate_mapped_memory_ranges(ranges) }
        })
    }

    /// Makes the host's writes to a range visible to the device, if the memory is not coherent.
    pub(super) fn flush(&self, offset: u64, len: u64) -> Result<()> {
        self.maintain("vkFlushMappedMemoryRanges", offset, len, |device, ranges| {
            // SAFETY: as for `invalidate`.
            unsafe { device.flush_mapped_memory_ranges(ranges) }
        })
    }

    fn maintain(
        &self,
        call: &'static str,
        offset: u64,
        len: u64,
        maintain: impl FnOnce(&ash::Device, &[vk::MappedMemoryRange<'_>]) -> Result<(), vk::Result>,
    ) -> Result<()> {
        if self.is_coherent() || self.mapped.get().is_none() {
            return Ok(());
        }
        // Only these bytes: writes to a neighbouring slot that are not flushed yet would be lost.
        // nonCoherentAtomSize is at most the alignment of slots.
        let end = (offset + len).next_multiple_of(SLOT_ALIGN);
        let start = offset - offset % SLOT_ALIGN;
        let size = if end >= self.memory_size { vk::WHOLE_SIZE } else { end - start };
        let range = vk::MappedMemoryRange::default().memory(self.memory).offset(start).size(size);
        maintain(self.device.raw(), &[range]).map_err(|code| self.device.error(call, code))
    }

    /// Whether writes of the host are visible to the device without a flush.
    pub(super) fn is_coherent(&self) -> bool {
        self.flags().contains(vk::MemoryPropertyFlags::HOST_COHERENT)
    }

    /// Whether the memory is host-visible and host-cached.
    pub(super) fn is_host_cached(&self) -> bool {
        let wanted = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_CACHED;
        self.imported.is_none() && self.flags().contains(wanted)
    }

    fn flags(&self) -> vk::MemoryPropertyFlags {
        let types = self.device.adapter().memory_types();
        types.get(self.memory_type as usize).map_or(vk::MemoryPropertyFlags::empty(), |t| t.flags)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: by the type invariant null or live and ours. Nothing uses it any more: mappings and
        // pending work hold an `Arc` of the view or of its allocation.
        unsafe { self.device.raw().destroy_buffer(self.buffer, None) };
        // SAFETY: as above; freeing unmaps.
        unsafe { self.device.raw().free_memory(self.memory, None) };
        if let Some((ledger, kind)) = &self.imported {
            ledger.release(self.device.id(), *kind, self.size);
            self.device.forget_import(self.handle);
        }
        self.device.live().died(Object::View);
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("device", &self.device.name())
            .field("size", &self.size)
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
