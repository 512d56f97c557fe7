//! Texels that the host reads and writes, row by row.

use super::error::ImageError;
use super::places::{ImagePart, Rows};
use super::shared_image::SharedImage;
use crate::access::Access;
use crate::error::Result;

impl SharedImage {
    /// Bytes of the texels of a part, without padding between rows: what [`SharedImage::read_texels`] returns.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchPart`].
    pub fn texel_bytes(&self, part: ImagePart) -> Result<u64, ImageError> {
        let rows = self.rows(part)?;
        Ok(rows.row_bytes * rows.rows)
    }

    /// Copies the texels of a part out of the image, row after row, without padding. It is an access of the host to the
    /// image's buffer ([`crate::SharedBuffer::host_access`]), and waits as that does. An image in tiles is brought into rows
    /// first.
    ///
    /// # Errors
    ///
    /// Those of [`crate::SharedBuffer::host_access`]; of an image in tiles those of [`SharedImage::relayout`];
    /// [`ImageError::NoSuchPart`].
    ///
    /// Locks: the reservation, but not while copying.
    pub fn read_texels(&self, part: ImagePart) -> Result<Vec<u8>, ImageError> {
        // Before the access, which may wait and move the image.
        self.rows(part)?;
        let access = self.access_rows(Access::Read)?;
        // The buffer stays in its backing while the access is open, and so in its layout.
        let Rows { offset, pitch, row_bytes, rows } = self.rows(part)?;
        // CAST: the bytes are in memory, and fit the address space.
        let (row, count) = (row_bytes as usize, rows as usize);
        let mut texels = vec![0; row * count];
        for (at, out) in texels.chunks_exact_mut(row).enumerate() {
            access.read(offset + pitch * at as u64, out)?;
        }
        access.end()?;
        Ok(texels)
    }

    /// Copies texels into a part of the image: row after row, without padding. It is an access of the host, as
    /// [`SharedImage::read_texels`] is.
    ///
    /// # Errors
    ///
    /// Those of [`crate::SharedBuffer::host_access`]; [`ImageError::NoSuchPart`];
    /// [`ImageError::TexelBytes`] if `texels` are not as many bytes as the part has ([`SharedImage::texel_bytes`]).
    ///
    /// Locks: as [`SharedImage::read_texels`].
    pub fn write_texels(&self, part: ImagePart, texels: &[u8]) -> Result<(), ImageError> {
        // Before the access, which may wait and move the image. No layout changes how many bytes a part has.
        let (given, needed) = (texels.len() as u64, self.texel_bytes(part)?);
        if given != needed {
            return Err(ImageError::TexelBytes { given, needed });
        }
        let access = self.access_rows(Access::Write)?;
        let Rows { offset, pitch, row_bytes, .. } = self.rows(part)?;
        // CAST: a row of `texels`.
        for (at, row) in texels.chunks_exact(row_bytes as usize).enumerate() {
            access.write(offset + pitch * at as u64, row)?;
        }
        Ok(access.end()?)
    }

    fn rows(&self, part: ImagePart) -> Result<Rows, ImageError> {
        let (planes, shape) = (self.format().planes().len(), self.shape());
        let rows = self.0.layout().places.rows(part);
        rows.ok_or(ImageError::NoSuchPart { part, planes, shape })
    }
}
