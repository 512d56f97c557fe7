//! Domains that are a part of system memory: what is short there, and what an eviction frees.

use super::Domain;
use crate::memory::claim_queue::Promised;
use crate::memory::group_account::{Charge, GroupId};

impl Domain {
    /// Whether it is a part of system memory.
    pub(crate) fn is_part(&self) -> bool {
        self.beneath.is_some()
    }

    /// Whether system memory is short of what `charge` needs there.
    pub(crate) fn is_short_beneath(&self, charge: impl Into<Charge>) -> bool {
        self.is_part() && self.short_by(charge.into(), u64::MAX, &self.claims()).beneath > 0
    }

    /// How many bytes must be freed in system memory before `bytes` fit there, beside what is promised there and here.
    pub(super) fn short_beneath(&self, bytes: u64, promised: Promised) -> u64 {
        let Some(system) = &self.beneath else { return 0 };
        let there = system.claims().before(u64::MAX, &system.accounts, GroupId::NONE);
        let wanted = bytes.saturating_add(there.all.max(promised.all));
        system.charged().saturating_add(wanted).saturating_sub(system.own_budget())
    }

    /// Whether a move to system memory makes no room for `charge`: system memory is what is short, and the same
    /// bytes are charged there before and after.
    pub(crate) fn move_gains_nothing(&self, charge: impl Into<Charge>) -> bool {
        // Beside no claim: the one that the move makes room for is among them.
        let short = self.short_by(charge.into(), 0, &self.claims());
        short.own == 0 && short.beneath > short.all
    }
}
