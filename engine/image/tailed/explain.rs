//! Explains where the parts of an image with a mip tail are.

use std::fmt;

use super::tailed_image::TailedImage;
use crate::image::shared::ImageExplanation;

/// Where the parts of a [`TailedImage`] are and why, made by [`TailedImage::explain`]. `Display` prints it as text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TailedExplanation {
    /// The least level that a mapping would have.
    pub min_level: u32,
    /// The first level of the tail.
    pub tail_level: u32,
    /// All levels.
    pub mips: u32,
    /// The levels below the tail.
    pub large: ImageExplanation,
    /// The tail.
    pub tail: ImageExplanation,
}

impl TailedImage {
    /// Says where the large levels and the tail are and why, as [`crate::SharedImage::explain`] does for each; and why the
    /// large levels have not returned.
    ///
    /// Locks: as [`crate::SharedImage::explain`], for one after the other.
    pub fn explain(&self) -> TailedExplanation {
        TailedExplanation {
            min_level: self.min_level(),
            tail_level: self.tail_level(),
            mips: self.shape().mips,
            large: self.large().explain(),
            tail: self.tail().explain(),
        }
    }
}

impl fmt::Display for TailedExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min_level, tail_level, mips, large, tail } = self;
        let last = mips.saturating_sub(1);
        writeln!(f, "devices use levels {min_level} … {last}")?;
        writeln!(f, "levels 0 … {}: {large}", tail_level.saturating_sub(1))?;
        write!(f, "levels {tail_level} … {last}: {tail}")
    }
}
