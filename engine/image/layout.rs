//! Layouts of images, as data; and linear ones, computed.
//!
//! A layout belongs to a backing, as its size does: an image has another one after a move, and a mapping names its
//! generation. Kernel counterpart: `struct drm_mode_fb_cmd2` without handles.

use std::fmt;

use super::extent::{Extent, Limits, OutOfRange, Shape};
use super::format::{Format, FormatGap, MAX_PLANES};
use super::fourcc::Fourcc;
use super::modifier::Modifier;
use super::padding::{Padding, align_up};

/// The largest pitch, in bytes: copies between images and buffers take no larger one
/// (VUID-vkCmdCopyBufferToImage-bufferRowLength-09108), and drivers keep pitches in signed numbers of 32 bits.
pub(super) const MAX_PITCH: u32 = i32::MAX as u32;

/// Where a memory plane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct MemoryPlane {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes from a row to the next one. What that means for a tiled layout is the modifier's business.
    pub pitch: u32,
    /// Which of the image's files.
    pub fd: u8,
}

/// A layout: everything that a device must know of bytes to see an image in them.
///
/// With mips or layers, only the largest level of the first layer is described. The others follow from the modifier,
/// and are nowhere else stated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageLayout {
    modifier: Modifier,
    planes: [MemoryPlane; MAX_PLANES],
    shape: Shape,
    fourcc: Fourcc,
    count: u8,
}

impl ImageLayout {
    /// A layout of 1 to [`MAX_PLANES`] memory planes. Nothing else is checked.
    ///
    /// # Errors
    ///
    /// [`LayoutError::PlaneCount`].
    pub fn new(
        fourcc: Fourcc,
        modifier: Modifier,
        shape: Shape,
        planes: &[MemoryPlane],
    ) -> Result<Self, LayoutError> {
        let mut own = [MemoryPlane::default(); MAX_PLANES];
        let count = planes.len();
        let slots = own.get_mut(..count).filter(|slots| !slots.is_empty());
        slots.ok_or(LayoutError::PlaneCount(count))?.copy_from_slice(planes);
        // CAST: at most `MAX_PLANES`.
        Ok(Self { modifier, planes: own, shape, fourcc, count: count as u8 })
    }

    /// The format.
    pub const fn fourcc(&self) -> Fourcc {
        self.fourcc
    }

    /// The modifier.
    pub const fn modifier(&self) -> Modifier {
        self.modifier
    }

    /// The size.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The memory planes, in the order of the modifier.
    pub fn planes(&self) -> &[MemoryPlane] {
        self.planes.get(..usize::from(self.count)).unwrap_or_default()
    }
}

impl fmt::Display for ImageLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.fourcc, self.modifier, self.shape)?;
        for MemoryPlane { offset, pitch, fd } in self.planes() {
            write!(f, ", {pitch} bytes per row at {offset} of fd {fd}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bytes of one level of one layer of one plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelSpan {
    /// First byte in the image.
    pub offset: u64,
    /// Bytes from a row to the next one.
    pub pitch: u32,
    /// Bytes of a row that are texels.
    pub row_bytes: u64,
    /// Rows that are texels.
    pub rows: u64,
    /// Bytes from the first row to the end of the padding.
    pub bytes: u64,
}

/// A linear layout in one file with all its levels and layers, as peerbuf lays out system memory.
///
/// Planes follow one another; in a plane layers, in a layer levels, the largest first. Each begins at a multiple of
/// the padding's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearLayout {
    format: &'static Format,
    layout: ImageLayout,
    padding: Padding,
    bytes: u64,
}

impl LinearLayout {
    /// Computes the layout. With [`Padding::NONE`] it is the smallest one.
    ///
    /// # Errors
    ///
    /// [`LayoutError`]: which field is wrong, or beyond 64 bits. Nothing is rounded down.
    pub fn new(fourcc: Fourcc, shape: Shape, padding: Padding) -> Result<Self, LayoutError> {
        let format = Format::of(fourcc)?;
        check_shape(format, shape, Limits::SANE)?;
        let mut planes = [MemoryPlane::default(); MAX_PLANES];
        let mut end = 0;
        for (plane, (place, _)) in planes.iter_mut().zip(format.planes()).enumerate() {
            let overflow = LayoutError::Overflow { plane };
            let first = level_size(format, plane, shape.extent, padding).ok_or(overflow)?;
            place.offset = align_up(end, padding.offset).ok_or(overflow)?;
            place.pitch = first.pitch;
            let layer = layer_bytes(format, plane, shape, padding).ok_or(overflow)?;
            let bytes = layer.checked_mul(shape.layers.into()).ok_or(overflow)?;
            end = place.offset.checked_add(bytes).ok_or(overflow)?;
        }
        let planes = planes.get(..format.planes().len()).unwrap_or_default();
        let layout = ImageLayout::new(fourcc, Modifier::LINEAR, shape, planes)?;
        Ok(Self { format, layout, padding, bytes: end })
    }

    /// The layout as other devices are told it.
    pub const fn image_layout(&self) -> ImageLayout {
        self.layout
    }

    /// Bytes of the whole image, with its padding.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The padding that it was computed with.
    pub const fn padding(&self) -> Padding {
        self.padding
    }

    /// Where a level is. `None` if the image has no such plane, level or layer.
    pub fn level_span(&self, plane: usize, level: u32, layer: u32) -> Option<LevelSpan> {
        let shape = self.layout.shape;
        if level >= shape.mips || layer >= shape.layers {
            return None;
        }
        let place = self.layout.planes().get(plane)?;
        let layer_bytes = layer_bytes(self.format, plane, shape, self.padding)?;
        let mut offset = place.offset.checked_add(layer_bytes.checked_mul(layer.into())?)?;
        for above in 0..level {
            let size = level_size(self.format, plane, shape.extent.at_level(above), self.padding)?;
            offset = align_up(offset.checked_add(size.bytes)?, self.padding.offset)?;
        }
        let size = level_size(self.format, plane, shape.extent.at_level(level), self.padding)?;
        Some(LevelSpan { offset, ..size })
    }
}

/// The size of a level, at offset 0.
fn level_size(
    format: &Format,
    plane: usize,
    extent: Extent,
    padding: Padding,
) -> Option<LevelSpan> {
    let plane = format.planes().get(plane)?;
    let (row_bytes, rows) = (plane.row_bytes(extent), plane.rows(extent));
    let pitch = align_up(row_bytes, padding.pitch)?;
    let bytes = pitch.checked_mul(align_up(rows, padding.rows)?)?;
    Some(LevelSpan { offset: 0, pitch: u32::try_from(pitch).ok()?, row_bytes, rows, bytes })
}

/// Bytes of all levels of one layer of a plane, up to where the next layer begins.
fn layer_bytes(format: &Format, plane: usize, shape: Shape, padding: Padding) -> Option<u64> {
    let mut bytes = 0_u64;
    for level in 0..shape.mips {
        let size = level_size(format, plane, shape.extent.at_level(level), padding)?;
        bytes = align_up(bytes.checked_add(size.bytes)?, padding.offset)?;
    }
    Some(bytes)
}

/// Checks a shape of a format: sizes, and what chroma planes require of them.
pub(super) fn check_shape(format: &Format, shape: Shape, limits: Limits) -> Result<(), ShapeError> {
    let is_subsampled = format.planes().len() > 1 || format.granularity() != Extent::new(1, 1);
    // VUID-VkImageCreateInfo-format-06410, -06413: images with a Y′CBCR format have one level, and one layer.
    let most = if is_subsampled { Limits { mips: 1, layers: 1, ..limits } } else { limits };
    shape.check(most.and(Limits::SANE))?;
    let Extent { width, height } = shape.extent;
    let unit = format.granularity();
    if width % unit.width != 0 || height % unit.height != 0 {
        return Err(ShapeError::NotMultiple { extent: shape.extent, unit });
    }
    Ok(())
}

/// A size that an image of the format cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Too small or too large.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Chroma is subsampled, and the extent is no multiple of the block.
    #[error("extent is {extent}, accepted: multiples of {unit}")]
    #[non_exhaustive]
    NotMultiple {
        /// The extent.
        extent: Extent,
        /// What it must be a multiple of.
        unit: Extent,
    },
}

/// Why there is no such layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// No image is shared in the format.
    #[error(transparent)]
    Format(#[from] FormatGap),
    /// The size is wrong.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A number of memory planes that no layout has.
    #[error("{0} memory planes, accepted: 1 to {MAX_PLANES}")]
    PlaneCount(usize),
    /// A size does not fit into its type, or an alignment is 0.
    #[error("plane {plane}: its size does not fit into 64 bits, or its pitch into 32")]
    #[non_exhaustive]
    Overflow {
        /// The plane.
        plane: usize,
    },
}
