//! What is shared: buffers, the seats of devices at them, mappings, host access, strangers' fds.
//!
//! Kernel counterparts: `struct dma_buf` ([`SharedBuffer`]), `struct dma_buf_attachment`
//! ([`Attachment`]), the result of `dma_buf_map_attachment` ([`Mapping`]), `dma_buf_begin_cpu_access`
//! ([`HostAccess`]). Vulkan: imported memory with a buffer bound to it.
//!
//! ```text
//!  SharedBuffer ──attach──► Attachment ──map──► Mapping ──view──► (VkBuffer, offset, size)
//!       │                  (a device's seat)   (a static one pins)
//!       ├──host_access──► HostAccess           volatile copies, bracketed
//!       └──export_foreign──► ForeignExport     an fd for somebody else; pins
//! ```
//!
//! A buffer's identity is not its location: everything that depends on the place is obtained from a
//! [`Mapping`], which names the generation it belongs to.
//!
//! What is not here: who is to go when there is no room ([`crate::residency`]). A buffer moves when it is told
//! to, when a device attaches that cannot reach it, out of its slab when it is handed out, out of a full
//! place, and back when it is used.

mod access;
mod attach;
mod eviction;
mod foreign;
mod inspect;
mod loss;
mod migration;
mod object;
mod placement;
mod state;
mod tracking;

pub use access::{CopyRegion, HostAccess, OpenAccess, Submission};
pub use attach::{
    Attachment, DetachError, FenceAndResume, Mapping, OwnBuffer, Pin, RawView, Refault, Revocable,
};
pub use foreign::{ForeignExport, ForeignFacts, ForeignHandle};
pub use inspect::Explanation;
pub use migration::Migration;
pub use object::{BufferDescriptor, ClientGroup, SharedBuffer};
pub use state::{Importer, Invalidation, InvalidationCause};
pub use tracking::AgeGroup;

pub(crate) use access::{copy, submit, submit_remapped};
pub(crate) use attach::limit_pins;
pub(crate) use eviction::Eviction;
pub(crate) use eviction::{fit, restore};
pub(crate) use foreign::import;
pub(crate) use inspect::report;
pub(crate) use loss::unplug;
pub(crate) use migration::migrate_many;
pub(crate) use object::Buffers;
