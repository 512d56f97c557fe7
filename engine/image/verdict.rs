//! Whether two devices share images of a format: plain data.

use std::time::Duration;

use super::extent::{Extent, Shape};
use super::format::FormatGap;
use super::fourcc::Fourcc;
use super::layout::ShapeError;
use super::negotiate::{Agreement, Candidate, NegotiationError, Objection};
use crate::error::Error;
use crate::transfer::{Route, Untried};

/// Whether, and how, two devices share images of a format: the first one writes by copies, the second one samples.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageVerdict {
    /// The format.
    pub fourcc: Fourcc,
    /// The size for which the devices were asked. Probes have sizes of their own.
    pub shape: Shape,
    /// The ways to share one image, best first.
    pub layouts: Vec<LayoutVerdict>,
    /// What an image of this size uses.
    pub agreement: Result<Agreement, NegotiationError>,
}

/// What is known of one way to share images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayoutVerdict {
    /// The way.
    pub candidate: Candidate,
    /// Whether it works.
    pub result: LayoutResult,
}

/// Whether a way to share images works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutResult {
    /// Every texel that was written on one device was read on the other.
    Proved(ImageProof),
    /// It does not work; the first device is attachment 0, the second one attachment 1.
    Refused(Vec<Objection>),
    /// It was not tried, which says nothing about it. The next call tries it again.
    Untried(ImageUntried),
}

/// What was done to prove a way to share images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageProof {
    /// The memory that the image was laid over.
    pub route: Route,
    /// The size of the image.
    pub extent: Extent,
    /// Texels of all planes. Each pass has compared all of them.
    pub texels: u64,
    /// How long the second device took to copy them to a buffer, with its submission.
    pub copied: Duration,
    /// The same for a shader that reads them; `None` if none did: the layout cannot be sampled there, or the format only
    /// through a conversion that mixes texels.
    pub sampled: Option<Duration>,
}

/// Why a way to share images was not tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageUntried {
    /// The devices were not ready.
    #[error(transparent)]
    Devices(#[from] Untried),
    /// Drivers say where the planes of such an image are once it has memory, and it would take more than this is worth.
    #[error("{bytes} bytes, tried up to {most}; try a smaller size of the same width")]
    #[non_exhaustive]
    TooLarge {
        /// The bytes of such an image.
        bytes: u64,
        /// The most that are allocated to ask.
        most: u64,
    },
}

/// Why images of two devices were not tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageVerdictError {
    /// No image is shared in the format.
    #[error(transparent)]
    Format(#[from] FormatGap),
    /// The format has no images of this size.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// An error of the engine.
    #[error(transparent)]
    Engine(#[from] Error),
}
