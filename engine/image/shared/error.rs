//! Why an image could not be created, or its texels not be copied.

use super::places::ImagePart;
use crate::error::Error;
use crate::image::extent::Shape;
use crate::image::format::FormatGap;
use crate::image::layout::{LayoutError, ShapeError};

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
