//! Functions that take a physical device and need nothing but the driver's handle.
//!
//! A function of an extension that is not in this list, and would be called with a wrapped handle, is absent.

use std::ffi::{CStr, c_int, c_void};

use ash::vk::{self, Handle};

use super::cname;
use super::physical::Physical;
use super::query::next;

/// What an absent function returns.
trait Absent {
    fn absent() -> Self;
}

impl Absent for () {
    fn absent() {}
}

impl Absent for vk::Result {
    fn absent() -> Self {
        Self::ERROR_EXTENSION_NOT_PRESENT
    }
}

impl Absent for vk::Bool32 {
    fn absent() -> Self {
        vk::FALSE
    }
}

macro_rules! forward {
    ($($own:ident $name:literal ($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(
            unsafe extern "system" fn $own(device: vk::PhysicalDevice, $($arg: $type),*) -> $out {
                let device = Physical::of(device);
                type Next = unsafe extern "system" fn(vk::PhysicalDevice, $($type),*) -> $out;
                match next!(device, Next, $name) {
                    Some(next) => next(device.raw, $($arg),*),
                    None => <$out as Absent>::absent(),
                }
            }
        )*

        /// The names of these functions.
        pub(super) const NAMES: &[&CStr] = &[$(cname!($name)),*];

        /// The function of this name.
        pub(super) fn find(name: &CStr) -> vk::PFN_vkVoidFunction {
            match name.to_bytes() {
                $(
                    // SAFETY: callers cast it back to the type that its name has.
                    text if text == $name.as_bytes() => Some(unsafe {
                        std::mem::transmute::<*const (), unsafe extern "system" fn()>($own as *const ())
                    }),
                )*
                _ => None,
            }
        }
    };
}

/// A structure that the layer does not look into.
type In = *const c_void;
type Out = *mut c_void;
type Count = *mut u32;

forward! {
    features "vkGetPhysicalDeviceFeatures" (out: Out) -> ();
    features2 "vkGetPhysicalDeviceFeatures2" (out: Out) -> ();
    features2_khr "vkGetPhysicalDeviceFeatures2KHR" (out: Out) -> ();
    format "vkGetPhysicalDeviceFormatProperties" (format: vk::Format, out: Out) -> ();
    image_format "vkGetPhysicalDeviceImageFormatProperties" (
        format: vk::Format, image: vk::ImageType, tiling: vk::ImageTiling, usage: vk::ImageUsageFlags,
        flags: vk::ImageCreateFlags, out: Out
    ) -> vk::Result;
    sparse "vkGetPhysicalDeviceSparseImageFormatProperties" (
        format: vk::Format, image: vk::ImageType, samples: vk::SampleCountFlags, usage: vk::ImageUsageFlags,
        tiling: vk::ImageTiling, count: Count, out: Out
    ) -> ();
    sparse2 "vkGetPhysicalDeviceSparseImageFormatProperties2" (info: In, count: Count, out: Out) -> ();
    sparse2_khr "vkGetPhysicalDeviceSparseImageFormatProperties2KHR" (info: In, count: Count, out: Out) -> ();
    external_fence "vkGetPhysicalDeviceExternalFenceProperties" (info: In, out: Out) -> ();
    external_fence_khr "vkGetPhysicalDeviceExternalFencePropertiesKHR" (info: In, out: Out) -> ();
    layers "vkEnumerateDeviceLayerProperties" (count: Count, out: Out) -> vk::Result;
    tools "vkGetPhysicalDeviceToolProperties" (count: Count, out: Out) -> vk::Result;
    tools_ext "vkGetPhysicalDeviceToolPropertiesEXT" (count: Count, out: Out) -> vk::Result;
    domains "vkGetPhysicalDeviceCalibrateableTimeDomainsKHR" (count: Count, out: Out) -> vk::Result;
    domains_ext "vkGetPhysicalDeviceCalibrateableTimeDomainsEXT" (count: Count, out: Out) -> vk::Result;
    multisample "vkGetPhysicalDeviceMultisamplePropertiesEXT" (samples: vk::SampleCountFlags, out: Out) -> ();
    shading_rates "vkGetPhysicalDeviceFragmentShadingRatesKHR" (count: Count, out: Out) -> vk::Result;
    cooperative "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR" (count: Count, out: Out) -> vk::Result;
    counters "vkEnumeratePhysicalDeviceQueueFamilyPerformanceQueryCountersKHR" (
        family: u32, count: Count, counters: Out, descriptions: Out
    ) -> vk::Result;
    passes "vkGetPhysicalDeviceQueueFamilyPerformanceQueryPassesKHR" (info: In, passes: Count) -> ();
    surface_support "vkGetPhysicalDeviceSurfaceSupportKHR" (
        family: u32, surface: vk::SurfaceKHR, out: *mut vk::Bool32
    ) -> vk::Result;
    surface "vkGetPhysicalDeviceSurfaceCapabilitiesKHR" (surface: vk::SurfaceKHR, out: Out) -> vk::Result;
    surface2 "vkGetPhysicalDeviceSurfaceCapabilities2KHR" (info: In, out: Out) -> vk::Result;
    surface_ext "vkGetPhysicalDeviceSurfaceCapabilities2EXT" (surface: vk::SurfaceKHR, out: Out) -> vk::Result;
    surface_formats "vkGetPhysicalDeviceSurfaceFormatsKHR" (
        surface: vk::SurfaceKHR, count: Count, out: Out
    ) -> vk::Result;
    surface_formats2 "vkGetPhysicalDeviceSurfaceFormats2KHR" (info: In, count: Count, out: Out) -> vk::Result;
    present_modes "vkGetPhysicalDeviceSurfacePresentModesKHR" (
        surface: vk::SurfaceKHR, count: Count, out: Out
    ) -> vk::Result;
    rectangles "vkGetPhysicalDevicePresentRectanglesKHR" (
        surface: vk::SurfaceKHR, count: Count, out: Out
    ) -> vk::Result;
    xcb "vkGetPhysicalDeviceXcbPresentationSupportKHR" (
        family: u32, connection: *mut c_void, visual: u32
    ) -> vk::Bool32;
    xlib "vkGetPhysicalDeviceXlibPresentationSupportKHR" (
        family: u32, display: *mut c_void, visual: std::ffi::c_ulong
    ) -> vk::Bool32;
    wayland "vkGetPhysicalDeviceWaylandPresentationSupportKHR" (
        family: u32, display: *mut c_void
    ) -> vk::Bool32;
    display "vkGetPhysicalDeviceDisplayPropertiesKHR" (count: Count, out: Out) -> vk::Result;
    display2 "vkGetPhysicalDeviceDisplayProperties2KHR" (count: Count, out: Out) -> vk::Result;
    planes "vkGetPhysicalDeviceDisplayPlanePropertiesKHR" (count: Count, out: Out) -> vk::Result;
    planes2 "vkGetPhysicalDeviceDisplayPlaneProperties2KHR" (count: Count, out: Out) -> vk::Result;
    plane_displays "vkGetDisplayPlaneSupportedDisplaysKHR" (
        plane: u32, count: Count, out: Out
    ) -> vk::Result;
    modes "vkGetDisplayModePropertiesKHR" (display: vk::DisplayKHR, count: Count, out: Out) -> vk::Result;
    modes2 "vkGetDisplayModeProperties2KHR" (display: vk::DisplayKHR, count: Count, out: Out) -> vk::Result;
    create_mode "vkCreateDisplayModeKHR" (
        display: vk::DisplayKHR, info: In, allocator: In, out: Out
    ) -> vk::Result;
    plane "vkGetDisplayPlaneCapabilitiesKHR" (mode: vk::DisplayModeKHR, index: u32, out: Out) -> vk::Result;
    plane2 "vkGetDisplayPlaneCapabilities2KHR" (info: In, out: Out) -> vk::Result;
    drm_display "vkGetDrmDisplayEXT" (fd: c_int, connector: u32, out: *mut vk::DisplayKHR) -> vk::Result;
    acquire_drm "vkAcquireDrmDisplayEXT" (fd: c_int, display: vk::DisplayKHR) -> vk::Result;
    release "vkReleaseDisplayEXT" (display: vk::DisplayKHR) -> vk::Result;
}

/// Whether a function that is absent here takes a wrapped handle, as far as its name says.
pub(super) fn takes_wrapped_handle(name: &CStr) -> bool {
    let text = name.to_bytes();
    let begins = |with: &str| text.starts_with(with.as_bytes());
    begins("vkGetPhysicalDevice")
        || begins("vkEnumeratePhysicalDevice")
        || begins("vkQueue")
        || begins("vkGetQueue")
        || [
            c"vkAcquireXlibDisplayEXT",
            c"vkGetRandROutputDisplayEXT",
            c"vkAcquireWinrtDisplayNV",
            c"vkGetWinrtDisplayNV",
        ]
        .contains(&name)
}

/// Handles that some calls pass as integers, with their type.
pub(super) unsafe fn unwrap_object(kind: vk::ObjectType, handle: u64) -> u64 {
    match kind {
        vk::ObjectType::PHYSICAL_DEVICE => {
            Physical::of(vk::PhysicalDevice::from_raw(handle)).raw.as_raw()
        }
        vk::ObjectType::QUEUE => {
            super::queue::Queue::of(vk::Queue::from_raw(handle)).real.raw.as_raw()
        }
        _ => handle,
    }
}
