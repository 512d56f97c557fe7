//! Where texels are in the bytes of an image: for every plane, level and layer.

use ash::vk;

use crate::image::extent::{Extent, Shape};
use crate::image::format::{Format, FormatPlane, MAX_PLANES};
use crate::image::layout::{ImageLayout, LayoutError, LinearLayout, MAX_PITCH, MemoryPlane};
use crate::image::modifier::Modifier;
use crate::memory::{BoundImage, PlaneStart};

/// One level of one layer of one format plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ImagePart {
    /// The format plane; 0 for formats that have one.
    pub plane: u32,
    /// The mip level.
    pub level: u32,
    /// The array layer.
    pub layer: u32,
}

impl ImagePart {
    /// Level 0 of layer 0 of a plane.
    pub const fn of_plane(plane: u32) -> Self {
        Self { plane, level: 0, layer: 0 }
    }

    /// A level of layer 0 of plane 0.
    pub const fn of_level(level: u32) -> Self {
        Self { plane: 0, level, layer: 0 }
    }
}

/// The rows of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// First byte in the image.
    pub(super) offset: u64,
    /// Bytes from a row to the next one.
    pub(super) pitch: u64,
    /// Bytes of a row that are texels.
    pub(super) row_bytes: u64,
    /// Rows that are texels.
    pub(super) rows: u64,
}

impl Rows {
    /// The byte behind the last texel; `None` beyond 64 bits.
    pub(super) fn end(&self) -> Option<u64> {
        let before = self.pitch.checked_mul(self.rows.saturating_sub(1))?;
        self.offset.checked_add(before)?.checked_add(self.row_bytes)
    }
}

/// Where all parts of an image are, row by row.
///
/// # Invariants
///
/// The format has at least one plane, the shape fits it, and there is a place for every part: its offset and its pitch are
/// whole texels, and the pitch is at least a row and at most [`MAX_PITCH`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    format: &'static Format,
    shape: Shape,
    /// By plane, then by level, then by layer.
    starts: Box<[PlaneStart]>,
}

impl Places {
    /// The places of a layout that peerbuf has computed.
    pub(super) fn of_layout(format: &'static Format, layout: &LinearLayout) -> Option<Self> {
        let shape = layout.image_layout().shape();
        Self::at(format, shape, |part| {
            let span = layout.level_span(part.plane as usize, part.level, part.layer)?;
            Some(PlaneStart { offset: span.offset, pitch: span.pitch.into() })
        })
    }

    /// The places of an image, as its driver says. `None` if the driver does not say it of all parts, or if a place is
    /// none that the invariant allows.
    pub(super) fn of_image(
        format: &'static Format,
        shape: Shape,
        image: &BoundImage,
    ) -> Option<Self> {
        Self::at(format, shape, |part| image.placed(part.plane, part.level, part.layer))
    }

    /// Whether a driver places all parts of an image here.
    pub(super) fn are_of(&self, image: &BoundImage) -> bool {
        let mut places = parts(self.format, self.shape).zip(&self.starts);
        places.all(|(part, start)| {
            image.placed(part.plane, part.level, part.layer).as_ref() == Some(start)
        })
    }

    /// The places of a layout of one level and one layer, as it states them; `None` as in [`Places::of_image`].
    pub(super) fn of_planes(format: &'static Format, layout: &ImageLayout) -> Option<Self> {
        Self::at(format, layout.shape(), |part| {
            let place = layout.planes().get(part.plane as usize)?;
            (part.level == 0 && part.layer == 0)
                .then_some(PlaneStart { offset: place.offset, pitch: place.pitch.into() })
        })
    }

    /// The places that `place` says; `None` if it does not say all, or one that the invariant does not allow.
    pub(super) fn at(
        format: &'static Format,
        shape: Shape,
        place: impl Fn(ImagePart) -> Option<PlaneStart>,
    ) -> Option<Self> {
        let starts = parts(format, shape).map(|part| {
            let (start, plane) = (place(part)?, format.planes().get(part.plane as usize)?);
            let row = plane.row_bytes(shape.extent.at_level(part.level));
            let is_whole = |bytes: u64| bytes.is_multiple_of(plane.block_bytes.into());
            let fits = (row..=MAX_PITCH.into()).contains(&start.pitch);
            (fits && is_whole(start.pitch) && is_whole(start.offset)).then_some(start)
        });
        let starts: Option<Box<[_]>> = starts.collect();
        // INVARIANT: checked for every part.
        Some(Self { format, shape, starts: starts? })
    }

    /// The rows of a part; `None` if the image has no such part.
    pub(super) fn rows(&self, part: ImagePart) -> Option<Rows> {
        let Shape { mips, layers, extent } = self.shape;
        if part.level >= mips || part.layer >= layers {
            return None;
        }
        let plane = self.format.planes().get(part.plane as usize)?;
        let (mips, layers) = (mips as usize, layers as usize);
        let level = part.plane as usize * mips + part.level as usize;
        let start = self.starts.get(level * layers + part.layer as usize)?;
        let extent = extent.at_level(part.level);
        let (row_bytes, rows) = (plane.row_bytes(extent), plane.rows(extent));
        Some(Rows { offset: start.offset, pitch: start.pitch, row_bytes, rows })
    }

    /// Every part with its rows.
    pub(super) fn all(&self) -> impl Iterator<Item = (ImagePart, Rows)> + '_ {
        let parts = parts(self.format, self.shape);
        parts.filter_map(|part| Some((part, self.rows(part)?)))
    }

    /// The byte behind the last texel of all; `None` beyond 64 bits.
    pub(super) fn end(&self) -> Option<u64> {
        self.all().try_fold(0, |end, (_, rows)| Some(rows.end()?.max(end)))
    }

    /// The layout as other devices and programs are told it.
    pub(super) fn image_layout(&self) -> Result<ImageLayout, LayoutError> {
        let mut planes = [MemoryPlane::default(); MAX_PLANES];
        let mut count = 0;
        for (at, (_, rows)) in
            self.all().filter(|(part, _)| *part == ImagePart::of_plane(part.plane)).enumerate()
        {
            let pitch =
                u32::try_from(rows.pitch).map_err(|_| LayoutError::Overflow { plane: at })?;
            if let Some(plane) = planes.get_mut(at) {
                *plane = MemoryPlane { offset: rows.offset, pitch, fd: 0 };
            }
            count = at + 1;
        }
        let planes = planes.get(..count).unwrap_or_default();
        ImageLayout::new(self.format.fourcc(), Modifier::LINEAR, self.shape, planes)
    }

    /// The regions of a copy of all parts between an image and a buffer in which they begin at `offset`, a multiple of a
    /// texel.
    pub(super) fn regions(&self, offset: u64) -> Vec<vk::BufferImageCopy> {
        let planes = self.format.planes();
        let of_part = |(part, rows): (ImagePart, Rows)| {
            // INVARIANT: a part has a plane of the format.
            let plane = &planes[part.plane as usize];
            let extent = plane_extent(plane, self.shape.extent.at_level(part.level));
            // A block has no more texels than bytes.
            let row_length =
                rows.pitch / u64::from(plane.block_bytes) * u64::from(plane.block_width);
            vk::BufferImageCopy::default()
                .buffer_offset(offset + rows.offset)
                // CAST: at most `MAX_PITCH`.
                .buffer_row_length(row_length as u32)
                .image_subresource(vk::ImageSubresourceLayers {
                    aspect_mask: self.aspect(part.plane),
                    mip_level: part.level,
                    base_array_layer: part.layer,
                    layer_count: 1,
                })
                .image_extent(vk::Extent3D { width: extent.width, height: extent.height, depth: 1 })
        };
        self.all().map(of_part).collect()
    }

    /// The aspect of a format plane.
    fn aspect(&self, plane: u32) -> vk::ImageAspectFlags {
        match (self.format.planes(), plane) {
            ([_], _) => vk::ImageAspectFlags::COLOR,
            (_, 0) => vk::ImageAspectFlags::PLANE_0,
            (_, 1) => vk::ImageAspectFlags::PLANE_1,
            _ => vk::ImageAspectFlags::PLANE_2,
        }
    }
}

/// The texels of a plane, of an image or a level of that extent.
fn plane_extent(plane: &FormatPlane, extent: Extent) -> Extent {
    Extent::new(
        extent.width.div_ceil(plane.divide_x.into()),
        extent.height.div_ceil(plane.divide_y.into()),
    )
}

/// Every part of an image: by plane, then by level, then by layer.
fn parts(format: &Format, shape: Shape) -> impl Iterator<Item = ImagePart> + use<> {
    // CAST: a format has at most four planes.
    let planes = 0..format.planes().len() as u32;
    planes.flat_map(move |plane| {
        let of_level =
            move |level| (0..shape.layers).map(move |layer| ImagePart { plane, level, layer });
        (0..shape.mips).flat_map(of_level)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::fourcc::Fourcc;

    /// Places of an image of one row of 64 texels, with its planes at offsets and pitches.
    fn of(name: &[u8; 4], (width, height): (u32, u32), planes: &[(u64, u32)]) -> Option<Places> {
        let (fourcc, shape) = (Fourcc::new(*name), Shape::new(width, height));
        let plane =
            |(offset, pitch): &(u64, u32)| MemoryPlane { offset: *offset, pitch: *pitch, fd: 0 };
        let planes: Vec<_> = planes.iter().map(plane).collect();
        let layout = ImageLayout::new(fourcc, Modifier::LINEAR, shape, &planes).expect("a layout");
        Places::of_planes(Format::of(fourcc).expect("a format"), &layout)
    }

    #[test]
    fn places_are_whole_texels_with_pitches_that_copies_take() {
        assert!(of(b"AR24", (64, 1), &[(4, 256)]).is_some());
        assert!(of(b"AR24", (64, 1), &[(2, 256)]).is_none(), "half a texel");
        assert!(of(b"AR24", (64, 1), &[(0, 252)]).is_none(), "less than a row");
        assert!(of(b"AR24", (64, 1), &[(0, 258)]).is_none(), "no whole texels");
        assert!(of(b"AR24", (64, 1), &[(0, 0xffff_fffc)]).is_none(), "too large for a copy");
        assert!(of(b"AR24", (64, 1), &[(0, 1 << 31)]).is_none(), "too large for a copy");
        assert!(of(b"NV12", (64, 2), &[(0, 64), (128, 64)]).is_some());
        assert!(of(b"NV12", (64, 2), &[(0, 64), (129, 64)]).is_none(), "chroma has two bytes");
        assert!(of(b"YUYV", (64, 2), &[(2, 128)]).is_none(), "two texels are one block");
    }

    #[test]
    fn every_part_has_one_region_with_the_length_of_its_rows() {
        let largest = MAX_PITCH - 3;
        let places = of(b"AR24", (64, 1), &[(4, largest)]).expect("places");
        let [region] = places.regions(256)[..] else { panic!("{places:?}") };
        assert_eq!((region.buffer_offset, region.buffer_row_length), (260, largest / 4));
        let places = of(b"NV12", (64, 2), &[(0, 64), (128, 66)]).expect("places");
        let lengths: Vec<_> = places.regions(0).iter().map(|one| one.buffer_row_length).collect();
        assert_eq!(lengths, [64, 33]);
    }
}
