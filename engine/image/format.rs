//! Formats that images are shared in, as a table over fourccs; codes outside of it are answered with the reason.
//!
//! Source: `drm_fourcc.h`. DRM names components from the highest bit of a little-endian word down. The table knows
//! texels and format planes; the Vulkan formats of its rows are in `vulkan_format`.

use super::extent::Extent;
use super::fourcc::Fourcc;

/// The most format planes, and the most memory planes, of an image.
///
/// `VkImageDrmFormatModifierExplicitCreateInfoEXT` and `struct drm_mode_fb_cmd2` take as many.
pub const MAX_PLANES: usize = 4;

/// What the fourth component of a format is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpha {
    /// The format has no fourth component.
    Absent,
    /// It is alpha.
    Present,
    /// Its bits are in memory and undefined (the `X` formats). A view must replace alpha with one.
    Ignored,
}

/// One plane of a format: its texels in memory, if rows are stored one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FormatPlane {
    /// Bytes of a block.
    pub block_bytes: u8,
    /// Texels of this plane in a block, horizontally. A block is one row high.
    pub block_width: u8,
    /// Texels of the image per texel of this plane, horizontally.
    pub divide_x: u8,
    /// Texels of the image per texel of this plane, vertically.
    pub divide_y: u8,
}

impl FormatPlane {
    /// A plane with one texel per texel of the image.
    const fn full(block_bytes: u8) -> Self {
        Self::divided(block_bytes, 1, 1)
    }

    const fn divided(block_bytes: u8, divide_x: u8, divide_y: u8) -> Self {
        Self { block_bytes, block_width: 1, divide_x, divide_y }
    }

    /// Two texels in a block of four bytes.
    const fn pairs() -> Self {
        Self { block_bytes: 4, block_width: 2, divide_x: 1, divide_y: 1 }
    }

    /// Bytes of a row of texels, without padding, in an image of `extent`.
    pub fn row_bytes(&self, extent: Extent) -> u64 {
        let texels = extent.width.div_ceil(u32::from(self.divide_x));
        u64::from(texels.div_ceil(u32::from(self.block_width))) * u64::from(self.block_bytes)
    }

    /// Rows in an image of `extent`.
    pub fn rows(&self, extent: Extent) -> u64 {
        u64::from(extent.height.div_ceil(u32::from(self.divide_y)))
    }
}

/// A format of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    fourcc: Fourcc,
    planes: &'static [FormatPlane],
    alpha: Alpha,
}

impl Format {
    /// The format of a fourcc.
    ///
    /// # Errors
    ///
    /// [`FormatGap`]: why no image is shared in it.
    pub fn of(fourcc: Fourcc) -> Result<&'static Self, FormatGap> {
        if let Some(format) = FORMATS.iter().find(|format| format.fourcc == fourcc) {
            return Ok(format);
        }
        if fourcc.is_big_endian() {
            return Err(FormatGap::BigEndian(fourcc));
        }
        let gap = GAPS.iter().find(|(code, _)| *code == fourcc);
        Err(gap.map_or(FormatGap::Unknown(fourcc), |(_, gap)| *gap))
    }

    /// Every format of the table.
    pub fn all() -> &'static [Self] {
        FORMATS
    }

    /// The fourcc.
    pub const fn fourcc(&self) -> Fourcc {
        self.fourcc
    }

    /// The format planes. Memory planes may be more: a modifier adds its own.
    pub const fn planes(&self) -> &'static [FormatPlane] {
        self.planes
    }

    /// What the fourth component is.
    pub const fn alpha(&self) -> Alpha {
        self.alpha
    }

    /// What width and height must be multiples of: 2 where chroma is subsampled
    /// (VUID-VkImageCreateInfo-format-04712, -04713).
    pub fn granularity(&self) -> Extent {
        let wide = self.planes.iter().map(|plane| plane.divide_x.max(plane.block_width)).max();
        let high = self.planes.iter().map(|plane| plane.divide_y).max();
        Extent::new(u32::from(wide.unwrap_or(1)), u32::from(high.unwrap_or(1)))
    }
}

/// Why no image is shared in a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatGap {
    /// The code is not in the table.
    #[error("{0} is not a format that images are shared in")]
    Unknown(Fourcc),
    /// The code is of a big-endian format.
    #[error("{0} is big-endian; Vulkan has little-endian formats only")]
    BigEndian(Fourcc),
    /// Three bytes per texel: drivers make no images of such formats.
    #[error(
        "{code} has 24 bits per texel, of which drivers make no images; convert it to {instead}"
    )]
    #[non_exhaustive]
    Packed24 {
        /// The code.
        code: Fourcc,
        /// The same components with 32 bits per texel.
        instead: Fourcc,
    },
    /// No Vulkan format has the components in this order.
    #[error("no Vulkan format has the components of {code} in this order; nearest is {instead}")]
    #[non_exhaustive]
    Swizzled {
        /// The code.
        code: Fourcc,
        /// The same components in another order.
        instead: Fourcc,
    },
    /// Cr comes before Cb. Vulkan formats have Cb first.
    #[error("{code} stores Cr before Cb; describe it as {instead} with the two exchanged")]
    #[non_exhaustive]
    ChromaSwapped {
        /// The code.
        code: Fourcc,
        /// The same format with Cb first.
        instead: Fourcc,
    },
}

const fn code(name: &[u8; 4]) -> Fourcc {
    Fourcc::new(*name)
}

const fn row(name: &[u8; 4], planes: &'static [FormatPlane], alpha: Alpha) -> Format {
    Format { fourcc: code(name), planes, alpha }
}

const ONE: &[FormatPlane] = &[FormatPlane::full(1)];
const TWO: &[FormatPlane] = &[FormatPlane::full(2)];
const FOUR: &[FormatPlane] = &[FormatPlane::full(4)];
const EIGHT: &[FormatPlane] = &[FormatPlane::full(8)];
const PAIRS: &[FormatPlane] = &[FormatPlane::pairs()];

/// Luma of `bytes` per texel, and a plane of Cb and Cr that is divided.
macro_rules! two_planes {
    ($bytes:literal, $x:literal, $y:literal) => {
        &[FormatPlane::full($bytes), FormatPlane::divided(2 * $bytes, $x, $y)]
    };
}

/// Luma, Cb and Cr in planes of their own, one byte each.
macro_rules! three_planes {
    ($x:literal, $y:literal) => {
        &[FormatPlane::full(1), FormatPlane::divided(1, $x, $y), FormatPlane::divided(1, $x, $y)]
    };
}

use Alpha::{Absent, Ignored, Present};

const FORMATS: &[Format] = &[
    row(b"R8  ", ONE, Absent),
    row(b"R16 ", TWO, Absent),
    row(b"GR88", TWO, Absent),
    row(b"GR32", FOUR, Absent),
    row(b"RG16", TWO, Absent),
    row(b"BG16", TWO, Absent),
    row(b"AR15", TWO, Present),
    row(b"XR15", TWO, Ignored),
    row(b"RA15", TWO, Present),
    row(b"BA15", TWO, Present),
    row(b"RA12", TWO, Present),
    row(b"BA12", TWO, Present),
    row(b"AR24", FOUR, Present),
    row(b"XR24", FOUR, Ignored),
    row(b"AB24", FOUR, Present),
    row(b"XB24", FOUR, Ignored),
    row(b"AR30", FOUR, Present),
    row(b"XR30", FOUR, Ignored),
    row(b"AB30", FOUR, Present),
    row(b"XB30", FOUR, Ignored),
    row(b"AB48", EIGHT, Present),
    row(b"XB48", EIGHT, Ignored),
    row(b"AB4H", EIGHT, Present),
    row(b"XB4H", EIGHT, Ignored),
    row(b"YUYV", PAIRS, Absent),
    row(b"UYVY", PAIRS, Absent),
    row(b"NV12", two_planes!(1, 2, 2), Absent),
    row(b"NV16", two_planes!(1, 2, 1), Absent),
    row(b"NV24", two_planes!(1, 1, 1), Absent),
    row(b"P010", two_planes!(2, 2, 2), Absent),
    row(b"P012", two_planes!(2, 2, 2), Absent),
    row(b"P016", two_planes!(2, 2, 2), Absent),
    row(b"P210", two_planes!(2, 2, 1), Absent),
    row(b"YU12", three_planes!(2, 2), Absent),
    row(b"YU16", three_planes!(2, 1), Absent),
    row(b"YU24", three_planes!(1, 1), Absent),
];

const fn packed24(name: &[u8; 4], instead: &[u8; 4]) -> (Fourcc, FormatGap) {
    (code(name), FormatGap::Packed24 { code: code(name), instead: code(instead) })
}

const fn swizzled(name: &[u8; 4], instead: &[u8; 4]) -> (Fourcc, FormatGap) {
    (code(name), FormatGap::Swizzled { code: code(name), instead: code(instead) })
}

const fn chroma_swapped(name: &[u8; 4], instead: &[u8; 4]) -> (Fourcc, FormatGap) {
    (code(name), FormatGap::ChromaSwapped { code: code(name), instead: code(instead) })
}

/// Codes that have a reason of their own.
const GAPS: &[(Fourcc, FormatGap)] = &[
    packed24(b"RG24", b"XR24"),
    packed24(b"BG24", b"XB24"),
    packed24(b"VU24", b"YU24"),
    swizzled(b"RG88", b"GR88"),
    swizzled(b"RG32", b"GR32"),
    swizzled(b"RA24", b"AB24"),
    swizzled(b"RX24", b"XB24"),
    swizzled(b"BA24", b"AR24"),
    swizzled(b"BX24", b"XR24"),
    swizzled(b"RA30", b"AB30"),
    swizzled(b"RX30", b"XB30"),
    swizzled(b"BA30", b"AR30"),
    swizzled(b"BX30", b"XR30"),
    swizzled(b"AR48", b"AB48"),
    swizzled(b"XR48", b"XB48"),
    swizzled(b"AR4H", b"AB4H"),
    swizzled(b"XR4H", b"XB4H"),
    chroma_swapped(b"NV21", b"NV12"),
    chroma_swapped(b"NV61", b"NV16"),
    chroma_swapped(b"NV42", b"NV24"),
    chroma_swapped(b"YV12", b"YU12"),
    chroma_swapped(b"YV16", b"YU16"),
    chroma_swapped(b"YV24", b"YU24"),
    chroma_swapped(b"YVYU", b"YUYV"),
    chroma_swapped(b"VYUY", b"UYVY"),
];
