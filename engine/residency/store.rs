//! A place and who is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::policy::Policy;
use super::recency::Recency;
use crate::memory::{Charge, Domain};

/// A domain's ledger, and its buffers in the order in which they go.
#[derive(Debug)]
pub(crate) struct Store<K> {
    pub(crate) ledger: Arc<Domain>,
    pub(crate) recency: Recency<K>,
    /// Whether it was ever so full that somebody may have to go. Until then nobody stands in any order, and
    /// nobody pays for it. Relaxed: who sees it late lines up at the next use.
    tight: AtomicBool,
}

impl<K: Copy> Store<K> {
    pub(crate) fn new(ledger: Domain, policy: fn() -> Box<dyn Policy>) -> Self {
        let recency = Recency::new(policy, ledger.budget());
        Self { ledger: Arc::new(ledger), recency, tight: AtomicBool::new(false) }
    }

    /// Whether buffers stand in order here.
    pub(crate) fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }

    /// Whether half of it, or of what the group may have, would be in use with so many bytes more: time to
    /// learn who is used when.
    pub(crate) fn gets_tight(&self, charge: impl Into<Charge>) -> bool {
        let charge = charge.into();
        let is_half = |used: u64| used.saturating_add(charge.bytes) > self.ledger.budget() / 2;
        !self.is_tight()
            && (is_half(self.ledger.used()) || self.ledger.group_under_pressure(charge))
    }

    /// From now on they do. Whether they did not before.
    pub(crate) fn tighten(&self) -> bool {
        !self.tight.swap(true, Ordering::Relaxed)
    }

    /// To be called when the budget has changed.
    pub(crate) fn budget_changed(&self) {
        self.recency.set_capacity(self.ledger.budget());
    }
}
