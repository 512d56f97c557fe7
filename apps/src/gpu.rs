//! A Vulkan device of the program's own, which peerbuf adopts.
#![expect(unsafe_code, reason = "an application that creates its own device")]

use std::ffi::CStr;

use ash::{khr, vk};
use peerbuf::device::instance_extensions;
use peerbuf::{Adapter, AdoptedDevice, Device, Engine};

use crate::Result;
use crate::in_use::has_leaked;

/// An instance, one of its physical devices and a device with one queue that draws.
///
/// It is destroyed by [`Gpu::destroy`], after the engine that has adopted it.
pub struct Gpu {
    entry: ash::Entry,
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    device: ash::Device,
    extensions: Vec<&'static CStr>,
    family: u32,
    presents: bool,
}

impl Gpu {
    /// A device on an adapter. One that presents enables `surfaces`, the instance extensions for its surfaces, and
    /// `VK_KHR_swapchain`.
    ///
    /// # Errors
    ///
    /// No queue family that draws; the error of a call.
    pub fn new(adapter: &Adapter, surfaces: Option<&[&'static CStr]>) -> Result<Self> {
        // SAFETY: the system's Vulkan loader has sound initialisers.
        let entry = unsafe { ash::Entry::load() }?;
        let instance = create_instance(&entry, surfaces.unwrap_or_default())?;
        let created = Self::on(adapter, &instance, surfaces.is_some());
        match created {
            Ok((physical, device, extensions, family)) => {
                let presents = surfaces.is_some();
                Ok(Self { entry, instance, physical, device, extensions, family, presents })
            }
            Err(error) => {
                // SAFETY: nothing was created on it, or it was destroyed.
                unsafe { instance.destroy_instance(None) };
                Err(error)
            }
        }
    }

    fn on(
        adapter: &Adapter,
        instance: &ash::Instance,
        presents: bool,
    ) -> Result<(vk::PhysicalDevice, ash::Device, Vec<&'static CStr>, u32)> {
        // SAFETY: the instance is live.
        let all = unsafe { instance.enumerate_physical_devices() }?;
        // Every instance of a process lists the same devices in the same order.
        let physical = *all.get(adapter.index()).ok_or("the adapter is no longer listed")?;
        let family = drawing_family(instance, physical)
            .ok_or_else(|| format!("{} has no queue that draws", adapter.name()))?;
        let mut extensions = adapter.device_extensions().to_vec();
        if presents {
            extensions.push(khr::swapchain::NAME);
            check_presents(instance, physical)?;
        }
        let device = create_device(instance, physical, family, &extensions)?;
        Ok((physical, device, extensions, family))
    }

    /// Lets an engine adopt the device.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::adopt_device`].
    ///
    /// # Safety
    ///
    /// The engine is dropped before [`Gpu::destroy`] is called.
    pub unsafe fn adopt(&self, engine: &Engine) -> Result<Device> {
        let adopted = AdoptedDevice::new(
            self.entry.clone(),
            self.instance.clone(),
            self.physical,
            self.device.clone(),
            self.extensions.clone(),
            self.family,
        )
        .presents(self.presents)
        // The program submits through the engine alone.
        .waits_are_submitted(true);
        // SAFETY: the handles belong together; the device was created with exactly these extensions, with timeline
        // semaphores, and with this queue, which is used through the engine alone. It lives longer than the engine by
        // the caller's contract.
        Ok(unsafe { engine.adopt_device(adopted) }?)
    }

    /// The entry points that the instance was loaded through.
    pub fn entry(&self) -> &ash::Entry {
        &self.entry
    }

    /// The instance.
    pub fn instance(&self) -> &ash::Instance {
        &self.instance
    }

    /// The physical device.
    pub fn physical(&self) -> vk::PhysicalDevice {
        self.physical
    }

    /// The family of the queue.
    pub fn family(&self) -> u32 {
        self.family
    }

    /// Destroys the device and its instance, unless something on them was leaked.
    ///
    /// # Safety
    ///
    /// Everything that was created on them is destroyed or leaked ([`has_leaked`]), and the engine that adopted the device is dropped.
    pub unsafe fn destroy(self) {
        if has_leaked() {
            return;
        }
        // SAFETY: the caller's contract.
        unsafe { self.device.destroy_device(None) };
        // SAFETY: as above.
        unsafe { self.instance.destroy_instance(None) };
    }
}

fn create_instance(entry: &ash::Entry, surfaces: &[&'static CStr]) -> Result<ash::Instance> {
    let application = vk::ApplicationInfo::default()
        .application_name(c"peerbuf-apps")
        .api_version(vk::API_VERSION_1_2);
    let extensions: Vec<_> =
        instance_extensions().iter().chain(surfaces).map(|name| name.as_ptr()).collect();
    let info = vk::InstanceCreateInfo::default()
        .application_info(&application)
        .enabled_extension_names(&extensions);
    // SAFETY: everything that `info` points to outlives the call.
    let created = unsafe { entry.create_instance(&info, None) };
    Ok(created.map_err(|code| match code {
        vk::Result::ERROR_EXTENSION_NOT_PRESENT => {
            let names: Vec<_> = surfaces.iter().map(|name| name.to_string_lossy()).collect();
            format!("no driver has all of {}", names.join(", "))
        }
        code => format!("vkCreateInstance: {code}"),
    })?)
}

/// # Errors
///
/// The device has no swapchains.
fn check_presents(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Result<()> {
    // SAFETY: `physical` was enumerated from this instance.
    let all = unsafe { instance.enumerate_device_extension_properties(physical) }?;
    let presents = all.iter().any(|one| one.extension_name_as_c_str() == Ok(khr::swapchain::NAME));
    if presents { Ok(()) } else { Err("it lacks VK_KHR_swapchain".into()) }
}

fn drawing_family(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Option<u32> {
    // SAFETY: `physical` was enumerated from this instance.
    let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
    let needed = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
    let found = families.iter().position(|family| family.queue_flags.contains(needed))?;
    u32::try_from(found).ok()
}

fn create_device(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    family: u32,
    extensions: &[&CStr],
) -> Result<ash::Device> {
    let priorities = [1.0];
    let queues = [vk::DeviceQueueCreateInfo::default()
        .queue_family_index(family)
        .queue_priorities(&priorities)];
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    // The one feature that peerbuf needs.
    let mut vulkan12 = vk::PhysicalDeviceVulkan12Features::default().timeline_semaphore(true);
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .push_next(&mut vulkan12);
    // SAFETY: the adapter has these extensions and the feature, since peerbuf can open it; everything that `info`
    // points to outlives the call.
    Ok(unsafe { instance.create_device(physical, &info, None) }?)
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("family", &self.family).finish_non_exhaustive()
    }
}
