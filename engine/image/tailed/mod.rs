//! Images with a mip tail: the large levels leave memory while the small ones stay.
//!
//! ```text
//!  TailedImage ──attach──► TailedAttachment ──map──► TailedMapping: least level, one or two VkImages
//!       │ has two SharedImages: the large levels, and the tail; each has a buffer, and so a backing
//! ```
//!
//! All that moves, negotiates and counts is in `shared`, for each of the two. What is here: which level is in which,
//! priorities by which the large levels leave first, and that a mapping has them only while they are where devices should use
//! them.
//!
//! Vulkan counterpart: `VkSparseImageMemoryRequirements::imageMipTailFirstLod`; other than that, no device needs sparse
//! residency.

mod attachment;
mod explain;
mod mapping;
mod tailed_image;

pub use attachment::TailedAttachment;
pub use explain::TailedExplanation;
pub use mapping::{RawLevels, TailedMapping};
pub use tailed_image::TailedImage;

pub(crate) use tailed_image::create;
