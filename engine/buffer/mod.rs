//! Shared buffers: what they are, where they may be, how they move, and how devices and the host use them.
//!
//! Kernel counterparts: `struct dma_buf` and `ttm_buffer_object` ([`SharedBuffer`]), `struct dma_buf_attachment`
//! ([`Attachment`]), the result of `dma_buf_map_attachment` ([`Mapping`]), `dma_buf_begin_cpu_access`
//! ([`HostAccess`]). Vulkan: imported memory with a buffer bound to it.
//!
//! ```text
//!  SharedBuffer ──attach──► Attachment ──map──► Mapping ──view──► (VkBuffer, offset, size)
//!       ├──host_access──► HostAccess       volatile copies, bracketed
//!       ├──migrate──────► another domain   new backing, copy, next generation
//!       └──export_foreign──► ForeignExport an fd for another process or API; pins
//! ```
//!
//! A buffer's identity does not depend on its location. What does depend on it is obtained from a [`Mapping`],
//! which has the generation that it was made in.
//!
//! Eleven rooms, from the ground up; each knows only those before it:
//!
//! - `state`: what the reservation protects; plain data.
//! - `object`: the buffer, its reservation, the checks of every operation, the set of all buffers.
//! - `inspect`: decisions, the report, explanations, the trace.
//! - `tracking`: what is recorded at uses and moves: eviction lists, age groups, clean copies.
//! - `placement`: where a buffer may be, and memory there; a new buffer.
//! - `migration`: the move, from the plan to the commit.
//! - `eviction`: residency's decisions carried out: eviction, restore, purge, auto-migration.
//! - `attach`: attachments, mappings, importers, pins; revocation.
//! - `access`: submissions, host accesses, copies.
//! - `foreign`: buffers and fences exported as fds, or imported from them.
//! - `loss`: lost devices, and poisoned content.
//!
//! A buffer moves on request, when a device attaches that cannot reach it, before it is exported from a slab,
//! out of a full domain, and back when it is used.
//!
//! What is not here: which buffers are evicted for lack of memory ([`crate::residency`]), and the services of an
//! engine ([`crate::core`]).

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

pub use access::{CopyBy, CopyRegion, CopyRun, CopyWay, HostAccess, OpenAccess, Submission};
pub use attach::{
    AliasedBuffer, Attachment, DetachError, FenceAndResume, Mapping, Pin, RawView, Refault,
    Revocable,
};
pub use eviction::Compaction;
pub use foreign::{ForeignExport, ForeignHandle, ForeignInfo};
pub use inspect::Explanation;
pub use migration::Migration;
pub use object::{BufferDescriptor, ClientGroup, SharedBuffer};
pub use state::{Importer, Invalidation, InvalidationCause};
pub use tracking::AgeGroup;

#[cfg(feature = "testing")]
pub(crate) use access::lock_together;
pub(crate) use access::{
    AroundObject, AroundUse, Remapped, copy, copy_by, copy_ways, submit, submit_remapped,
};
pub(crate) use attach::limit_pins;
pub(crate) use eviction::Eviction;
pub(crate) use eviction::{COMPACTED_AT_ONCE, Compacted, compact, fit, restore};
pub(crate) use foreign::import;
pub(crate) use inspect::report;
pub(crate) use loss::{remove, unplug};
pub(crate) use migration::{Rearranged, Rearrangement, migrate_many};
pub(crate) use object::{Buffers, SetRefs};
pub(crate) use state::TiledBytes;
