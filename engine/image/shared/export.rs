//! Export: an fd of an image, and where its planes are in it, for a user outside this engine.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use super::shared_image::SharedImage;
use crate::buffer::{ForeignExport, ForeignHandle, ForeignInfo};
use crate::error::{Error, Result};
use crate::image::layout::{ImageLayout, MemoryPlane};

/// An image that is exported outside this engine, from [`SharedImage::export`].
///
/// The image is pinned while this lives, and keeps its layout, as a buffer does ([`ForeignExport`]).
pub struct ImageExport {
    image: SharedImage,
    layout: ImageLayout,
    export: ForeignExport,
}

impl SharedImage {
    /// Exports the image: one fd for all planes, and where they are in it. [`crate::image::ForeignImage`] has a table
    /// of what other interfaces call these numbers.
    ///
    /// # Errors
    ///
    /// As [`crate::SharedBuffer::export_foreign`]; [`Error::Unsupported`] for an image with more than one level or layer:
    /// an offset and a pitch say where the first one is, and a receiver would look for the others elsewhere.
    ///
    /// Locks: as [`crate::SharedBuffer::export_foreign`].
    pub fn export(&self) -> Result<ImageExport> {
        let shape = self.shape();
        if (shape.mips, shape.layers) != (1, 1) {
            return Err(Error::Unsupported {
                device: self.home().name().to_owned(),
                missing: format!(
                    "exports of images with {} mip levels and {} array layers, accepted: 1 and 1; export an image \
                     per level and layer",
                    shape.mips, shape.layers
                ),
            });
        }
        let export = self.buffer().export_foreign()?;
        // From here on the image keeps its layout.
        let (layout, start) = (self.layout(), export.info().offset);
        let planes: Vec<_> = layout
            .planes()
            .iter()
            .map(|plane| MemoryPlane { offset: plane.offset + start, ..*plane })
            .collect();
        let moved = ImageLayout::new(layout.fourcc(), layout.modifier(), layout.shape(), &planes);
        let layout = moved.map_err(|error| Error::Unsupported {
            device: self.home().name().to_owned(),
            missing: error.to_string(),
        })?;
        Ok(ImageExport { image: self.clone(), layout, export })
    }
}

impl ImageExport {
    /// Returns the image.
    pub fn image(&self) -> &SharedImage {
        &self.image
    }

    /// Returns the format, the modifier, the size, and where the planes are in the file.
    pub fn layout(&self) -> ImageLayout {
        self.layout
    }

    /// Returns the properties of the memory that a receiver needs besides the fd.
    pub fn info(&self) -> ForeignInfo {
        self.export.info()
    }

    /// Duplicates the fd, and returns the duplicate with the properties of the memory, to be passed on.
    ///
    /// # Errors
    ///
    /// [`Error::FdLimit`].
    pub fn handle(&self) -> Result<ForeignHandle> {
        self.export.handle()
    }
}

impl AsFd for ImageExport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.export.as_fd()
    }
}

impl fmt::Debug for ImageExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageExport")
            .field("layout", &self.layout)
            .field("export", &self.export)
            .finish_non_exhaustive()
    }
}
