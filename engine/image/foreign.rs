//! Images that other programs made: descriptions are checked here, before Vulkan sees any of them.
//!
//! Drivers check little: lavapipe takes an offset behind the end of an fd and dies at the first write, and takes a
//! pitch that is smaller than a row and overwrites rows.

use super::extent::{Extent, Field, Limits, OutOfRange, Shape};
use super::foreign_error::{ForeignImageError, PlaneError};
use super::format::{Format, FormatGap, FormatPlane};
use super::fourcc::Fourcc;
use super::layout::{ImageLayout, MAX_PITCH, MemoryPlane, check_shape};
use super::modifier::Modifier;
use super::offer::{ModifierOffer, Offer};
use super::padding::{Padding, align_up, common_multiple};
use super::usage::ImageUsage;

/// A memory plane as another program describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ForeignPlane {
    /// Index into [`ForeignImage::fds`].
    pub fd: u32,
    /// First byte in that file.
    pub offset: u64,
    /// Bytes from a row to the next one.
    pub pitch: u64,
}

/// An image as another program describes it, in plain numbers.
///
/// | here | EGL | GBM | V4L2 | PipeWire | linux-dmabuf |
/// |---|---|---|---|---|---|
/// | `fourcc` | `EGL_LINUX_DRM_FOURCC_EXT` | `gbm_bo_get_format` | of `pixelformat`, which has codes of its own | of `SPA_FORMAT_VIDEO_format` | `format` |
/// | `modifier` | `EGL_DMA_BUF_PLANE0_MODIFIER_HI_EXT`, `…_LO_EXT` | `gbm_bo_get_modifier` | 0 for formats that are not tiled | `SPA_FORMAT_VIDEO_modifier` | `modifier_hi`, `modifier_lo` |
/// | `width`, `height` | `EGL_WIDTH`, `EGL_HEIGHT` | `gbm_bo_get_width`, `…_height` | `width`, `height` | `SPA_FORMAT_VIDEO_size` | `width`, `height` |
/// | `offset` | `EGL_DMA_BUF_PLANE0_OFFSET_EXT` | `gbm_bo_get_offset` | `data_offset`; further planes of one buffer follow | `spa_data::mapoffset` + `spa_chunk::offset` | `offset` |
/// | `pitch` | `EGL_DMA_BUF_PLANE0_PITCH_EXT` | `gbm_bo_get_stride_for_plane` | `bytesperline` | `spa_chunk::stride` | `stride` |
/// | fds | `EGL_DMA_BUF_PLANE0_FD_EXT` | `gbm_bo_get_fd_for_plane` | `VIDIOC_EXPBUF` | `spa_data::fd` | `fd` |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForeignImage {
    /// The fourcc.
    pub fourcc: u32,
    /// The modifier.
    pub modifier: u64,
    /// Width in texels.
    pub width: u32,
    /// Height in texels.
    pub height: u32,
    /// Mip levels.
    pub mips: u32,
    /// Array layers.
    pub layers: u32,
    /// How it will be used.
    pub usage: ImageUsage,
    /// The memory planes, in the order of the modifier.
    pub planes: Vec<ForeignPlane>,
    /// Bytes of each file that the planes are in, as `lseek` reports them. A file that has several fds is one entry:
    /// planes of different entries are taken not to overlap.
    pub fds: Vec<u64>,
}

impl ForeignImage {
    /// Checks the description against itself, its files, and what the importing device offers for its format.
    ///
    /// The planes of a layout that passes begin in their files and do not overlap, as far as the modifier says what
    /// a plane takes. That is all of it for `LINEAR`. For others the driver knows the rest: compare the memory
    /// requirements of the image with the size of the file.
    ///
    /// # Errors
    ///
    /// The first field that is wrong, its value, and what would have been accepted.
    pub fn check(&self, offer: &Offer) -> Result<ImageLayout, ForeignImageError> {
        let fourcc = Fourcc::from_raw(self.fourcc);
        let format = Format::of(fourcc)?;
        let modifier = Modifier::from_raw(self.modifier);
        if modifier.is_invalid() {
            return Err(ForeignImageError::ImplicitModifier);
        }
        let extent = Extent::new(self.width, self.height);
        let shape = Shape { extent, mips: self.mips, layers: self.layers };
        check_shape(format, shape, Limits::SANE)?;
        let (offered, limits) = self.offered(modifier, offer)?;
        // A pitch describes one level of one layer.
        let flat = Limits { mips: 1, layers: 1, ..limits };
        check_shape(format, shape, if modifier.is_linear() { flat } else { limits })?;
        let missing = self.usage.without(offered.allows);
        if !missing.is_empty() {
            return Err(ForeignImageError::Usage { modifier, missing, allowed: offered.allows });
        }
        self.check_counts(format, offered)?;
        let mut spans = vec![];
        for (index, plane) in self.planes.iter().enumerate() {
            let rows = format.planes().get(index).filter(|_| modifier.holds_rows());
            let needs = if modifier.is_linear() { offer.needs } else { Padding::NONE };
            let span = self.check_plane(plane, rows, extent, needs);
            spans.push(span.map_err(|error| ForeignImageError::Plane { plane: index, error })?);
        }
        self.check_overlap(&spans)?;
        let planes: Vec<_> = spans.iter().map(|span| span.place).collect();
        Ok(ImageLayout::new(fourcc, modifier, shape, &planes)?)
    }

    /// Checks the description as [`ForeignImage::check`] does, against several offers of which one is enough.
    ///
    /// # Errors
    ///
    /// Those of the last offer; of one without modifiers if there is no offer.
    pub(super) fn check_any(&self, offers: &[Offer]) -> Result<ImageLayout, ForeignImageError> {
        let mut result = self.check(&Offer::default());
        for offer in offers {
            result = self.check(offer);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The offer for the modifier, and the largest shape.
    fn offered<'a>(
        &self,
        modifier: Modifier,
        offer: &'a Offer,
    ) -> Result<(&'a ModifierOffer, Limits), ForeignImageError> {
        let usable = |offered: &&ModifierOffer| offered.importable && offered.limits.is_some();
        let found = offer.modifier(modifier).filter(usable);
        if let Some((offered, limits)) = found.and_then(|offered| Some((offered, offered.limits?)))
        {
            return Ok((offered, limits));
        }
        let offered = offer.modifiers.iter().filter(usable).map(|offered| offered.modifier);
        let offered = offered.filter(|modifier| !modifier.is_invalid()).collect();
        Err(ForeignImageError::ModifierNotOffered { modifier, offered })
    }

    /// Checks how many planes and files there are.
    fn check_counts(
        &self,
        format: &Format,
        offered: &ModifierOffer,
    ) -> Result<(), ForeignImageError> {
        // CAST: formats have at most four planes.
        let by_definition = offered.modifier.memory_planes(format.planes().len() as u8);
        let planes = self.planes.len();
        for expected in by_definition.into_iter().chain([offered.planes]) {
            if planes != usize::from(expected) {
                let modifier = offered.modifier;
                return Err(ForeignImageError::PlaneCount { modifier, planes, expected });
            }
        }
        let fds = self.fds.len();
        if fds == 0 || fds > planes {
            return Err(ForeignImageError::FdCount { fds, planes });
        }
        let is_used = |fd: &usize| self.planes.iter().any(|plane| plane.fd as usize == *fd);
        match (0..fds).find(|fd| !is_used(fd)) {
            Some(fd) => Err(ForeignImageError::UnusedFd { fd }),
            None => Ok(()),
        }
    }

    /// Checks a plane by itself. `rows` is the format's plane, if the memory plane has its texels row by row.
    fn check_plane(
        &self,
        plane: &ForeignPlane,
        rows: Option<&FormatPlane>,
        extent: Extent,
        needs: Padding,
    ) -> Result<Span, PlaneError> {
        let &ForeignPlane { fd, offset, pitch } = plane;
        let fds = self.fds.len();
        let size = *self.fds.get(fd as usize).ok_or(PlaneError::FdIndex { fd, fds })?;
        let within = u32::try_from(pitch).ok().filter(|pitch| *pitch <= MAX_PITCH);
        let narrow = within.ok_or(OutOfRange {
            field: Field::Pitch,
            value: pitch,
            least: 0,
            most: MAX_PITCH.into(),
        })?;
        if offset >= size {
            return Err(PlaneError::OffsetPastEnd { offset, size });
        }
        let place = MemoryPlane { offset, pitch: narrow, fd: narrow_index(fd, fds)? };
        let Some(rows) = rows else {
            // At least a byte. `offset` is below `size`, so this cannot overflow.
            return Ok(Span { place, end: offset.saturating_add(1) });
        };
        let row = rows.row_bytes(extent);
        if pitch < row {
            return Err(PlaneError::PitchTooSmall { pitch, row });
        }
        let overflow = PlaneError::Overflow { offset, pitch };
        let unit = common_multiple(needs.pitch, rows.block_bytes.into()).ok_or(overflow)?;
        let next = align_up(pitch, unit).ok_or(overflow)?;
        if next != pitch {
            return Err(PlaneError::PitchUnaligned { pitch, unit, next });
        }
        // Copies between images and buffers count in whole texels (VUID-vkCmdCopyBufferToImage-dstImage-07975, -07976).
        let unit = common_multiple(needs.offset, rows.block_bytes.into()).ok_or(overflow)?;
        let next = align_up(offset, unit).ok_or(overflow)?;
        if next != offset {
            return Err(PlaneError::OffsetUnaligned { offset, unit, next });
        }
        let bytes = if needs.rows > 1 {
            let padded = align_up(rows.rows(extent), needs.rows).ok_or(overflow)?;
            pitch.checked_mul(padded)
        } else {
            let before = pitch.checked_mul(rows.rows(extent).saturating_sub(1));
            before.and_then(|before| before.checked_add(row))
        };
        let end = bytes.and_then(|bytes| bytes.checked_add(offset)).ok_or(overflow)?;
        if end > size {
            return Err(PlaneError::PastEnd { end, size, rows: needs.rows });
        }
        Ok(Span { place, end })
    }

    /// Checks that no two planes of a file overlap.
    fn check_overlap(&self, spans: &[Span]) -> Result<(), ForeignImageError> {
        for (second, b) in spans.iter().enumerate() {
            for (first, a) in spans.iter().enumerate().take(second) {
                let apart = a.end <= b.place.offset || b.end <= a.place.offset;
                if a.place.fd == b.place.fd && !apart {
                    let begins = b.place.offset;
                    return Err(ForeignImageError::Overlap { first, ends: a.end, second, begins });
                }
            }
        }
        Ok(())
    }
}

/// A plane that was checked, and the end of the bytes that it is known to take.
struct Span {
    place: MemoryPlane,
    end: u64,
}

/// The index of a file, which is below the number of planes.
fn narrow_index(fd: u32, fds: usize) -> Result<u8, PlaneError> {
    u8::try_from(fd).map_err(|_| PlaneError::FdIndex { fd, fds })
}

impl From<ImageLayout> for ForeignImage {
    /// The description of a layout of peerbuf's, without files: the caller adds their sizes.
    fn from(layout: ImageLayout) -> Self {
        let shape = layout.shape();
        let plane = |place: &MemoryPlane| ForeignPlane {
            fd: place.fd.into(),
            offset: place.offset,
            pitch: place.pitch.into(),
        };
        Self {
            fourcc: layout.fourcc().raw(),
            modifier: layout.modifier().raw(),
            width: shape.extent.width,
            height: shape.extent.height,
            mips: shape.mips,
            layers: shape.layers,
            usage: ImageUsage::NONE,
            planes: layout.planes().iter().map(plane).collect(),
            fds: vec![],
        }
    }
}

impl From<FormatGap> for ForeignImageError {
    fn from(gap: FormatGap) -> Self {
        Self::Layout(gap.into())
    }
}
