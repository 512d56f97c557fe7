//! The number of a device. Imports nothing, so that errors and ids of other folders can name a device.

use std::fmt;

/// Number of a device within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub(crate) u16);

impl DeviceId {
    /// The number, from 0 in the order of opening.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}
