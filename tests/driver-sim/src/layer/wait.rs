//! Waits and questions about progress, which also say that a device is lost.

use std::time::{Duration, Instant};

use ash::vk;

use super::device::{self, Device};
use super::queue::Queue;
use super::{cname, lock};
use crate::config::LostWaits;

/// How long a wait lasts before it looks whether the device was lost meanwhile.
const SLICE: Duration = Duration::from_millis(10);

impl Device {
    /// The next layer's `vkWaitSemaphores`.
    pub(super) unsafe fn wait_semaphores(&self) -> vk::PFN_vkWaitSemaphores {
        let name = cname!("vkWaitSemaphores").as_ptr();
        let next = self.next(name).or_else(|| self.next(cname!("vkWaitSemaphoresKHR").as_ptr()));
        next.unwrap_or(self.fns.fp_v1_2().wait_semaphores)
    }

    /// Waits in slices. `wait` is the driver's wait for so many nanoseconds.
    fn wait(&self, nanoseconds: u64, mut wait: impl FnMut(u64) -> vk::Result) -> vk::Result {
        let begun = Instant::now();
        let limit = Duration::from_nanos(nanoseconds);
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            if self.is_lost() {
                return self.wait_lost(left);
            }
            // CAST: at most 10 ms.
            let result = wait(left.min(SLICE).as_nanos() as u64);
            if result != vk::Result::TIMEOUT || left <= SLICE {
                return result;
            }
        }
    }

    /// What a wait says on a lost device.
    fn wait_lost(&self, for_at_most: Duration) -> vk::Result {
        if self.switches().lost_waits == LostWaits::Finish && !self.finish(for_at_most) {
            return vk::Result::TIMEOUT;
        }
        vk::Result::ERROR_DEVICE_LOST
    }

    /// Waits until nothing runs and nothing is kept back.
    fn finish(&self, for_at_most: Duration) -> bool {
        let begun = Instant::now();
        let queues: Vec<_> = lock(&self.queues).values().cloned().collect();
        for worker in queues.iter().filter_map(|queue| queue.worker()) {
            if !worker.wait_until_drained(for_at_most.saturating_sub(begun.elapsed())) {
                return false;
            }
        }
        self.is_driver_idle_within(for_at_most.saturating_sub(begun.elapsed()))
    }

    /// Whether all that the driver has ends in time. What it waits for may be signalled by a thread that waits here, so a
    /// wait with a limit keeps to it, as one on a lost device does.
    fn is_driver_idle_within(&self, limit: Duration) -> bool {
        let begun = Instant::now();
        let real: Vec<_> = lock(&self.real_queues).values().cloned().collect();
        real.iter().all(|queue| {
            // SAFETY: the device is alive.
            let fence = unsafe { self.fns.create_fence(&vk::FenceCreateInfo::default(), None) };
            // The simulated device is lost, whatever the driver says, here and below.
            let Ok(fence) = fence else { return true };
            {
                let _turn = lock(&queue.turn);
                // SAFETY: the queue's turn is held; the fence is new. It signals after all that was submitted before.
                if unsafe { self.fns.queue_submit(queue.raw, &[], fence) }.is_err() {
                    // SAFETY: nothing was submitted with it.
                    unsafe { self.fns.destroy_fence(fence, None) };
                    return true;
                }
            }
            let left = limit.saturating_sub(begun.elapsed()).as_nanos();
            let left = u64::try_from(left).unwrap_or(u64::MAX);
            // SAFETY: the fence is of this device.
            if unsafe { self.fns.wait_for_fences(&[fence], true, left) } == Err(vk::Result::TIMEOUT)
            {
                // The driver has the fence still: it is leaked.
                return false;
            }
            // SAFETY: its submission has ended, or the driver's device is lost.
            unsafe { self.fns.destroy_fence(fence, None) };
            true
        })
    }

    /// The driver's `vkDeviceWaitIdle`, while no queue is used.
    fn driver_idle(&self) -> vk::Result {
        let real: Vec<_> = lock(&self.real_queues).values().cloned().collect();
        let _turns: Vec<_> = real.iter().map(|queue| lock(&queue.turn)).collect();
        // SAFETY: the device is alive, and no queue is used meanwhile.
        let idle = unsafe { self.fns.device_wait_idle() };
        idle.map_or_else(|code| code, |()| vk::Result::SUCCESS)
    }
}

pub(super) unsafe extern "system" fn queue_wait_idle(raw: vk::Queue) -> vk::Result {
    let queue = Queue::of(raw);
    let device = queue.device();
    if let Some(worker) = queue.worker() {
        while !worker.wait_until_drained(SLICE) {
            if device.is_lost() {
                return device.wait_lost(Duration::MAX);
            }
        }
    }
    if device.is_lost() {
        return device.wait_lost(Duration::MAX);
    }
    let _turn = lock(&queue.real.turn);
    (device.fns.fp_v1_0().queue_wait_idle)(queue.real.raw)
}

pub(super) unsafe extern "system" fn device_wait_idle(raw: vk::Device) -> vk::Result {
    let device = device::of(raw);
    let queues: Vec<_> = lock(&device.queues).values().cloned().collect();
    while !device.is_lost()
        && !queues.iter().filter_map(|queue| queue.worker()).all(|worker| worker.is_drained())
    {
        if let Some(worker) =
            queues.iter().find_map(|queue| queue.worker().filter(|worker| !worker.is_drained()))
        {
            worker.wait_until_drained(SLICE);
        }
    }
    if device.is_lost() {
        return device.wait_lost(Duration::MAX);
    }
    device.driver_idle()
}

pub(super) unsafe extern "system" fn wait_for_fences(
    raw: vk::Device,
    count: u32,
    fences: *const vk::Fence,
    all: vk::Bool32,
    timeout: u64,
) -> vk::Result {
    let device = device::of(raw);
    let next = device.fns.fp_v1_0().wait_for_fences;
    device.wait(timeout, |slice| next(raw, count, fences, all, slice))
}

pub(super) unsafe extern "system" fn get_fence_status(
    raw: vk::Device,
    fence: vk::Fence,
) -> vk::Result {
    let device = device::of(raw);
    if device.is_lost() {
        return vk::Result::ERROR_DEVICE_LOST;
    }
    (device.fns.fp_v1_0().get_fence_status)(raw, fence)
}

pub(super) unsafe extern "system" fn wait_semaphores(
    raw: vk::Device,
    info: *const vk::SemaphoreWaitInfo<'_>,
    timeout: u64,
) -> vk::Result {
    let device = device::of(raw);
    let next = device.wait_semaphores();
    device.wait(timeout, |slice| next(raw, info.cast(), slice))
}

pub(super) unsafe extern "system" fn get_counter(
    raw: vk::Device,
    semaphore: vk::Semaphore,
    out: *mut u64,
) -> vk::Result {
    let device = device::of(raw);
    if device.is_lost() {
        return vk::Result::ERROR_DEVICE_LOST;
    }
    let next = device
        .next::<vk::PFN_vkGetSemaphoreCounterValue>(cname!("vkGetSemaphoreCounterValue").as_ptr())
        .or_else(|| device.next(cname!("vkGetSemaphoreCounterValueKHR").as_ptr()));
    next.map_or(vk::Result::ERROR_DEVICE_LOST, |next| next(raw, semaphore, out))
}
