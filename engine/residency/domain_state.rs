//! The state of one memory domain: its ledger and its eviction list.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::eviction_list::EvictionList;
use super::policy::Policy;
use crate::memory::{Charge, Domain};

/// A domain's ledger, and its buffers in eviction order.
#[derive(Debug)]
pub(crate) struct DomainState<K> {
    pub(crate) ledger: Arc<Domain>,
    pub(crate) eviction_list: EvictionList<K>,
    /// Whether the domain was ever so full that evictions may be needed. Until then the eviction list stays
    /// empty and costs nothing. Relaxed: a thread that reads an old value enlists the buffer at its next use.
    tracking: AtomicBool,
}

impl<K: Copy> DomainState<K> {
    pub(crate) fn new(ledger: Domain, policy: fn() -> Box<dyn Policy>) -> Self {
        let eviction_list = EvictionList::new(policy, ledger.budget());
        Self { ledger: Arc::new(ledger), eviction_list, tracking: AtomicBool::new(false) }
    }

    /// Whether the domain is, or was, under pressure: its buffers are enlisted for eviction.
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.tracking.load(Ordering::Relaxed)
    }

    /// Whether this charge fills the domain, or the group's share of it, to more than half. From then on the
    /// order of uses has to be known. `false` if the domain is under pressure already.
    pub(crate) fn comes_under_pressure(&self, charge: impl Into<Charge>) -> bool {
        let charge = charge.into();
        let is_half = |used: u64| used.saturating_add(charge.bytes) > self.ledger.budget() / 2;
        !self.is_under_pressure()
            && (is_half(self.ledger.charged()) || self.ledger.group_under_pressure(charge))
    }

    /// Enlists buffers from now on. Returns whether this call has changed that.
    pub(crate) fn start_tracking(&self) -> bool {
        !self.tracking.swap(true, Ordering::Relaxed)
    }

    /// Tells the policies the new budget. Call it after every change of the ledger's budget.
    pub(crate) fn budget_changed(&self) {
        self.eviction_list.set_capacity(self.ledger.budget());
    }
}
