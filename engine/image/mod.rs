//! Images that devices share; and images as data: formats, layouts, what other programs say of theirs, and which layout
//! devices agree on.
//!
//! A [`SharedImage`] is created by [`crate::Engine::create_image`], and used as a [`crate::SharedBuffer`] is: attach, map,
//! submit.
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
//! * The large mip levels of a [`TailedImage`] leave memory while the small ones stay, and its mappings say from which level
//!   on it may be used ([`crate::Engine::create_tailed_image`]).
//! * An image that all its attachments see in the same tiles is in tiles, while it is in the memory of its home device. It
//!   has rows in system memory, for a device that joins and lacks the modifier, and for the host. Probes have read every
//!   texel of such tiles before they are used ([`SharedImage::relayout`]).
//! * [`ImageVerdict`] says which layouts carry texels between two devices ([`crate::Engine::image_verdict`]).
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

// What is still missing:
//
// - *The modifier `LINEAR` at a pitch that was agreed* is no offer of an attachment (`shared/participants`). Where a driver
//   takes explicit planes, `shared/attachment` uses them for rows already.
// - *Tiles beside copies*: an image is in tiles only if every attachment sees them directly (`shared/tiled_choice`). A device
//   that cannot waits until nothing keeps the image, since no other device copies tiles for it. The host, too, gets rows by
//   a move of the whole image.
// - *Tiles at the return*: an image returns from system memory as rows, and gets its tiles in a second copy, later. A move
//   that no single device copies takes tiles as bytes; then the image cannot be used before it is back.
// - *Tiles of a lost device* are moved as bytes, and no device reads them.
// - *`OPTIMAL` tiling* for an image of one device (`Rung::Private`): a tiled modifier stands for it. Images in memory that
//   is dedicated to them, which some drivers require for modifiers (`ImageSpec::check` refuses those).
// - *Proofs of tiles* have one size, and none for each set of usages.
// - *Mip tails in one `VkImage`*: a `TailedImage` is two images (`tailed`), and a shader that filters across its tail level
//   samples both. One tail level is chosen at creation; there are no more steps than that. `Engine::submit_images_remapped`
//   takes the two mappings one by one, and would use large levels where they are kept.
// - *Staging* for devices that have no memory in common: such a device cannot attach.
// - *Several files* for the planes of one image. Several fds of one file are taken (`Engine::import_image_files`).
// - *Padded rows by themselves*: an image has rows for importers of other programs if its creator says so
//   (`ImageDescriptor::padded`). Otherwise it has the pitch of its home device's driver (SwiftShader's has no padding), in
//   system memory too, and `SharedImage::export` states that: padded rows would take the shared bytes from other devices
//   whose drivers place rows as the home device's does, and cannot be told of others.
// - *Exports of mip levels and array layers in one description*: each is one of its own (`SharedImage::export_level`).
// - *Moves into another layout where neither a device nor the host sees both memories*: no bounce copies
//   (`buffer/migration/rearrange`). The copies of such a move are at most 262,144 (`shared/row_copies`).
// - *A check for two images of one `SharedImage`* covers submissions; applications that submit themselves order their own
//   (`ImageMapping::acquire`).
// - *Proofs with other programs*: the home device of an imported image stands for its exporter.
// - *The memory type of an own image* (`shared/own_image`) is chosen for a buffer; a device whose optimal images need another
//   one has none.

mod driver_offer;
mod extent;
mod foreign;
mod foreign_error;
mod format;
mod fourcc;
mod known_rows;
mod layout;
mod modifier;
pub mod negotiate;
mod offer;
mod padding;
mod probes;
mod proofs;
mod rows;
mod shared;
mod tailed;
#[cfg(test)]
mod tests;
mod usage;
mod verdict;
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
    AttachmentExplanation, ImageAttachment, ImageDescriptor, ImageError, ImageExplanation,
    ImageExport, ImageMapping, ImagePart, OwnImageReason, RawImage, SharedImage,
};
pub use tailed::{RawLevels, TailedAttachment, TailedExplanation, TailedImage, TailedMapping};
pub use usage::ImageUsage;
pub use verdict::{
    ImageProof, ImageUntried, ImageVerdict, ImageVerdictError, LayoutResult, LayoutVerdict,
};
pub use vulkan_format::{VulkanFormat, VulkanFormatGap, fourcc_of};

pub(crate) use proofs::{ImageProofs, verdict};
pub(crate) use shared::{
    ImageServices, Layouts, create, import, import_files, submit_images_remapped,
};
pub(crate) use tailed::create as create_tailed;
