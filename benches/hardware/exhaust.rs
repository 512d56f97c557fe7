//! Step 10: memory until an allocation or a submission fails.

use std::time::Instant;

use ash::vk;
use peerbuf::EngineDescriptor;
use serde_json::json;

use crate::gpu::{From, Gpu, Machine, is_cpu, label};
use crate::{Outcome, found};

/// How many bytes a software device may take: its memory is the machine's.
const OF_CPU: u64 = 512 << 20;

pub(crate) fn run() -> Outcome {
    let machine = Machine::open(&EngineDescriptor::new())?;
    for (at, device) in machine.devices.iter().enumerate() {
        let name = label(at, device.adapter());
        for wanted in [vk::MemoryPropertyFlags::DEVICE_LOCAL, vk::MemoryPropertyFlags::HOST_VISIBLE]
        {
            // A device of its own: a failed submission may lose it.
            let Ok(gpu) = Gpu::new(device) else { continue };
            let heap = heap(&gpu, wanted);
            let most = most(device, heap);
            let piece = if is_cpu(device) { 64 << 20 } else { 512 << 20 };
            exhaust(&name, &gpu, wanted, most, piece);
        }
    }
    Ok(())
}

/// The size of the heap of the first type that has `wanted`.
fn heap(gpu: &Gpu, wanted: vk::MemoryPropertyFlags) -> u64 {
    let kind = gpu.types.iter().find(|kind| kind.property_flags.contains(wanted));
    kind.map_or(0, |kind| gpu.heaps[kind.heap_index as usize].size)
}

/// A quarter more than the heap, but no more than a third of the machine's memory, from which a driver may take what
/// does not fit.
fn most(device: &peerbuf::Device, heap: u64) -> u64 {
    if is_cpu(device) {
        return OF_CPU;
    }
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?.trim().split(' ').next()?.parse::<u64>().ok()
        })
        .unwrap_or(0)
        << 10;
    let spill = available / 3;
    match device.adapter().kind() {
        peerbuf::device::AdapterKind::Discrete => heap + (heap / 4).min(spill),
        _ => spill.min(heap + heap / 4),
    }
}

fn exhaust(name: &str, gpu: &Gpu, wanted: vk::MemoryPropertyFlags, most: u64, piece: u64) {
    let begin = Instant::now();
    let mut pieces = Vec::new();
    let (mut bytes, mut end) = (0, "the bound of the step".to_owned());
    let mut budgets = Vec::new();
    // All of it is in use at once if one submission names every piece.
    while bytes < most && begin.elapsed().as_secs() < 20 {
        let new = gpu.piece(piece, wanted, From::New(vk::ExternalMemoryHandleTypeFlags::empty()));
        match new {
            Ok(new) => pieces.push(new),
            Err(code) => {
                end = format!("vkAllocateMemory: {code:?}");
                break;
            }
        }
        bytes += piece;
        let filled = gpu.run(|commands| {
            for piece in &pieces {
                // SAFETY: the pieces live until the wait in `run` has returned. A little of each makes it resident.
                unsafe { gpu.raw.cmd_fill_buffer(commands, piece.buffer, 0, 4096, 1) };
            }
        });
        if budgets.len() < 64 {
            let time = filled.as_ref().map(|time| time.as_secs_f64()).ok();
            budgets.push(json!({ "bytes": bytes, "heaps": gpu.budget(), "fill_seconds": time }));
        }
        if let Err(code) = filled {
            end = format!("the submission: {code:?}");
            break;
        }
    }
    found(&json!({
        "device": name, "memory": format!("{wanted:?}"), "wanted": most, "bytes": bytes, "count": pieces.len(),
        "end": end, "seconds": begin.elapsed().as_secs_f64(), "on_the_way": budgets,
    }));
    pieces.into_iter().for_each(|piece| gpu.free(piece));
}
