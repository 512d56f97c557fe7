//! Instances and devices: created through the chain, and remembered by the loader's key.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char};
use std::sync::{Arc, LazyLock, Mutex};

use ash::vk;

use super::chain::write_list;
use super::device::{self, Device};
use super::instance::Instance;
use super::physical::Physical;
use super::{abi, cname, lock, query, report};
use crate::config::World;

static INSTANCES: LazyLock<Mutex<HashMap<usize, Arc<Instance>>>> = LazyLock::new(Mutex::default);

/// The instance of a handle.
pub(super) unsafe fn instance_of(raw: vk::Instance) -> Option<Arc<Instance>> {
    if raw == vk::Instance::null() {
        return None;
    }
    lock(&INSTANCES).get(&Instance::key(raw)).cloned()
}

pub(super) unsafe extern "system" fn create_instance(
    info: *const vk::InstanceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Instance,
) -> vk::Result {
    let world = match World::parse(&std::env::var("DRIVER_SIM").unwrap_or_default()) {
        Ok(world) => world,
        Err(error) => {
            report::fault(format_args!("DRIVER_SIM: {error}"));
            return vk::Result::ERROR_INITIALIZATION_FAILED;
        }
    };
    let Some(get) = abi::take_instance_link((*info).p_next) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    let Some(create) = get(vk::Instance::null(), cname!("vkCreateInstance").as_ptr()) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    // SAFETY: the function of this name.
    let create = unsafe {
        std::mem::transmute::<unsafe extern "system" fn(), vk::PFN_vkCreateInstance>(create)
    };
    let result = create(info.cast(), allocator.cast(), out);
    if result == vk::Result::SUCCESS {
        lock(&INSTANCES).insert(Instance::key(*out), Instance::new(get, *out, world));
    }
    result
}

pub(super) unsafe extern "system" fn destroy_instance(
    raw: vk::Instance,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    if raw == vk::Instance::null() {
        return;
    }
    let instance = lock(&INSTANCES).remove(&Instance::key(raw));
    if let Some(instance) = instance {
        instance.fns.destroy_instance(allocator.as_ref());
    }
}

pub(super) unsafe extern "system" fn enumerate(
    raw: vk::Instance,
    count: *mut u32,
    out: *mut vk::PhysicalDevice,
) -> vk::Result {
    let Some(instance) = instance_of(raw) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    match instance.devices() {
        Ok(all) => {
            let handles: Vec<_> = all.iter().map(Physical::handle).collect();
            write_list(&handles, count, out)
        }
        Err(code) => code,
    }
}

/// Each device is a group of its own: groups of several GPUs are not simulated.
pub(super) unsafe extern "system" fn enumerate_groups(
    raw: vk::Instance,
    count: *mut u32,
    out: *mut vk::PhysicalDeviceGroupProperties<'_>,
) -> vk::Result {
    let Some(instance) = instance_of(raw) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    let all = match instance.devices() {
        Ok(all) => all,
        Err(code) => return code,
    };
    // CAST: there are few devices.
    let number = all.len() as u32;
    if out.is_null() {
        *count = number;
        return vk::Result::SUCCESS;
    }
    let given = (*count).min(number);
    for (at, device) in all.iter().take(given as usize).enumerate() {
        let group = &mut *out.add(at);
        group.physical_device_count = 1;
        group.physical_devices[0] = device.handle();
        group.subset_allocation = vk::FALSE;
    }
    *count = given;
    if given < number { vk::Result::INCOMPLETE } else { vk::Result::SUCCESS }
}

pub(super) unsafe extern "system" fn create_device(
    handle: vk::PhysicalDevice,
    info: *const vk::DeviceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Device,
) -> vk::Result {
    let physical = Physical::of(handle);
    if let Some(code) = physical.switches().fail_create_device {
        report::event("fail_create_device", format_args!("{}", physical.label));
        return code.0;
    }
    let Some(instance) = physical.instance.upgrade() else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    let info = &*info;
    let (loader, get) = (abi::set_loader_data(info.p_next), abi::take_device_link(info.p_next));
    let create = instance.next::<vk::PFN_vkCreateDevice>(cname!("vkCreateDevice"));
    let (Some(get), Some(create)) = (get, create) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };

    let extensions = match enabled(physical, info) {
        Ok(names) => names,
        Err(code) => return code,
    };
    let families = Families::new(&instance, physical);
    let created = families.created(info);
    let queues: Vec<_> = created
        .iter()
        .map(|(family, priorities)| {
            vk::DeviceQueueCreateInfo::default()
                .queue_family_index(*family)
                .queue_priorities(priorities)
        })
        .collect();
    let mut own = *info;
    own = own.enabled_extension_names(&extensions);
    if !families.is_driver() {
        own = own.queue_create_infos(&queues);
    }
    let result = create(physical.raw, (&raw const own).cast(), allocator.cast(), out);
    if result == vk::Result::SUCCESS {
        let listed = instance.devices().unwrap_or_default();
        if let Some(physical) =
            listed.into_iter().find(|listed| std::ptr::eq(&raw const **listed, physical))
        {
            device::insert(Device::new(*out, get, loader, &instance, physical, families));
        }
    }
    result
}

/// The extensions that are passed on: those that only the layer has are not.
unsafe fn enabled(
    physical: &Physical,
    info: &vk::DeviceCreateInfo<'_>,
) -> Result<Vec<*const c_char>, vk::Result> {
    let asked: Vec<*const c_char> = match info.enabled_extension_count {
        0 => Vec::new(),
        count => {
            std::slice::from_raw_parts(info.pp_enabled_extension_names, count as usize).to_vec()
        }
    };
    if let Some(hidden) = asked.iter().find(|name| physical.hides(CStr::from_ptr(**name))) {
        report::violation(
            "extensions",
            format_args!("{:?} is not listed", CStr::from_ptr(*hidden)),
        );
        return Err(vk::Result::ERROR_EXTENSION_NOT_PRESENT);
    }
    let added: Vec<_> = physical.added_extensions().collect();
    if added.is_empty() {
        return Ok(asked);
    }
    let next = query::next!(
        physical,
        vk::PFN_vkEnumerateDeviceExtensionProperties,
        "vkEnumerateDeviceExtensionProperties"
    );
    let real =
        query::driver_extensions(physical, next.ok_or(vk::Result::ERROR_INITIALIZATION_FAILED)?)?;
    let has =
        |name: &CStr| real.iter().any(|extension| extension.extension_name_as_c_str() == Ok(name));
    Ok(asked
        .into_iter()
        .filter(|name| {
            let name = CStr::from_ptr(*name);
            !added.contains(&name) || has(name)
        })
        .collect())
}

/// The driver's family and number of queues behind each family that the application sees.
pub(super) struct Families {
    /// Empty if the driver's own families are seen.
    described: Vec<Behind>,
}

#[derive(Clone, Copy)]
struct Behind {
    family: u32,
    queues: u32,
}

impl Families {
    unsafe fn new(instance: &Instance, physical: &Physical) -> Self {
        let real = instance.fns.get_physical_device_queue_family_properties(physical.raw);
        let behind = |flags: vk::QueueFlags| {
            let fits = real.iter().zip(0..).find(|(real, _)| real.queue_flags.contains(flags));
            // Every driver's first family will do if none has all flags: the profile is for software drivers.
            let (found, family) = fits.unwrap_or((&real[0], 0));
            Behind { family, queues: found.queue_count }
        };
        Self {
            described: physical
                .families()
                .iter()
                .map(|family| behind(family.queue_flags))
                .collect(),
        }
    }

    pub(super) fn is_driver(&self) -> bool {
        self.described.is_empty()
    }

    /// The driver's family behind one that the application sees.
    pub(super) fn family(&self, family: u32) -> u32 {
        self.described.get(family as usize).map_or(family, |behind| behind.family)
    }

    /// The driver's queue behind one that the application sees.
    pub(super) fn queue(&self, family: u32, index: u32) -> (u32, u32) {
        self.described
            .get(family as usize)
            .map_or((family, index), |behind| (behind.family, index % behind.queues))
    }

    /// The queues to create of each of the driver's families.
    unsafe fn created(&self, info: &vk::DeviceCreateInfo<'_>) -> BTreeMap<u32, Vec<f32>> {
        let mut all = BTreeMap::new();
        for at in 0..info.queue_create_info_count as usize {
            let asked = &*info.p_queue_create_infos.add(at);
            if let Some(behind) = self.described.get(asked.queue_family_index as usize) {
                let count = asked.queue_count.min(behind.queues) as usize;
                let priorities: &mut Vec<f32> = all.entry(behind.family).or_default();
                priorities.resize(priorities.len().max(count), 1.0);
            }
        }
        all
    }
}
