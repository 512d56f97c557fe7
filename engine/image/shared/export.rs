//! Export: an fd of an image, and where its planes are in it, for a user outside this engine.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use super::error::ImageError;
use super::places::{ImagePart, Rows};
use super::shared_image::SharedImage;
use crate::buffer::{ForeignExport, ForeignHandle, ForeignInfo};
use crate::error::{Error, Result};
use crate::image::extent::{Extent, Shape};
use crate::image::layout::{ImageLayout, MemoryPlane};
use crate::image::modifier::Modifier;

/// How often rows are asked for again because the image got tiles meanwhile.
const ATTEMPTS: u32 = 100;

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
    /// an offset and a pitch say where the first one is, and a receiver would look for the others elsewhere
    /// ([`SharedImage::export_level`]).
    ///
    /// Locks: as [`crate::SharedBuffer::export_foreign`].
    pub fn export(&self) -> Result<ImageExport> {
        let shape = self.shape();
        if (shape.mips, shape.layers) != (1, 1) {
            return Err(Error::Unsupported {
                device: self.home().name().to_owned(),
                missing: format!(
                    "exports of images with {} mip levels and {} array layers, accepted: 1 and 1; export each level of each \
                     layer",
                    shape.mips, shape.layers
                ),
            });
        }
        let export = self.buffer().export_foreign()?;
        // From here on the image keeps its layout.
        let layout = self.layout();
        self.exported(export, (layout.modifier(), layout.shape()), layout.planes())
    }

    /// Exports one mip level of one array layer, as an image of its size with one level and one layer. Exports of others have
    /// the same file. The image has rows then, and no tiles, unless it has one level and one layer.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchPart`]; otherwise as [`SharedImage::export`], and as [`SharedImage::relayout`] where the image is
    /// in tiles.
    ///
    /// Locks: as [`SharedImage::relayout`].
    pub fn export_level(&self, level: u32, layer: u32) -> Result<ImageExport, ImageError> {
        let (part, shape) = (ImagePart { plane: 0, level, layer }, self.shape());
        if self.0.layout().places.rows(part).is_none() {
            let planes = self.format().planes().len();
            return Err(ImageError::NoSuchPart { part, planes, shape });
        }
        if (shape.mips, shape.layers) == (1, 1) {
            return Ok(self.export()?);
        }
        for _ in 0..ATTEMPTS {
            let layout = self.0.layout();
            if layout.tiles.is_some() {
                self.leave_tiles(&layout)?;
            }
            let export = self.buffer().export_foreign()?;
            // From here on the image keeps its layout.
            let layout = self.0.layout();
            if layout.tiles.is_some() {
                continue;
            }
            // CAST: a format has at most four planes.
            let planes = 0..self.format().planes().len() as u32;
            let rows = planes.filter_map(|plane| layout.places.rows(ImagePart { plane, ..part }));
            let place = |rows: Rows| {
                // CAST: places have pitches up to `MAX_PITCH`.
                MemoryPlane { offset: rows.offset, pitch: rows.pitch as u32, fd: 0 }
            };
            let planes: Vec<_> = rows.map(place).collect();
            let Extent { width, height } = shape.extent.at_level(level);
            let of = (Modifier::LINEAR, Shape::new(width, height));
            return Ok(self.exported(export, of, &planes)?);
        }
        Err(Error::Busy { buffer: self.name(), mapped: 0, host: 0, pinned: 0 }.into())
    }

    /// An export of a file, in which planes are where they are in the bytes of the image.
    fn exported(
        &self,
        export: ForeignExport,
        (modifier, shape): (Modifier, Shape),
        planes: &[MemoryPlane],
    ) -> Result<ImageExport> {
        let start = export.info().offset;
        let planes: Vec<_> = planes
            .iter()
            .map(|plane| MemoryPlane { offset: plane.offset + start, ..*plane })
            .collect();
        let layout = ImageLayout::new(self.fourcc(), modifier, shape, &planes);
        let layout = layout.map_err(|error| Error::Unsupported {
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
