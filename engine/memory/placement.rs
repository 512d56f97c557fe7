//! Placements: where a buffer may live, in order of preference.
//!
//! Kernel counterpart: `ttm_placement`.

use std::fmt;

/// What kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// Acceptable kinds of places, best first.
///
/// A buffer lives in the first of them that all its attached devices can reach and that has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// In the home device's memory if everybody can reach it there, else in system memory.
    #[default]
    VramOrSystem,
    /// In the home device's memory, or nowhere: a device that cannot reach it there cannot attach.
    Vram,
    /// In system memory.
    System,
}

impl Placement {
    /// The acceptable kinds, best first.
    pub fn kinds(self) -> &'static [DomainKind] {
        match self {
            Self::VramOrSystem => &[DomainKind::Vram, DomainKind::System],
            Self::Vram => &[DomainKind::Vram],
            Self::System => &[DomainKind::System],
        }
    }
}
