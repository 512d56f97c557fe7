//! Attachments, and what they hold: mappings, pins, importers; and taking all of it away.
//!
//! Kernel counterparts: `dma_buf_dynamic_attach`, `dma_buf_map_attachment`, `dma_buf_pin`,
//! `dma_buf_invalidate_mappings`.

mod aliased_buffer;
mod attach_device;
mod attachment;
mod importers;
mod map;
mod mapping;
mod pin;
mod remap;
mod revoke;
mod view_ref;

pub use aliased_buffer::OwnBuffer;
pub use attachment::{Attachment, DetachError};
pub use importers::{FenceAndResume, Refault, Revocable};
pub use mapping::{Mapping, RawView};
pub use pin::Pin;
pub(crate) use pin::limit_pins;
