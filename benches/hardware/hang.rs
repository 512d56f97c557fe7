//! Steps 8 and 9: long work, and work that never ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;
use peerbuf::{Access, BufferDescriptor, Device, EngineDescriptor};
use serde_json::json;

use crate::gpu::{Gpu, Machine, Result, is_cpu, label};
use crate::shared::text;
use crate::{Outcome, code, found};

/// Step 8: how long an attach, a host access and a submission take while the device's queue is busy.
pub(crate) fn attach_while_busy() -> Outcome {
    let machine = Machine::open(&EngineDescriptor::new().timeout(Duration::from_secs(20)))?;
    let Some((at, device)) =
        machine.devices.iter().enumerate().max_by_key(|(_, device)| !is_cpu(device))
    else {
        return Ok(());
    };
    let seconds = if is_cpu(device) { 2 } else { 15 };
    let other = machine.devices.iter().find(|other| *other != device);
    let other = match other {
        Some(other) => other.clone(),
        None => machine.engine.open_device(device.adapter())?,
    };
    // The job runs on another device of the same GPU: the engine's own queue stays free of it.
    for (queue, seconds) in
        [("another device of the GPU", seconds), ("the engine's own queue", seconds)]
    {
        let job = job(device, queue == "the engine's own queue", seconds);
        let (end, rounds) = match job {
            Ok(job) => job,
            Err(error) => {
                found(
                    &json!({ "device": label(at, device.adapter()), "queue": queue, "job": format!("{error:?}") }),
                );
                continue;
            }
        };
        let begin = Instant::now();
        let buffer =
            machine.engine.create_buffer(device, BufferDescriptor::new(1 << 20).name("busy"))?;
        let mut timed = Vec::new();
        let mut time = |what: &str, result: String| {
            timed.push(
                json!({ "call": what, "result": result, "at": begin.elapsed().as_secs_f64() }),
            );
        };
        let first = buffer.attach(device);
        time("attach of the busy device", text(&first));
        let second = buffer.attach(&other);
        time("attach of another device", text(&second));
        time("host access", text(&buffer.host_access(Access::Read)));
        drop((first, second));
        let over = end();
        found(&json!({
            "device": label(at, device.adapter()), "other": other.name(), "queue": queue, "rounds": rounds,
            "wanted_seconds": seconds, "job": code(&over), "job_ended_at": begin.elapsed().as_secs_f64(),
            "calls": timed,
        }));
    }
    Ok(())
}

type End = Box<dyn FnOnce() -> Result<()>>;

/// Submits the job, on a device by hand or behind the engine's lock on its queue.
fn job(device: &Device, on_own_queue: bool, seconds: u64) -> Result<(End, u32)> {
    let gpu = Gpu::new(device)?;
    let rounds = gpu.rounds(Duration::from_secs(seconds))?;
    let bound = Duration::from_secs(40);
    let gpu = if on_own_queue { Gpu::of(device)? } else { gpu };
    let commands = [gpu.spin(rounds)?];
    let info = vk::SubmitInfo::default().command_buffers(&commands);
    let fence =
        if on_own_queue { device.with_queue(|_| gpu.submit(info)) } else { gpu.submit(info) }?;
    Ok((Box::new(move || gpu.wait(fence, bound)), rounds))
}

/// Step 9: a shader that never ends, on a device that is thrown away, and what each call says of it and when. A second
/// device of the GPU waits for the first one's timeline.
pub(crate) fn infinite() -> Outcome {
    let machine = Machine::open(&EngineDescriptor::new())?;
    let mut devices: Vec<_> = machine.devices.iter().enumerate().collect();
    devices.sort_by_key(|(_, device)| is_cpu(device));
    let is_only_cpu = devices.iter().all(|(_, device)| is_cpu(device));
    for (at, device) in devices.into_iter().filter(|(_, device)| is_only_cpu || !is_cpu(device)) {
        let name = label(at, device.adapter());
        if let Err(error) = hang(&name, device) {
            found(&json!({ "device": name, "error": format!("{error:?}") }));
        }
    }
    Ok(())
}

fn hang(name: &str, device: &Device) -> Result<()> {
    type Kind = vk::ExternalSemaphoreHandleTypeFlags;
    let (gpu, second) = (Arc::new(Gpu::new(device)?), Gpu::new(device)?);
    // A processor would be busy for the rest of the run.
    let rounds = if is_cpu(device) { gpu.rounds(Duration::from_secs(3))? } else { 0 };
    let begin = Instant::now();
    let say = |call: &str, result: String| {
        found(
            &json!({ "device": name, "call": call, "result": result, "at": begin.elapsed().as_secs_f64() }),
        );
    };
    say("rounds", rounds.to_string());
    let is_reported = device.adapter().external_semaphores().iter().any(|row| {
        row.timeline && row.exportable && row.importable && row.handle == Kind::OPAQUE_FD
    });
    let shared = match is_reported {
        true => gpu.semaphore(true, Kind::OPAQUE_FD),
        false => Err(vk::Result::ERROR_FEATURE_NOT_PRESENT),
    };
    say("vkCreateSemaphore (timeline, exportable)", code(&shared));
    let is_shared = shared.is_ok();
    let timeline = shared.or_else(|_| gpu.semaphore(true, Kind::empty()))?;
    let commands = [gpu.spin(rounds)?];
    let (signals, values) = ([timeline], [1]);
    let mut value = vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
    let info = vk::SubmitInfo::default()
        .command_buffers(&commands)
        .signal_semaphores(&signals)
        .push_next(&mut value);
    let submitted = gpu.submit(info);
    say("vkQueueSubmit", code(&submitted));
    let waiting = if is_shared {
        follow(&gpu, &second, timeline)
    } else {
        Err(vk::Result::ERROR_FEATURE_NOT_PRESENT)
    };
    say("a second device's submission that waits for the timeline", code(&waiting));
    for _ in 0..8 {
        let info = vk::SemaphoreWaitInfo::default().semaphores(&signals).values(&values);
        // SAFETY: the semaphore is live.
        let (waited, counter) = unsafe {
            (
                gpu.raw.wait_semaphores(&info, 1_000_000_000),
                gpu.raw.get_semaphore_counter_value(timeline),
            )
        };
        say("vkWaitSemaphores, 1 s", code(&waited));
        say(
            "vkGetSemaphoreCounterValue",
            counter.map_or_else(|code| format!("{code:?}"), |value| value.to_string()),
        );
        if waited != Err(vk::Result::TIMEOUT) {
            break;
        }
    }
    if let Ok(fence) = waiting {
        say("the second device's fence, 2 s", code(&second.wait(fence, Duration::from_secs(2))));
    }
    let later = gpu.submit(vk::SubmitInfo::default());
    say("vkQueueSubmit of nothing", code(&later));
    let idle = Arc::clone(&gpu);
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: no other thread uses the queue from here on.
        let _ = sender.send(code(&unsafe { idle.raw.device_wait_idle() }));
    });
    let ended = ended.recv_timeout(Duration::from_secs(15));
    say("vkDeviceWaitIdle, 15 s", ended.unwrap_or_else(|_| "no return".into()));
    Ok(())
}

/// A submission of the second device that waits for the first one's timeline.
fn follow(first: &Gpu, second: &Gpu, timeline: vk::Semaphore) -> Result<vk::Fence> {
    type Kind = vk::ExternalSemaphoreHandleTypeFlags;
    let get = vk::SemaphoreGetFdInfoKHR::default().semaphore(timeline).handle_type(Kind::OPAQUE_FD);
    let image = [second.semaphore(true, Kind::empty())?];
    // SAFETY: both are devices of one driver and one GPU; the importer takes the fd.
    unsafe {
        let fd = first.semaphores.get_semaphore_fd(&get)?;
        let import = vk::ImportSemaphoreFdInfoKHR::default()
            .semaphore(image[0])
            .handle_type(Kind::OPAQUE_FD)
            .fd(fd);
        second.semaphores.import_semaphore_fd(&import)?;
    }
    let (values, stages) = ([1], [vk::PipelineStageFlags::ALL_COMMANDS]);
    let mut value = vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&values);
    let info = vk::SubmitInfo::default()
        .wait_semaphores(&image)
        .wait_dst_stage_mask(&stages)
        .push_next(&mut value);
    second.submit(info)
}
