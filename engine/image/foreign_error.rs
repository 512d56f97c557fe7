//! Why an image of another program is refused.

use super::extent::OutOfRange;
use super::layout::{LayoutError, ShapeError};
use super::modifier::Modifier;
use super::usage::ImageUsage;

/// Why a description of an image is refused. No driver was called, and no fd was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignImageError {
    /// The format or the size is wrong.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The modifier is `DRM_FORMAT_MOD_INVALID`: the exporter's driver alone knows the layout.
    #[error(
        "modifier is INVALID, which no other device understands; have the exporter allocate with a list of \
         modifiers, or with LINEAR (GBM_BO_USE_LINEAR)"
    )]
    ImplicitModifier,
    /// The device does not import images of this format with this modifier.
    #[error("modifier is {modifier}, accepted: {}", list(.offered))]
    #[non_exhaustive]
    ModifierNotOffered {
        /// The modifier.
        modifier: Modifier,
        /// Those that the device imports for the format.
        offered: Vec<Modifier>,
    },
    /// The format cannot be used so in this layout.
    #[error("usage has {missing}, accepted with {modifier}: {allowed}")]
    #[non_exhaustive]
    Usage {
        /// The modifier.
        modifier: Modifier,
        /// The uses that it does not allow.
        missing: ImageUsage,
        /// Those that it allows.
        allowed: ImageUsage,
    },
    /// The modifier has another number of memory planes.
    #[error("{planes} memory planes, accepted with {modifier}: {expected}")]
    #[non_exhaustive]
    PlaneCount {
        /// The modifier.
        modifier: Modifier,
        /// How many planes are described.
        planes: usize,
        /// How many the modifier has for this format.
        expected: u8,
    },
    /// There is no file, or there are more files than planes.
    #[error("{fds} fds, accepted: 1 to {planes}, the number of memory planes")]
    #[non_exhaustive]
    FdCount {
        /// Files.
        fds: usize,
        /// Memory planes.
        planes: usize,
    },
    /// No plane is in this file.
    #[error("fd {fd} has no plane, accepted: fds that a plane is in")]
    #[non_exhaustive]
    UnusedFd {
        /// Its index.
        fd: usize,
    },
    /// A memory plane is wrong.
    #[error("plane {plane}: {error}")]
    #[non_exhaustive]
    Plane {
        /// Which one.
        plane: usize,
        /// What is wrong with it.
        error: PlaneError,
    },
    /// Two planes share bytes.
    #[error(
        "plane {second} begins at {begins}, accepted: not in plane {first}, which ends at {ends}"
    )]
    #[non_exhaustive]
    Overlap {
        /// The plane with the lower index.
        first: usize,
        /// The end of its bytes.
        ends: u64,
        /// The other plane.
        second: usize,
        /// Its offset.
        begins: u64,
    },
}

impl From<ShapeError> for ForeignImageError {
    fn from(error: ShapeError) -> Self {
        Self::Layout(error.into())
    }
}

/// What is wrong with a memory plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaneError {
    /// The index is of no file.
    #[error("fd index is {fd}, accepted: below {fds}")]
    #[non_exhaustive]
    FdIndex {
        /// The index.
        fd: u32,
        /// How many files there are.
        fds: usize,
    },
    /// The pitch is larger than 2^31 - 1 bytes.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Rows would overlap.
    #[error("pitch is {pitch}, accepted: at least {row}, the bytes of a row")]
    #[non_exhaustive]
    PitchTooSmall {
        /// The pitch.
        pitch: u64,
        /// Bytes of a row.
        row: u64,
    },
    /// The pitch is no multiple of a texel, or not aligned as the device needs it.
    #[error("pitch is {pitch}, accepted: multiples of {unit}; the next is {next}")]
    #[non_exhaustive]
    PitchUnaligned {
        /// The pitch.
        pitch: u64,
        /// What it must be a multiple of.
        unit: u32,
        /// The next one that is.
        next: u64,
    },
    /// The offset is no multiple of a texel, or not aligned as the device needs it.
    #[error("offset is {offset}, accepted: multiples of {unit}; the next is {next}")]
    #[non_exhaustive]
    OffsetUnaligned {
        /// The offset.
        offset: u64,
        /// What it must be a multiple of.
        unit: u32,
        /// The next one that is.
        next: u64,
    },
    /// The plane begins ahead of the part of the file that is imported.
    #[error("offset is {offset}, accepted: from {start}, where the imported part of the fd begins")]
    #[non_exhaustive]
    OffsetBeforeStart {
        /// The offset, counted from the beginning of the file.
        offset: u64,
        /// The first byte that is imported ([`crate::ForeignInfo::offset`]).
        start: u64,
    },
    /// The plane begins behind the end of its file.
    #[error("offset is {offset}, accepted: below {size}, the size of the fd")]
    #[non_exhaustive]
    OffsetPastEnd {
        /// The offset.
        offset: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// The last row, or the padding that the device needs behind it, is not in the file.
    #[error(
        "its last row ends at {end}, accepted: up to {size}, the size of the fd (height % {rows})"
    )]
    #[non_exhaustive]
    PastEnd {
        /// The end of the plane.
        end: u64,
        /// Bytes of the file.
        size: u64,
        /// Rows that the device rounds the height up to.
        rows: u32,
    },
    /// The end of the plane does not fit into 64 bits.
    #[error("offset is {offset} and pitch {pitch}, accepted: a last row that ends below 2^64")]
    #[non_exhaustive]
    Overflow {
        /// The offset.
        offset: u64,
        /// The pitch.
        pitch: u64,
    },
}

fn list(modifiers: &[Modifier]) -> String {
    if modifiers.is_empty() {
        return "none, the device imports no images of this format".to_owned();
    }
    let names: Vec<_> = modifiers.iter().map(Modifier::to_string).collect();
    names.join(", ")
}
