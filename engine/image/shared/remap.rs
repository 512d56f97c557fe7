//! Mappings of images that are replaced if the image has moved: one at a time, or all that a submission uses.

use smallvec::SmallVec;

use super::attachment::ImageAttachment;
use super::mapping::ImageMapping;
use crate::buffer::{Attachment, Buffers, Mapping, Remapped, Submission, submit_remapped};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::sync::Fence;

impl ImageAttachment {
    /// Replaces a stale mapping by a current one, for the same access. A mapping that is current stays.
    ///
    /// As [`Attachment::remap`] does, it first moves the image back to its preferred domain, or to the device, if that is
    /// due; and, as [`ImageAttachment::map`] does, into a better layout.
    ///
    /// # Errors
    ///
    /// As [`ImageAttachment::map`], and [`Error::ForeignMapping`] for a mapping of another image or device, or for other
    /// uses. The mapping is then unchanged.
    ///
    /// Locks: as [`ImageAttachment::map`].
    pub fn remap(&self, mapping: &mut ImageMapping) -> Result<()> {
        self.check_mapping(mapping)?;
        self.image().relayout_if_due();
        self.attachment().bring_back()?;
        self.remap_only(mapping)
    }

    /// Replaces the mapping as [`ImageAttachment::remap`] does, but moves the image only if the use requires it.
    fn remap_only(&self, mapping: &mut ImageMapping) -> Result<()> {
        self.check_mapping(mapping)?;
        if mapping.generation() != self.image().generation() {
            *mapping = self.map_as_it_is(mapping.access())?;
        }
        Ok(())
    }

    /// Checks that the mapping is of this image, of this device, and for the same uses.
    fn check_mapping(&self, mapping: &ImageMapping) -> Result<()> {
        let suits = mapping.image() == self.image()
            && mapping.device() == self.device()
            && mapping.usage() == self.usage();
        if suits {
            return Ok(());
        }
        let (buffer, device) = (self.image().name(), self.device().name().to_owned());
        Err(Error::ForeignMapping { buffer, device })
    }
}

impl Remapped for [(&ImageAttachment, &mut ImageMapping)] {
    fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.iter().map(|(attachment, _)| attachment.attachment())
    }

    fn remap_stale(&mut self) -> Result<()> {
        self.iter_mut().try_for_each(|(attachment, mapping)| attachment.remap_only(mapping))
    }
}

/// Submits with mappings that are replaced if they are stale. The contract is that of
/// [`crate::Engine::submit_images_remapped`].
pub(crate) fn submit_images_remapped<'d>(
    set: &Buffers,
    device: &'d Device,
    images: &mut [(&ImageAttachment, &mut ImageMapping)],
    buffers: &mut [(&Attachment, &mut Mapping)],
    mut declare: impl FnMut(&mut Submission<'d>, &[&ImageMapping], &[&Mapping]) -> Result<()>,
) -> Result<Fence> {
    images.iter().for_each(|(attachment, _)| attachment.image().relayout_if_due());
    let mut all = (images, buffers);
    submit_remapped(set, &device.0, &mut all, |submission, (images, buffers)| {
        let images: SmallVec<[_; 4]> = images.iter().map(|(_, mapping)| &**mapping).collect();
        let buffers: SmallVec<[_; 4]> = buffers.iter().map(|(_, mapping)| &**mapping).collect();
        declare(submission, &images, &buffers)
    })
}
