//! Commands of a test's own, submitted with `Engine::submit`.
#![expect(unsafe_code, reason = "commands of the test's own")]

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

/// Says that a buffer is filled with a word, and does.
pub(crate) fn record_fill<'a>(
    submission: &mut Submission<'a>,
    device: &'a Device,
    mapping: &Mapping,
    word: u32,
) -> Result<()> {
    let view = submission.uses(mapping, Access::Write, Scope::TRANSFER)?;
    let raw = device.raw();
    let record = move |commands| {
        // SAFETY: a live buffer, and a range that is the mapping's.
        unsafe { raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word) };
    };
    // SAFETY: it records one valid command on what was declared.
    unsafe { submission.record(record) };
    Ok(())
}

/// Fills bytes `part` of a buffer with a word, and says that it is those alone.
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

/// Fills bytes `part` of a buffer, which the caller has said what he does with.
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
        // SAFETY: a live buffer, and words of the mapping's.
        unsafe { raw.cmd_fill_buffer(commands, view.buffer, at, len, word) };
    };
    // SAFETY: as in `record_fill`.
    unsafe { submission.record(record) };
    Ok(())
}

/// Fills a buffer with a word, ordered by the caller, who has the buffer to himself.
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
            // SAFETY: it is being recorded for the device's family, and the caller has waited for all others.
            let acquired = unsafe { mapping.acquire(commands, Scope::TRANSFER) };
            acquired.expect("nobody moves it meanwhile");
            // SAFETY: a live buffer, and a range that is the mapping's.
            unsafe { raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word) };
            // SAFETY: as above; it was acquired.
            unsafe { mapping.release(commands, Scope::TRANSFER) };
        };
        // SAFETY: it records valid commands on what was declared.
        unsafe { submission.record(record) };
        Ok(())
    })
}

/// Copies all of one buffer to another one, which is at least as large.
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
