//! A driver that reports that timeline semaphores are shared as opaque fds: function tables that an application passes
//! with its device. The software drivers share none, so the driver below sees plain timelines.
#![expect(unsafe_code, reason = "function tables with replaced functions")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use ash::vk::{self, Handle};
use peerbuf::device::AdoptedDevice;

/// How timelines for export behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exports {
    /// They are made. An import succeeds; but the imported timeline never moves by itself, as if the exporter never
    /// signalled it.
    Made,
    /// They cannot be made, whatever is reported.
    Fail,
}

type Create = vk::PFN_vkCreateSemaphore;

/// By device handle.
static DEVICES: Mutex<BTreeMap<u64, (Exports, Create)>> = Mutex::new(BTreeMap::new());
/// The loader's function, which is the same for every instance.
static GET_DEVICE_PROC_ADDR: OnceLock<vk::PFN_vkGetDeviceProcAddr> = OnceLock::new();
static QUERY: OnceLock<vk::PFN_vkGetPhysicalDeviceExternalSemaphoreProperties> = OnceLock::new();

/// Replaces functions of `facts`, so that its driver reports that it shares timelines.
pub(crate) fn report(facts: &mut AdoptedDevice, exports: Exports) {
    let (real, instance) = (&facts.device, &facts.instance);
    let functions = real.fp_v1_0().clone();
    let known = (exports, functions.create_semaphore);
    DEVICES.lock().unwrap_or_else(PoisonError::into_inner).insert(real.handle().as_raw(), known);
    GET_DEVICE_PROC_ADDR.get_or_init(|| instance.fp_v1_0().get_device_proc_addr);
    let queries = instance.fp_v1_1();
    QUERY.get_or_init(|| queries.get_physical_device_external_semaphore_properties);
    facts.device = ash::Device::from_parts_1_3(
        real.handle(),
        ash::DeviceFnV1_0 { create_semaphore, ..functions },
        real.fp_v1_1().clone(),
        real.fp_v1_2().clone(),
        real.fp_v1_3().clone(),
    );
    facts.instance = ash::Instance::from_parts_1_3(
        instance.handle(),
        ash::InstanceFnV1_0 { get_device_proc_addr, ..instance.fp_v1_0().clone() },
        ash::InstanceFnV1_1 {
            get_physical_device_external_semaphore_properties: query,
            ..queries.clone()
        },
        instance.fp_v1_3().clone(),
    );
}

/// Whether a chain names a timeline.
///
/// # Safety
///
/// `next` begins a valid chain.
unsafe fn is_timeline(mut next: *const vk::BaseInStructure<'_>) -> bool {
    // SAFETY: the caller's contract.
    while let Some(structure) = unsafe { next.as_ref() } {
        if structure.s_type == vk::StructureType::SEMAPHORE_TYPE_CREATE_INFO {
            // SAFETY: its type says what it is.
            let kind = unsafe { &*next.cast::<vk::SemaphoreTypeCreateInfo<'_>>() };
            return kind.semaphore_type == vk::SemaphoreType::TIMELINE;
        }
        next = structure.p_next;
    }
    false
}

unsafe extern "system" fn query(
    physical: vk::PhysicalDevice,
    info: *const vk::PhysicalDeviceExternalSemaphoreInfo<'_>,
    out: *mut vk::ExternalSemaphoreProperties<'_>,
) {
    // SAFETY: the caller's contract.
    unsafe { QUERY.get().expect("set")(physical, info, out) };
    // SAFETY: as above.
    let info = unsafe { &*info };
    // SAFETY: as above.
    let out = unsafe { &mut *out };
    let opaque = info.handle_type == vk::ExternalSemaphoreHandleTypeFlags::OPAQUE_FD;
    // SAFETY: as above.
    if opaque && unsafe { is_timeline(info.p_next.cast()) } {
        out.external_semaphore_features = vk::ExternalSemaphoreFeatureFlags::EXPORTABLE
            | vk::ExternalSemaphoreFeatureFlags::IMPORTABLE;
    }
}

unsafe extern "system" fn create_semaphore(
    device: vk::Device,
    info: *const vk::SemaphoreCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Semaphore,
) -> vk::Result {
    let devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let (exports, create) = devices[&device.as_raw()];
    drop(devices);
    // SAFETY: the caller's contract.
    let chain = unsafe { &*info }.p_next;
    // SAFETY: as above.
    let first = unsafe { chain.cast::<vk::BaseInStructure<'_>>().as_ref() };
    let export =
        first.filter(|first| first.s_type == vk::StructureType::EXPORT_SEMAPHORE_CREATE_INFO);
    let mut plain = vk::SemaphoreCreateInfo::default();
    let mut given = info;
    // SAFETY: as above.
    if let Some(export) = export.filter(|export| unsafe { is_timeline(export.p_next) }) {
        if exports == Exports::Fail {
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        }
        plain.p_next = export.p_next.cast();
        given = &raw const plain;
    }
    // SAFETY: the caller's contract; without export it is as valid.
    unsafe { create(device, given, allocator, out) }
}

unsafe extern "system" fn get_device_proc_addr(
    device: vk::Device,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    type Get = unsafe extern "system" fn(
        vk::Device,
        *const vk::SemaphoreGetFdInfoKHR<'_>,
        *mut i32,
    ) -> vk::Result;
    type Import = unsafe extern "system" fn(
        vk::Device,
        *const vk::ImportSemaphoreFdInfoKHR<'_>,
    ) -> vk::Result;
    let (get, import): (Get, Import) = (get_semaphore_fd, import_semaphore_fd);
    // SAFETY: the caller's contract.
    match unsafe { CStr::from_ptr(name) }.to_bytes() {
        // SAFETY: a function pointer; the caller knows its type.
        b"vkGetSemaphoreFdKHR" => Some(unsafe { std::mem::transmute::<Get, VoidFunction>(get) }),
        b"vkImportSemaphoreFdKHR" => {
            // SAFETY: as above.
            Some(unsafe { std::mem::transmute::<Import, VoidFunction>(import) })
        }
        // SAFETY: the caller's contract.
        _ => unsafe { GET_DEVICE_PROC_ADDR.get().expect("set")(device, name) },
    }
}

type VoidFunction = unsafe extern "system" fn();

unsafe extern "system" fn get_semaphore_fd(
    _: vk::Device,
    _: *const vk::SemaphoreGetFdInfoKHR<'_>,
    out: *mut i32,
) -> vk::Result {
    let file = rustix::fs::memfd_create("timeline", rustix::fs::MemfdFlags::CLOEXEC);
    // SAFETY: the caller's contract.
    unsafe { out.write(file.expect("a memfd").into_raw_fd()) };
    vk::Result::SUCCESS
}

unsafe extern "system" fn import_semaphore_fd(
    _: vk::Device,
    info: *const vk::ImportSemaphoreFdInfoKHR<'_>,
) -> vk::Result {
    // SAFETY: the caller's contract.
    let fd = unsafe { &*info }.fd;
    // SAFETY: a successful import takes the fd.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    vk::Result::SUCCESS
}
