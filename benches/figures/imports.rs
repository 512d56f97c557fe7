//! What a device has imported beyond what its attachments need.

use peerbuf::{Attachment, BufferDescriptor, Placement};

use crate::Outcome;
use crate::figure::Figure;
use crate::setup::Setup;

/// Buffers, each with an allocation of its own, since it is larger than the largest slot.
const BUFFERS: usize = 128;
const SIZE: u64 = (8 << 20) + 1;
/// Attachments that are made or dropped.
const STEPS: u32 = 1_000_000;

/// `imports_resident`: each step attaches a buffer or drops its attachment, in random order.
pub(crate) fn resident(setup: &Setup) -> Outcome<Vec<Figure>> {
    setup.engine.trim();
    let imported = || setup.engine.imports(&setup.far).map(|usage| usage.system + usage.peers);
    let before = imported()?;
    let descriptor = BufferDescriptor::new(SIZE).placement(Placement::Vram);
    let create = |_| setup.engine.create_buffer(&setup.near, descriptor.clone());
    let buffers = (0..BUFFERS).map(create).collect::<Result<Vec<_>, _>>()?;
    let one = buffers[0].attach(&setup.far)?;
    let each = imported()? - before;
    drop(one);
    let mut attachments: Vec<Option<Attachment>> = (0..BUFFERS).map(|_| None).collect();
    let mut random = 1u64;
    for _ in 0..STEPS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // CAST: less than the number of buffers.
        let at = (random >> 33) as usize % BUFFERS;
        attachments[at] = match attachments[at].take() {
            Some(_) => None,
            None => Some(buffers[at].attach(&setup.far)?),
        };
    }
    let needed = attachments.iter().flatten().count() as u64 * each;
    let resident = imported()? - before;
    drop(attachments);
    drop(buffers);
    setup.engine.trim();
    Ok(vec![Figure::count(
        "imports_resident",
        "bytes imported, over those that attachments need, after 1,000,000 attaches and detaches",
        "bytes per byte",
        Some(1.3),
        resident as f64 / needed as f64,
    )])
}
