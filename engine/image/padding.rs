//! How rows and planes of linear images are aligned: what drivers need, and what peerbuf does about it. Imports
//! nothing of this crate.

use std::fmt;

/// Alignments of a linear image. Each is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Padding {
    /// Bytes that a pitch is a multiple of.
    pub pitch: u32,
    /// Rows that the height of a plane is rounded up to.
    pub rows: u32,
    /// Bytes that the offset of a plane, a layer and a level is a multiple of.
    pub offset: u32,
}

impl Padding {
    /// None: rows and planes follow one another.
    pub const NONE: Self = Self { pitch: 1, rows: 1, offset: 1 };
    /// What peerbuf gives to linear images that more than one device uses. Every row of [`PADDING_EVIDENCE`] is content with
    /// it. The alignment of offsets costs nothing: sixteen rows of 256 bytes are a page.
    pub const CROSSING: Self = Self { pitch: 256, rows: 16, offset: 4096 };
    /// The next one to try if a device refuses [`Padding::CROSSING`]: 256 texels of four bytes.
    pub const WIDE: Self = Self { pitch: 1024, rows: 16, offset: 4096 };

    /// A padding that satisfies both; `None` if an alignment would not fit into 32 bits, or one is 0.
    pub fn and(self, other: Self) -> Option<Self> {
        Some(Self {
            pitch: common_multiple(self.pitch, other.pitch)?,
            rows: common_multiple(self.rows, other.rows)?,
            offset: common_multiple(self.offset, other.offset)?,
        })
    }

    /// Whether what is padded so is also padded as `needed`.
    pub fn satisfies(self, needed: Self) -> bool {
        let is_multiple = |have: u32, need: u32| need != 0 && have.is_multiple_of(need);
        is_multiple(self.pitch, needed.pitch)
            && is_multiple(self.rows, needed.rows)
            && is_multiple(self.offset, needed.offset)
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pitch % {}, rows % {}, offset % {}", self.pitch, self.rows, self.offset)
    }
}

/// The least common multiple.
pub(super) fn common_multiple(a: u32, b: u32) -> Option<u32> {
    let (mut high, mut low) = (a, b);
    while low != 0 {
        (high, low) = (low, high % low);
    }
    a.checked_div(high)?.checked_mul(b).filter(|multiple| *multiple != 0)
}

/// The next multiple of `align`, or `value` itself; `None` beyond 64 bits, or if `align` is 0.
pub(super) fn align_up(value: u64, align: u32) -> Option<u64> {
    value.checked_next_multiple_of(align.into())
}

/// What a driver was seen to need, or to do.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PaddingEvidence {
    /// The driver.
    pub driver: &'static str,
    /// The padding that it needs of images that others made.
    pub needs: Padding,
    /// What happens without it, and where that was observed.
    pub evidence: &'static str,
}

const fn needs(
    pitch: u32,
    rows: u32,
    driver: &'static str,
    evidence: &'static str,
) -> PaddingEvidence {
    PaddingEvidence { driver, needs: Padding { pitch, rows, offset: 1 }, evidence }
}

/// Why [`Padding::CROSSING`] is what it is. A driver that needs more says so by refusing an image, once.
pub const PADDING_EVIDENCE: &[PaddingEvidence] = &[
    needs(
        1,
        16,
        "radeonsi",
        "takes the height for a padded one and refuses a buffer that lacks the rows: 1600×1068, Apollo-Linux#22, #23",
    ),
    needs(
        256,
        1,
        "importers under Hyprland",
        "pitches that are no multiple of 32 texels (256 bytes, if a texel has eight) end the client: Hyprland#16092",
    ),
    needs(128, 1, "NVIDIA", "refuses other pitches: LookingGlass#719"),
    needs(
        64,
        4,
        "lavapipe",
        "pads its own images so; takes any explicit pitch (measured 2026-11, Mesa 25.0.7)",
    ),
    needs(1, 1, "SwiftShader", "packs tightly, and takes no explicit pitch (measured 2026-11)"),
];
