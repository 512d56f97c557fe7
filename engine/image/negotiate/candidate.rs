//! The ways in which an image can be shared, and their order.

use std::fmt;

use crate::image::modifier::Modifier;
use crate::image::padding::Padding;

/// The rungs of the ladder, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rung {
    /// A single device uses the image, in a tiling of its own that no other one knows.
    Private,
    /// All see the same bytes through a modifier that is not `LINEAR`.
    SharedTiled,
    /// All see the same bytes through the modifier `LINEAR`, at a pitch that was agreed.
    SharedLinear,
    /// All see the same memory as images with linear tiling, whose pitch each driver chooses.
    LinearTiling,
    /// All see the same buffer; each has an image of its own, which is filled from it.
    SharedBuffer,
    /// Each has an image of its own; bytes are copied through staging memory of each.
    Staged,
}

impl Rung {
    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::SharedTiled => "shared_tiled",
            Self::SharedLinear => "shared_linear",
            Self::LinearTiling => "linear_tiling",
            Self::SharedBuffer => "shared_buffer",
            Self::Staged => "staged",
        }
    }

    /// Whether devices use one image, and not images that are copied from each other.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::SharedTiled | Self::SharedLinear | Self::LinearTiling)
    }
}

/// One way in which an image can be shared. Proofs are remembered by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Candidate {
    rung: Rung,
    /// Of [`Rung::SharedTiled`]; else `LINEAR`.
    modifier: Modifier,
    /// Of [`Rung::SharedLinear`]: what pitches are a multiple of, in bytes. Else 0.
    pitch: u32,
}

impl Candidate {
    /// A tiled modifier that all see.
    pub const fn tiled(modifier: Modifier) -> Self {
        Self { rung: Rung::SharedTiled, modifier, pitch: 0 }
    }

    /// The modifier `LINEAR`, with pitches that are multiples of so many bytes.
    pub const fn linear(pitch: u32) -> Self {
        Self { rung: Rung::SharedLinear, modifier: Modifier::LINEAR, pitch }
    }

    /// Linear tiling over memory that all devices use.
    pub const fn linear_tiling() -> Self {
        Self::of(Rung::LinearTiling)
    }

    pub(super) const fn of(rung: Rung) -> Self {
        Self { rung, modifier: Modifier::LINEAR, pitch: 0 }
    }

    /// The rung.
    pub const fn rung(self) -> Rung {
        self.rung
    }

    /// The modifier; `LINEAR` on rungs that have none.
    pub const fn modifier(self) -> Modifier {
        self.modifier
    }

    /// The padding of what peerbuf lays out itself on this rung.
    pub(in crate::image) fn padding(self) -> Padding {
        if self.pitch > Padding::CROSSING.pitch { Padding::WIDE } else { Padding::CROSSING }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rung {
            Rung::Private => f.write_str("the device's own tiling"),
            Rung::SharedTiled => write!(f, "{} modifier", self.modifier),
            Rung::SharedLinear => write!(f, "LINEAR modifier, pitch % {}", self.pitch),
            Rung::LinearTiling => f.write_str("linear tiling over common memory"),
            Rung::SharedBuffer => f.write_str("own images, filled from a shared buffer"),
            Rung::Staged => f.write_str("own images, through staging memory"),
        }
    }
}
