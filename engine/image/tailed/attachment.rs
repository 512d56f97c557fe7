//! The attachment of a device to an image with a mip tail.

use std::sync::Arc;

use super::mapping::TailedMapping;
use super::tailed_image::TailedImage;
use crate::access::Access;
use crate::buffer::Importer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::image::shared::ImageAttachment;
use crate::image::usage::ImageUsage;

/// A device's attachment to a [`TailedImage`], from [`TailedImage::attach`] or [`TailedImage::attach_dynamic`]: one to its
/// large levels, and one to its tail. Dropping it detaches the device; live mappings stay valid.
#[derive(Debug)]
pub struct TailedAttachment {
    image: TailedImage,
    large: ImageAttachment,
    tail: ImageAttachment,
}

impl TailedImage {
    /// Attaches `device` for some uses, with static attachments: while a mapping has the large levels, they stay in their
    /// memory, and cannot be evicted.
    ///
    /// # Errors
    ///
    /// As [`crate::SharedImage::attach_for`]. The device is attached to neither part then.
    ///
    /// Locks: the reservations of both parts, one after the other.
    pub fn attach(&self, device: &Device, usage: ImageUsage) -> Result<TailedAttachment> {
        let tail = self.tail().attach_for(device, usage)?;
        let large = self.large().attach_for(device, usage)?;
        Ok(TailedAttachment { image: self.clone(), large, tail })
    }

    /// Attaches `device` for some uses, with an importer that is notified when a part moves. The number of the buffer says
    /// which one ([`crate::Invalidation::buffer_id`], [`crate::SharedImage::id`]). When the large levels are evicted, and when they
    /// return, it is notified for them: a mapping made after that has another least level.
    ///
    /// # Errors
    ///
    /// As [`TailedImage::attach`].
    ///
    /// Locks: as [`TailedImage::attach`].
    pub fn attach_dynamic(
        &self,
        device: &Device,
        usage: ImageUsage,
        importer: &Arc<dyn Importer>,
    ) -> Result<TailedAttachment> {
        let tail = self.tail().attach_dynamic(device, usage, Arc::clone(importer))?;
        let large = self.large().attach_dynamic(device, usage, Arc::clone(importer))?;
        Ok(TailedAttachment { image: self.clone(), large, tail })
    }
}

impl TailedAttachment {
    /// Returns the image.
    pub fn image(&self) -> &TailedImage {
        &self.image
    }

    /// Returns the device.
    pub fn device(&self) -> Device {
        self.tail.device()
    }

    /// Returns the attachment to the large levels.
    pub fn large(&self) -> &ImageAttachment {
        &self.large
    }

    /// Returns the attachment to the tail.
    pub fn tail(&self) -> &ImageAttachment {
        &self.tail
    }

    /// Maps the image for the device: the tail always, and the large levels if they are in the domain that they prefer.
    ///
    /// If they have left it, they return first where they can at once, as at any use of an evicted image
    /// ([`crate::ResidencyOptions`]). Nothing waits for them: otherwise the mapping has the tail alone, and a later one may
    /// have more. To have them in any case, call [`crate::SharedBuffer::request_residency`] for the buffer of
    /// [`TailedImage::large`] first.
    ///
    /// # Errors
    ///
    /// As [`ImageAttachment::map`] for the tail. For the large levels the same, except that they have no room, or that their
    /// content was discarded ([`crate::SharedBuffer::repopulate`] gives them memory again): then the mapping has the tail
    /// alone.
    ///
    /// Locks: as [`ImageAttachment::map`].
    pub fn map(&self, access: Access) -> Result<TailedMapping> {
        // First, so that the tail is what was used last.
        let large = self.large.map_in_preferred_domain(access)?;
        let tail = self.tail.map(access)?;
        Ok(TailedMapping::new(self.image.clone(), large, tail))
    }

    /// Replaces what is stale in a mapping, and lets it have the large levels as [`TailedAttachment::map`] does, or no longer.
    /// What is current stays. Returns whether anything was replaced: handles of views have to be made again then.
    ///
    /// # Errors
    ///
    /// As [`TailedAttachment::map`], and [`Error::ForeignMapping`] for a mapping of another image or device, or for other
    /// uses. The mapping is as usable as before.
    ///
    /// Locks: as [`TailedAttachment::map`].
    pub fn remap(&self, mapping: &mut TailedMapping) -> Result<bool> {
        if *mapping.image() != self.image {
            let (buffer, device) = (self.tail.image().name(), self.device().name().to_owned());
            return Err(Error::ForeignMapping { buffer, device });
        }
        let before = mapping.generations();
        let access = mapping.tail().access();
        self.tail.remap(mapping.tail_mut())?;
        // One that is current finds the same `VkImage`.
        mapping.set_large(self.large.map_in_preferred_domain(access)?);
        Ok(mapping.generations() != before)
    }
}
