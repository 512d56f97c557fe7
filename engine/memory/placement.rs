//! Placements: the kinds of domains that a buffer may live in, in order of preference.
//!
//! Kernel counterpart: `ttm_placement`.

use super::domain_id::DomainKind;

/// Acceptable kinds of domains, best first.
///
/// A buffer lives in the first one that all its attached devices can reach and that has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// In the home device's memory if every attached device can reach it there, otherwise in system memory.
    #[default]
    VramOrSystem,
    /// Only in the home device's memory: a device that cannot reach it there cannot attach.
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
