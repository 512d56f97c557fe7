//! What uses a device that is to be removed, in numbers.

use std::fmt;

/// What uses a device that is to be removed: [`crate::Error::DeviceInUse`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceUsers {
    /// The device's name.
    pub device: String,
    /// Its attachments, including those that only their mappings keep.
    pub attachments: u64,
    /// Its mappings, of all generations.
    pub mappings: u64,
    /// Buffers that cannot leave its memory, that it has imported, or that have no other home device.
    pub buffers: u64,
    /// Other references to it: [`crate::Device`] handles, fences, staging memory of a running copy.
    pub handles: u64,
}

impl DeviceUsers {
    /// No users of the device with this name.
    pub(crate) fn of(device: &str) -> Self {
        let device = device.to_owned();
        Self { device, attachments: 0, mappings: 0, buffers: 0, handles: 0 }
    }
}

impl fmt::Display for DeviceUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, attachments, mappings, buffers, handles } = self;
        write!(
            f,
            "{device} is in use: {attachments} attachments, {mappings} mappings, {buffers} "
        )?;
        write!(f, "buffers, {handles} other handles or fences")
    }
}
