//! Creates views: allocates exportable memory, or imports an fd or host memory, and binds a buffer to it.
//!
//! Shared memory is allocated here only. `gpu-allocator` is not used for it, since it can neither export nor
//! import (Traverse-Research/gpu-allocator#274).
#![expect(
    unsafe_code,
    reason = "Vulkan memory and buffers, owned from the line after their creation"
)]

use crate::device::quirks::Effect;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use ash::vk;

use super::address_space;
use super::dma_buf;
use super::domain_id::DomainKind;
use super::host::HostMemory;
use super::import_ledger::ImportLedger;
use super::memory_type::{self, MemoryPriority, Wanted};
use super::view::{VIEW_LIMIT, View};
use super::view_error::ViewError;
use super::volatile::HostPtr;
use crate::device::{Call, DeviceInner, HandleType, MemoryType, SHARED_BUFFER_USAGE};
use crate::error::{Error, Result};
use crate::fd::Given;
use crate::observe::Object;

/// What a view imports.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// An fd. For an `OPAQUE_FD`, size and memory type must be the exporter's
    /// (VUID-VkMemoryAllocateInfo-allocationSize-01742).
    Fd { fd: BorrowedFd<'a>, handle: HandleType, memory_size: u64, memory_type: Option<u32> },
    /// Mapped pages.
    Host { memory: &'a Arc<HostMemory> },
}

impl View {
    /// Allocates memory that can be exported as `handle`, in a kind of domain.
    ///
    /// Fails with the driver's code, untranslated: only the allocation knows the usage of its domain.
    pub(super) fn export(
        device: &Arc<DeviceInner>,
        size: u64,
        handle: HandleType,
        wanted: (DomainKind, MemoryPriority),
    ) -> Result<Self, ViewError> {
        Self::new(device, size, handle, wanted, handle.vk())
    }

    /// Allocates the device's own memory, which cannot be exported. Its buffer is as that of exported memory, and so is
    /// its memory type.
    ///
    /// Fails as [`View::export`] does.
    pub(super) fn private(
        device: &Arc<DeviceInner>,
        size: u64,
        priority: MemoryPriority,
    ) -> Result<Self, ViewError> {
        let handle = exported_handle(device).ok_or(ViewError::NoMemoryType)?;
        let no_export = vk::ExternalMemoryHandleTypeFlags::empty();
        Self::new(device, size, handle, (DomainKind::Vram, priority), no_export)
    }

    fn new(
        device: &Arc<DeviceInner>,
        size: u64,
        handle: HandleType,
        (kind, priority): (DomainKind, MemoryPriority),
        exports: vk::ExternalMemoryHandleTypeFlags,
    ) -> Result<Self, ViewError> {
        let mut view = Self::with_buffer(device, size, handle)?;
        view.memory_type = view.choose_type(kind).ok_or(ViewError::NoMemoryType)?;
        (view.memory_size, view.private) = (view.requirements().size, exports.is_empty());
        let mut priority =
            vk::MemoryPriorityAllocateInfoEXT::default().priority(priority.value(kind));
        let priority = device.has_memory_priority().then_some(&mut priority);
        if exports.is_empty() {
            // lavapipe refuses an export of no handle type.
            view.allocate(Call::AllocateMemory, priority)?;
        } else {
            let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(exports);
            if let Some(priority) = priority {
                export.p_next = std::ptr::from_mut(priority).cast();
            }
            view.allocate(Call::AllocateMemory, Some(&mut export))?;
        }
        view.bind()
    }

    /// Imports memory, and counts it in a ledger as memory of a kind of domain.
    pub(super) fn import(
        device: &Arc<DeviceInner>,
        size: u64,
        source: Source<'_>,
        (ledger, kind): (&Arc<ImportLedger>, DomainKind),
    ) -> Result<Self, ViewError> {
        ledger.reserve(device, kind, size)?;
        let view = match source {
            Source::Fd { fd, handle, memory_size, memory_type } => {
                Self::import_fd(device, size, fd, handle, memory_size, memory_type)
            }
            Source::Host { memory } => Self::import_host(device, memory),
        };
        let mut view = view.inspect_err(|_| ledger.release(device.id(), kind, size))?;
        debug_assert_eq!(view.size, size, "as counted");
        device.note_import(view.handle);
        view.imported = Some((Arc::clone(ledger), kind));
        Ok(view)
    }

    /// Allocates memory as [`View::export`] does, but not for export, and frees it. Fails with the driver's code.
    ///
    /// If this succeeds where [`View::export`] is out of memory, the domain is not full.
    pub(crate) fn try_private(
        device: &Arc<DeviceInner>,
        size: u64,
        handle: HandleType,
        kind: DomainKind,
    ) -> Result<(), vk::Result> {
        let code = |error| match error {
            ViewError::Vulkan(code) => code,
            _ => vk::Result::ERROR_UNKNOWN,
        };
        let view = Self::with_buffer(device, size, handle).map_err(code)?;
        let requirements = view.requirements();
        let index = view.choose_type(kind).ok_or(vk::Result::ERROR_UNKNOWN)?;
        device.calls().enter(Call::AllocateMemory)?;
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(requirements.size)
            .memory_type_index(index);
        // SAFETY: the type index was chosen among the device's own types
        // (VUID-vkAllocateMemory-pAllocateInfo-01714); nothing is bound to the memory.
        let memory = unsafe { device.raw().allocate_memory(&info, None) }?;
        // SAFETY: allocated above, and not used.
        unsafe { device.raw().free_memory(memory, None) };
        Ok(())
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
            // A faulty driver reports success, and allocates memory of its own.
            let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(handle.vk());
            view.allocate(Call::ImportMemory, Some(&mut export))?;
            return view.bind();
        }
        view.announce(Call::ImportMemory)?;
        // The driver owns the fd if, and only if, the allocation succeeds. So it is released just before, and
        // taken back on failure.
        let given = Given::duplicate_of(fd, duplicate);
        let mut import =
            vk::ImportMemoryFdInfoKHR::default().handle_type(handle.vk()).fd(given.raw());
        if let Err(error) = view.allocate_announced(Some(&mut import)) {
            let error = error.of_file(fd, memory_size);
            // Where the driver is known to have closed it, nothing is compared. The quirk is about a lack of address
            // space, which is no refusal.
            let is_refusal = matches!(error, ViewError::RefusedFile { .. });
            if device.adapter().has_quirk(Effect::ClosesFdOfFailedImport) && !is_refusal {
                return Err(error);
            }
            // SAFETY: the allocation failed ("If this call succeeds, ... ownership is transferred",
            // VkImportMemoryFdInfoKHR).
            unsafe { given.take_back(Call::ImportMemory.name()) };
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
        view.allocate(Call::ImportMemory, Some(&mut import))?;
        view.bind()
    }

    fn with_buffer(
        device: &Arc<DeviceInner>,
        size: u64,
        handle: HandleType,
    ) -> Result<Self, ViewError> {
        // Before the call: a size beyond `maxBufferSize` breaks a rule (VUID-VkBufferCreateInfo-size-06409), and no
        // buffer can be larger than its memory.
        let limit = device.adapter().max_allocation().min(VIEW_LIMIT - 1);
        if size > limit {
            return Err(ViewError::TooLarge { size, limit });
        }
        let mut usage = SHARED_BUFFER_USAGE;
        if device.has_device_addresses() {
            usage |= vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS;
        }
        let buffer = create_buffer(device, size, handle, usage)?;
        device.live().born(Object::View);
        // INVARIANT: the buffer was just created; the memory is null.
        Ok(Self {
            memory: vk::DeviceMemory::null(),
            buffer,
            changes: Arc::default(),
            device: Arc::clone(device),
            size,
            memory_size: 0,
            memory_type: 0,
            handle,
            dedicated: device.adapter().external_buffer(handle).dedicated_only,
            private: false,
            imported: None,
            mapped: OnceLock::new(),
            host_memory: None,
        })
    }

    fn requirements(&self) -> vk::MemoryRequirements {
        // SAFETY: the buffer is live.
        unsafe { self.device.raw().get_buffer_memory_requirements(self.buffer) }
    }

    /// Whether the buffer can be bound to memory of this type. A foreign exporter may pass an index that does not
    /// exist.
    fn fits_type(&self, index: u32) -> bool {
        let bit = 1u32.checked_shl(index).unwrap_or(0);
        let usable = |kind: &MemoryType| memory_type::is_usable(kind.flags);
        self.requirements().memory_type_bits & bit != 0
            && self.device.adapter().memory_types().get(index as usize).is_some_and(usable)
    }

    /// The type of new memory for a domain.
    fn choose_type(&self, kind: DomainKind) -> Option<u32> {
        let adapter = self.device.adapter();
        let wanted = Wanted::for_domain(kind, adapter.shares_system_memory());
        let bits = self.requirements().memory_type_bits;
        memory_type::choose(adapter.memory_types(), adapter.heaps(), bits, wanted)
    }

    fn choose_import_type(&self, handle_bits: u32) -> Result<u32, ViewError> {
        let bits = handle_bits & self.requirements().memory_type_bits;
        let adapter = self.device.adapter();
        memory_type::choose(adapter.memory_types(), adapter.heaps(), bits, Wanted::for_import())
            .ok_or(ViewError::NoMemoryType)
    }

    fn allocate(
        &mut self,
        call: Call,
        extra: Option<&mut impl vk::ExtendsMemoryAllocateInfo>,
    ) -> Result<(), ViewError> {
        self.announce(call)?;
        self.allocate_announced(extra)
    }

    /// Makes the checks that precede the driver's call, and counts the call.
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
        extra: Option<&mut impl vk::ExtendsMemoryAllocateInfo>,
    ) -> Result<(), ViewError> {
        let mut dedicated = vk::MemoryDedicatedAllocateInfo::default().buffer(self.buffer);
        let mut info = vk::MemoryAllocateInfo::default()
            .allocation_size(self.memory_size)
            .memory_type_index(self.memory_type);
        if let Some(extra) = extra {
            info = info.push_next(extra);
        }
        if self.dedicated {
            info = info.push_next(&mut dedicated);
        }
        let mut flags =
            vk::MemoryAllocateFlagsInfo::default().flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
        if self.device.has_device_addresses() {
            // VUID-vkBindBufferMemory-bufferDeviceAddress-03339.
            info = info.push_next(&mut flags);
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

/// The kind of handle by which a device's own memory is exported first.
pub(super) fn exported_handle(device: &DeviceInner) -> Option<HandleType> {
    device.memory_fd()?;
    [HandleType::DmaBuf, HandleType::OpaqueFd].into_iter().find(|&handle| {
        device.adapter().external_buffer(handle).exportable
            && (handle != HandleType::DmaBuf || device.has_dma_buf())
    })
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
    // described), and the handle type is one that the device reports or is known to accept.
    unsafe { device.raw().create_buffer(&info, None) }
}

fn fd_memory_types(device: &DeviceInner, fd: &OwnedFd) -> Result<u32, ViewError> {
    let ext = device.memory_fd().ok_or(ViewError::NoExtension("VK_KHR_external_memory_fd"))?;
    let mut properties = vk::MemoryFdPropertiesKHR::default();
    device.calls().enter(Call::GetHandleProperties)?;
    // SAFETY: the fd is open, and the handle type is not OPAQUE_FD, which has no such properties
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

/// Checks the alignment of host memory for an import (VUID-VkMemoryAllocateInfo-allocationSize-01745 and
/// VUID-VkImportMemoryHostPointerInfoEXT-pHostPointer-01749).
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
    // SAFETY: the pointer is mapped, and was checked to be aligned to minImportedHostPointerAlignment
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
