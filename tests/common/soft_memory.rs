//! Emulates a driver with other heaps, memory types and limits than the one on this machine.
//!
//! Functions in the tables that an application passes with its instance and device are replaced. A reported memory type
//! stands for one of the driver's own, whose memory it is; the validation layer sees the driver's own types. A heap that
//! is full, and a limit that is exceeded, are reported as real drivers report them.
#![expect(unsafe_code, reason = "function tables with replaced functions")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ash::vk::{self, Handle, MemoryPropertyFlags as Flags};

/// What is reported instead of the driver's own facts, and enforced.
#[derive(Clone, Debug)]
pub(crate) struct SoftMemory {
    /// Sizes of the heaps in bytes, and whether they are device-local.
    pub(crate) heaps: Vec<(u64, bool)>,
    /// Heap and flags of each memory type. Each stands for the driver's first type that the host sees as well.
    pub(crate) types: Vec<(u32, Flags)>,
    /// `maxMemoryAllocationSize`.
    pub(crate) max_allocation: u64,
    /// `maxBufferSize`.
    pub(crate) max_buffer: u64,
    /// How many allocations there may be at once.
    pub(crate) max_count: usize,
    /// What kind of device it is; `None` for what the driver says.
    pub(crate) kind: Option<vk::PhysicalDeviceType>,
    /// Its version of Vulkan; `None` for what the driver says.
    pub(crate) version: Option<u32>,
    /// Host pointers into files cannot be imported (RADV).
    pub(crate) refuses_files: bool,
}

/// Memory that the host can map.
pub(crate) const HOST: Flags =
    Flags::from_raw(Flags::HOST_VISIBLE.as_raw() | Flags::HOST_COHERENT.as_raw());

impl SoftMemory {
    /// One heap of `vram` bytes that the host cannot map, and one of `host` bytes.
    pub(crate) fn discrete(vram: u64, host: u64) -> Self {
        Self {
            heaps: vec![(vram, true), (host, false)],
            types: vec![(0, Flags::DEVICE_LOCAL), (1, HOST), (1, HOST | Flags::HOST_CACHED)],
            max_allocation: u64::MAX,
            max_buffer: u64::MAX,
            max_count: usize::MAX,
            kind: None,
            version: None,
            refuses_files: false,
        }
    }
}

/// A device whose memory is emulated.
pub(crate) struct Soft {
    memory: SoftMemory,
    real_instance: ash::Instance,
    real: RealDevice,
    live: Mutex<BTreeMap<u64, (usize, u64)>>,
    asked: Mutex<Vec<(u32, u64)>>,
    /// How often properties were asked for that Vulkan 1.0 does not have.
    newer: AtomicUsize,
    physical: vk::PhysicalDevice,
    /// The driver's type behind each emulated one.
    stands_for: Vec<u32>,
}

#[derive(Clone)]
struct RealDevice {
    device: ash::Device,
    fd: Option<vk::PFN_vkGetMemoryFdPropertiesKHR>,
    host: Option<vk::PFN_vkGetMemoryHostPointerPropertiesEXT>,
}

/// By handle of the physical device.
static KNOWN: Mutex<BTreeMap<u64, Arc<Soft>>> = Mutex::new(BTreeMap::new());
/// By handle of the device: that of the application, and those that an engine opens beside it.
static DEVICES: Mutex<BTreeMap<u64, (Arc<Soft>, RealDevice)>> = Mutex::new(BTreeMap::new());
/// What the loader's own `vkGetDeviceProcAddr` is.
static LOADER: Mutex<Option<vk::PFN_vkGetDeviceProcAddr>> = Mutex::new(None);

impl RealDevice {
    fn new(device: ash::Device, loader: vk::PFN_vkGetDeviceProcAddr) -> Self {
        // SAFETY: a live device and a name that ends.
        let get = |name: &CStr| unsafe { loader(device.handle(), name.as_ptr()) };
        Self {
            // SAFETY: the function of this name has this type.
            fd: get(FD_PROPERTIES).map(|f| unsafe { std::mem::transmute(f) }),
            // SAFETY: as above.
            host: get(HOST_PROPERTIES).map(|f| unsafe { std::mem::transmute(f) }),
            device,
        }
    }
}

impl Soft {
    /// Replaces functions of the instance and of the device.
    pub(crate) fn new(
        memory: SoftMemory,
        instance: &ash::Instance,
        physical: vk::PhysicalDevice,
        device: &ash::Device,
    ) -> Arc<Self> {
        let loader = instance.fp_v1_0().get_device_proc_addr;
        *lock(&LOADER) = Some(loader);
        let real = RealDevice::new(device.clone(), loader);
        // SAFETY: a physical device of the live instance.
        let driver = unsafe { instance.get_physical_device_memory_properties(physical) };
        let stands_for = memory.types.iter().map(|(_, flags)| first_with(*flags & HOST, &driver));
        let this = Arc::new(Self {
            stands_for: stands_for.collect(),
            memory,
            real_instance: instance.clone(),
            real: real.clone(),
            live: Mutex::default(),
            asked: Mutex::default(),
            newer: AtomicUsize::new(0),
            physical,
        });
        let key = physical.as_raw();
        assert!(lock(&KNOWN).insert(key, Arc::clone(&this)).is_none(), "handles differ");
        lock(&DEVICES).insert(device.handle().as_raw(), (Arc::clone(&this), real));
        this
    }

    /// The instance, with a function table that reports the emulated memory.
    pub(crate) fn instance(&self) -> ash::Instance {
        let real = &self.real_instance;
        let core = ash::InstanceFnV1_0 {
            get_physical_device_memory_properties: memory_properties,
            get_physical_device_properties: properties,
            get_device_proc_addr: device_proc_addr,
            create_device,
            ..real.fp_v1_0().clone()
        };
        let newer = ash::InstanceFnV1_1 {
            get_physical_device_memory_properties2: memory_properties2,
            get_physical_device_properties2: properties2,
            ..real.fp_v1_1().clone()
        };
        ash::Instance::from_parts_1_3(real.handle(), core, newer, real.fp_v1_3().clone())
    }

    /// The device, with a function table that allocates from the emulated heaps.
    pub(crate) fn device(&self) -> ash::Device {
        let real = &self.real.device;
        let core = ash::DeviceFnV1_0 {
            allocate_memory,
            free_memory,
            get_buffer_memory_requirements,
            ..real.fp_v1_0().clone()
        };
        let (one, two, three) = (real.fp_v1_1(), real.fp_v1_2(), real.fp_v1_3());
        ash::Device::from_parts_1_3(real.handle(), core, one.clone(), two.clone(), three.clone())
    }

    /// How many bytes are allocated in a heap.
    pub(crate) fn used(&self, heap: usize) -> u64 {
        lock(&self.live).values().filter(|(of, _)| *of == heap).map(|(_, size)| size).sum()
    }

    /// How many allocations there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Memory type and size of all allocations that were asked for, refused ones included.
    pub(crate) fn asked(&self) -> Vec<(u32, u64)> {
        lock(&self.asked).clone()
    }

    /// How often properties were asked for that Vulkan 1.0 does not have.
    pub(crate) fn newer_queries(&self) -> usize {
        self.newer.load(Ordering::Relaxed)
    }

    /// Forgets the device, which is about to be destroyed.
    pub(crate) fn forget(&self) {
        lock(&KNOWN).remove(&self.physical.as_raw());
        lock(&DEVICES).remove(&self.real.device.handle().as_raw());
    }

    fn report(&self, out: &mut vk::PhysicalDeviceMemoryProperties) {
        *out = vk::PhysicalDeviceMemoryProperties::default();
        out.memory_heap_count = u32::try_from(self.memory.heaps.len()).expect("a few");
        out.memory_type_count = u32::try_from(self.memory.types.len()).expect("a few");
        for (heap, &(size, local)) in out.memory_heaps.iter_mut().zip(&self.memory.heaps) {
            let flag = vk::MemoryHeapFlags::DEVICE_LOCAL;
            *heap = vk::MemoryHeap { size, flags: if local { flag } else { Default::default() } };
        }
        for (kind, &(heap_index, property_flags)) in
            out.memory_types.iter_mut().zip(&self.memory.types)
        {
            *kind = vk::MemoryType { property_flags, heap_index };
        }
    }

    /// The emulated types that stand for one of these.
    fn bits(&self, real: u32) -> u32 {
        let each = self.stands_for.iter().zip(0..);
        each.filter(|(of, _)| real >> **of & 1 == 1).fold(0, |bits, (_, at)| bits | 1 << at)
    }
}

/// The driver's first memory type with these flags.
fn first_with(flags: Flags, driver: &vk::PhysicalDeviceMemoryProperties) -> u32 {
    let mut types = driver.memory_types_as_slice().iter().zip(0..);
    types.find(|(kind, _)| kind.property_flags.contains(flags)).map_or(0, |(_, at)| at)
}

/// The driver's own type for an import of an address; `None` for other allocations.
///
/// # Safety
///
/// `info` is valid, with its chain.
unsafe fn type_of_host_import(
    device: vk::Device,
    real: &RealDevice,
    info: &vk::MemoryAllocateInfo<'_>,
) -> Option<u32> {
    let mut next = info.p_next.cast::<vk::BaseInStructure<'_>>();
    // SAFETY: a chain of valid structures.
    while let Some(here) = unsafe { next.as_ref() } {
        if here.s_type == vk::StructureType::IMPORT_MEMORY_HOST_POINTER_INFO_EXT {
            let import = std::ptr::from_ref(here).cast::<vk::ImportMemoryHostPointerInfoEXT<'_>>();
            // SAFETY: its type says what it is.
            let import = unsafe { &*import };
            let mut out = vk::MemoryHostPointerPropertiesEXT::default();
            // SAFETY: the device has the extension, since it imports an address.
            let result =
                unsafe { real.host?(device, import.handle_type, import.p_host_pointer, &mut out) };
            let known = result == vk::Result::SUCCESS && out.memory_type_bits != 0;
            return known.then_some(out.memory_type_bits.trailing_zeros());
        }
        next = here.p_next;
    }
    None
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn known(handle: u64) -> Option<Arc<Soft>> {
    lock(&KNOWN).get(&handle).cloned()
}

/// `None` for a device that was not created through the emulated instance. The functions then fail: a panic would
/// abort the test program, since they cannot unwind.
fn of_device(device: vk::Device) -> Option<(Arc<Soft>, RealDevice)> {
    lock(&DEVICES).get(&device.as_raw()).cloned()
}

/// Whether an address of this process is in a mapping of a file.
fn is_file(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let hex = |text: &str| usize::from_str_radix(text, 16).expect("the kernel writes it so");
    maps.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let inode = fields.nth(3);
        let within = range.is_some_and(|(a, b)| (hex(a)..hex(b)).contains(&address));
        within && inode.is_some_and(|inode| inode != "0")
    })
}

// ---- the functions ----

const FD_PROPERTIES: &CStr = c"vkGetMemoryFdPropertiesKHR";
const HOST_PROPERTIES: &CStr = c"vkGetMemoryHostPointerPropertiesEXT";

unsafe extern "system" fn memory_properties(
    physical: vk::PhysicalDevice,
    out: *mut vk::PhysicalDeviceMemoryProperties,
) {
    let soft = known(physical.as_raw()).expect("emulated");
    // SAFETY: the caller's contract.
    soft.report(unsafe { &mut *out });
}

unsafe extern "system" fn memory_properties2(
    physical: vk::PhysicalDevice,
    out: *mut vk::PhysicalDeviceMemoryProperties2<'_>,
) {
    // SAFETY: the caller's contract.
    let out = unsafe { &mut *out };
    // SAFETY: as above.
    unsafe { memory_properties(physical, &mut out.memory_properties) };
}

unsafe extern "system" fn properties(
    physical: vk::PhysicalDevice,
    out: *mut vk::PhysicalDeviceProperties,
) {
    let soft = known(physical.as_raw()).expect("emulated");
    // SAFETY: the caller's contract.
    let out = unsafe { &mut *out };
    // SAFETY: as above.
    unsafe { (soft.real_instance.fp_v1_0().get_physical_device_properties)(physical, out) };
    out.api_version = soft.memory.version.unwrap_or(out.api_version);
    if let Some(kind) = soft.memory.kind {
        out.device_type = kind;
    }
}

unsafe extern "system" fn properties2(
    physical: vk::PhysicalDevice,
    out: *mut vk::PhysicalDeviceProperties2<'_>,
) {
    let soft = known(physical.as_raw()).expect("emulated");
    soft.newer.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller's contract.
    unsafe { (soft.real_instance.fp_v1_1().get_physical_device_properties2)(physical, out) };
    // SAFETY: as above.
    let mut next = unsafe { (*out).p_next }.cast::<vk::BaseOutStructure<'_>>();
    // SAFETY: a chain of valid structures.
    while let Some(here) = unsafe { next.as_mut() } {
        if here.s_type == vk::StructureType::PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES {
            let limits =
                std::ptr::from_mut(here).cast::<vk::PhysicalDeviceMaintenance3Properties<'_>>();
            // SAFETY: its type says what it is.
            let limits = unsafe { &mut *limits };
            limits.max_memory_allocation_size =
                limits.max_memory_allocation_size.min(soft.memory.max_allocation);
        }
        if here.s_type == vk::StructureType::PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES {
            let limits =
                std::ptr::from_mut(here).cast::<vk::PhysicalDeviceMaintenance4Properties<'_>>();
            // SAFETY: its type says what it is.
            let limits = unsafe { &mut *limits };
            limits.max_buffer_size = limits.max_buffer_size.min(soft.memory.max_buffer);
        }
        next = here.p_next;
    }
}

unsafe extern "system" fn device_proc_addr(
    device: vk::Device,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    let loader = lock(&LOADER).expect("set with the first device");
    // SAFETY: the caller's contract.
    let real = unsafe { loader(device, name) }?;
    if of_device(device).is_none() {
        return Some(real);
    }
    // SAFETY: cast back by the caller, who knows the type of the function with that name.
    let erased = |ours: *const ()| unsafe {
        Some(std::mem::transmute::<*const (), unsafe extern "system" fn()>(ours))
    };
    // SAFETY: as above.
    match unsafe { CStr::from_ptr(name) } {
        asked if asked == FD_PROPERTIES => erased(fd_properties as *const ()),
        asked if asked == HOST_PROPERTIES => erased(host_properties as *const ()),
        asked if asked == c"vkAllocateMemory" => erased(allocate_memory as *const ()),
        asked if asked == c"vkFreeMemory" => erased(free_memory as *const ()),
        asked if asked == c"vkDestroyDevice" => erased(destroy_device as *const ()),
        asked if asked == c"vkGetBufferMemoryRequirements" => {
            erased(get_buffer_memory_requirements as *const ())
        }
        _ => Some(real),
    }
}

/// The device gets the emulated memory too, and shares it with the application's device.
unsafe extern "system" fn create_device(
    physical: vk::PhysicalDevice,
    info: *const vk::DeviceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Device,
) -> vk::Result {
    let (Some(soft), Some(loader)) = (known(physical.as_raw()), *lock(&LOADER)) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    let functions = soft.real_instance.fp_v1_0();
    // SAFETY: the caller's contract.
    let result = unsafe { (functions.create_device)(physical, info, allocator, out) };
    if result == vk::Result::SUCCESS {
        // SAFETY: written by the call.
        let created = unsafe { *out };
        // SAFETY: a live device of this instance.
        let device = unsafe { ash::Device::load(functions, created) };
        let key = device.handle().as_raw();
        let real = RealDevice::new(device, loader);
        lock(&DEVICES).insert(key, (soft, real));
    }
    result
}

unsafe extern "system" fn destroy_device(
    device: vk::Device,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    // Forgotten first: the next device may get the same handle.
    let removed = lock(&DEVICES).remove(&device.as_raw());
    if let Some((_, real)) = removed {
        // SAFETY: the caller's contract.
        unsafe { (real.device.fp_v1_0().destroy_device)(device, allocator) };
    }
}

unsafe extern "system" fn fd_properties(
    device: vk::Device,
    handle: vk::ExternalMemoryHandleTypeFlags,
    fd: i32,
    out: *mut vk::MemoryFdPropertiesKHR<'_>,
) -> vk::Result {
    let Some((soft, RealDevice { fd: Some(real), .. })) = of_device(device) else {
        return vk::Result::ERROR_UNKNOWN;
    };
    // SAFETY: the caller's contract.
    let result = unsafe { real(device, handle, fd, out) };
    // SAFETY: as above.
    let out = unsafe { &mut *out };
    out.memory_type_bits = soft.bits(out.memory_type_bits);
    result
}

unsafe extern "system" fn host_properties(
    device: vk::Device,
    handle: vk::ExternalMemoryHandleTypeFlags,
    pointer: *const std::ffi::c_void,
    out: *mut vk::MemoryHostPointerPropertiesEXT<'_>,
) -> vk::Result {
    let Some((soft, RealDevice { host: Some(real), .. })) = of_device(device) else {
        return vk::Result::ERROR_UNKNOWN;
    };
    if soft.memory.refuses_files && is_file(pointer.addr()) {
        return vk::Result::ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the caller's contract.
    let result = unsafe { real(device, handle, pointer, out) };
    // SAFETY: as above.
    let out = unsafe { &mut *out };
    // The emulated types differ in heaps and flags alone.
    let all = (1 << soft.memory.types.len()) - 1;
    out.memory_type_bits = if out.memory_type_bits == 0 { 0 } else { all };
    result
}

unsafe extern "system" fn get_buffer_memory_requirements(
    device: vk::Device,
    buffer: vk::Buffer,
    out: *mut vk::MemoryRequirements,
) {
    let Some((soft, real)) = of_device(device) else { return };
    // SAFETY: the caller's contract.
    unsafe { (real.device.fp_v1_0().get_buffer_memory_requirements)(device, buffer, out) };
    // SAFETY: as above.
    let out = unsafe { &mut *out };
    out.memory_type_bits = soft.bits(out.memory_type_bits);
}

unsafe extern "system" fn allocate_memory(
    device: vk::Device,
    info: *const vk::MemoryAllocateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::DeviceMemory,
) -> vk::Result {
    let Some((soft, real)) = of_device(device) else {
        return vk::Result::ERROR_UNKNOWN;
    };
    // SAFETY: the caller's contract.
    let mut info = unsafe { *info };
    let index = usize::try_from(info.memory_type_index).expect("small");
    let heap = usize::try_from(soft.memory.types[index].0).expect("small");
    let size = info.allocation_size;
    lock(&soft.asked).push((info.memory_type_index, size));
    assert!(size <= soft.memory.max_allocation, "{size} bytes exceed maxMemoryAllocationSize");
    // VUID-vkAllocateMemory-pAllocateInfo-01713.
    assert!(size <= soft.memory.heaps[heap].0, "{size} bytes exceed heap {heap}");
    if soft.count() >= soft.memory.max_count {
        return vk::Result::ERROR_TOO_MANY_OBJECTS;
    }
    if soft.used(heap) + size > soft.memory.heaps[heap].0 {
        return vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    }
    // SAFETY: the caller's contract.
    let imported = unsafe { type_of_host_import(device, &real, &info) };
    info.memory_type_index = imported.unwrap_or(soft.stands_for[index]);
    // SAFETY: the caller's contract; the driver's own type is the one that the emulated one stands for.
    let result = unsafe { (real.device.fp_v1_0().allocate_memory)(device, &info, allocator, out) };
    if result == vk::Result::SUCCESS {
        // SAFETY: written by the call.
        lock(&soft.live).insert(unsafe { *out }.as_raw(), (heap, size));
    }
    result
}

unsafe extern "system" fn free_memory(
    device: vk::Device,
    memory: vk::DeviceMemory,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let Some((soft, real)) = of_device(device) else { return };
    lock(&soft.live).remove(&memory.as_raw());
    // SAFETY: the caller's contract.
    unsafe { (real.device.fp_v1_0().free_memory)(device, memory, allocator) };
}
