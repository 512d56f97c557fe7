//! A buffer that the host maps, for the way through the host.
#![expect(unsafe_code, reason = "memory of a live device, mapped by the host")]

use ash::vk;
use peerbuf::Device;

use crate::Result;

/// Memory of a device that the host reads and writes, coherent. Work that uses it must have ended when it is dropped:
/// [`crate::in_use::InUse`] waits for that.
///
/// # Invariants
///
/// The handles are live, and the whole memory is mapped at `address`, until `drop`.
pub struct HostBuffer {
    device: Device,
    raw: vk::Buffer,
    memory: vk::DeviceMemory,
    address: *mut u8,
    bytes: usize,
}

impl HostBuffer {
    /// A buffer that is copied from and to. `cached` memory is read fast by the host.
    ///
    /// # Errors
    ///
    /// The error of a call.
    pub fn new(device: &Device, bytes: usize, cached: bool) -> Result<Self> {
        let raw = device.raw();
        let info = vk::BufferCreateInfo::default()
            .size(bytes.max(1) as u64)
            .usage(vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST);
        // SAFETY: the device is live.
        let buffer = unsafe { raw.create_buffer(&info, None) }?;
        let null = vk::DeviceMemory::null();
        let address = std::ptr::null_mut();
        // What was created is destroyed by `drop` from here on.
        let mut this = Self { device: device.clone(), raw: buffer, memory: null, address, bytes };
        // SAFETY: the buffer is live.
        let needs = unsafe { raw.get_buffer_memory_requirements(buffer) };
        let kind = memory_type(device, needs.memory_type_bits, cached)
            .ok_or("the device has no memory that the host maps")?;
        let info =
            vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(kind);
        // SAFETY: the type is one of the device's.
        this.memory = unsafe { raw.allocate_memory(&info, None) }?;
        // SAFETY: the buffer has no memory yet, and this is large enough and of a type that it may have.
        unsafe { raw.bind_buffer_memory(buffer, this.memory, 0) }?;
        let flags = vk::MemoryMapFlags::empty();
        // SAFETY: the memory can be mapped, and is not.
        this.address = unsafe { raw.map_memory(this.memory, 0, vk::WHOLE_SIZE, flags) }?.cast();
        Ok(this)
    }

    /// The raw buffer.
    pub fn raw(&self) -> vk::Buffer {
        self.raw
    }

    /// Copies the bytes of another buffer.
    ///
    /// # Safety
    ///
    /// No device uses either buffer.
    pub unsafe fn copy_from(&mut self, other: &Self) {
        let bytes = self.bytes.min(other.bytes);
        // SAFETY: both are mapped, as long as this, and two allocations do not overlap; no device uses them.
        unsafe { std::ptr::copy_nonoverlapping(other.address, self.address, bytes) };
    }

    /// Copies bytes to the beginning.
    ///
    /// # Safety
    ///
    /// No device uses the buffer.
    pub unsafe fn write(&mut self, bytes: &[u8]) {
        // SAFETY: the caller's contract.
        unsafe { self.write_at(0, bytes) };
    }

    /// Copies bytes to an offset; what does not fit is left out.
    ///
    /// # Safety
    ///
    /// No device uses the buffer.
    pub unsafe fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        let offset = offset.min(self.bytes);
        let count = bytes.len().min(self.bytes - offset);
        // SAFETY: within the memory, which is mapped.
        let to = unsafe { self.address.add(offset) };
        // SAFETY: both are as long, and another allocation's; no device uses the memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count) };
    }

    /// The bytes.
    ///
    /// # Safety
    ///
    /// No device writes the buffer, while the slice lives.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, as long as this; not written by the caller's contract.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }
}

/// A type of memory among `allowed` that the host maps without flushing.
fn memory_type(device: &Device, allowed: u32, cached: bool) -> Option<u32> {
    let find = |wanted: vk::MemoryPropertyFlags| {
        let types = (0..).zip(device.adapter().memory_types());
        let mut fitting =
            types.filter(|(at, kind)| allowed >> at & 1 == 1 && kind.flags.contains(wanted));
        fitting.next().map(|(at, _)| at)
    };
    let mapped = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
    let best = mapped | if cached { vk::MemoryPropertyFlags::HOST_CACHED } else { mapped };
    find(best).or_else(|| find(mapped))
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        let raw = self.device.raw();
        // SAFETY: null or live, and no device uses it any more. Freeing unmaps.
        unsafe { raw.destroy_buffer(self.raw, None) };
        // SAFETY: as above.
        unsafe { raw.free_memory(self.memory, None) };
    }
}

impl std::fmt::Debug for HostBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostBuffer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
