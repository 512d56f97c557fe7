//! Steps 2, 5 and 7: what the engine does on this machine.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Engine, EngineDescriptor, Placement, Validation,
};
use serde_json::json;

use crate::gpu::{Machine, is_cpu, label};
use crate::{Outcome, found};

const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) fn text<T>(result: &peerbuf::Result<T>) -> String {
    result.as_ref().map_or_else(peerbuf::Error::with_causes, |_| "ok".into())
}

/// Step 2: a proof of every route, and one use, under the validation layer.
pub(crate) fn validated() -> Outcome {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    let descriptor = EngineDescriptor::new()
        .timeout(TIMEOUT)
        .validation(Validation::IfPresent)
        .messages(Arc::new(move |message| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_string());
        }));
    let machine = Machine::open(&descriptor)?;
    let count = machine.devices.len();
    for (from, to) in machine.pairs().into_iter().filter(|(from, to)| from != to || count == 1) {
        let (a, b) = (&machine.devices[from], &machine.devices[to]);
        let verdict = machine.engine.route(a, b);
        let used = used(&machine.engine, a, b);
        let (messages, first) = {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            let all = std::mem::take(&mut *heard);
            (all.len(), all.into_iter().take(20).collect::<Vec<_>>())
        };
        found(&json!({
            "from": label(from, a.adapter()), "to": label(to, b.adapter()), "route": text(&verdict),
            "chosen": verdict.as_ref().ok().map(|verdict| verdict.route.name()),
            "used": text(&used), "messages": messages, "first": first,
        }));
    }
    Ok(())
}

fn used(engine: &Engine, a: &Device, b: &Device) -> peerbuf::Result<()> {
    let buffer = engine.create_buffer(a, BufferDescriptor::new(1 << 20).name("hardware"))?;
    let (writer, reader) = (buffer.attach(a)?, if a == b { None } else { Some(buffer.attach(b)?) });
    writer.map(Access::Write)?.fill(7)?;
    if let Some(reader) = reader {
        reader.map(Access::Read)?.verify(7)?;
    }
    Ok(())
}

/// Step 5: host access to a dma-buf that another device exported. A fault ends the process, after the line that says
/// which pair it was.
pub(crate) fn host_access() -> Outcome {
    // An engine knows the fds that it has exported, so another one imports them.
    let machine = Machine::open(&EngineDescriptor::new().timeout(TIMEOUT))?;
    let importer = Machine::open(&EngineDescriptor::new().timeout(TIMEOUT))?;
    for (from, to) in machine.pairs() {
        let (a, b) = (&machine.devices[from], &importer.devices[to]);
        let pair = json!({ "from": label(from, a.adapter()), "to": label(to, b.adapter()) });
        found(&json!({ "trying": pair }));
        let tried = access(&machine.engine, a, &importer.engine, b);
        found(&json!({ "pair": pair, "bytes": tried.as_ref().ok(), "result": text(&tried) }));
    }
    Ok(())
}

fn access(
    engine: &Engine,
    a: &Device,
    importer: &Engine,
    b: &Device,
) -> peerbuf::Result<&'static str> {
    let size = 64 << 10;
    let buffer = engine.create_buffer(
        a,
        BufferDescriptor::new(size).name("exported").placement(Placement::VramOrSystem),
    )?;
    let writer = buffer.attach(a)?;
    writer.map(Access::Write)?.fill(11)?;
    drop(writer);
    let export = buffer.export_foreign()?;
    let handle = export.handle()?;
    // SAFETY: the fd is the one that `info` describes, of another engine, whose work has ended.
    let imported =
        unsafe { importer.import_foreign(b, handle.as_fd(), export.info(), Some("imported"))? };
    let host = imported.host_access(Access::ReadWrite)?;
    let mut seen = vec![0; 4096];
    host.read(0, &mut seen)?;
    host.write(0, &seen)?;
    host.end()?;
    let reader = imported.attach(b)?;
    let found = reader.map(Access::Read)?.verify(11)?;
    Ok(if found.is_clean() { "right" } else { "WRONG" })
}

/// Step 7: host → device → host in each place, and moves, which run on the transfer queue where there is one.
pub(crate) fn round_trip() -> Outcome {
    let machine = Machine::open(&EngineDescriptor::new().timeout(TIMEOUT))?;
    for (at, device) in machine.devices.iter().enumerate() {
        let size = if is_cpu(device) { 4 << 20 } else { 64 << 20 };
        for placement in [Placement::Vram, Placement::System] {
            let begin = Instant::now();
            let tried = there_and_back(&machine.engine, device, size, placement);
            found(&json!({
                "device": label(at, device.adapter()), "placement": format!("{placement:?}"), "size": size,
                "provider": tried.as_ref().ok(), "result": text(&tried), "seconds": begin.elapsed().as_secs_f64(),
            }));
        }
        let begin = Instant::now();
        let moved = moves(&machine.engine, device, size);
        found(&json!({
            "device": label(at, device.adapter()), "transfer_queue": device.transfer_queue_family(), "size": size,
            "moves": text(&moved), "wrong_words": moved.ok(), "seconds": begin.elapsed().as_secs_f64(),
        }));
    }
    Ok(())
}

/// The provider, if all bytes were right.
fn there_and_back(
    engine: &Engine,
    device: &Device,
    size: u64,
    placement: Placement,
) -> peerbuf::Result<String> {
    let buffer = engine
        .create_buffer(device, BufferDescriptor::new(size).name("trip").placement(placement))?;
    let attachment = buffer.attach(device)?;
    let mapping = attachment.map(Access::ReadWrite)?;
    let provider = buffer.provider().name().to_owned();
    // The device's pattern, as the host reads it and writes it back.
    mapping.fill(23)?;
    let mut bytes = vec![0; size as usize];
    buffer.host_access(Access::Read)?.read(0, &mut bytes)?;
    mapping.fill(24)?;
    buffer.host_access(Access::Write)?.write(0, &bytes)?;
    let seen = mapping.verify(23)?;
    Ok(if seen.is_clean() { provider } else { format!("{provider}: {} words WRONG", seen.wrong) })
}

fn moves(engine: &Engine, device: &Device, size: u64) -> peerbuf::Result<u64> {
    let buffer = engine.create_buffer(device, BufferDescriptor::new(size).name("moves"))?;
    let attachment = buffer.attach_dynamic(device, Arc::new(peerbuf::Refault::new()))?;
    let mut wrong = 0;
    attachment.map(Access::Write)?.fill(31)?;
    for to in [DomainId::System, DomainId::Vram(device.id()), DomainId::System] {
        buffer.migrate(to)?;
        wrong += attachment.map(Access::Read)?.verify(31)?.wrong;
    }
    Ok(wrong)
}
