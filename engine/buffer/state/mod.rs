//! What the reservation protects: plain data.
//!
//! Kernel counterpart: the fields of `struct dma_buf` and `ttm_buffer_object` that `dma_resv` guards.
//!
//! Known here: devices and backings by value, fences, pins. Not here: the engine's services (`Core`), the
//! buffer itself, and anything that acts. An action on this data is in a room further down, which is given the
//! state by a guard.

mod attachment_table;
mod clean_copy;
mod dirty_ranges;
mod eviction_entry;
mod ghost;
mod importer;
mod location;
mod pin_counter;
mod protected;

pub(in crate::buffer) use attachment_table::{AttachCaps, AttachmentEntry, AttachmentId};
pub(in crate::buffer) use clean_copy::CleanCopy;
pub(in crate::buffer) use dirty_ranges::DirtyRanges;
pub(in crate::buffer) use eviction_entry::{EvictionEntry, bits_of, preferred_domain, priority_of};
pub(in crate::buffer) use ghost::Ghost;
pub use importer::{Importer, Invalidation, InvalidationCause};
pub(in crate::buffer) use location::Location;
pub(in crate::buffer) use pin_counter::{FirstCounter, PinCounter, PinOwner, Pinned, Quick};
pub(in crate::buffer) use protected::State;
