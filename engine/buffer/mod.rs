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

mod abandon;
mod access;
mod age_group;
mod at_once;
mod attachment;
mod attract;
mod away;
mod batch;
mod berth;
mod clean;
mod client;
mod come_back;
mod copy;
mod descriptor;
mod destination;
mod dirty;
mod evict;
mod explain;
mod export;
mod exports;
mod foreign;
mod foreign_fences;
mod ghost;
mod giving_up;
mod host_access;
mod importer;
mod importers;
mod mapping;
mod means;
mod migrate;
mod mover;
mod narrate;
mod open_access;
mod own_buffer;
mod passes;
mod pin;
mod pins;
mod place;
mod poison;
mod publish;
mod purge;
mod registry;
mod relief;
mod relocate;
mod remap;
mod report;
mod revoke;
mod seating;
mod seats;
mod seen;
mod shared;
mod spared;
mod standing;
mod state;
mod submission;
mod submit;
mod traits;

pub use abandon::Abandoned;
pub use access::Access;
pub use age_group::AgeGroup;
pub use attachment::{Attachment, DetachError};
pub use client::ClientGroup;
pub use copy::CopyRegion;
pub use descriptor::BufferDescriptor;
pub use explain::Explanation;
pub use export::ForeignExport;
pub use foreign::{ForeignFacts, ForeignHandle};
pub use host_access::HostAccess;
pub use importer::{Importer, Invalidation, InvalidationCause};
pub use importers::{FenceAndResume, Refault, Revocable};
pub use mapping::{Mapping, RawView};
pub use migrate::Migration;
pub use open_access::OpenAccess;
pub use own_buffer::OwnBuffer;
pub use pin::Pin;
pub use shared::SharedBuffer;
pub use submission::Submission;

pub(crate) use abandon::{abandon, abandon_lost};
pub(crate) use age_group::AgeTable;
pub(crate) use batch::migrate_many;
pub(crate) use berth::tighten;
pub(crate) use clean::drop_clean_copies;
pub(crate) use come_back::{evict_one, request, restore};
pub(crate) use copy::copy;
pub(crate) use exports::Exports;
pub(crate) use foreign::import;
pub(crate) use giving_up::GivingUp;
pub(crate) use pin::limit_pins;
pub(crate) use registry::{Registry, SlotId};
pub(crate) use report::report;
pub(crate) use spared::Spared;
pub(crate) use submit::{submit, submit_remapped};
