//! Submissions: whether they are accepted, and which way they go.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use ash::vk;

use super::chain::find;
use super::device::Device;
use super::import::Import;
use super::memory::Memory;
use super::origin::Exporter;
use super::queue::Queue;
use super::worker::{Batch, Job, Point};
use super::{cname, lock, report};
use crate::config::Poison;

pub(super) unsafe extern "system" fn submit(
    raw: vk::Queue,
    count: u32,
    submits: *const vk::SubmitInfo<'_>,
    fence: vk::Fence,
) -> vk::Result {
    let queue = Queue::of(raw);
    let device = queue.device();
    let number = match admit(&device) {
        Admitted::Run(number) => number,
        Admitted::Swallow => return vk::Result::SUCCESS,
        Admitted::Fail(code) => return code,
    };
    let Some(worker) = queue.worker() else {
        let _turn = lock(&queue.real.turn);
        return (device.fns.fp_v1_0().queue_submit)(queue.real.raw, count, submits.cast(), fence);
    };
    let batches = slice(submits, count).iter().map(|info| batch(&device, info)).collect();
    worker.push(&device, Job { number, batches, fence, is_second: false });
    vk::Result::SUCCESS
}

pub(super) unsafe extern "system" fn submit2(
    raw: vk::Queue,
    count: u32,
    submits: *const vk::SubmitInfo2<'_>,
    fence: vk::Fence,
) -> vk::Result {
    let queue = Queue::of(raw);
    let device = queue.device();
    let number = match admit(&device) {
        Admitted::Run(number) => number,
        Admitted::Swallow => return vk::Result::SUCCESS,
        Admitted::Fail(code) => return code,
    };
    let Some(worker) = queue.worker() else {
        let _turn = lock(&queue.real.turn);
        return match device.submit2() {
            Some(next) => next(queue.real.raw, count, submits.cast(), fence),
            None => vk::Result::ERROR_DEVICE_LOST,
        };
    };
    let batches = slice(submits, count).iter().map(|info| batch2(&device, info)).collect();
    worker.push(&device, Job { number, batches, fence, is_second: true });
    vk::Result::SUCCESS
}

impl Device {
    pub(super) unsafe fn submit2(&self) -> Option<vk::PFN_vkQueueSubmit2> {
        self.next(cname!("vkQueueSubmit2").as_ptr())
            .or_else(|| self.next(cname!("vkQueueSubmit2KHR").as_ptr()))
    }
}

enum Admitted {
    /// The submission has this number on its device.
    Run(u64),
    /// It is accepted and never runs.
    Swallow,
    Fail(vk::Result),
}

fn admit(device: &Device) -> Admitted {
    const LOST: Admitted = Admitted::Fail(vk::Result::ERROR_DEVICE_LOST);
    if device.is_lost() {
        return LOST;
    }
    let switches = device.switches();
    let number = device.submissions.fetch_add(1, Ordering::Relaxed) + 1;
    if switches.lost_at_submit.is_some_and(|at| number >= at) {
        device.lose("lost_at_submit");
        return LOST;
    }
    if switches.lost_in_thread.is_some_and(|at| number >= at) {
        device.lose("lost_in_thread");
        return Admitted::Swallow;
    }
    if let Some(code) = switches.import_poisons_submit {
        let (fd, host) = match switches.poisonous_import {
            Poison::Fd => (true, false),
            Poison::Host => (false, true),
            Poison::Any => (true, true),
        };
        let is_poison = |memory: &Memory| match memory.import {
            Some(Import::Fd { from: Some(_), .. }) => fd,
            Some(Import::Host) => host,
            _ => false,
        };
        if lock(&device.memory).values().any(is_poison) {
            report::event(
                "import_poisons_submit",
                format_args!("{}: submission {number}", device.label()),
            );
            if code.0 == vk::Result::ERROR_DEVICE_LOST {
                device.lose("import_poisons_submit");
            }
            return Admitted::Fail(code.0);
        }
    }
    let is_blamed = |memory: &Memory| {
        matches!(memory.import, Some(Import::Fd { from: Some(Exporter { poisons: true, .. }), .. }))
    };
    if lock(&device.memory).values().any(is_blamed) {
        report::event(
            "export_poisons_importers",
            format_args!("{}: submission {number}", device.label()),
        );
        let code = switches.poisoned_submit.map_or(vk::Result::ERROR_DEVICE_LOST, |code| code.0);
        if code == vk::Result::ERROR_DEVICE_LOST {
            device.lose("export_poisons_importers");
        }
        return Admitted::Fail(code);
    }
    if let Some(limit) = switches.submit_lost_on_oom {
        let memory = lock(&device.memory);
        let bytes: u64 = memory
            .values()
            .filter(|memory| memory.import.is_some())
            .map(|memory| memory.size)
            .sum();
        drop(memory);
        if bytes > limit.0 {
            report::event(
                "submit_lost_on_oom",
                format_args!("{}: {bytes} bytes imported", device.label()),
            );
            device.lose("submit_lost_on_oom");
            return LOST;
        }
    }
    Admitted::Run(number)
}

unsafe fn slice<'a, T>(items: *const T, count: u32) -> &'a [T] {
    if count == 0 { &[] } else { std::slice::from_raw_parts(items, count as usize) }
}

unsafe fn batch(device: &Device, info: &vk::SubmitInfo<'_>) -> Batch {
    let values = find::<vk::TimelineSemaphoreSubmitInfo<'_>>(info.p_next);
    let wait_values =
        values.map_or(&[][..], |v| slice(v.p_wait_semaphore_values, v.wait_semaphore_value_count));
    let signal_values = values
        .map_or(&[][..], |v| slice(v.p_signal_semaphore_values, v.signal_semaphore_value_count));
    let stages = slice(info.p_wait_dst_stage_mask, info.wait_semaphore_count);
    let waits = slice(info.p_wait_semaphores, info.wait_semaphore_count).iter().enumerate();
    let signals = slice(info.p_signal_semaphores, info.signal_semaphore_count).iter().enumerate();
    let mut files = Vec::new();
    Batch {
        waits: waits
            .filter(|(_, semaphore)| !takes_file(device, **semaphore, &mut files))
            .map(|(at, semaphore)| {
                let stages = stages.get(at).map_or(0, |stages| u64::from(stages.as_raw()));
                Point::new(
                    device,
                    *semaphore,
                    wait_values.get(at).copied(),
                    vk::PipelineStageFlags2::from_raw(stages),
                )
            })
            .collect(),
        files,
        commands: slice(info.p_command_buffers, info.command_buffer_count).to_vec(),
        signals: signals
            .map(|(at, semaphore)| {
                let all = vk::PipelineStageFlags2::ALL_COMMANDS;
                Point::new(device, *semaphore, signal_values.get(at).copied(), all)
            })
            .collect(),
    }
}

unsafe fn batch2(device: &Device, info: &vk::SubmitInfo2<'_>) -> Batch {
    let point = |info: &vk::SemaphoreSubmitInfo<'_>| {
        Point::new(device, info.semaphore, Some(info.value), info.stage_mask)
    };
    let waits = slice(info.p_wait_semaphore_infos, info.wait_semaphore_info_count).iter();
    let signals = slice(info.p_signal_semaphore_infos, info.signal_semaphore_info_count).iter();
    let commands = slice(info.p_command_buffer_infos, info.command_buffer_info_count);
    let mut files = Vec::new();
    Batch {
        waits: waits
            .filter(|info| !takes_file(device, info.semaphore, &mut files))
            .map(point)
            .collect(),
        files,
        commands: commands.iter().map(|info| info.command_buffer).collect(),
        signals: signals.map(point).collect(),
    }
}

/// Adds the sync file that a semaphore has for its payload. Without one the driver waits for the semaphore.
fn takes_file(device: &Device, semaphore: vk::Semaphore, files: &mut Vec<OwnedFd>) -> bool {
    let imported = device.sync_files.take(semaphore);
    let is_file = imported.is_some();
    files.extend(imported.flatten());
    is_file
}
