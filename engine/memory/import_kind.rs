//! How a device imports an allocation.

use crate::device::HandleType;

/// How a device imports an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ImportKind {
    /// By fd.
    Fd(HandleType),
    /// By the address at which the host has mapped it.
    HostPointer,
}

impl ImportKind {
    pub(crate) fn handle(self) -> HandleType {
        match self {
            Self::Fd(handle) => handle,
            Self::HostPointer => HandleType::HostPointer,
        }
    }
}
