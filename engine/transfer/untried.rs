//! Why a route was not tried: plain data, as in `refusal`.

use std::time::Duration;

use ash::vk;

use super::pass::Side;

/// Why a route could not be tried. This says nothing about the route; it is tried again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untried {
    /// No device could be opened to try it on. Routes are never tried on the application's own devices, because a
    /// route that does not work may cost the device.
    #[error("no device to try it on, for the {side} device: {cause}")]
    NoProbeDevice {
        /// The device whose adapter opened no other one.
        side: Side,
        /// The error.
        cause: String,
    },
    /// The device is busy: an empty submission did not end.
    #[error("the {side} device is busy: an empty submission did not end within {waited:.1?}")]
    Busy {
        /// The device.
        side: Side,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The driver is out of memory, for memory that is not shared as well.
    #[error("the {side} device is full: {code:?} for {bytes} bytes, not only for shared memory")]
    NoMemory {
        /// The device.
        side: Side,
        /// Bytes requested.
        bytes: u64,
        /// The driver's code.
        code: vk::Result,
    },
    /// A submission failed without the import, too.
    #[error("the {side} device fails without it, too: {cause}")]
    ControlFailed {
        /// The device.
        side: Side,
        /// The error.
        cause: String,
    },
    /// The process or the host is short of something.
    #[error("{cause}")]
    Shortage {
        /// The error.
        cause: String,
    },
    /// The time for all routes of the pair was over.
    #[error("no time was left of {limit:.1?} for all routes")]
    OutOfTime {
        /// The engine timeout.
        limit: Duration,
    },
}
