//! Domains: places where bytes live, with a budget and what is in use.
//!
//! Kernel counterpart: `ttm_resource_manager` (size and usage).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::placement::DomainKind;
use crate::device::DeviceId;

/// Which place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DomainId {
    /// A device's own memory.
    Vram(DeviceId),
    /// The host's memory.
    System,
}

impl DomainId {
    /// What kind of place it is.
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

/// How full a domain is, in bytes: [`crate::Engine::usage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainUsage {
    /// What may be in use at once.
    pub budget: u64,
    /// What is in use, slabs and warm memory included.
    pub used: u64,
}

/// A domain's ledger: what may be in use at once, and what is.
#[derive(Debug)]
pub(crate) struct Domain {
    id: DomainId,
    budget: u64,
    /// Bytes of live allocations. Relaxed is enough: `charge` is one read-modify-write, and nothing
    /// else is ordered by it.
    used: AtomicU64,
}

impl Domain {
    pub(crate) fn new(id: DomainId, budget: u64) -> Self {
        Self { id, budget, used: AtomicU64::new(0) }
    }

    pub(crate) fn id(&self) -> DomainId {
        self.id
    }

    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes` into use; `Err` with the bytes already in use if they do not fit.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), u64> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.budget)
            })
            .map(|_| ())
    }

    /// Gives `bytes` back.
    pub(crate) fn credit(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{}: {bytes} given back, {before} in use", self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_domain_takes_nothing_and_says_what_is_in_use() {
        let domain = Domain::new(DomainId::System, 100);
        assert_eq!(domain.charge(60), Ok(()));
        assert_eq!(domain.charge(41), Err(60));
        assert_eq!(domain.charge(u64::MAX), Err(60), "no overflow");
        assert_eq!(domain.charge(40), Ok(()));
        domain.credit(100);
        assert_eq!(domain.used(), 0);
    }
}
