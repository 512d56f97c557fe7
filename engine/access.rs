//! Reading, writing, or both.

use std::fmt;

use crate::sync::Usage;

/// What somebody wants to do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Look at it.
    Read,
    /// Change it, without looking.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    /// Whether it includes reading.
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether it includes writing.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    /// The usage under which such work is entered into a reservation.
    pub(crate) const fn usage(self) -> Usage {
        match self {
            Self::Read => Usage::Read,
            Self::Write | Self::ReadWrite => Usage::Write,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "reading",
            Self::Write => "writing",
            Self::ReadWrite => "reading and writing",
        })
    }
}
