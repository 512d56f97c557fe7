//! Plain Vulkan: the baseline of `figures`, and what the allocators need beside them.
#![expect(unsafe_code, reason = "raw Vulkan, on the devices that peerbuf has opened")]

use ash::vk;
use peerbuf::Device;

use super::{Pair, Peer, fill, verify};
use crate::Outcome;
use crate::by_hand;
use crate::hand::{Block, Recorded};

/// Memory of the first device, imported by the second one, which copies.
pub(super) struct ByHand<'a> {
    recorded: Recorded<'a>,
    pair: &'a Pair,
    size: u64,
    target: Block<'a>,
    _source: Block<'a>,
    _seen: Block<'a>,
}

impl<'a> ByHand<'a> {
    pub(super) fn new(pair: &'a Pair, size: u64) -> Outcome<Self> {
        let sources = by_hand::ByHand::new(&pair.near, &pair.far, pair.handle, size)?;
        let targets = by_hand::ByHand::new(&pair.far, &pair.near, pair.handle, size)?;
        let source = sources.create()?;
        by_hand::write_pattern(&pair.near, &source, size)?;
        let seen = sources.share(&source)?;
        let target = targets.create()?;
        let recorded = Recorded::copy(&pair.far, &seen, &target, size)?;
        Ok(Self { recorded, pair, size, target, _source: source, _seen: seen })
    }
}

impl Peer for ByHand<'_> {
    fn copy(&mut self) -> Outcome<()> {
        self.recorded.run()
    }

    fn check(&mut self) -> Outcome<()> {
        by_hand::check_pattern(&self.pair.far, &self.target, self.size)
    }
}

/// A copy of the first bytes of a buffer, recorded once.
pub(super) fn recorded(
    device: &Device,
    from: vk::Buffer,
    to: vk::Buffer,
    size: u64,
) -> Outcome<Recorded<'_>> {
    let recorded = Recorded::new(device)?;
    recorded.record_commands(|raw, commands| {
        let region = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size }];
        // SAFETY: being recorded; the callers keep both buffers, of this device and so long, until no run is left.
        unsafe { raw.cmd_copy_buffer(commands, from, to, &region) };
    })?;
    Ok(recorded)
}

/// Writes the pattern to a buffer of `device`.
pub(super) fn write(device: &Device, buffer: vk::Buffer, size: u64) -> Outcome<()> {
    let mut staging = Block::staging(device, size)?;
    staging.with_bytes(usize::try_from(size)?, fill)?;
    recorded(device, staging.range(size).buffer, buffer, size)?.run()
}

/// Compares a buffer of `device` with the pattern.
pub(super) fn check(device: &Device, buffer: vk::Buffer, size: u64) -> Outcome<()> {
    let mut staging = Block::staging(device, size)?;
    recorded(device, buffer, staging.range(size).buffer, size)?.run()?;
    staging.with_bytes(usize::try_from(size)?, |bytes| verify(bytes))?
}

/// A buffer that can be copied; with `external`, one whose memory is shared.
pub(super) fn buffer_info(size: u64) -> vk::BufferCreateInfo<'static> {
    let usage = vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST;
    vk::BufferCreateInfo::default().size(size).usage(usage)
}
