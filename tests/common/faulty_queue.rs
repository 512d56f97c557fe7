//! A driver whose queue loses submissions: a function table that an application passes with its device.
//!
//! Drivers of Mesa report a lost device when one submission fails, while earlier ones still run; in a submit thread,
//! a submission that was accepted may fail unseen. The driver below and the validation layer see a healthy device.
#![expect(unsafe_code, reason = "a function table with a replaced function")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ash::vk::{self, Handle};

/// What the queue does with a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The driver gets it.
    Forwarded,
    /// The driver gets it, and the caller is told that the device is lost.
    RunsAndReportsLoss,
    /// The caller is told that it succeeded, and the driver never gets it.
    Swallowed,
}

/// A queue whose next submission has a chosen fate.
pub(crate) struct FaultyQueue {
    device: ash::Device,
    queue: u64,
    next: Arc<Mutex<Fate>>,
    lost: Arc<AtomicBool>,
}

struct Known {
    submit: vk::PFN_vkQueueSubmit,
    next: Arc<Mutex<Fate>>,
}

struct KnownDevice {
    wait: vk::PFN_vkWaitSemaphores,
    lost: Arc<AtomicBool>,
}

/// By queue handle.
static KNOWN: Mutex<BTreeMap<u64, Known>> = Mutex::new(BTreeMap::new());
/// By device handle.
static DEVICES: Mutex<BTreeMap<u64, KnownDevice>> = Mutex::new(BTreeMap::new());

impl FaultyQueue {
    /// The first queue of `family` of `real`.
    pub(crate) fn new(real: &ash::Device, family: u32) -> Self {
        // SAFETY: the device was made with this queue.
        let queue = unsafe { real.get_device_queue(family, 0) }.as_raw();
        let next = Arc::new(Mutex::new(Fate::Forwarded));
        let submit = real.fp_v1_0().queue_submit;
        lock(&KNOWN).insert(queue, Known { submit, next: Arc::clone(&next) });
        let (lost, wait) = (Arc::<AtomicBool>::default(), real.fp_v1_2().wait_semaphores);
        let known = KnownDevice { wait, lost: Arc::clone(&lost) };
        lock(&DEVICES).insert(real.handle().as_raw(), known);
        let device = ash::Device::from_parts_1_3(
            real.handle(),
            ash::DeviceFnV1_0 { queue_submit, ..real.fp_v1_0().clone() },
            real.fp_v1_1().clone(),
            ash::DeviceFnV1_2 { wait_semaphores, ..real.fp_v1_2().clone() },
            real.fp_v1_3().clone(),
        );
        Self { device, queue, next, lost }
    }

    /// The device, with a function table that uses this queue.
    pub(crate) fn device(&self) -> &ash::Device {
        &self.device
    }

    /// Sets what becomes of the next submission.
    pub(crate) fn next(&self, fate: Fate) {
        *lock(&self.next) = fate;
    }

    /// From now on waits report that the device is lost.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}

impl Drop for FaultyQueue {
    fn drop(&mut self) {
        lock(&KNOWN).remove(&self.queue);
        lock(&DEVICES).remove(&self.device.handle().as_raw());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "system" fn queue_submit(
    queue: vk::Queue,
    count: u32,
    infos: *const vk::SubmitInfo<'_>,
    fence: vk::Fence,
) -> vk::Result {
    let (submit, fate) = {
        let known = lock(&KNOWN);
        let known = known.get(&queue.as_raw()).expect("one of these");
        (known.submit, std::mem::replace(&mut *lock(&known.next), Fate::Forwarded))
    };
    if fate == Fate::Swallowed {
        return vk::Result::SUCCESS;
    }
    // SAFETY: the caller's contract.
    let result = unsafe { submit(queue, count, infos, fence) };
    if fate == Fate::RunsAndReportsLoss { vk::Result::ERROR_DEVICE_LOST } else { result }
}

unsafe extern "system" fn wait_semaphores(
    device: vk::Device,
    info: *const vk::SemaphoreWaitInfo<'_>,
    timeout: u64,
) -> vk::Result {
    let (wait, lost) = {
        let devices = lock(&DEVICES);
        let known = devices.get(&device.as_raw()).expect("one of these");
        (known.wait, known.lost.load(Ordering::Relaxed))
    };
    if lost {
        return vk::Result::ERROR_DEVICE_LOST;
    }
    // SAFETY: the caller's contract.
    unsafe { wait(device, info, timeout) }
}
