//! What the reservation of a buffer protects: plain data.
//!
//! Kernel counterpart: the fields of `struct dma_buf` and `ttm_buffer_object` that `dma_resv` guards.
//!
//! May be known here: devices and backings by value, fences, the quota of pins.
//!
//! What is not here: the engine's services (`Core`), the buffer itself, and every action on this data. Actions are
//! in the rooms above; they reach the [`State`] through the guard of the reservation.

mod attachment_table;
mod attachments;
mod clean_copy;
mod dirty_ranges;
mod eviction_entry;
mod ghost;
mod holders;
mod importer;
mod location;
mod pin_counter;
mod protected;
mod spilled_table;
mod tiled_bytes;

pub(in crate::buffer) use attachment_table::{AttachCaps, AttachmentEntry, AttachmentId};
pub(in crate::buffer) use clean_copy::CleanCopy;
pub(in crate::buffer) use dirty_ranges::DirtyRanges;
pub(in crate::buffer) use eviction_entry::{EvictionEntry, bits_of, preferred_domain, priority_of};
pub(in crate::buffer) use ghost::Ghost;
pub use importer::{Importer, Invalidation, InvalidationCause};
pub(in crate::buffer) use location::Location;
pub(in crate::buffer) use pin_counter::{FirstCounter, PinCounter, PinOwner, Pinned, Quick};
pub(in crate::buffer) use protected::State;
pub(crate) use tiled_bytes::TiledBytes;
