//! Why an image could not be created, or its texels not be copied.

use super::places::ImagePart;
use crate::error::Error;
use crate::image::extent::Shape;
use crate::image::foreign_error::ForeignImageError;
use crate::image::format::FormatGap;
use crate::image::layout::{LayoutError, ShapeError};
use crate::image::negotiate::NegotiationError;

/// Why an image could not be created, or its texels not be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The format, or the size, is none that an image can have.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// No use is named: say what devices do with the image ([`super::ImageDescriptor::usage`]).
    #[error("an image without any use: name at least one")]
    NoUsage,
    /// A mip tail has at least one level, and at least one is larger ([`crate::Engine::create_tailed_image`]).
    #[error(
        "a mip tail from level {tail_level} on, of {mips} levels: it needs one at least, and one before it"
    )]
    #[non_exhaustive]
    TailLevel {
        /// The level that was named.
        tail_level: u32,
        /// The levels of the image.
        mips: u32,
    },
    /// The image has no such plane, level or layer.
    #[error(
        "plane {}, level {}, layer {} of an image with {planes} planes and {shape}",
        .part.plane, .part.level, .part.layer
    )]
    #[non_exhaustive]
    NoSuchPart {
        /// The part.
        part: ImagePart,
        /// The planes of the image's format.
        planes: usize,
        /// Its size.
        shape: Shape,
    },
    /// Texels of another number of bytes than the part has.
    #[error("{given} bytes of texels for a part of {needed} bytes")]
    #[non_exhaustive]
    TexelBytes {
        /// The bytes that were given.
        given: u64,
        /// The bytes of the part.
        needed: u64,
    },
    /// The description of another program's image is wrong, or the device has no such images.
    #[error(transparent)]
    Foreign(#[from] ForeignImageError),
    /// The planes of another program's image are in several files. Ask that program for one, or import each plane as an
    /// image of its own.
    #[error(
        "planes in {0} files, or in fds that are not known to be of one file, accepted: 1; \
         import each plane as an image of its own"
    )]
    SeveralFiles(usize),
    /// The file is an export of this engine. Use the image that it was exported from.
    #[error("the file is an export of this engine: use the image itself")]
    OwnExport,
    /// The attachments find no way to share it.
    #[error(transparent)]
    NoAgreement(#[from] NegotiationError),
    /// The engine has no memory for it, or another operation failed.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl From<FormatGap> for ImageError {
    fn from(gap: FormatGap) -> Self {
        Self::Layout(gap.into())
    }
}

impl From<ShapeError> for ImageError {
    fn from(error: ShapeError) -> Self {
        Self::Layout(error.into())
    }
}
