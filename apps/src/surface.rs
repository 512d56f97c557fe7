//! Where a program presents: a window, or nowhere (`VK_EXT_headless_surface`).
#![expect(unsafe_code, reason = "surfaces of live windows")]

use std::ffi::CStr;

use ash::{ext, khr, vk};
use peerbuf::Adapter;
use raw_window_handle::{HasDisplayHandle, HasWindowHandle, RawDisplayHandle, RawWindowHandle};

use crate::Result;
use crate::gpu::Gpu;

/// A window as Vulkan knows it. It is alive as long as the program's window.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// No display.
    Headless,
    /// A window of a display.
    Window(RawDisplayHandle, RawWindowHandle),
}

impl Place {
    /// The place of a window.
    ///
    /// # Errors
    ///
    /// The window system has closed it.
    pub fn of(window: &(impl HasDisplayHandle + HasWindowHandle)) -> Result<Self> {
        Ok(Self::Window(window.display_handle()?.as_raw(), window.window_handle()?.as_raw()))
    }

    /// The instance extensions that its surface needs.
    ///
    /// # Errors
    ///
    /// A window system without surfaces in Vulkan.
    pub fn extensions(self) -> Result<Vec<&'static CStr>> {
        match self {
            Self::Headless => Ok(vec![khr::surface::NAME, ext::headless_surface::NAME]),
            Self::Window(display, _) => {
                let names = ash_window::enumerate_required_extensions(display)?;
                // SAFETY: ash-window returns names that are constants of Vulkan's headers.
                Ok(names.iter().map(|name| unsafe { CStr::from_ptr(*name) }).collect())
            }
        }
    }

    /// Why a device cannot present here, although its driver claims that it can.
    ///
    /// SwiftShader knows X11 by xcb alone, and crashes with a window of Xlib, which winit makes.
    pub fn refuses(self, adapter: &Adapter) -> Option<&'static str> {
        let is_xlib = matches!(self, Self::Window(RawDisplayHandle::Xlib(_), _));
        let is_swiftshader = adapter.driver_id() == vk::DriverId::GOOGLE_SWIFTSHADER;
        (is_xlib && is_swiftshader).then_some(
            "SwiftShader crashes with windows of Xlib: present on another device, or under Wayland",
        )
    }
}

/// A surface of an instance. Destroyed by `drop`, before its instance and after its swapchains.
pub struct Surface {
    loader: khr::surface::Instance,
    raw: vk::SurfaceKHR,
    physical: vk::PhysicalDevice,
}

impl Surface {
    /// The surface of a place, for a device whose instance has [`Place::extensions`].
    ///
    /// # Errors
    ///
    /// The device cannot present there; the error of a call.
    ///
    /// # Safety
    ///
    /// The window lives longer than the surface, and the surface is dropped before [`Gpu::destroy`].
    pub unsafe fn new(gpu: &Gpu, place: Place) -> Result<Self> {
        let (entry, instance) = (gpu.entry(), gpu.instance());
        let loader = khr::surface::Instance::new(entry, instance);
        let raw = match place {
            Place::Headless => {
                let info = vk::HeadlessSurfaceCreateInfoEXT::default();
                let headless = ext::headless_surface::Instance::new(entry, instance);
                // SAFETY: the instance has the extension.
                unsafe { headless.create_headless_surface(&info, None) }?
            }
            Place::Window(display, window) => {
                // SAFETY: the window is alive, by the caller's contract, and the instance has the extensions.
                unsafe { ash_window::create_surface(entry, instance, display, window, None) }?
            }
        };
        let this = Self { loader, raw, physical: gpu.physical() };
        // SAFETY: the physical device is of the surface's instance, and has the family.
        let presents = unsafe {
            this.loader.get_physical_device_surface_support(this.physical, gpu.family(), this.raw)
        }?;
        if presents { Ok(this) } else { Err("its queue cannot present to this window".into()) }
    }

    /// The raw surface.
    pub fn raw(&self) -> vk::SurfaceKHR {
        self.raw
    }

    /// What a swapchain of it may be now.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub fn capabilities(&self) -> Result<vk::SurfaceCapabilitiesKHR> {
        // SAFETY: the surface is live, and the device can present to it.
        let read = unsafe {
            self.loader.get_physical_device_surface_capabilities(self.physical, self.raw)
        };
        Ok(read?)
    }

    /// Its formats.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub fn formats(&self) -> Result<Vec<vk::SurfaceFormatKHR>> {
        // SAFETY: as above.
        Ok(unsafe { self.loader.get_physical_device_surface_formats(self.physical, self.raw) }?)
    }

    /// Its present modes.
    ///
    /// # Errors
    ///
    /// The error of the call.
    pub fn modes(&self) -> Result<Vec<vk::PresentModeKHR>> {
        // SAFETY: as above.
        let read = unsafe {
            self.loader.get_physical_device_surface_present_modes(self.physical, self.raw)
        };
        Ok(read?)
    }
}

impl Drop for Surface {
    fn drop(&mut self) {
        // SAFETY: its swapchains are destroyed, by the contract of the type.
        unsafe { self.loader.destroy_surface(self.raw, None) };
    }
}

impl std::fmt::Debug for Surface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surface").field("raw", &self.raw).finish_non_exhaustive()
    }
}
