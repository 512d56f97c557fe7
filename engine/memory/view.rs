//! A device's view of an allocation: one `VkDeviceMemory`, and one `VkBuffer` over all of it.
//!
//! This is the only place where memory that is shared is allocated. `gpu-allocator` never sees it; it
//! can neither export nor import (Traverse-Research/gpu-allocator#274).
#![expect(
    unsafe_code,
    reason = "Vulkan memory and buffers, owned from the line after their creation"
)]

use std::fmt;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use ash::vk;

use super::address_space;
use super::dma_buf;
use super::host::HostMemory;
use super::memory_type::{self, Wanted};
use super::placement::DomainKind;
use super::size_class::SLOT_ALIGN;
use super::volatile::HostPtr;
use crate::device::quirks::Effect;
use crate::device::{Call, DeviceInner, HandleType, SHARED_BUFFER_USAGE};
use crate::error::{Error, ForeignFdReason, Result};
use crate::observe::Object;

/// One device's memory and buffer over a whole allocation.
///
/// # Invariants
///
/// `buffer` and `memory` are null or live objects of `device`; once constructed both are live, and
/// `buffer` is bound to `memory` at 0. Both are destroyed only by `drop`. `size` is the buffer's
/// size, `memory_size` the memory's.
pub(crate) struct View {
    device: Arc<DeviceInner>,
    memory: vk::DeviceMemory,
    buffer: vk::Buffer,
    size: u64,
    memory_size: u64,
    memory_type: u32,
    handle: HandleType,
    /// The buffer needs the memory for itself alone, so no second one can be bound to it.
    dedicated: bool,
    mapped: OnceLock<HostPtr>,
    /// What was imported by address. Unmapped only after `drop` has freed the memory: the specification
    /// wants the range to stay accessible for as long as the imported object lives.
    host_memory: Option<Arc<HostMemory>>,
}

/// Where an imported view's bytes come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// An fd. For an `OPAQUE_FD`, size and memory type must be the exporter's
    /// (VUID-VkMemoryAllocateInfo-allocationSize-01742).
    Fd { fd: BorrowedFd<'a>, handle: HandleType, memory_size: u64, memory_type: Option<u32> },
    /// Mapped pages.
    Host { memory: &'a Arc<HostMemory> },
}

impl View {
    /// New memory that can be exported as `handle`, in a kind of place.
    ///
    /// Fails with the driver's code, untranslated: only the allocation knows the domain's numbers.
    pub(super) fn export(
        device: &Arc<DeviceInner>,
        size: u64,
        handle: HandleType,
        kind: DomainKind,
    ) -> Result<Self, ViewError> {
        let mut view = Self::with_buffer(device, size, handle)?;
        let requirements = view.requirements();
        let wanted = Wanted::for_domain(kind);
        let types = device.adapter().memory_types();
        view.memory_type = memory_type::choose(types, requirements.memory_type_bits, wanted)
            .ok_or(ViewError::NoMemoryType)?;
        view.memory_size = requirements.size;
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(handle.vk());
        view.allocate(Call::AllocateMemory, &mut export)?;
        view.bind()
    }

    /// Takes in memory that somebody else allocated.
    pub(super) fn import(
        device: &Arc<DeviceInner>,
        size: u64,
        source: Source<'_>,
    ) -> Result<Self, ViewError> {
        match source {
            Source::Fd { fd, handle, memory_size, memory_type } => {
                Self::import_fd(device, size, fd, handle, memory_size, memory_type)
            }
            Source::Host { memory } => Self::import_host(device, memory),
        }
    }

    fn import_fd(
        device: &Arc<DeviceInner>,
        size: u64,
        fd: BorrowedFd<'_>,
        handle: HandleType,
        memory_size: u64,
        memory_type: Option<u32>,
    ) -> Result<Self, ViewError> {
        let mut view = Self::with_buffer(device, size, handle)?;
        let duplicate = dma_buf::duplicate(fd, device.calls())?;
        view.memory_size = memory_size;
        view.memory_type = match memory_type {
            Some(index) if view.fits_type(index) => index,
            Some(_) => return Err(ViewError::NoMemoryType),
            None => view.choose_import_type(fd_memory_types(device, &duplicate)?)?,
        };
        if device.calls().lying_imports() {
            // What a lying driver does: success, and memory of its own.
            let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(handle.vk());
            view.allocate(Call::ImportMemory, &mut export)?;
            return view.bind();
        }
        view.announce(Call::ImportMemory)?;
        // The driver owns the fd once, and only if, the allocation succeeded; so ours is given up
        // just before and taken back on failure.
        let raw = duplicate.into_raw_fd();
        let mut import = vk::ImportMemoryFdInfoKHR::default().handle_type(handle.vk()).fd(raw);
        if let Err(error) = view.allocate_announced(&mut import) {
            // By now the number may be somebody else's file.
            if device.adapter().has_quirk(Effect::ClosesFdOfFailedImport) {
                return Err(error);
            }
            // SAFETY: the allocation failed, so `raw` is still ours ("If this call succeeds, ...
            // ownership is transferred", VkImportMemoryFdInfoKHR).
            drop(unsafe { dma_buf::own(raw, Call::ImportMemory.name()) });
            return Err(error);
        }
        view.bind()
    }

    fn import_host(device: &Arc<DeviceInner>, memory: &Arc<HostMemory>) -> Result<Self, ViewError> {
        let (pointer, size) = (memory.pointer(), memory.size());
        check_host_alignment(device, pointer, size)?;
        let mut view = Self::with_buffer(device, size, HandleType::HostPointer)?;
        view.host_memory = Some(Arc::clone(memory));
        view.memory_size = size;
        view.memory_type = view.choose_import_type(host_memory_types(device, pointer)?)?;
        let mut import = vk::ImportMemoryHostPointerInfoEXT::default()
            .handle_type(HandleType::HostPointer.vk())
            .host_pointer(pointer.as_ptr().cast());
        view.allocate(Call::ImportMemory, &mut import)?;
        view.bind()
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

    pub(super) fn memory_size(&self) -> u64 {
        self.memory_size
    }

    pub(super) fn memory_type(&self) -> u32 {
        self.memory_type
    }

    /// How the memory travels.
    pub(crate) fn handle(&self) -> HandleType {
        self.handle
    }

    /// Whether no second `VkBuffer` can be bound to the memory.
    pub(crate) fn is_dedicated(&self) -> bool {
        self.dedicated
    }

    /// Checks that a buffer with these requirements fits into the memory at `offset`.
    pub(crate) fn check_fits(&self, offset: u64, needs: vk::MemoryRequirements) -> Result<()> {
        let room = self.memory_size.saturating_sub(offset);
        if needs.size > room || needs.memory_type_bits & (1 << self.memory_type) == 0 {
            return Err(Error::Unsupported {
                device: self.device.name().to_owned(),
                missing: format!("room for such a buffer: {} bytes of {room}", needs.size),
            });
        }
        Ok(())
    }

    /// A new fd of the memory, for the caller to own.
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
        // SAFETY: the driver returned a new fd, which is ours.
        unsafe { dma_buf::own(raw, CALL.name()) }
    }

    /// The bytes, if they have been mapped for the host.
    pub(super) fn mapped(&self) -> Option<HostPtr> {
        self.mapped.get().copied()
    }

    /// The bytes, mapped for the host; `Ok(None)` if the host cannot see them. Mapped once, for the
    /// life of the view.
    pub(super) fn host(&self) -> Result<Option<HostPtr>> {
        if let Some(&pointer) = self.mapped.get() {
            return Ok(Some(pointer));
        }
        let flags = self.flags();
        if !flags.contains(vk::MemoryPropertyFlags::HOST_VISIBLE)
            || self.device.calls().unmappable_device_memory()
        {
            return Ok(None);
        }
        const CALL: Call = Call::MapMemory;
        // A second thread may come here at the same time, and memory cannot be mapped twice
        // (VUID-vkMapMemory-memory-00678); the caller holds the allocation's lock.
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

    /// Makes the device's writes to some bytes visible to the host, where the memory is not coherent.
    pub(super) fn invalidate(&self, offset: u64, len: u64) -> Result<()> {
        self.maintain("vkInvalidateMappedMemoryRanges", offset, len, |device, ranges| {
            // SAFETY: all of the memory is mapped (VUID-VkMappedMemoryRange-memory-00684), and the range
            // is one that `maintain` has rounded.
            unsafe { device.invalidate_mapped_memory_ranges(ranges) }
        })
    }

    /// Makes the host's writes to some bytes visible to the device, where the memory is not coherent.
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
        let coherent = self.flags().contains(vk::MemoryPropertyFlags::HOST_COHERENT);
        if coherent || self.mapped.get().is_none() {
            return Ok(());
        }
        // Only these bytes: what a neighbour in the slab has written and not flushed yet would be lost.
        // nonCoherentAtomSize is at most what slots are aligned to.
        let end = (offset + len).next_multiple_of(SLOT_ALIGN);
        let start = offset - offset % SLOT_ALIGN;
        let size = if end >= self.memory_size { vk::WHOLE_SIZE } else { end - start };
        let range = vk::MappedMemoryRange::default().memory(self.memory).offset(start).size(size);
        maintain(self.device.raw(), &[range]).map_err(|code| self.device.error(call, code))
    }

    /// Whether the host sees the memory through its caches.
    pub(super) fn is_host_cached(&self) -> bool {
        let wanted = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_CACHED;
        self.flags().contains(wanted)
    }

    fn flags(&self) -> vk::MemoryPropertyFlags {
        let types = self.device.adapter().memory_types();
        types.get(self.memory_type as usize).map_or(vk::MemoryPropertyFlags::empty(), |t| t.flags)
    }

    // ---- the steps of making a view ----

    fn with_buffer(
        device: &Arc<DeviceInner>,
        size: u64,
        handle: HandleType,
    ) -> Result<Self, ViewError> {
        let buffer = create_buffer(device, size, handle, SHARED_BUFFER_USAGE)?;
        device.live().born(Object::View);
        // INVARIANT: the buffer was just created; the memory is null.
        Ok(Self {
            device: Arc::clone(device),
            memory: vk::DeviceMemory::null(),
            buffer,
            size,
            memory_size: 0,
            memory_type: 0,
            handle,
            dedicated: device.adapter().external_buffer(handle).dedicated_only,
            mapped: OnceLock::new(),
            host_memory: None,
        })
    }

    fn requirements(&self) -> vk::MemoryRequirements {
        // SAFETY: the buffer is live.
        unsafe { self.device.raw().get_buffer_memory_requirements(self.buffer) }
    }

    /// Whether the buffer can be bound to memory of this type; what a stranger says may be no type at all.
    fn fits_type(&self, index: u32) -> bool {
        let bit = 1u32.checked_shl(index).unwrap_or(0);
        self.requirements().memory_type_bits & bit != 0
    }

    fn choose_import_type(&self, handle_bits: u32) -> Result<u32, ViewError> {
        let bits = handle_bits & self.requirements().memory_type_bits;
        memory_type::choose(self.device.adapter().memory_types(), bits, Wanted::for_import())
            .ok_or(ViewError::NoMemoryType)
    }

    fn allocate(
        &mut self,
        call: Call,
        extra: &mut impl vk::ExtendsMemoryAllocateInfo,
    ) -> Result<(), ViewError> {
        self.announce(call)?;
        self.allocate_announced(extra)
    }

    /// All that can fail of an allocation before the driver hears of it.
    fn announce(&self, call: Call) -> Result<(), ViewError> {
        let needed = self.requirements().size;
        if needed > self.memory_size {
            return Err(ViewError::TooSmall { needed, actual: self.memory_size });
        }
        let limit = self.device.adapter().max_allocation();
        if self.memory_size > limit {
            return Err(ViewError::TooLarge { size: self.memory_size, limit });
        }
        Ok(self.device.calls().enter(call)?)
    }

    fn allocate_announced(
        &mut self,
        extra: &mut impl vk::ExtendsMemoryAllocateInfo,
    ) -> Result<(), ViewError> {
        let mut dedicated = vk::MemoryDedicatedAllocateInfo::default().buffer(self.buffer);
        let mut info = vk::MemoryAllocateInfo::default()
            .allocation_size(self.memory_size)
            .memory_type_index(self.memory_type)
            .push_next(extra);
        if self.dedicated {
            info = info.push_next(&mut dedicated);
        }
        // SAFETY: the type index was chosen among the device's own types, by the bits that buffer and
        // handle allow (VUID-VkMemoryAllocateInfo-memoryTypeIndex-00645 ff.); the structures in the
        // chain are complete and outlive the call.
        let made = unsafe { self.device.raw().allocate_memory(&info, None) };
        self.memory = made.map_err(|code| address_space::or_out_of_it(code, self.memory_size))?;
        Ok(())
    }

    fn bind(self) -> Result<Self, ViewError> {
        self.device.calls().enter(Call::BindBufferMemory)?;
        // SAFETY: both are live and unbound; the memory was allocated for the buffer's requirements
        // and with its handle type (VUID-vkBindBufferMemory-memory-02726, -02985).
        unsafe { self.device.raw().bind_buffer_memory(self.buffer, self.memory, 0) }?;
        Ok(self)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: by the type invariant null or live and ours. Nothing uses it any more: mappings and
        // pending work hold an `Arc` of the view or of its allocation.
        unsafe { self.device.raw().destroy_buffer(self.buffer, None) };
        // SAFETY: as above; freeing unmaps.
        unsafe { self.device.raw().free_memory(self.memory, None) };
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

/// Creates an unbound buffer over external memory; the caller owns it.
pub(crate) fn create_buffer(
    device: &DeviceInner,
    size: u64,
    handle: HandleType,
    usage: vk::BufferUsageFlags,
) -> Result<vk::Buffer, vk::Result> {
    let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(handle.vk());
    let info = vk::BufferCreateInfo::default()
        .size(size)
        .usage(usage)
        .sharing_mode(vk::SharingMode::EXCLUSIVE)
        .push_next(&mut external);
    device.calls().enter(Call::CreateBuffer)?;
    // SAFETY: the size is not zero (VUID-VkBufferCreateInfo-size-00912; checked when a buffer is
    // described), and the handle type is one that the device reports or is known to take.
    unsafe { device.raw().create_buffer(&info, None) }
}

fn fd_memory_types(device: &DeviceInner, fd: &OwnedFd) -> Result<u32, ViewError> {
    let ext = device.memory_fd().ok_or(ViewError::NoExtension("VK_KHR_external_memory_fd"))?;
    let mut properties = vk::MemoryFdPropertiesKHR::default();
    device.calls().enter(Call::GetHandleProperties)?;
    // SAFETY: the fd is open, and the handle type is not OPAQUE_FD, for which there is nothing to ask
    // (VUID-vkGetMemoryFdPropertiesKHR-handleType-00674): its memory type comes from the exporter.
    unsafe {
        ext.get_memory_fd_properties(
            HandleType::DmaBuf.vk(),
            std::os::fd::AsRawFd::as_raw_fd(fd),
            &mut properties,
        )
    }?;
    Ok(properties.memory_type_bits)
}

/// VUID-VkMemoryAllocateInfo-allocationSize-01745 and
/// VUID-VkImportMemoryHostPointerInfoEXT-pHostPointer-01749.
fn check_host_alignment(
    device: &DeviceInner,
    pointer: HostPtr,
    size: u64,
) -> Result<(), ViewError> {
    let align = device.adapter().host_pointer_alignment().unwrap_or(1);
    let address = pointer.as_ptr().addr() as u64;
    for (what, value) in [("size of host memory", size), ("address of host memory", address)] {
        if !value.is_multiple_of(align) {
            return Err(Error::Misaligned { what, value, align }.into());
        }
    }
    Ok(())
}

fn host_memory_types(device: &DeviceInner, pointer: HostPtr) -> Result<u32, ViewError> {
    let ext = device.memory_host().ok_or(ViewError::NoExtension("VK_EXT_external_memory_host"))?;
    let mut properties = vk::MemoryHostPointerPropertiesEXT::default();
    device.calls().enter(Call::GetHandleProperties)?;
    // SAFETY: the pointer is mapped, and was found to be aligned to minImportedHostPointerAlignment
    // (VUID-vkGetMemoryHostPointerPropertiesEXT-pHostPointer-01753).
    unsafe {
        (ext.fp().get_memory_host_pointer_properties_ext)(
            device.raw().handle(),
            HandleType::HostPointer.vk(),
            pointer.as_ptr().cast(),
            &mut properties,
        )
    }
    .result()?;
    Ok(properties.memory_type_bits)
}

/// Why a view could not be made, before anybody has said what that means.
#[derive(Debug)]
pub(super) enum ViewError {
    /// The driver's word.
    Vulkan(vk::Result),
    /// Something that already has a name.
    Named(Error),
    /// No memory type is allowed.
    NoMemoryType,
    /// The memory is smaller than the buffer over it needs.
    TooSmall { needed: u64, actual: u64 },
    /// The device does not make or take in so much at once (`maxMemoryAllocationSize`).
    TooLarge { size: u64, limit: u64 },
    /// The device was not given this extension.
    NoExtension(&'static str),
}

impl ViewError {
    /// As an error of taking memory in on `device`.
    pub(super) fn importing(self, device: &DeviceInner, handle: HandleType) -> Error {
        let refuse = |reason| Error::ForeignFd { handle, reason };
        match self {
            Self::Named(error) => error,
            Self::NoMemoryType => refuse(ForeignFdReason::NoMemoryType),
            Self::TooSmall { needed, actual } => {
                refuse(ForeignFdReason::TooSmall { claimed: needed, actual })
            }
            Self::TooLarge { size, limit } => Error::Unsupported {
                device: device.name().to_owned(),
                missing: format!("allocations of {size} bytes; its limit is {limit}"),
            },
            Self::NoExtension(name) => {
                Error::Unsupported { device: device.name().to_owned(), missing: name.to_owned() }
            }
            Self::Vulkan(code) => match device.error(Call::ImportMemory.name(), code) {
                // That says nothing of the fd.
                error if error.is_drivers_out_of_memory() => error,
                Error::Vulkan { code, .. } => refuse(ForeignFdReason::Rejected(code)),
                named => named,
            },
        }
    }
}

impl From<vk::Result> for ViewError {
    fn from(code: vk::Result) -> Self {
        Self::Vulkan(code)
    }
}

impl From<Error> for ViewError {
    fn from(error: Error) -> Self {
        Self::Named(error)
    }
}
