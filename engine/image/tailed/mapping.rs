//! The levels of an image with a mip tail that a device may use.

use super::tailed_image::TailedImage;
use crate::access::Access;
use crate::buffer::Submission;
use crate::error::Result;
use crate::image::shared::{ImageMapping, RawImage};
use crate::transfer::Scope;

/// The `VkImage`s of a device for a [`TailedImage`], from [`crate::TailedAttachment::map`]: that of the tail, and that of the
/// large levels if the device may use them.
///
/// Each of the two becomes stale when its part moves, as any [`ImageMapping`]; [`crate::TailedAttachment::remap`] replaces
/// what is stale. When the large levels have been evicted, uses fail with [`crate::Error::Stale`] until then.
#[derive(Debug)]
pub struct TailedMapping {
    image: TailedImage,
    large: Option<ImageMapping>,
    tail: ImageMapping,
}

/// The handles of the levels of a [`TailedImage`] that a device may use. They are valid while the [`TailedMapping`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawLevels {
    /// The least level that may be used.
    pub min_level: u32,
    /// The first level of the tail.
    pub tail_level: u32,
    /// The image of the levels below the tail, if they may be used.
    pub large: Option<RawImage>,
    /// The image of the tail. Its level 0 is level [`RawLevels::tail_level`] of the whole.
    pub tail: RawImage,
}

impl RawLevels {
    /// Returns the image that has a level, and which level it is there; `None` below the least level. Levels that the whole
    /// image does not have are none of the returned image either.
    pub fn of_level(&self, level: u32) -> Option<(RawImage, u32)> {
        match level.checked_sub(self.tail_level) {
            Some(level) => Some((self.tail, level)),
            None => Some((self.large?, level)),
        }
    }
}

impl TailedMapping {
    pub(super) fn new(image: TailedImage, large: Option<ImageMapping>, tail: ImageMapping) -> Self {
        Self { image, large, tail }
    }

    /// Returns the image.
    pub fn image(&self) -> &TailedImage {
        &self.image
    }

    /// Returns the least level that the mapping has: 0, or the first one of the tail.
    pub fn min_level(&self) -> u32 {
        if self.large.is_some() { 0 } else { self.image.tail_level() }
    }

    /// Returns the mapping of the large levels; `None` if the device may not use them.
    pub fn large(&self) -> Option<&ImageMapping> {
        self.large.as_ref()
    }

    /// Returns the mapping of the tail.
    pub fn tail(&self) -> &ImageMapping {
        &self.tail
    }

    /// Returns the handles, as [`ImageMapping::view`] does for each.
    ///
    /// # Errors
    ///
    /// As [`ImageMapping::view`].
    ///
    /// Locks: as [`ImageMapping::view`], for one after the other.
    pub fn view(&self) -> Result<RawLevels> {
        let large = self.large.as_ref().map(ImageMapping::view).transpose()?;
        Ok(self.levels(large, self.tail.view()?))
    }

    /// Declares that the commands of a submission use all levels of the mapping: [`ImageMapping::uses`], for both parts.
    ///
    /// # Errors
    ///
    /// As [`ImageMapping::uses`]. If it is an error of the tail, the large levels are declared all the same; give the
    /// submission up then.
    pub fn uses(
        &self,
        submission: &mut Submission<'_>,
        access: Access,
        scope: Scope,
    ) -> Result<RawLevels> {
        let large = self.large.as_ref().map(|large| large.uses(submission, access, scope));
        let large = large.transpose()?;
        Ok(self.levels(large, self.tail.uses(submission, access, scope)?))
    }

    fn levels(&self, large: Option<RawImage>, tail: RawImage) -> RawLevels {
        let (min_level, tail_level) = (self.min_level(), self.image.tail_level());
        RawLevels { min_level, tail_level, large, tail }
    }

    /// The generations of the parts.
    pub(super) fn generations(&self) -> (Option<u32>, u32) {
        (self.large.as_ref().map(ImageMapping::generation), self.tail.generation())
    }

    pub(super) fn set_large(&mut self, large: Option<ImageMapping>) {
        self.large = large;
    }

    pub(super) fn tail_mut(&mut self) -> &mut ImageMapping {
        &mut self.tail
    }
}
