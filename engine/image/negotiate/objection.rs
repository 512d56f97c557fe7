//! Why an attachment does not use an image directly, on one rung of the ladder.

use std::fmt;

use super::evidence::ProbeRefusal;
use crate::device::DeviceId;
use crate::image::extent::OutOfRange;
use crate::image::usage::ImageUsage;

/// What an attachment has against a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Objection {
    /// The attachment.
    pub attachment: u64,
    /// Its device.
    pub device: DeviceId,
    /// Why it does not use the image directly.
    pub reason: ObjectionReason,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attachment {} ({}): {}", self.attachment, self.device, self.reason)
    }
}

/// Why an attachment does not use an image directly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectionReason {
    /// The driver does not list it for the format.
    #[error("not offered by its driver")]
    NotOffered,
    /// The driver lists it, and its image query refuses it.
    #[error("listed by its driver, and refused by the driver's image query")]
    ListedOnly,
    /// `INVALID` says nothing that another device could use.
    #[error("INVALID states no layout, so it never crosses a device")]
    Implicit,
    /// The layout does not allow all uses.
    #[error("the layout cannot be {missing}")]
    #[non_exhaustive]
    Usage {
        /// The uses that it does not allow.
        missing: ImageUsage,
    },
    /// The layout does not allow all uses, nor the copies that would make up for it.
    #[error("the layout cannot be {missing}, nor {copies}, which an image beside it would need")]
    #[non_exhaustive]
    UsageAndCopies {
        /// The uses that it does not allow.
        missing: ImageUsage,
        /// The copies that it does not allow.
        copies: ImageUsage,
    },
    /// The device has no image of its own for these uses.
    #[error("the device has no image of its own that can be {missing}")]
    #[non_exhaustive]
    OwnImage {
        /// The uses that its own images do not allow.
        missing: ImageUsage,
    },
    /// The image is too large in some respect.
    #[error("{0}")]
    TooLarge(OutOfRange),
    /// The driver counts other memory planes than the exporter, or than the modifier's definition.
    #[error("{own} memory planes, accepted: {agreed}")]
    #[non_exhaustive]
    PlaneCount {
        /// The planes of this device.
        own: u8,
        /// Those of the exporter, or of the definition.
        agreed: u8,
    },
    /// The driver does not import such images.
    #[error("its driver does not import it")]
    NotImportable,
    /// None of the devices exports such images.
    #[error("no device exports it")]
    NoExporter,
    /// The driver places a plane elsewhere.
    #[error("plane {plane} has pitch {own_pitch} at {own_offset}, agreed is {pitch} at {offset}")]
    #[non_exhaustive]
    OtherPlace {
        /// The plane.
        plane: usize,
        /// Pitch of this device in bytes.
        own_pitch: u32,
        /// Offset of this device in bytes.
        own_offset: u64,
        /// Agreed pitch in bytes.
        pitch: u32,
        /// Agreed offset in bytes.
        offset: u64,
    },
    /// The alignments of all devices have no common multiple that fits.
    #[error("the image does not fit into 64 bits with the padding that all devices need")]
    Padding,
    /// There is no memory that both devices can use.
    #[error("no memory in common with {with}")]
    #[non_exhaustive]
    NoCommonMemory {
        /// The other device.
        with: DeviceId,
    },
    /// A probe refused it.
    #[error("refused by a probe, written on {from} and read on {to}: {why}")]
    #[non_exhaustive]
    Refused {
        /// The device that wrote.
        from: DeviceId,
        /// The device that read.
        to: DeviceId,
        /// What the probe found.
        why: ProbeRefusal,
    },
    /// No probe has proved it yet.
    #[error("not proved yet, written on {from} and read on {to}")]
    #[non_exhaustive]
    NotProved {
        /// The device that writes.
        from: DeviceId,
        /// The device that reads.
        to: DeviceId,
    },
    /// No other device would use it together with this one.
    #[error("no other device would share it")]
    Alone,
    /// No device that shares the image can be copied from, or to, for those that are staged.
    #[error("no device that shares it can copy for the staged ones")]
    NoCopier,
}
