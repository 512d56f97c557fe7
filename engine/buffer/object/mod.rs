//! The buffer itself: its identity, its reservation, and the checks that every operation begins with.
//!
//! Kernel counterparts: `struct dma_buf`, `dma_resv_lock`, `drm_gem_object`.
//!
//! May be known here: the state, and the engine's services (`Core`).
//!
//! What is not here: moving, attaching, and using a buffer. Those are methods of [`SharedBuffer`] too, each
//! in the room of its topic.

mod buffer;
mod checks;
mod client_group;
mod creation_flags;
mod descriptor;
mod lock;
mod return_backoff;
mod scrub;
mod set;
mod set_ref;
mod status;

pub(crate) use buffer::Buffers;
pub use buffer::SharedBuffer;
pub(in crate::buffer) use buffer::{BufferInner, Made};
pub use client_group::ClientGroup;
pub use descriptor::BufferDescriptor;
pub(in crate::buffer) use lock::{Until, wait_all};
pub(in crate::buffer) use return_backoff::{ReturnBackoff, Turn};
pub(in crate::buffer) use set::LossHandler;
pub(in crate::buffer) use set_ref::SetRef;
pub(crate) use set_ref::SetRefs;
