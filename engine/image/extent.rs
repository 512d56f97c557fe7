//! Sizes of images, and what of them is allowed. Imports nothing of this crate.

use std::fmt;

/// Width and height in texels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// Texels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Extent {
    /// An extent of so many texels.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// The extent of a mip level: halved so often, rounded down, at least 1.
    #[must_use]
    pub fn at_level(self, level: u32) -> Self {
        let halve = |size: u32| size.checked_shr(level).unwrap_or(0).max(1);
        Self::new(halve(self.width), halve(self.height))
    }

    /// The most mip levels of such an image: down to 1×1.
    pub fn most_levels(self) -> u32 {
        u32::BITS - self.width.max(self.height).leading_zeros()
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}", self.width, self.height)
    }
}

/// The size of an image: of its largest level, and how many levels and layers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// The extent of level 0.
    pub extent: Extent,
    /// Mip levels, at least 1.
    pub mips: u32,
    /// Array layers, at least 1.
    pub layers: u32,
}

impl Shape {
    /// A shape with one level and one layer.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { extent: Extent::new(width, height), mips: 1, layers: 1 }
    }

    /// The same with so many levels.
    #[must_use]
    pub const fn with_mips(self, mips: u32) -> Self {
        Self { mips, ..self }
    }

    /// The same with so many layers.
    #[must_use]
    pub const fn with_layers(self, layers: u32) -> Self {
        Self { layers, ..self }
    }

    /// Checks the shape against `limits`, and against what its own extent allows.
    ///
    /// # Errors
    ///
    /// The first field that is out of range.
    pub fn check(self, limits: Limits) -> Result<(), OutOfRange> {
        let Extent { width, height } = self.extent;
        Field::Width.check(width, 1, limits.extent.width)?;
        Field::Height.check(height, 1, limits.extent.height)?;
        Field::Mips.check(self.mips, 1, limits.mips.min(self.extent.most_levels()))?;
        Field::Layers.check(self.layers, 1, limits.layers)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.extent)?;
        if self.mips != 1 {
            write!(f, ", {} levels", self.mips)?;
        }
        if self.layers != 1 {
            write!(f, ", {} layers", self.layers)?;
        }
        Ok(())
    }
}

/// The largest shape that is allowed (`VkImageFormatProperties`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The largest extent.
    pub extent: Extent,
    /// The most mip levels.
    pub mips: u32,
    /// The most array layers.
    pub layers: u32,
}

impl Limits {
    /// Beyond this, a shape is taken for a mistake. No driver that was looked at has larger images.
    pub const SANE: Self =
        Self { extent: Extent::new(1 << 16, 1 << 16), mips: 17, layers: 1 << 16 };

    /// Images of one level and one layer, up to so many texels in each direction.
    pub const fn flat(most: u32) -> Self {
        Self { extent: Extent::new(most, most), mips: 1, layers: 1 }
    }

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (a, b) = (self.extent, other.extent);
        Self {
            extent: Extent::new(a.width.min(b.width), a.height.min(b.height)),
            mips: self.mips.min(other.mips),
            layers: self.layers.min(other.layers),
        }
    }
}

/// A field of an image's description, as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// Width of level 0 in texels.
    Width,
    /// Height of level 0 in texels.
    Height,
    /// Mip levels.
    Mips,
    /// Array layers.
    Layers,
    /// Bytes from a row to the next one.
    Pitch,
    /// Byte at which a memory plane begins.
    Offset,
}

impl Field {
    /// The word that messages have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Width => "width",
            Self::Height => "height",
            Self::Mips => "mip levels",
            Self::Layers => "array layers",
            Self::Pitch => "pitch",
            Self::Offset => "offset",
        }
    }

    /// Checks that a value is in a range.
    pub(super) fn check(self, value: u32, least: u32, most: u32) -> Result<(), OutOfRange> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(OutOfRange { field: self, value: value.into(), least: least.into(), most: most.into() })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value that is too small or too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, accepted: {least} to {most}")]
#[non_exhaustive]
pub struct OutOfRange {
    /// Which field.
    pub field: Field,
    /// Its value.
    pub value: u64,
    /// The least value that is accepted.
    pub least: u64,
    /// The largest value that is accepted.
    pub most: u64,
}
