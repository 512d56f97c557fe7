//! The loader's interface to layers (`vk_layer.h`), and the one symbol that the library exports.

use std::ffi::{CStr, c_void};

use ash::vk;

use super::{create, names};

/// `VK_LAYER_LINK_INFO`.
const LINK_INFO: i32 = 0;
/// `VK_LOADER_DATA_CALLBACK`.
const LOADER_DATA_CALLBACK: i32 = 1;

pub(super) type SetDeviceLoaderData =
    unsafe extern "system" fn(device: vk::Device, object: *mut c_void) -> vk::Result;

/// `VkLayerInstanceCreateInfo`, and `VkLayerDeviceCreateInfo`, which has the same layout up to the union.
#[repr(C)]
pub(super) struct LayerCreateInfo<T> {
    s_type: vk::StructureType,
    p_next: *const c_void,
    function: i32,
    /// A union: the link, or a callback.
    payload: *mut T,
}

/// `VkLayerInstanceLink`.
#[repr(C)]
pub(super) struct InstanceLink {
    next: *mut InstanceLink,
    pub(super) get_instance: vk::PFN_vkGetInstanceProcAddr,
    get_physical: Option<vk::PFN_vkGetInstanceProcAddr>,
}

/// `VkLayerDeviceLink`.
#[repr(C)]
pub(super) struct DeviceLink {
    next: *mut DeviceLink,
    pub(super) get_instance: vk::PFN_vkGetInstanceProcAddr,
    pub(super) get_device: vk::PFN_vkGetDeviceProcAddr,
}

/// Takes this layer's link off the chain of `vkCreateInstance`.
///
/// # Safety
/// `chain` is the `pNext` chain that the loader passed.
pub(crate) unsafe fn take_instance_link(
    chain: *const c_void,
) -> Option<vk::PFN_vkGetInstanceProcAddr> {
    let info =
        find::<InstanceLink>(chain, vk::StructureType::LOADER_INSTANCE_CREATE_INFO, LINK_INFO)?;
    let link = (*info).payload.as_ref()?;
    (*info).payload = link.next;
    Some(link.get_instance)
}

/// Takes this layer's link off the chain of `vkCreateDevice`.
///
/// # Safety
/// `chain` is the `pNext` chain that the loader passed.
pub(crate) unsafe fn take_device_link(chain: *const c_void) -> Option<vk::PFN_vkGetDeviceProcAddr> {
    let info = find::<DeviceLink>(chain, vk::StructureType::LOADER_DEVICE_CREATE_INFO, LINK_INFO)?;
    let link = (*info).payload.as_ref()?;
    (*info).payload = link.next;
    Some(link.get_device)
}

/// The loader's function that initialises dispatchable handles which a layer makes itself.
///
/// # Safety
/// `chain` is the `pNext` chain of `vkCreateDevice` that the loader passed.
pub(super) unsafe fn set_loader_data(chain: *const c_void) -> Option<SetDeviceLoaderData> {
    let kind = vk::StructureType::LOADER_DEVICE_CREATE_INFO;
    let info = find::<c_void>(chain, kind, LOADER_DATA_CALLBACK)?;
    let callback = (*info).payload;
    // SAFETY: the union holds a function of this type, or null, if `function` is `LOADER_DATA_CALLBACK`.
    unsafe { std::mem::transmute::<*mut c_void, Option<SetDeviceLoaderData>>(callback) }
}

unsafe fn find<T>(
    chain: *const c_void,
    kind: vk::StructureType,
    function: i32,
) -> Option<*mut LayerCreateInfo<T>> {
    let mut at = chain.cast::<vk::BaseInStructure<'_>>();
    while let Some(structure) = at.as_ref() {
        let info = at.cast_mut().cast::<LayerCreateInfo<T>>();
        if structure.s_type == kind && (*info).function == function {
            return Some(info);
        }
        at = structure.p_next;
    }
    None
}

/// `VkNegotiateLayerInterface`.
#[repr(C)]
#[derive(Debug)]
pub struct NegotiateLayerInterface {
    s_type: i32,
    p_next: *mut c_void,
    version: u32,
    get_instance: Option<vk::PFN_vkGetInstanceProcAddr>,
    get_device: Option<vk::PFN_vkGetDeviceProcAddr>,
    get_physical: Option<vk::PFN_vkGetInstanceProcAddr>,
}

/// The loader's first call: both sides agree on version 2 of the interface.
///
/// # Safety
/// `interface` is the loader's `VkNegotiateLayerInterface`.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vkNegotiateLoaderLayerInterfaceVersion(
    interface: *mut NegotiateLayerInterface,
) -> vk::Result {
    negotiate(
        interface,
        get_instance_proc_addr,
        get_device_proc_addr,
        Some(get_physical_device_proc_addr),
    )
}

/// Answers the loader's first call to a layer with its functions.
///
/// # Safety
/// `interface` is the loader's `VkNegotiateLayerInterface`.
pub(crate) unsafe fn negotiate(
    interface: *mut NegotiateLayerInterface,
    get_instance: vk::PFN_vkGetInstanceProcAddr,
    get_device: vk::PFN_vkGetDeviceProcAddr,
    get_physical: Option<vk::PFN_vkGetInstanceProcAddr>,
) -> vk::Result {
    const LAYER_NEGOTIATE_INTERFACE_STRUCT: i32 = 1;
    let Some(interface) = interface.as_mut() else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    if interface.s_type != LAYER_NEGOTIATE_INTERFACE_STRUCT || interface.version < 2 {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    }
    interface.version = 2;
    interface.get_instance = Some(get_instance);
    interface.get_device = Some(get_device);
    interface.get_physical = get_physical;
    vk::Result::SUCCESS
}

pub(super) unsafe extern "system" fn get_instance_proc_addr(
    raw: vk::Instance,
    name: *const std::ffi::c_char,
) -> vk::PFN_vkVoidFunction {
    let text = CStr::from_ptr(name);
    if let Some(own) = names::global(text) {
        return Some(own);
    }
    let instance = create::instance_of(raw)?;
    if let Some(own) = names::physical(text) {
        return instance.has(text).then_some(own);
    }
    let next = (instance.get)(raw, name)?;
    if let Some(own) = names::device(text) {
        return Some(own);
    }
    // Its handle would be the wrapped one, of which the next layer knows nothing.
    (!names::takes_wrapped_handle(text)).then_some(next)
}

pub(super) unsafe extern "system" fn get_device_proc_addr(
    raw: vk::Device,
    name: *const std::ffi::c_char,
) -> vk::PFN_vkVoidFunction {
    let text = CStr::from_ptr(name);
    let device = super::device::of(raw);
    if device.physical.is_too_new(text) {
        return None;
    }
    let fixed = &device.physical.fixed;
    let is_own = match text.to_bytes() {
        b"vkGetImageDrmFormatModifierPropertiesEXT" => fixed.tiled_modifier.is_some(),
        b"vkGetSemaphoreFdKHR" | b"vkImportSemaphoreFdKHR" => fixed.sync_fd,
        _ => false,
    };
    if is_own {
        return names::device(text);
    }
    // What the driver lacks or the application has not enabled stays absent.
    let next = (device.get)(raw, name)?;
    if let Some(own) = names::device(text) {
        return Some(own);
    }
    (!names::takes_wrapped_handle(text)).then_some(next)
}

unsafe extern "system" fn get_physical_device_proc_addr(
    raw: vk::Instance,
    name: *const std::ffi::c_char,
) -> vk::PFN_vkVoidFunction {
    let (instance, name) = (create::instance_of(raw)?, CStr::from_ptr(name));
    names::physical(name).filter(|_| instance.has(name))
}
