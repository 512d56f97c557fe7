//! Raw Vulkan commands that tests submit with `Engine::submit`.
#![expect(unsafe_code, reason = "raw commands of the test")]

use std::ops::Range;

use ash::vk;
use peerbuf::{Access, Device, Engine, Fence, Mapping, Result, Scope, Submission};

/// Fills a buffer with a word.
pub(crate) fn fill(
    engine: &Engine,
    device: &Device,
    mapping: &Mapping,
    word: u32,
) -> Result<Fence> {
    engine.submit(device, |submission| record_fill(submission, device, mapping, word))
}

/// Declares a write of the whole buffer and records a fill with a word.
pub(crate) fn record_fill<'a>(
    submission: &mut Submission<'a>,
    device: &'a Device,
    mapping: &Mapping,
    word: u32,
) -> Result<()> {
    let view = submission.uses(mapping, Access::Write, Scope::TRANSFER)?;
    let raw = device.raw();
    let record = move |commands| {
        // SAFETY: a live buffer, and the mapping's range.
        unsafe { raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word) };
    };
    // SAFETY: it records one valid command on what was declared.
    unsafe { submission.record(record) };
    Ok(())
}

/// Fills bytes `part` of a buffer with a word, and declares only those as written.
pub(crate) fn fill_part(
    engine: &Engine,
    device: &Device,
    mapping: &Mapping,
    part: Range<u64>,
    word: u32,
) -> Result<Fence> {
    engine.submit(device, |submission| {
        submission.write_part(mapping, part.clone())?;
        record_fill_of(submission, device, mapping, part, word)
    })
}

/// Records a fill of bytes `part` of a buffer. The caller has declared the use already.
pub(crate) fn record_fill_of<'a>(
    submission: &mut Submission<'a>,
    device: &'a Device,
    mapping: &Mapping,
    part: Range<u64>,
    word: u32,
) -> Result<()> {
    let (view, raw) = (mapping.view()?, device.raw());
    let record = move |commands| {
        let (at, len) = (view.offset + part.start, part.end - part.start);
        // SAFETY: a live buffer, and words within the mapping's range.
        unsafe { raw.cmd_fill_buffer(commands, view.buffer, at, len, word) };
    };
    // SAFETY: as in `record_fill`.
    unsafe { submission.record(record) };
    Ok(())
}

/// Fills a buffer with a word as an unordered use. The caller guarantees that no other work uses the buffer.
pub(crate) fn fill_unordered(
    engine: &Engine,
    device: &Device,
    mapping: &Mapping,
    word: u32,
) -> Result<Fence> {
    engine.submit(device, |submission| {
        let view = submission.unordered(mapping)?;
        let raw = device.raw();
        let record = move |commands| {
            // SAFETY: the commands are recorded for the device's family, and the caller has waited for all other
            // uses.
            let acquired = unsafe { mapping.acquire(commands, Scope::TRANSFER) };
            acquired.expect("no move is in progress");
            // SAFETY: a live buffer, and the mapping's range.
            unsafe { raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word) };
            // SAFETY: as above; it was acquired.
            unsafe { mapping.release(commands, Scope::TRANSFER) };
        };
        // SAFETY: it records valid commands on what was declared.
        unsafe { submission.record(record) };
        Ok(())
    })
}

/// Copies a whole buffer to another one that is at least as large.
pub(crate) fn copy(
    engine: &Engine,
    device: &Device,
    from: &Mapping,
    to: &Mapping,
) -> Result<Fence> {
    engine.submit(device, |submission| {
        let from = submission.uses(from, Access::Read, Scope::TRANSFER)?;
        let to = submission.uses(to, Access::Write, Scope::TRANSFER)?;
        let raw = device.raw();
        let region =
            [vk::BufferCopy { src_offset: from.offset, dst_offset: to.offset, size: from.size }];
        let record = move |commands| {
            // SAFETY: live buffers, ranges of two different mappings.
            unsafe { raw.cmd_copy_buffer(commands, from.buffer, to.buffer, &region) };
        };
        // SAFETY: as in `record_fill`.
        unsafe { submission.record(record) };
        Ok(())
    })
}
