//! Why a view could not be created, and its translation to an [`Error`].

use ash::vk;

use crate::device::{Call, DeviceInner, HandleType};
use crate::error::{Error, ForeignFdReason};

/// Why a view could not be created, not yet translated to an [`Error`].
#[derive(Debug)]
pub(super) enum ViewError {
    /// The driver's code.
    Vulkan(vk::Result),
    /// An error that needs no translation.
    Named(Error),
    /// No memory type suits buffer and handle.
    NoMemoryType,
    /// The memory is smaller than its buffer requires.
    TooSmall { needed: u64, actual: u64 },
    /// The size exceeds the device's `maxMemoryAllocationSize`.
    TooLarge { size: u64, limit: u64 },
    /// The device does not have this extension enabled.
    NoExtension(&'static str),
}

impl ViewError {
    /// Translates it to an error of an import on `device`.
    pub(super) fn importing(self, device: &DeviceInner, handle: HandleType) -> Error {
        let refuse = |reason| Error::ForeignFd { handle, reason };
        match self {
            Self::Named(error) => error,
            Self::NoMemoryType => refuse(ForeignFdReason::NoMemoryType),
            Self::TooSmall { needed, actual } => {
                refuse(ForeignFdReason::TooSmall { claimed: needed, actual })
            }
            Self::TooLarge { size, limit } => Error::Unsupported {
                device: device.name().to_owned(),
                missing: format!("allocations of {size} bytes (its limit is {limit})"),
            },
            Self::NoExtension(name) => {
                Error::Unsupported { device: device.name().to_owned(), missing: name.to_owned() }
            }
            Self::Vulkan(code) => match device.error(Call::ImportMemory.name(), code) {
                // Running out of memory is not a property of the fd.
                error if error.is_drivers_out_of_memory() => error,
                Error::Vulkan { code, .. } => refuse(ForeignFdReason::Rejected(code)),
                named => named,
            },
        }
    }
}

impl From<vk::Result> for ViewError {
    fn from(code: vk::Result) -> Self {
        Self::Vulkan(code)
    }
}

impl From<Error> for ViewError {
    fn from(error: Error) -> Self {
        Self::Named(error)
    }
}
