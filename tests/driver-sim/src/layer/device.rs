//! One logical device: the next layer's functions, and what the layer keeps of its objects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

use ash::vk::{self, Handle};

use super::abi::SetDeviceLoaderData;
use super::binary_signals::BinarySignals;
use super::create::Families;
use super::instance::Instance;
use super::memory::Memory;
use super::physical::Physical;
use super::queue::{Queue, RealQueue};
use super::sync_files::SyncFiles;
use super::tiling::Tiled;
use super::{lock, report};
use crate::config::Switches;

/// One logical device.
pub(super) struct Device {
    pub(super) raw: vk::Device,
    pub(super) get: vk::PFN_vkGetDeviceProcAddr,
    pub(super) set_loader_data: Option<SetDeviceLoaderData>,
    pub(super) fns: ash::Device,
    pub(super) physical: Arc<Physical>,
    pub(super) families: Families,
    /// Whether each queue has a thread, which forwards what is submitted.
    pub(super) has_threads: bool,
    pub(super) memory: Mutex<HashMap<vk::DeviceMemory, Memory>>,
    /// Memory of bound buffers.
    pub(super) buffers: Mutex<HashMap<vk::Buffer, vk::DeviceMemory>>,
    /// Images of the tiled modifier.
    pub(super) tiled: Mutex<HashMap<vk::Image, Arc<Tiled>>>,
    /// The application's family of each command pool.
    pub(super) pools: Mutex<HashMap<vk::CommandPool, u32>>,
    pub(super) commands: Mutex<HashMap<vk::CommandBuffer, u32>>,
    pub(super) queues: Mutex<BTreeMap<(u32, u32), Arc<Queue>>>,
    pub(super) real_queues: Mutex<HashMap<vk::Queue, Arc<RealQueue>>>,
    pub(super) timelines: Mutex<HashSet<vk::Semaphore>>,
    pub(super) binary_signals: BinarySignals,
    pub(super) sync_files: SyncFiles,
    pub(super) submissions: AtomicU64,
    pub(super) allocations: AtomicU64,
    lost: AtomicBool,
}

static DEVICES: LazyLock<RwLock<HashMap<usize, Arc<Device>>>> = LazyLock::new(RwLock::default);

/// The device of a device's, queue's or command buffer's key.
fn find(key: usize) -> Arc<Device> {
    let devices = DEVICES.read().unwrap_or_else(PoisonError::into_inner);
    match devices.get(&key) {
        Some(device) => Arc::clone(device),
        // A handle that no call gave: the application broke a rule, and nothing can be answered.
        None => std::process::abort(),
    }
}

/// The device of a handle.
pub(super) unsafe fn of(raw: vk::Device) -> Arc<Device> {
    find(*(raw.as_raw() as *const usize))
}

/// The device of a command buffer.
pub(super) unsafe fn of_commands(raw: vk::CommandBuffer) -> Arc<Device> {
    find(*(raw.as_raw() as *const usize))
}

pub(super) unsafe fn insert(device: Arc<Device>) {
    let key = *(device.raw.as_raw() as *const usize);
    DEVICES.write().unwrap_or_else(PoisonError::into_inner).insert(key, device);
}

pub(super) unsafe extern "system" fn destroy(
    raw: vk::Device,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    if raw == vk::Device::null() {
        return;
    }
    let key = *(raw.as_raw() as *const usize);
    let device = DEVICES.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    let Some(device) = device else { return };
    for queue in lock(&device.queues).values() {
        queue.end();
    }
    // What the driver has runs to its end first; what a held queue has kept back never runs.
    let _ = device.fns.device_wait_idle();
    device.sync_files.end();
    for (_, memory) in lock(&device.memory).drain() {
        memory.forget(&device.physical);
    }
    device.fns.destroy_device(allocator.as_ref());
}

impl Device {
    pub(super) unsafe fn new(
        raw: vk::Device,
        get: vk::PFN_vkGetDeviceProcAddr,
        set_loader_data: Option<SetDeviceLoaderData>,
        instance: &Instance,
        physical: Arc<Physical>,
        families: Families,
    ) -> Arc<Self> {
        let load = |name: &CStr| {
            get(raw, name.as_ptr()).map_or(std::ptr::null(), |found| found as *const _)
        };
        let _ = instance;
        let fns = ash::Device::load_with(load, raw);
        let has_threads =
            !families.is_driver() || physical.is_controlled() || needs_threads(&physical.fixed);
        Arc::new(Self {
            raw,
            get,
            set_loader_data,
            fns,
            physical,
            families,
            has_threads,
            memory: Mutex::default(),
            buffers: Mutex::default(),
            tiled: Mutex::default(),
            pools: Mutex::default(),
            commands: Mutex::default(),
            queues: Mutex::default(),
            real_queues: Mutex::default(),
            timelines: Mutex::default(),
            binary_signals: BinarySignals::default(),
            sync_files: SyncFiles::default(),
            submissions: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        })
    }

    /// A function of the next layer that is not in `ash`'s tables.
    ///
    /// # Safety
    /// `F` is the type of the function with this name.
    pub(super) unsafe fn next<F: Copy>(&self, name: *const c_char) -> Option<F> {
        let found = (self.get)(self.raw, name)?;
        // SAFETY: a function pointer of the stated type.
        Some(unsafe { std::mem::transmute_copy(&found) })
    }

    pub(super) fn switches(&self) -> Arc<Switches> {
        self.physical.switches()
    }

    pub(super) fn label(&self) -> &str {
        &self.physical.label
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// From now on calls of this device report its loss.
    pub(super) fn lose(&self, switch: &str) {
        if !self.lost.swap(true, Ordering::AcqRel) {
            report::event(switch, format_args!("{} is lost", self.label()));
        }
    }
}

/// Behaviours that need a thread for each queue.
fn needs_threads(switches: &Switches) -> bool {
    switches.hung_after.is_some()
        || switches.slow_exporter.is_some()
        || switches.lost_in_thread.is_some()
        || switches.work_after_lost
        || switches.empty_wait_hangs
        || switches.sync_fd
}
