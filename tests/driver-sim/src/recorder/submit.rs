//! Submissions, semaphores, fences, and waits of the host.

use std::ffi::c_int;

use ash::vk;

use super::bytes::file_of;
use super::commands::list;
use super::device::{Device, of_handle};
use super::order::Batch;
use super::{lock, world};
use crate::layer::chain;

/// Takes batches down, submits them, and says whether they were accepted.
///
/// # Safety
/// `queue` is a queue of the device.
unsafe fn submit_all(
    device: &Device,
    queue: vk::Queue,
    batches: Vec<Batch>,
    submit: impl FnOnce() -> vk::Result,
) -> vk::Result {
    let Some(id) = device.queue(queue) else { return device.noted(submit()) };
    let numbers: Vec<_> =
        world(|world| batches.into_iter().filter_map(|batch| world.submit(id, batch)).collect());
    let result = submit();
    // What a lost device was given may run.
    let accepted = matches!(result, vk::Result::SUCCESS | vk::Result::ERROR_DEVICE_LOST);
    world(|world| {
        for number in numbers {
            world.accept(id, number, accepted);
        }
    });
    device.noted(result)
}

/// Sets the fence of the last batch, or makes one that only has the fence.
fn fenced(mut batches: Vec<Batch>, fence: vk::Fence) -> Vec<Batch> {
    if fence != vk::Fence::null() {
        match batches.last_mut() {
            Some(last) => last.fence = fence,
            None => batches.push(Batch { fence, ..Batch::default() }),
        }
    }
    batches
}

impl Device {
    /// What command buffers do.
    fn recorded(
        &self,
        commands: impl Iterator<Item = vk::CommandBuffer>,
    ) -> Vec<std::sync::Arc<Vec<super::places::Op>>> {
        let objects = lock(&self.objects);
        let known = commands.filter_map(|one| objects.commands.get(&one));
        known.map(super::commands::Recording::ops).filter(|ops| !ops.is_empty()).collect()
    }
}

pub(super) unsafe extern "system" fn submit(
    queue: vk::Queue,
    count: u32,
    submits: *const vk::SubmitInfo<'_>,
    fence: vk::Fence,
) -> vk::Result {
    let device = of_handle(queue);
    let batches = list(submits, count).iter().map(|one| {
        let values = chain::find::<vk::TimelineSemaphoreSubmitInfo<'_>>(one.p_next);
        let of = |semaphores: &[vk::Semaphore], values: &[u64]| {
            let values = values.iter().copied().chain(std::iter::repeat(0));
            semaphores.iter().copied().zip(values).collect()
        };
        let (waits, signals) = values.map_or((&[][..], &[][..]), |values| {
            (
                list(values.p_wait_semaphore_values, values.wait_semaphore_value_count),
                list(values.p_signal_semaphore_values, values.signal_semaphore_value_count),
            )
        });
        Batch {
            waits: of(list(one.p_wait_semaphores, one.wait_semaphore_count), waits),
            commands: device
                .recorded(list(one.p_command_buffers, one.command_buffer_count).iter().copied()),
            signals: of(list(one.p_signal_semaphores, one.signal_semaphore_count), signals),
            fence: vk::Fence::null(),
        }
    });
    let batches = fenced(batches.collect(), fence);
    submit_all(&device, queue, batches, || {
        (device.fns.fp_v1_0().queue_submit)(queue, count, submits, fence)
    })
}

pub(super) unsafe extern "system" fn submit2(
    queue: vk::Queue,
    count: u32,
    submits: *const vk::SubmitInfo2<'_>,
    fence: vk::Fence,
) -> vk::Result {
    let device = of_handle(queue);
    let Some(next) = device.next.submit2 else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    let batches = list(submits, count).iter().map(|one| {
        let of = |infos: &[vk::SemaphoreSubmitInfo<'_>]| {
            infos.iter().map(|info| (info.semaphore, info.value)).collect()
        };
        let commands = list(one.p_command_buffer_infos, one.command_buffer_info_count);
        Batch {
            waits: of(list(one.p_wait_semaphore_infos, one.wait_semaphore_info_count)),
            commands: device.recorded(commands.iter().map(|info| info.command_buffer)),
            signals: of(list(one.p_signal_semaphore_infos, one.signal_semaphore_info_count)),
            fence: vk::Fence::null(),
        }
    });
    let batches = fenced(batches.collect(), fence);
    submit_all(&device, queue, batches, || next(queue, count, submits, fence))
}

// ---- semaphores ----

pub(super) unsafe extern "system" fn create_semaphore(
    raw: vk::Device,
    info: *const vk::SemaphoreCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Semaphore,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().create_semaphore)(raw, info, allocator, out);
    if result == vk::Result::SUCCESS {
        let kind = chain::find::<vk::SemaphoreTypeCreateInfo<'_>>((*info).p_next);
        let timeline = kind.filter(|kind| kind.semaphore_type == vk::SemaphoreType::TIMELINE);
        let value = timeline.map(|kind| kind.initial_value);
        world(|world| world.create_semaphore(device.id, *out, value));
    }
    result
}

pub(super) unsafe extern "system" fn destroy_semaphore(
    raw: vk::Device,
    semaphore: vk::Semaphore,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = of_handle(raw);
    world(|world| world.destroy_semaphore(device.id, semaphore));
    (device.fns.fp_v1_0().destroy_semaphore)(raw, semaphore, allocator);
}

pub(super) unsafe extern "system" fn get_semaphore_fd(
    raw: vk::Device,
    info: *const vk::SemaphoreGetFdInfoKHR<'_>,
    out: *mut c_int,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.get_semaphore_fd else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    let result = next(raw, info, out);
    if result == vk::Result::SUCCESS {
        let is_copy = (*info).handle_type == vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
        let file = file_of(*out);
        let semaphore = (*info).semaphore;
        world(|world| world.export_semaphore(device.id, semaphore, (*out, file), is_copy));
    }
    device.noted(result)
}

pub(super) unsafe extern "system" fn import_semaphore_fd(
    raw: vk::Device,
    info: *const vk::ImportSemaphoreFdInfoKHR<'_>,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.import_semaphore_fd else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    // The driver takes the fd over.
    let file = file_of((*info).fd);
    let result = next(raw, info);
    if result == vk::Result::SUCCESS {
        let info = &*info;
        let is_temporary = info.flags.contains(vk::SemaphoreImportFlags::TEMPORARY)
            || info.handle_type == vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
        let fd = (info.fd, file);
        world(|world| world.import_semaphore(device.id, info.semaphore, fd, is_temporary));
    }
    device.noted(result)
}

pub(super) unsafe extern "system" fn signal_semaphore(
    raw: vk::Device,
    info: *const vk::SemaphoreSignalInfo<'_>,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.signal_semaphore else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    // What waits for it may end before the call returns.
    world(|world| world.signal(device.id, (*info).semaphore, (*info).value));
    device.noted(next(raw, info))
}

pub(super) unsafe extern "system" fn wait_semaphores(
    raw: vk::Device,
    info: *const vk::SemaphoreWaitInfo<'_>,
    timeout: u64,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.wait_semaphores else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    let result = next(raw, info, timeout);
    let info = &*info;
    let is_any = info.flags.contains(vk::SemaphoreWaitFlags::ANY) && info.semaphore_count > 1;
    if result == vk::Result::SUCCESS && !is_any {
        let all = list(info.p_semaphores, info.semaphore_count).iter();
        world(|world| {
            for (semaphore, value) in all.zip(list(info.p_values, info.semaphore_count)) {
                world.saw_value(device.id, *semaphore, *value);
            }
        });
    }
    device.noted(result)
}

pub(super) unsafe extern "system" fn get_counter(
    raw: vk::Device,
    semaphore: vk::Semaphore,
    out: *mut u64,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.get_counter else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    let result = next(raw, semaphore, out);
    // A lost device may say that all has ended.
    if result == vk::Result::SUCCESS && *out != u64::MAX {
        world(|world| world.saw_value(device.id, semaphore, *out));
    }
    device.noted(result)
}

// ---- fences, and waits for all ----

pub(super) unsafe extern "system" fn wait_for_fences(
    raw: vk::Device,
    count: u32,
    fences: *const vk::Fence,
    all: vk::Bool32,
    timeout: u64,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().wait_for_fences)(raw, count, fences, all, timeout);
    if result == vk::Result::SUCCESS && (all == vk::TRUE || count == 1) {
        world(|world| {
            for fence in list(fences, count) {
                world.saw_fence(device.id, *fence);
            }
        });
    }
    device.noted(result)
}

pub(super) unsafe extern "system" fn get_fence_status(
    raw: vk::Device,
    fence: vk::Fence,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().get_fence_status)(raw, fence);
    if result == vk::Result::SUCCESS {
        world(|world| world.saw_fence(device.id, fence));
    }
    device.noted(result)
}

pub(super) unsafe extern "system" fn reset_fences(
    raw: vk::Device,
    count: u32,
    fences: *const vk::Fence,
) -> vk::Result {
    let device = of_handle(raw);
    world(|world| {
        for fence in list(fences, count) {
            world.forget_fence(device.id, *fence);
        }
    });
    (device.fns.fp_v1_0().reset_fences)(raw, count, fences)
}

pub(super) unsafe extern "system" fn destroy_fence(
    raw: vk::Device,
    fence: vk::Fence,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = of_handle(raw);
    world(|world| world.forget_fence(device.id, fence));
    (device.fns.fp_v1_0().destroy_fence)(raw, fence, allocator);
}

pub(super) unsafe extern "system" fn queue_wait_idle(queue: vk::Queue) -> vk::Result {
    let device = of_handle(queue);
    let result = (device.fns.fp_v1_0().queue_wait_idle)(queue);
    if result == vk::Result::SUCCESS
        && let Some(id) = device.queue(queue)
    {
        world(|world| world.saw_queue_idle(id));
    }
    device.noted(result)
}

pub(super) unsafe extern "system" fn device_wait_idle(raw: vk::Device) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().device_wait_idle)(raw);
    if result == vk::Result::SUCCESS {
        world(|world| world.saw_device_idle(device.id));
    }
    device.noted(result)
}
