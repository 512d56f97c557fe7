//! The name of a domain. Imports ids only, so that errors can name a domain.

use std::fmt;

use crate::device::DeviceId;

/// Names a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DomainId {
    /// A device's own memory.
    Vram(DeviceId),
    /// The host's memory.
    System,
}

impl DomainId {
    /// The kind of the domain.
    pub fn kind(self) -> DomainKind {
        match self {
            Self::Vram(_) => DomainKind::Vram,
            Self::System => DomainKind::System,
        }
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vram(device) => write!(f, "VRAM of {device}"),
            Self::System => f.write_str("system memory"),
        }
    }
}

/// A kind of domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DomainKind {
    /// The home device's own memory.
    Vram,
    /// The host's memory.
    System,
}

impl fmt::Display for DomainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vram => "VRAM",
            Self::System => "system memory",
        })
    }
}
