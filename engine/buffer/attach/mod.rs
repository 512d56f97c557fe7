//! Attachments, what they hold (mappings, pins, importers), and revocation, which ends all use of a buffer.
//!
//! Kernel counterparts: `dma_buf_dynamic_attach`, `dma_buf_map_attachment`, `dma_buf_pin`,
//! `dma_buf_invalidate_mappings`.
//!
//! An attach takes three steps: the device reaches the buffer, the buffer is moved if the device cannot, and
//! the attachment is listed last. Until it is listed, an error changes nothing.
//!
//! May be known here: the buffer's state and object, placement, migration, and eviction, which restores a
//! buffer before it is mapped. What is not here: submissions and host accesses (`access/`), which use the
//! mappings.

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

pub use aliased_buffer::AliasedBuffer;
pub use attachment::{Attachment, DetachError};
pub use importers::{FenceAndResume, Refault, Revocable};
pub use mapping::{Mapping, RawView};
pub use pin::Pin;
pub(crate) use pin::limit_pins;
