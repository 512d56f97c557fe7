//! Memory that slabs hold beyond what buffers use.

use peerbuf::{BufferDescriptor, DomainId, Placement};

use crate::Outcome;
use crate::figure::Figure;
use crate::setup::Setup;

/// Steps per doubling of the size classes.
const STEPS: u64 = 8;

/// `slab_waste`: one buffer of each size class from 4 KiB to 8 MiB, and the two counts that it is the ratio of.
pub(crate) fn slabs(setup: &Setup) -> Outcome<Vec<Figure>> {
    setup.engine.trim();
    let domain = DomainId::Vram(setup.near.id());
    let before = setup.engine.usage(domain)?;
    let doublings = (0..11).map(|doubling| 4096u64 << doubling);
    let steps = doublings.flat_map(|size| (STEPS..2 * STEPS).map(move |step| size / STEPS * step));
    let mut buffers = Vec::new();
    for size in steps.chain([8 << 20]) {
        let descriptor = BufferDescriptor::new(size).placement(Placement::Vram);
        buffers.push(setup.engine.create_buffer(&setup.near, descriptor)?);
    }
    let after = setup.engine.usage(domain)?;
    drop(buffers);
    setup.engine.trim();
    let (held, used) = (after.held - before.held, after.used - before.used);
    Ok(vec![
        Figure::count(
            "slab_waste",
            "one buffer of each size class, 4 KiB to 8 MiB: bytes held over bytes used",
            "bytes per byte",
            Some(1.6),
            held as f64 / used as f64,
        ),
        Figure::count("slab_waste_held", "the same: bytes held", "bytes", None, held as f64),
        Figure::count("slab_waste_used", "the same: bytes used", "bytes", None, used as f64),
    ])
}
