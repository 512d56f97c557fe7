//! What the caller can do next, as predicates; and the one error that programs construct.

use ash::vk;
use rustix::io::Errno;

use super::{DeviceUsers, Error, Result};
use crate::transfer::Refusal;

impl Error {
    /// Constructs [`Error::Unreachable`]: for tests of programs that print its reasons one by one.
    pub fn unreachable(
        buffer: impl Into<String>,
        device: impl Into<String>,
        refused: Vec<Refusal>,
    ) -> Self {
        Self::Unreachable { buffer: buffer.into(), device: device.into(), refused }
    }

    /// Whether freeing memory, or asking for another domain, may help. Any call may return such an error, not only
    /// those that allocate.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            Self::OutOfMemory { .. }
                | Self::ImportLimit(_)
                | Self::Staging { .. }
                | Self::Os { source: Errno::NOMEM, .. }
        ) || self.is_drivers_out_of_memory()
    }

    /// Whether an allocation failed that might succeed with fewer bytes. It would not if the driver allows no more
    /// allocations.
    pub(crate) fn is_out_of_bytes(&self) -> bool {
        let objects = Some(vk::Result::ERROR_TOO_MANY_OBJECTS);
        self.is_out_of_memory()
            && !matches!(self, Self::OutOfMemory { code, .. } if *code == objects)
    }

    /// Whether a driver ran out of memory, or of objects, in a call other than an allocation of shared memory.
    pub(crate) fn is_drivers_out_of_memory(&self) -> bool {
        use vk::Result as Code;
        matches!(
            self,
            Self::Vulkan {
                code: Code::ERROR_OUT_OF_DEVICE_MEMORY
                    | Code::ERROR_OUT_OF_HOST_MEMORY
                    | Code::ERROR_TOO_MANY_OBJECTS,
                ..
            }
        )
    }

    /// Whether an import failed that might succeed once other imports of the device are given back.
    pub(crate) fn is_short_of_imports(&self) -> bool {
        matches!(self, Self::ImportLimit(_)) || self.is_drivers_out_of_memory()
    }

    /// Whether the work of the fence that reports it has ended, or will never end.
    pub(crate) fn ends_work(&self) -> bool {
        matches!(self, Self::DeviceLost { .. } | Self::WorkFailed { .. })
    }

    /// The routes that [`Error::Unreachable`] lists, for log lines: the text of the error leaves them out.
    pub(crate) fn refusals(&self) -> &[Refusal] {
        if let Self::Unreachable { refused, .. } = self { refused } else { &[] }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Exported { .. }
                | Self::Timeout { .. }
                | Self::Stale { .. }
                | Self::RoutesUnproved { .. }
        )
    }

    /// The error and its causes in one line, separated by `: `, for reports that keep the text alone.
    pub fn with_causes(&self) -> String {
        let mut shown = self.to_string();
        let mut text = shown.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let of = error.to_string();
            // An error that only passes on the text of its cause adds nothing.
            if of != shown {
                text.push_str(": ");
                text.push_str(&of);
            }
            shown = of;
            cause = error.source();
        }
        text
    }

    /// Whether the error is the loss of a device, which is permanent.
    pub fn is_device_lost(&self) -> bool {
        matches!(self, Self::DeviceLost { .. })
    }
}

impl DeviceUsers {
    /// # Errors
    ///
    /// [`Error::DeviceInUse`] if there are any.
    pub(crate) fn check(self) -> Result<()> {
        match self.attachments + self.mappings + self.buffers + self.handles {
            0 => Ok(()),
            _ => Err(Error::DeviceInUse(self)),
        }
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Error>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_part_of_the_text_once() {
        let os = Error::os("open(/dev/udmabuf)", Errno::ACCESS);
        assert_eq!(os.with_causes(), "open(/dev/udmabuf) failed: Permission denied (os error 13)");
        let plain = Error::too_large(7);
        assert_eq!(plain.with_causes(), plain.to_string());
    }
}
