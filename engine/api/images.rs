//! Images: created, imported, used in submissions.
#![expect(unsafe_code, reason = "importing what only the caller can vouch for")]

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::engine::Engine;
use crate::buffer::{Attachment, ForeignInfo, Mapping, Submission};
use crate::device::Device;
use crate::error::Result;
use crate::image::{
    self, ForeignImage, ImageAttachment, ImageDescriptor, ImageError, ImageMapping, ImageServices,
    SharedImage, TailedImage,
};
use crate::sync::Fence;

/// # Images
impl Engine {
    /// Creates an image whose home device is `home`. Its texels are zero bytes.
    ///
    /// Its layout is the one that the home device's driver gives to linear images. If the driver has none for these
    /// uses, or the descriptor says so ([`ImageDescriptor::padded`]), its rows are padded so that most drivers accept them ([`crate::image::Padding::CROSSING`]). It has an
    /// allocation of its own, whatever its size.
    ///
    /// # Errors
    ///
    /// [`ImageError::Layout`] for a format or size that no shared image has; [`ImageError::NoUsage`]; those of
    /// [`Engine::create_buffer`].
    pub fn create_image(
        &self,
        home: &Device,
        descriptor: ImageDescriptor,
    ) -> Result<SharedImage, ImageError> {
        image::create(&self.image_services(), &home.0, descriptor)
    }

    /// Creates an image of at least two mip levels as [`Engine::create_image`] does, whose levels from `tail_level` on, its
    /// *mip tail*, have memory of their own. When memory is needed, its other, larger levels are evicted before the tail of
    /// any such image of that priority ([`TailedImage::set_priority`]), and devices use the tail alone until they return.
    ///
    /// A placement of [`crate::Placement::Vram`] holds for the tail; the large levels, which no use waits for, may be kept in
    /// system memory. [`ImageDescriptor::discardable`] holds for the large levels: those of the tail are never discarded.
    ///
    /// ```no_run
    /// use peerbuf::image::Fourcc;
    /// use peerbuf::{Access, ImageDescriptor};
    ///
    /// # fn example(engine: &peerbuf::Engine, device: &peerbuf::Device) -> Result<(), Box<dyn std::error::Error>> {
    /// let map = ImageDescriptor::new(Fourcc::new(*b"AB24"), 4096, 4096).mips(13).name("map");
    /// // Levels 3 … 12, 512 × 512 texels and less: 1.6 % of its memory.
    /// let map = engine.create_tailed_image(device, map, 3)?;
    /// let attachment = map.attach(device, map.usage())?;
    /// let mapping = attachment.map(Access::Read)?;
    /// println!("sample from level {} on", mapping.min_level());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Engine::create_image`]; [`ImageError::TailLevel`] unless `tail_level` is a level of the image other than 0.
    pub fn create_tailed_image(
        &self,
        home: &Device,
        descriptor: ImageDescriptor,
        tail_level: u32,
    ) -> Result<TailedImage, ImageError> {
        image::create_tailed(&self.image_services(), &home.0, &descriptor, tail_level)
    }

    /// Imports an image that was made outside this engine, whose home device is `device`: memory with the planes of
    /// `image` in it, as [`Engine::import_foreign`] imports a buffer. It never moves, and keeps its layout. The fd
    /// remains the caller's.
    ///
    /// The offsets of the planes are counted from the beginning of the file. The description is checked before any
    /// driver is called ([`ForeignImage::check`]). How large the file is follows from `info`; what `image` says of it
    /// is not used. Rows can be imported (`LINEAR`), of one level and one layer, in one file: by several fds of that,
    /// [`Engine::import_image_files`].
    ///
    /// # Errors
    ///
    /// [`ImageError::Foreign`] with the field that is wrong, its value, and what would have been accepted;
    /// [`ImageError::SeveralFiles`]; [`ImageError::OwnExport`]; [`ImageError::NoUsage`]; those of
    /// [`Engine::import_foreign`].
    ///
    /// # Safety
    ///
    /// As [`Engine::import_foreign`].
    pub unsafe fn import_image(
        &self,
        device: &Device,
        (fd, info): (BorrowedFd<'_>, ForeignInfo),
        image: &ForeignImage,
        name: Option<&str>,
    ) -> Result<SharedImage, ImageError> {
        let services = self.image_services();
        image::import((&self.set, &services), &device.0, (fd, info), image, name)
    }

    /// Imports an image as [`Engine::import_image`] does, whose planes have several fds, as EGL, GBM and PipeWire give
    /// them: the `fd` of each plane is an index into `files`. All have to name one file.
    ///
    /// # Errors
    ///
    /// As [`Engine::import_image`]. [`ImageError::SeveralFiles`] if there is no fd, or if the fds name different files,
    /// or files of which the kernel does not tell: only dma-bufs and memfds are compared.
    ///
    /// # Safety
    ///
    /// As [`Engine::import_foreign`].
    pub unsafe fn import_image_files(
        &self,
        device: &Device,
        (files, info): (&[BorrowedFd<'_>], ForeignInfo),
        image: &ForeignImage,
        name: Option<&str>,
    ) -> Result<SharedImage, ImageError> {
        let services = self.image_services();
        image::import_files((&self.set, &services), &device.0, (files, info), image, name)
    }

    /// Submits as [`Engine::submit_remapped`] does, with mappings of images, and of buffers, that are replaced if they
    /// are old.
    ///
    /// `declare` gets the mappings in the order of `images` and of `buffers`. It is called again, and must record again,
    /// if one of them has moved since it was mapped: evicted, migrated, or laid out anew. What may be used only in a
    /// device's memory first returns there together ([`crate::Placement::Vram`]), and none is evicted for another one.
    /// Of the other evicted ones, those return that the limits on returns allow ([`crate::ResidencyOptions`]). As
    /// [`ImageAttachment::map`] does, it first moves images into a better layout if that is due.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit_remapped`] and [`ImageAttachment::remap`].
    ///
    /// Locks: as [`Engine::submit`].
    pub fn submit_images_remapped<'a>(
        &self,
        device: &'a Device,
        images: &mut [(&ImageAttachment, &mut ImageMapping)],
        buffers: &mut [(&Attachment, &mut Mapping)],
        declare: impl FnMut(&mut Submission<'a>, &[&ImageMapping], &[&Mapping]) -> Result<()>,
    ) -> Result<Fence> {
        image::submit_images_remapped(&self.set, device, images, buffers, declare)
    }

    fn image_services(&self) -> ImageServices {
        ImageServices {
            refs: Arc::clone(&self.refs),
            proofs: Arc::clone(&self.images),
            layouts: Arc::clone(&self.layouts),
        }
    }
}
