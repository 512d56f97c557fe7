//! A place and who is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::policy::Policy;
use super::recency::Recency;
use crate::memory::Domain;

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

    /// Whether half of it would be in use with `bytes` more: time to learn who is used when.
    pub(crate) fn gets_tight(&self, bytes: u64) -> bool {
        !self.is_tight() && self.ledger.used().saturating_add(bytes) > self.ledger.budget() / 2
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
