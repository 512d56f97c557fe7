//! Images, as data: their formats and layouts, what other programs say of theirs, and which layout devices agree on.
//!
//! A *layout* is a fourcc, a modifier, a size, and for each memory plane a file, an offset and a pitch
//! ([`ImageLayout`]). It belongs to a backing, as the size of a buffer does. Numbers that are not known are kept as
//! numbers: a modifier without a name is as good as any other one ([`Modifier`]); a fourcc outside of the table is an
//! error that names it and says why ([`FormatGap`]).
//!
//! * [`Format`] is the table of formats: texels, planes, subsampling; with [`Format::vulkan`] and [`fourcc_of`] for
//!   their Vulkan formats.
//! * [`LinearLayout`] computes linear layouts, with a padding that other devices accept ([`Padding`]).
//! * [`ForeignImage::check`] judges descriptions of other programs' images before Vulkan sees them.
//! * [`negotiate`](negotiate::negotiate) finds the layout for all attachments, and says for every better one which
//!   attachment objected, and why.
//!
//! ```
//! use peerbuf::image::{ForeignImage, ForeignPlane, Fourcc, ImageUsage, Offer};
//!
//! let image = ForeignImage {
//!     fourcc: Fourcc::new(*b"BG24").raw(),
//!     modifier: 0,
//!     width: 64,
//!     height: 16,
//!     mips: 1,
//!     layers: 1,
//!     usage: ImageUsage::SAMPLED,
//!     planes: vec![ForeignPlane { fd: 0, offset: 0, pitch: 192 }],
//!     fds: vec![4096],
//! };
//! let refused = image.check(&Offer::default()).unwrap_err();
//! assert!(refused.to_string().ends_with("convert it to XB24"));
//! ```
//!
//! Kernel counterpart: `drm_fourcc.h`, `struct drm_mode_fb_cmd2`, `Documentation/userspace-api/dma-buf-alloc-exchange.rst`.
//! Vulkan: `VK_EXT_image_drm_format_modifier`, `VkImageSubresourceLayout`.

// The plan of what is still missing, for `SharedImage` (files `image`, `view`, `access`, `export`, and `probe`):
//
// - *It has a buffer.* A `SharedImage` holds a `SharedBuffer` with dedicated backings, an `ImageLayout` per generation,
//   and a `Renegotiation`. `buffer/` learns three values and no type of `image`: what a backing must be (dedicated,
//   alignment, memory types) in its backing request, what else a `View` binds (a `VkImage`), and how bytes are laid out
//   anew (a kind of copy per side) in `CopyPath`.
// - *Offers* are read in `device/formats.rs`, once per format and usage: modifiers with their features, and the image
//   query for each of them. Offsets of planes are asked for after binding, since lavapipe knows them no earlier.
// - *Negotiated again* at attach, before the new attachment is listed, and at detach: `negotiate` with the `Evidence` of
//   the format; the probes that it asks for write an odd image of the same format and layout on one device and sample
//   it on the other, on devices opened for it, as `transfer/prove` does. `Renegotiation` says when; never in a frame.
// - *Moves.* The layout of an `Agreement` is part of a `MoveRequest`. Same layout: the bytes are copied as a buffer's.
//   Another one: an image copy where one device knows both, else rows through a `LinearLayout`. In system memory an
//   image is `LINEAR` and padded. Mip tails are a second backing under the same name.
// - *Ownership.* Each use acquires from `EXTERNAL` or `FOREIGN_EXT` with the image layout of the last release, kept
//   beside the fences. `UNDEFINED` is used once, by the creator. An attachment whose part is not `Direct` has an image
//   of its own, and its copies are in the same submission as its use.
// - *Other programs.* In: `ForeignImage::check`, then the fds as `buffer/foreign/import.rs` takes them. Out: pinned, as
//   an `ImageLayout` with fds.

mod extent;
mod foreign;
mod foreign_error;
mod format;
mod fourcc;
mod layout;
mod modifier;
pub mod negotiate;
mod offer;
mod padding;
mod shared;
#[cfg(test)]
mod tests;
mod usage;
mod vulkan_format;

pub use extent::{Extent, Field, Limits, OutOfRange, Shape};
pub use foreign::{ForeignImage, ForeignPlane};
pub use foreign_error::{ForeignImageError, PlaneError};
pub use format::{Alpha, Format, FormatGap, FormatPlane, MAX_PLANES};
pub use fourcc::Fourcc;
pub use layout::{ImageLayout, LayoutError, LevelSpan, LinearLayout, MemoryPlane, ShapeError};
pub use modifier::Modifier;
pub use offer::{ImageOffer, ModifierOffer, Offer, TilingOffer};
pub use padding::{PADDING_EVIDENCE, Padding, PaddingEvidence};
pub use shared::{
    ImageAttachment, ImageDescriptor, ImageError, ImageMapping, ImagePart, RawImage, SharedImage,
};
pub use usage::ImageUsage;
pub use vulkan_format::{VulkanFormat, VulkanFormatGap, fourcc_of};

pub(crate) use shared::create;
