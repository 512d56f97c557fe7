//! Bookkeeping of a million live shared buffers.
//!
//! The domains are modelled heaps, since no software device has memory of its own. The memory exists, but hardly
//! any of it is touched.

use peerbuf::observe::Object;
use peerbuf::{Device, DomainId, Engine, EngineDescriptor};

use crate::Outcome;
use crate::figure::Figure;
use crate::heap;
use crate::live::{SIZE, Shared, check, share_many};
use crate::setup::{Setup, TIMEOUT};

const BUFFERS: usize = 1_000_000;
/// Bytes that all buffers use.
const BYTES: u64 = BUFFERS as u64 * SIZE;

/// `live_1m_bytes` and `live_1m_tight_bytes`: bookkeeping of a buffer that was created on one device and
/// attached by another one. The first heap has room; the second one is full, so that all its buffers are in the
/// eviction list. The application's handles are counted apart.
pub(crate) fn million(setup: &Setup) -> Outcome<Vec<Figure>> {
    // The eviction list is kept if more than half of a heap is in use.
    let roomy = kept_each(setup, 2 * BYTES)?;
    let tight = kept_each(setup, BYTES)?;
    Ok(vec![
        Figure::count(
            "live_1m_bytes",
            "1,000,000 buffers of 4 KiB, shared, in a heap with room: heap bytes each beyond their handles",
            "bytes",
            Some(128.0),
            roomy,
        ),
        Figure::count(
            "live_1m_tight_bytes",
            "the same, in a heap that is full to the last byte, so that all are in its eviction list",
            "bytes",
            None,
            tight,
        ),
        Figure::count(
            "live_1m_handle_bytes",
            "apart from these: the application's handles of each, a SharedBuffer and an Attachment",
            "bytes",
            None,
            size_of::<Shared>() as f64,
        ),
    ])
}

/// Rust heap bytes per buffer, in an engine whose first device has `heap` bytes of memory.
fn kept_each(setup: &Setup, heap: u64) -> Outcome<f64> {
    let own = same_again(setup)?;
    own.engine.model_heap(&own.near, heap)?;
    let mut shared = Vec::with_capacity(BUFFERS);
    let (made, bytes) = heap::taken_by(|| share_many(&own, &mut shared, BUFFERS));
    made?;
    let usage = own.engine.usage(DomainId::Vram(own.near.id()))?;
    if (usage.used, usage.budget) != (BYTES, heap) {
        return Err(format!("not every buffer is in the modelled heap: {usage:?}").into());
    }
    // A prime stride visits every slab.
    check(&own.near, &shared, 9973)?;
    drop(shared);
    if own.engine.live().count(Object::Buffer) > 0 {
        return Err("buffers that were dropped are still alive".into());
    }
    Ok(bytes as f64 / BUFFERS as f64)
}

/// Opens devices of the same hardware in a new engine.
pub(crate) fn same_again(setup: &Setup) -> Outcome<Setup> {
    let engine = Engine::open(&EngineDescriptor::new().timeout(TIMEOUT))?;
    let open = |like: &Device| -> Outcome<Device> {
        let uuid = peerbuf::AdapterSelector::Uuid(like.adapter().device_uuid());
        Ok(engine.open_device(engine.adapter(uuid)?)?)
    };
    let (near, far) = (open(&setup.near)?, open(&setup.far)?);
    Ok(Setup { near, far, handle: setup.handle, engine })
}
