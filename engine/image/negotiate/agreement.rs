//! What a negotiation returns: the layout, how each attachment takes part, and what was passed over.

use std::fmt;

use super::candidate::Candidate;
use super::evidence::Trial;
use super::objection::Objection;
use crate::device::DeviceId;
use crate::image::extent::OutOfRange;
use crate::image::layout::{ImageLayout, LayoutError, LinearLayout, ShapeError};
use crate::image::modifier::Modifier;

/// How an attachment takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Participation {
    /// It uses the shared image.
    Direct,
    /// It uses an image of its own, and its device copies from or to the shared image: one copy per use.
    OwnImage(Copies),
    /// It uses an image of its own, and its device copies from or to the shared buffer: one copy per use.
    FromBuffer(Copies),
    /// It uses an image of its own, and bytes are copied through staging memory: two copies per use, and the host
    /// in between.
    Staged(Copies),
}

impl Participation {
    /// Whether the attachment uses an image of its own.
    pub const fn copies(self) -> bool {
        !matches!(self, Self::Direct)
    }

    /// Whether the host copies for it.
    pub const fn is_staged(self) -> bool {
        matches!(self, Self::Staged(_))
    }
}

/// Which way an own image is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Copies {
    /// Into the own image, before it is read.
    pub before: bool,
    /// Out of the own image, after it was written.
    pub after: bool,
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.before, self.after) {
            (true, true) => "reads and draws into",
            (true, false) => "reads",
            (false, _) => "draws into",
        })
    }
}

impl fmt::Display for Participation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("uses the shared image"),
            Self::OwnImage(copies) => write!(f, "{copies} an image of its own, one copy"),
            Self::FromBuffer(copies) => {
                write!(f, "{copies} an image of its own, one copy from or to the shared buffer")
            }
            Self::Staged(copies) => {
                write!(f, "{copies} an image of its own, copied through staging memory")
            }
        }
    }
}

/// An attachment's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Part {
    /// The attachment.
    pub attachment: u64,
    /// Its device.
    pub device: DeviceId,
    /// How it takes part.
    pub how: Participation,
}

/// The layout that was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgreedLayout {
    /// The device's own tiling, which nothing states.
    Private(DeviceId),
    /// A tiled modifier. Offsets and pitches are known once the exporter has made the image.
    #[non_exhaustive]
    Tiled {
        /// The modifier.
        modifier: Modifier,
        /// Its memory planes.
        planes: u8,
    },
    /// Rows one after the other, in an image or in a buffer, as peerbuf computes them.
    Linear(LinearLayout),
    /// Rows one after the other, where all drivers place them. How many bytes that takes is for the drivers to say.
    Placed(ImageLayout),
}

impl fmt::Display for AgreedLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private(device) => write!(f, "tiling of {device}"),
            Self::Tiled { modifier, planes } => {
                write!(f, "{modifier}, {planes} memory planes")
            }
            Self::Linear(layout) => {
                write!(f, "{}, {} bytes", layout.image_layout(), layout.bytes())
            }
            Self::Placed(layout) => layout.fmt(f),
        }
    }
}

/// A better candidate that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// The candidate.
    pub candidate: Candidate,
    /// Which attachments do not use it directly, and why. Never empty.
    pub objections: Vec<Objection>,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}: ", self.candidate)?;
        for (index, objection) in self.objections.iter().enumerate() {
            write!(f, "{}{objection}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// What the attachments agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Agreement {
    /// The way of sharing.
    pub candidate: Candidate,
    /// The layout.
    pub layout: AgreedLayout,
    /// The device that makes and exports the image. `None` for images in system memory that all import, for those of
    /// a single device, and where nothing but bytes is shared.
    pub exporter: Option<DeviceId>,
    /// Whether a driver needs memory of its own for the image.
    pub dedicated: bool,
    /// How each attachment takes part, in the order of their numbers.
    pub parts: Vec<Part>,
    /// Better candidates, best first, each with the reasons.
    pub passed_over: Vec<PassedOver>,
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.candidate, self.layout)?;
        if let Some(exporter) = self.exporter {
            write!(f, ", exported by {exporter}")?;
        }
        for Part { attachment, device, how } in &self.parts {
            write!(f, "\n  attachment {attachment} ({device}) {how}")?;
        }
        for passed in &self.passed_over {
            write!(f, "\n  {passed}")?;
        }
        Ok(())
    }
}

/// The answer of a negotiation: what to use now, and what to probe for a better answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Negotiation {
    /// The best that is proved.
    pub agreement: Agreement,
    /// Probes of better candidates, best first. Note their results and negotiate again. Empty once all is known, or
    /// the tries are used up.
    pub to_probe: Vec<Trial>,
}

/// Why there is no agreement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// The format or the size is none that an image can have.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// There are no attachments.
    #[error("no attachments to negotiate for")]
    NoAttachments,
    /// On every rung there is an attachment that cannot take part.
    #[error("no way to share the image:{}", lines(.passed_over))]
    #[non_exhaustive]
    NoAgreement {
        /// The rungs, best first, each with the reasons.
        passed_over: Vec<PassedOver>,
    },
}

impl From<ShapeError> for NegotiationError {
    fn from(error: ShapeError) -> Self {
        Self::Layout(error.into())
    }
}

impl From<OutOfRange> for NegotiationError {
    fn from(error: OutOfRange) -> Self {
        Self::Layout(ShapeError::from(error).into())
    }
}

fn lines(passed_over: &[PassedOver]) -> String {
    passed_over.iter().map(|passed| format!("\n  {passed}")).collect()
}
