//! Eviction priorities.

use std::fmt;

/// A buffer's eviction priority: all buffers of a lower priority are evicted before any of a higher one,
/// whichever was used last.
///
/// Kernel counterpart: `TTM_MAX_BO_PRIORITY`, four lists per domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// For content that can wait: prefetched, or out of sight.
    Low,
    /// The default.
    #[default]
    Normal,
    /// For content that is slow to use from another domain: render targets.
    High,
    /// For content that is on the screen: evicted last.
    Highest,
}

impl Priority {
    /// All priorities, lowest first.
    pub const ALL: &[Self] = &[Self::Low, Self::Normal, Self::High, Self::Highest];

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
