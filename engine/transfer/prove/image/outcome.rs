//! What is probed, and how it ended: plain data.

use std::time::Duration;

use ash::vk;

use super::texels::ProbePlane;
use crate::error::Error;
use crate::memory::{ImageSpec, PlaneStart};
use crate::transfer::prove::judge::{Failure, Unproved};
use crate::transfer::refusal::{RefusalReason, Route};
use crate::transfer::untried::Untried;

/// An image that is written and read. One level, one layer.
#[derive(Clone, Copy)]
pub(crate) struct ImageProbe<'a> {
    /// The image. Its usage is not used.
    pub(crate) spec: ImageSpec<'a>,
    /// The usages of the first and of the second device's image: `TRANSFER_DST` at least, and `TRANSFER_SRC`.
    pub(crate) usages: [vk::ImageUsageFlags; 2],
    pub(crate) planes: &'a [ProbePlane],
    /// Bytes that a layout with stated planes takes. Others take what drivers say.
    pub(crate) bytes: u64,
    /// Whether the second device also reads it by a shader.
    pub(crate) sampled: bool,
}

/// Which memory images are laid over.
#[derive(Clone, Copy)]
pub(crate) struct ImageMemory<'a> {
    /// Routes that carry bytes, best first.
    pub(crate) routes: &'a [Route],
    /// Whether both devices must import a dma-buf by its fd.
    pub(crate) dma_bufs: bool,
}

/// How texels were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageRead {
    /// Copied to a buffer.
    Copied,
    /// By a shader.
    Sampled,
}

/// What a probe that found every texel right has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImagePasses {
    /// The memory that the image was laid over.
    pub(crate) route: Route,
    /// Which of the probes it was.
    pub(crate) probe: usize,
    /// Texels that were compared, in each pass.
    pub(crate) texels: u64,
    /// How long the copy to a buffer took, with its submission.
    pub(crate) copied: Duration,
    /// The same of the shader; `None` if no shader read the image.
    pub(crate) sampled: Option<Duration>,
}

/// Why images are not shared in a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageFault {
    /// Texels were wrong.
    WrongTexels { read: ImageRead, wrong: u64, texels: u64, first: [u32; 2] },
    /// The drivers place a plane differently.
    OtherPlace { plane: usize, near: PlaneStart, far: PlaneStart },
    /// No memory can be tried.
    NoMemory,
    /// What would refuse the route.
    Refused(RefusalReason),
}

/// How a probe ended.
pub(crate) enum ImageOutcome {
    /// Every texel was right.
    Works(ImagePasses),
    /// Images are not shared so.
    Refused(ImageFault),
    /// Nothing is known.
    Untried(Untried),
    /// Nothing is known, for a reason that the caller can mend.
    Stop(Error),
}

/// Why no way worked.
pub(crate) enum Ended {
    /// The last way that was tried does not work.
    Refused(ImageFault),
    /// A way could not be tried.
    Untried(Untried),
    /// As [`Ended::Untried`], for a reason that the caller can mend.
    Stop(Error),
}

/// Why one attempt failed.
pub(super) enum Failed {
    /// The images are not shared.
    Fault(ImageFault),
    /// A call failed. What that says is for [`Session::judge`].
    Call(Failure),
}

impl From<Unproved> for Failed {
    fn from(unproved: Unproved) -> Self {
        match unproved {
            Unproved::Refused(reason) => Self::Fault(ImageFault::Refused(reason)),
            Unproved::Failed(failure) => Self::Call(failure),
        }
    }
}
