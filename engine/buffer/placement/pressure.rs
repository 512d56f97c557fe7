//! A driver that is out of memory for something that is no buffer's, or for taking one in: it is given some, and
//! asked again.

use crate::buffer::object::BufferInner;
use crate::core::Core;
use crate::device::DeviceId;
use crate::error::Result;

/// How often a driver that is out of memory is given some, for one operation.
const RELIEFS: u32 = 3;

/// Does `work` for a device; an event, not an end: if its driver is out of memory others make room, but for
/// `buffers`, and it is tried again.
///
/// # Errors
///
/// What `work` says, the driver's word at last.
///
/// Locks: none may be held, but within `work`.
pub(in crate::buffer) fn with_relief<'a, R>(
    core: &Core,
    device: DeviceId,
    buffers: impl IntoIterator<Item = &'a BufferInner> + Clone,
    mut work: impl FnMut() -> Result<R>,
) -> Result<R> {
    for round in 0..RELIEFS {
        match work() {
            Err(error) if error.is_drivers_out_of_memory() => {
                let spared = core.spared.spare(buffers.clone());
                core.relieve(device, round);
                drop(spared);
            }
            other => return other,
        }
    }
    work()
}
