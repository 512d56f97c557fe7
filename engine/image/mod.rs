//! Images, as data: their formats and layouts, and what other programs say of theirs.
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

mod extent;
mod foreign;
mod foreign_error;
mod format;
mod fourcc;
mod layout;
mod modifier;
mod offer;
mod padding;
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
pub use usage::ImageUsage;
pub use vulkan_format::{VulkanFormat, VulkanFormatGap, fourcc_of};
