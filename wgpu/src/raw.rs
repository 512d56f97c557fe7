//! The Vulkan objects below wgpu's, which this package owns.
#![expect(unsafe_code, reason = "creating and destroying an instance and a device")]

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peerbuf::Adapter;
use peerbuf::ash::{self, vk};
use wgpu::hal::vulkan as hal;

use crate::error::{Error, Result};

/// The newest version that wgpu 30 asks for.
const NEWEST: u32 = vk::API_VERSION_1_3;

/// An instance. Destroyed with the last handle: those of devices, and those that wgpu has.
pub(crate) struct RawInstance {
    pub(crate) entry: ash::Entry,
    pub(crate) raw: ash::Instance,
    /// What was enabled.
    pub(crate) extensions: Vec<&'static CStr>,
    pub(crate) version: u32,
    flags: wgpu::InstanceFlags,
}

impl RawInstance {
    /// Creates an instance with what wgpu and peerbuf enable.
    pub(crate) fn new(flags: wgpu::InstanceFlags) -> Result<Arc<Self>> {
        // SAFETY: the system's Vulkan loader has sound initialisers.
        let entry =
            unsafe { ash::Entry::load() }.map_err(|error| Error::Loader(error.to_string()))?;
        // SAFETY: the entry is loaded.
        let offered = unsafe { entry.try_enumerate_instance_version() }
            .map_err(Error::vulkan("vkEnumerateInstanceVersion"))?
            .unwrap_or(vk::API_VERSION_1_0);
        if offered < vk::API_VERSION_1_2 {
            return Err(Error::LoaderVersion(offered));
        }
        let version = offered.min(NEWEST);
        let mut extensions = hal::Instance::desired_extensions(&entry, version, flags)
            .map_err(Error::wgpu("the instance extensions of wgpu"))?;
        for name in peerbuf::device::instance_extensions() {
            if !extensions.contains(name) {
                extensions.push(name);
            }
        }
        let application =
            vk::ApplicationInfo::default().application_name(c"peerbuf-wgpu").api_version(version);
        let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let info = vk::InstanceCreateInfo::default()
            .application_info(&application)
            .enabled_extension_names(&names);
        // SAFETY: everything that `info` points to outlives the call.
        let raw = unsafe { entry.create_instance(&info, None) }
            .map_err(Error::vulkan("vkCreateInstance"))?;
        Ok(Arc::new(Self { entry, raw, extensions, version, flags }))
    }

    /// The physical device of an adapter of an engine.
    pub(crate) fn physical(&self, adapter: &Adapter) -> Result<vk::PhysicalDevice> {
        let (entry, instance) = (self.entry.clone(), self.raw.clone());
        // SAFETY: the instance is live.
        let all = unsafe { instance.enumerate_physical_devices() }
            .map_err(Error::vulkan("vkEnumeratePhysicalDevices"))?;
        // Every instance of a process lists the same devices in the same order, unless a layer of one sorts them.
        let other = || Error::Order { index: adapter.index(), adapter: adapter.name().to_owned() };
        let physical = *all.get(adapter.index()).ok_or_else(other)?;
        // SAFETY: the instance is live, of Vulkan 1.2 or newer, and outlives what is made here, which ends below.
        let found = unsafe { Adapter::of(entry, instance, physical) }?;
        let same = found.device_uuid() == adapter.device_uuid()
            && found.driver_uuid() == adapter.driver_uuid();
        if same { Ok(physical) } else { Err(other()) }
    }

    /// The same as wgpu-hal has it, which destroys nothing.
    pub(crate) fn hal(self: &Arc<Self>) -> Result<hal::Instance> {
        // SAFETY: the entry is loaded.
        let layers = unsafe { self.entry.enumerate_instance_layer_properties() }
            .map_err(Error::vulkan("vkEnumerateInstanceLayerProperties"))?;
        let optimus = c"VK_LAYER_NV_optimus";
        let has_optimus = layers.iter().any(|one| one.layer_name_as_c_str() == Ok(optimus));
        let kept = Arc::clone(self);
        // SAFETY: the instance was created from the entry, for this version, with these extensions, which include
        // those that wgpu wants; the callback keeps it until wgpu has no use for it.
        unsafe {
            hal::Instance::from_raw(
                self.entry.clone(),
                self.raw.clone(),
                self.version,
                0,
                None,
                self.extensions.clone(),
                self.flags,
                wgpu::MemoryBudgetThresholds::default(),
                has_optimus,
                Some(Box::new(move || drop(kept))),
            )
        }
        .map_err(Error::wgpu("wgpu_hal::vulkan::Instance::from_raw"))
    }
}

impl Drop for RawInstance {
    fn drop(&mut self) {
        // SAFETY: what was created on it is destroyed: devices and wgpu hold a handle each.
        unsafe { self.raw.destroy_instance(None) };
    }
}

/// A device with one queue. Destroyed with the last handle if the engine has released it, and leaked otherwise.
pub(crate) struct RawDevice {
    pub(crate) raw: ash::Device,
    pub(crate) physical: vk::PhysicalDevice,
    /// What was enabled.
    pub(crate) extensions: Vec<&'static CStr>,
    pub(crate) family: u32,
    /// Set once no engine uses the device, or none ever did. Release and acquire: the thread that destroys the device
    /// sees what that one did which released it.
    is_free: AtomicBool,
    pub(crate) instance: Arc<RawInstance>,
}

impl RawDevice {
    /// Creates a device with what wgpu and peerbuf enable.
    pub(crate) fn new(
        instance: &Arc<RawInstance>,
        (adapter, exposed): (&Adapter, &wgpu::hal::ExposedAdapter<hal::Api>),
        features: wgpu::Features,
    ) -> Result<Arc<Self>> {
        let physical = exposed.adapter.raw_physical_device();
        let name = || adapter.name().to_owned();
        let family = drawing_family(&instance.raw, physical)
            .ok_or_else(|| Error::NoQueue { adapter: name() })?;
        let mut extensions = exposed.adapter.required_device_extensions(features);
        for extension in adapter.device_extensions() {
            if !extensions.contains(extension) {
                extensions.push(extension);
            }
        }
        let mut enabled = exposed.adapter.physical_device_features(&extensions, features);
        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&priorities)];
        let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names);
        let info = enabled.add_to_device_create(info);
        if !enables_timelines(&info) {
            return Err(Error::NoTimelines { adapter: name() });
        }
        // SAFETY: the physical device has the extensions and features: wgpu and peerbuf name those alone that it has;
        // everything that `info` points to outlives the call.
        let raw = unsafe { instance.raw.create_device(physical, &info, None) }
            .map_err(Error::vulkan("vkCreateDevice"))?;
        let is_free = AtomicBool::new(true);
        let instance = Arc::clone(instance);
        Ok(Arc::new(Self { raw, physical, extensions, family, is_free, instance }))
    }

    /// Waits until its queue has nothing to do, for at most `timeout`; returns whether that is so. The queue's lock is held.
    ///
    /// A wait that reports the loss of the device says that nothing is in use ("Lost Device" in the specification).
    pub(crate) fn wait_idle(&self, timeout: Duration) -> bool {
        let device = &self.raw;
        // SAFETY: the device was created with one queue of this family.
        let queue = unsafe { device.get_device_queue(self.family, 0) };
        // SAFETY: the device is live.
        let made = unsafe { device.create_fence(&vk::FenceCreateInfo::default(), None) };
        let Ok(fence) = made else { return false };
        // SAFETY: the queue's lock is held, and the fence is new.
        let waited = unsafe { device.queue_submit(queue, &[], fence) }.and_then(|()| {
            let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            // SAFETY: a live fence of this device.
            unsafe { device.wait_for_fences(&[fence], true, nanos) }
        });
        let is_idle = matches!(waited, Ok(()) | Err(vk::Result::ERROR_DEVICE_LOST));
        if is_idle {
            // SAFETY: no submission that signals it is pending.
            unsafe { device.destroy_fence(fence, None) };
        }
        is_idle
    }

    /// Says that an engine uses the device, or that it does no more.
    pub(crate) fn set_free(&self, is_free: bool) {
        self.is_free.store(is_free, Ordering::Release);
    }
}

impl Drop for RawDevice {
    fn drop(&mut self) {
        if !self.is_free.load(Ordering::Acquire) {
            // An engine may still use it. Its instance must not be destroyed before it.
            std::mem::forget(Arc::clone(&self.instance));
            return;
        }
        // SAFETY: no engine uses it, and wgpu, which has destroyed what it made, holds no handle any more.
        unsafe { self.raw.destroy_device(None) };
    }
}

/// Whether a chain enables `timelineSemaphore`. It is what `vkCreateDevice` reads, so that nothing has to be trusted.
fn enables_timelines(info: &vk::DeviceCreateInfo<'_>) -> bool {
    let mut next = info.p_next.cast::<vk::BaseInStructure<'_>>();
    while !next.is_null() {
        // SAFETY: each structure of a chain begins with its type and the address of the next one, and lives as long as
        // `info` (VUID-VkDeviceCreateInfo-pNext-pNext).
        let found = unsafe { &*next };
        let enabled = match found.s_type {
            vk::StructureType::PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES => {
                // SAFETY: the type says what the structure is.
                unsafe { &*next.cast::<vk::PhysicalDeviceTimelineSemaphoreFeatures<'_>>() }
                    .timeline_semaphore
            }
            vk::StructureType::PHYSICAL_DEVICE_VULKAN_1_2_FEATURES => {
                // SAFETY: as above.
                unsafe { &*next.cast::<vk::PhysicalDeviceVulkan12Features<'_>>() }
                    .timeline_semaphore
            }
            _ => vk::FALSE,
        };
        if enabled == vk::TRUE {
            return true;
        }
        next = found.p_next;
    }
    false
}

fn drawing_family(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Option<u32> {
    // SAFETY: `physical` was enumerated from this instance.
    let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
    let needed = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
    let found = families.iter().position(|family| family.queue_flags.contains(needed))?;
    u32::try_from(found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_says_whether_timeline_semaphores_are_on() {
        let plain = vk::DeviceCreateInfo::default();
        assert!(!enables_timelines(&plain));
        for on in [false, true] {
            let mut other = vk::PhysicalDeviceMultiviewFeatures::default();
            let mut own =
                vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(on);
            let info = vk::DeviceCreateInfo::default().push_next(&mut own).push_next(&mut other);
            assert_eq!(enables_timelines(&info), on);
            let mut all = vk::PhysicalDeviceVulkan12Features::default().timeline_semaphore(on);
            let info = vk::DeviceCreateInfo::default().push_next(&mut all);
            assert_eq!(enables_timelines(&info), on);
        }
    }
}
