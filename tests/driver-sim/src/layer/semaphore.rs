//! Semaphores: which are timelines, and what cannot be exported.

use ash::vk;

use super::chain::find;
use super::{cname, device, lock, report};

const SYNC_FILE: vk::ExternalSemaphoreHandleTypeFlags =
    vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;

pub(super) unsafe extern "system" fn create(
    raw: vk::Device,
    info: *const vk::SemaphoreCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Semaphore,
) -> vk::Result {
    let device = device::of(raw);
    let chain = (*info).p_next;
    let is_timeline = find::<vk::SemaphoreTypeCreateInfo<'_>>(chain)
        .is_some_and(|kind| kind.semaphore_type == vk::SemaphoreType::TIMELINE);
    let exports = find::<vk::ExportSemaphoreCreateInfo<'_>>(chain)
        .is_some_and(|export| !export.handle_types.is_empty());
    if let Some(code) = device.switches().timeline_export_refused
        && is_timeline
        && exports
    {
        report::event("timeline_export_refused", format_args!("{}", device.label()));
        return code.0;
    }
    let create = device.fns.fp_v1_0().create_semaphore;
    let result = match find::<vk::ExportSemaphoreCreateInfo<'_>>(chain) {
        Some(export)
            if device.physical.fixed.sync_fd && export.handle_types.contains(SYNC_FILE) =>
        {
            // The driver need not know sync files. Binary semaphores have nothing else in their chain.
            let mut rest = vk::ExportSemaphoreCreateInfo::default()
                .handle_types(export.handle_types & !SYNC_FILE);
            let mut own = vk::SemaphoreCreateInfo::default().flags((*info).flags);
            if !rest.handle_types.is_empty() {
                own = own.push_next(&mut rest);
            }
            create(raw, (&raw const own).cast(), allocator.cast(), out)
        }
        _ => create(raw, info.cast(), allocator.cast(), out),
    };
    if result == vk::Result::SUCCESS && is_timeline {
        lock(&device.timelines).insert(*out);
    }
    result
}

pub(super) unsafe extern "system" fn destroy(
    raw: vk::Device,
    semaphore: vk::Semaphore,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = device::of(raw);
    lock(&device.timelines).remove(&semaphore);
    device.binary_signals.forget(semaphore);
    device.sync_files.forget(semaphore);
    device.fns.destroy_semaphore(semaphore, allocator.as_ref());
}

pub(super) unsafe extern "system" fn get_fd(
    raw: vk::Device,
    info: *const vk::SemaphoreGetFdInfoKHR<'_>,
    out: *mut i32,
) -> vk::Result {
    let device = device::of(raw);
    if device.physical.lacks_semaphore((*info).handle_type) {
        report::violation(
            "semaphores",
            format_args!("{}: {:?} is not offered", device.label(), (*info).handle_type),
        );
        return vk::Result::ERROR_OUT_OF_HOST_MEMORY;
    }
    if device.makes_sync_files((*info).handle_type) {
        return match device.export_sync_file((*info).semaphore) {
            Ok(file) => {
                *out = file;
                vk::Result::SUCCESS
            }
            Err(code) => code,
        };
    }
    // A sync file needs a fence of the kernel's: Mesa's submit thread must have come to it.
    if (*info).handle_type == SYNC_FILE {
        device.wait_until_forwarded(&[(*info).semaphore]);
    }
    let next = device.next::<vk::PFN_vkGetSemaphoreFdKHR>(cname!("vkGetSemaphoreFdKHR").as_ptr());
    next.map_or(vk::Result::ERROR_OUT_OF_HOST_MEMORY, |next| next(raw, info.cast(), out))
}

pub(super) unsafe extern "system" fn import_fd(
    raw: vk::Device,
    info: *const vk::ImportSemaphoreFdInfoKHR<'_>,
) -> vk::Result {
    let device = device::of(raw);
    if device.physical.lacks_semaphore((*info).handle_type) {
        report::violation(
            "semaphores",
            format_args!("{}: {:?} is not offered", device.label(), (*info).handle_type),
        );
        return vk::Result::ERROR_INVALID_EXTERNAL_HANDLE;
    }
    if device.makes_sync_files((*info).handle_type) {
        return device.import_sync_file(&*info);
    }
    let next =
        device.next::<vk::PFN_vkImportSemaphoreFdKHR>(cname!("vkImportSemaphoreFdKHR").as_ptr());
    next.map_or(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE, |next| next(raw, info.cast()))
}
