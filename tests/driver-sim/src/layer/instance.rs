//! One instance: the next layer's functions, and the devices as the application sees them.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex};

use ash::vk::{self, Handle};

use super::physical::Physical;
use super::{lock, names, report};
use crate::config::{Subject, World};

/// One instance.
pub(super) struct Instance {
    pub(super) get: vk::PFN_vkGetInstanceProcAddr,
    pub(super) fns: ash::Instance,
    /// The next layer's functions of physical devices. Once the instance is created the loader answers with the
    /// functions of the *first* layer, so they are looked up before.
    physical_functions: HashMap<&'static CStr, unsafe extern "system" fn()>,
    world: Arc<World>,
    physical: Mutex<Vec<Arc<Physical>>>,
}

impl Instance {
    pub(super) fn new(
        get: vk::PFN_vkGetInstanceProcAddr,
        raw: vk::Instance,
        world: World,
    ) -> Arc<Self> {
        let load = |name: &CStr| {
            // SAFETY: the next layer's function, for its own instance.
            let found = unsafe { get(raw, name.as_ptr()) };
            found.map_or(std::ptr::null(), |found| found as *const _)
        };
        // SAFETY: `load` gives functions of this instance.
        let fns = unsafe { ash::Instance::load_with(load, raw) };
        let physical_functions = names::physical_names()
            .filter_map(|name| {
                // SAFETY: the next layer's function, for its own instance.
                let found = unsafe { get(raw, name.as_ptr()) };
                Some((name, found?))
            })
            .collect();
        Arc::new(Self {
            get,
            fns,
            physical_functions,
            world: Arc::new(world),
            physical: Mutex::default(),
        })
    }

    /// A function of the next layer that takes a physical device.
    ///
    /// # Safety
    /// `F` is the type of the function with this name.
    pub(super) unsafe fn next<F: Copy>(&self, name: &CStr) -> Option<F> {
        let found = self.physical_functions.get(name)?;
        // SAFETY: a function pointer of the stated type.
        Some(unsafe { std::mem::transmute_copy(found) })
    }

    /// Whether the next layer has a function that takes a physical device.
    pub(super) fn has(&self, name: &CStr) -> bool {
        self.physical_functions.contains_key(name)
    }

    /// The devices as the application sees them: the driver's, each wrapped, and the copies behind them.
    pub(super) unsafe fn devices(self: &Arc<Self>) -> Result<Vec<Arc<Physical>>, vk::Result> {
        let real = self.fns.enumerate_physical_devices()?;
        let mut all = lock(&self.physical);
        let mut listed = Vec::new();
        for (index, raw) in real.iter().enumerate() {
            listed.push(self.device(&mut all, *raw, index, 0)?);
        }
        for raw in &real {
            let names = Names::of(self, *raw);
            let times = self.world.times(names.subject(0));
            for copy in 1..times {
                let index = listed.len();
                listed.push(self.device(&mut all, *raw, index, copy)?);
            }
        }
        for device in &listed {
            if let Some(code) = device.switches().fail_device_enumeration {
                report::event("fail_device_enumeration", format_args!("{}", device.label));
                return Err(code.0);
            }
        }
        Ok(listed)
    }

    /// The device that was made for this handle before, or a new one: handles must stay the same.
    unsafe fn device(
        self: &Arc<Self>,
        all: &mut Vec<Arc<Physical>>,
        raw: vk::PhysicalDevice,
        index: usize,
        copy: u32,
    ) -> Result<Arc<Physical>, vk::Result> {
        if let Some(known) = all.iter().find(|known| known.raw == raw && known.copy == copy) {
            return Ok(Arc::clone(known));
        }
        let names = Names::of(self, raw);
        let device = Physical::new(self, raw, index, copy, &names, Arc::clone(&self.world))?;
        all.push(Arc::clone(&device));
        Ok(device)
    }

    pub(super) fn key(raw: vk::Instance) -> usize {
        // SAFETY: the first word of a dispatchable handle is the loader's table.
        unsafe { *(raw.as_raw() as *const usize) }
    }
}

/// The driver's own names of a device.
pub(super) struct Names {
    pub(super) device: String,
    pub(super) driver: String,
}

impl Names {
    unsafe fn of(instance: &Instance, raw: vk::PhysicalDevice) -> Self {
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        let properties = instance.fns.get_physical_device_properties(raw);
        // Version 1.0 has no chain, and not all drivers of 1.1 know this structure; those leave it empty.
        let two: Option<vk::PFN_vkGetPhysicalDeviceProperties2> = instance
            .next(c"vkGetPhysicalDeviceProperties2")
            .or_else(|| instance.next(c"vkGetPhysicalDeviceProperties2KHR"));
        if let Some(two) = two {
            two(raw, &mut all);
        }
        let text = |name: Result<&CStr, _>| {
            name.map_or_else(
                |_: std::ffi::FromBytesUntilNulError| String::new(),
                |name| name.to_string_lossy().into_owned(),
            )
        };
        Self {
            device: text(properties.device_name_as_c_str()),
            driver: text(driver.driver_name_as_c_str()),
        }
    }

    pub(super) fn subject(&self, index: usize) -> Subject<'_> {
        Subject { index, device: &self.device, driver: &self.driver }
    }
}
