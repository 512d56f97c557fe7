//! Why a view could not be created, and its translation to an [`Error`].

use std::os::fd::BorrowedFd;

use ash::vk;

use crate::device::{Call, DeviceInner, HandleType};
use crate::error::{Error, ForeignFdReason};
use crate::fd;

/// Why a view could not be created, not yet translated to an [`Error`].
#[derive(Debug)]
pub(super) enum ViewError {
    /// The driver's code.
    Vulkan(vk::Result),
    /// The driver refused the file of an fd. Some want more bytes in it than are imported (V3DV).
    RefusedFile { code: vk::Result, size: u64, file: u64 },
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
    /// Adds both sizes to the refusal of a file from which `size` bytes were to be imported.
    pub(super) fn of_file(self, fd: BorrowedFd<'_>, size: u64) -> Self {
        match (self, fd::file_size(fd)) {
            (Self::Vulkan(code @ vk::Result::ERROR_INVALID_EXTERNAL_HANDLE), Some(file)) => {
                Self::RefusedFile { code, size, file }
            }
            (other, _) => other,
        }
    }

    /// Translates it to an error of an import on `device`.
    pub(super) fn importing(self, device: &DeviceInner, handle: HandleType) -> Error {
        let refuse = |reason| Error::ForeignFd { handle, reason };
        match self {
            Self::Named(error) => error,
            Self::NoMemoryType => refuse(ForeignFdReason::NoMemoryType),
            Self::RefusedFile { code, size, file } => {
                refuse(ForeignFdReason::RejectedFile { code, claimed: size, actual: file })
            }
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
