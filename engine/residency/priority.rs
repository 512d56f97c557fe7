//! How much it matters that a buffer is where it wants to be.

use std::fmt;

/// Whom an eviction takes first: everybody of a lower priority before anybody of a higher one, whatever was
/// used when.
///
/// Kernel counterpart: `TTM_MAX_BO_PRIORITY`, four lists per place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// What can wait: prefetched, out of sight.
    Low,
    /// The usual one.
    #[default]
    Normal,
    /// What hurts when it is away: render targets.
    High,
    /// What goes last: what is on the screen.
    Highest,
}

impl Priority {
    /// All of them, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Highest];

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Highest => "highest",
        })
    }
}
