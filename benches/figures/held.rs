//! Memory that is held for buffers of mixed sizes, and after most of them were dropped.

use peerbuf::{BufferDescriptor, DomainId, Placement, SharedBuffer};

use crate::Outcome;
use crate::figure::Figure;
use crate::measure::Random;
use crate::setup::Setup;

/// How many buffers, and the smallest and the largest size.
const MIXES: [(usize, u64, u64); 3] =
    [(10_000, 256, 64 << 10), (2_000, 4 << 10, 1 << 20), (64, 1 << 20, 16 << 20)];
/// Out of this many buffers one is kept.
const KEPT: usize = 10;

/// `held_full` and `held_after_drop`: counts, for the worst of three mixes of sizes.
pub(crate) fn held(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (mut full, mut after) = (0.0_f64, 0.0_f64);
    for mix in MIXES {
        let (one, other) = measure(setup, mix)?;
        full = full.max(one);
        after = after.max(other);
    }
    Ok(vec![
        Figure::count(
            "held_full",
            "buffers of 256 B to 64 KiB, 4 KiB to 1 MiB, 1 to 16 MiB: bytes held over bytes asked for, the worst",
            "bytes per byte",
            Some(1.15),
            full,
        ),
        Figure::count(
            "held_after_drop",
            "the same after nine tenths were dropped, and `Engine::compact`",
            "bytes per byte",
            Some(1.25),
            after,
        ),
    ])
}

fn measure(setup: &Setup, (count, least, most): (usize, u64, u64)) -> Outcome<(f64, f64)> {
    let domain = DomainId::Vram(setup.near.id());
    setup.engine.trim();
    let before = setup.engine.usage(domain)?.held;
    let mut random = Random::new(count as u64);
    let mut buffers = Vec::with_capacity(count);
    for _ in 0..count {
        let size = size_between(least, most, &mut random);
        let descriptor = BufferDescriptor::new(size).placement(Placement::Vram);
        buffers.push(setup.engine.create_buffer(&setup.near, descriptor)?);
    }
    let full = (setup.engine.usage(domain)?.held - before) as f64 / asked(&buffers);
    let mut kept = Vec::new();
    while !buffers.is_empty() {
        let one = buffers.swap_remove(random.below(buffers.len()));
        if buffers.len().is_multiple_of(KEPT) {
            kept.push(one);
        }
    }
    drop(buffers);
    setup.engine.compact(u64::MAX);
    setup.engine.trim();
    let held = (setup.engine.usage(domain)?.held - before) as f64 / asked(&kept);
    drop(kept);
    setup.engine.trim();
    Ok((full, held))
}

/// Bytes that were asked for.
fn asked(buffers: &[SharedBuffer]) -> f64 {
    buffers.iter().map(SharedBuffer::size).sum::<u64>() as f64
}

/// A size whose logarithm is uniform.
fn size_between(least: u64, most: u64, random: &mut Random) -> u64 {
    const PARTS: usize = 1 << 20;
    let part = random.below(PARTS) as f64 / PARTS as f64;
    // CAST: at most `most`.
    (least as f64 * (most as f64 / least as f64).powf(part)) as u64
}
