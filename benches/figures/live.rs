//! Cost of 100,000 live shared buffers: file descriptors, and bytes of bookkeeping.

use peerbuf::observe::Object;
use peerbuf::{Access, Attachment, BufferDescriptor, Device, Mapping, SharedBuffer};

use crate::Outcome;
use crate::figure::Figure;
use crate::heap;
use crate::setup::Setup;

const BUFFERS: usize = 100_000;
pub(crate) const SIZE: u64 = 4096;

/// `live_100k_fds` and `live_100k_bytes`: each buffer was created on one device and attached by another one. A
/// further figure counts the bytes with a mapping of each.
pub(crate) fn live(setup: &Setup) -> Outcome<Vec<Figure>> {
    // Frees unused slabs, so that no slab of an earlier figure is reused.
    setup.engine.trim();
    let objects = setup.engine.live().count(Object::Buffer);
    let fds = open_fds()?;
    // Includes the list of the application's handles.
    let (shared, bytes) = heap::taken_by(|| {
        let mut shared = Vec::with_capacity(BUFFERS);
        share_many(setup, &mut shared, BUFFERS).map(|()| shared)
    });
    let shared = shared?;
    let (mappings, mapped_bytes) = heap::taken_by(|| map_all(&shared));
    let mappings = mappings?;
    let held = open_fds()? - fds;
    // A prime stride visits every slab.
    check(&setup.near, &shared, 997)?;
    drop(mappings);
    drop(shared);
    setup.engine.trim();
    if setup.engine.live().count(Object::Buffer) != objects {
        return Err("buffers that were dropped are still alive".into());
    }
    let each = |bytes: i64| bytes as f64 / BUFFERS as f64;
    Ok(vec![
        Figure::count(
            "live_100k_fds",
            "100,000 buffers of 4 KiB, shared and mapped: open fds",
            "fds",
            Some(100.0),
            held as f64,
        ),
        Figure::count(
            "live_100k_bytes",
            "100,000 buffers of 4 KiB, shared: heap bytes each",
            "bytes",
            Some(256.0),
            each(bytes),
        ),
        Figure::count(
            "live_100k_mapped_bytes",
            "the same, mapped as well",
            "bytes",
            None,
            each(bytes + mapped_bytes),
        ),
    ])
}

/// The handles that keep one buffer live and shared.
pub(crate) type Shared = (SharedBuffer, Attachment);

/// Creates buffers and adds their handles to a list, which keeps them alive.
pub(crate) fn share_many(setup: &Setup, list: &mut Vec<Shared>, count: usize) -> Outcome<()> {
    for _ in 0..count {
        let buffer = setup.engine.create_buffer(&setup.near, BufferDescriptor::new(SIZE))?;
        let attachment = buffer.attach(&setup.far)?;
        list.push((buffer, attachment));
    }
    Ok(())
}

fn map_all(shared: &[Shared]) -> Outcome<Vec<Mapping>> {
    let mut list = Vec::with_capacity(BUFFERS);
    for (_, attachment) in shared {
        list.push(attachment.map(Access::ReadWrite)?);
    }
    Ok(list)
}

/// Writes every `step`-th buffer on one device, then reads all of these on the other: no two share bytes.
pub(crate) fn check(near: &Device, shared: &[Shared], step: usize) -> Outcome<()> {
    let some = || shared.iter().enumerate().step_by(step);
    for (index, (buffer, _)) in some() {
        let seed = u32::try_from(index)?;
        buffer.attach(near)?.map(Access::Write)?.fill(seed)?;
    }
    for (index, (_, attachment)) in some() {
        let report = attachment.map(Access::Read)?.verify(u32::try_from(index)?)?;
        if !report.is_clean() {
            return Err(format!("buffer {index}: wrong bytes: {report:?}").into());
        }
    }
    Ok(())
}

fn open_fds() -> Outcome<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}
