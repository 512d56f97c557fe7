//! A smaller budget: buffers that no longer fit are evicted.

use std::sync::Arc;

use crate::buffer::object::Buffers;
use crate::buffer::tracking::start_tracking;
use crate::memory::{DomainId, GroupId};
use crate::residency::{self, EvictionFailures, Trigger};

/// The result of [`crate::Engine::evict_all`], [`crate::Engine::set_cap`], [`crate::Engine::model_heap`] and
/// [`crate::ClientGroup::set_cap`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Eviction {
    /// The number of bytes that were evicted.
    pub bytes: u64,
    /// What could not be evicted, and why.
    pub stayed: EvictionFailures,
}

/// Evicts the buffers that no longer fit into a domain, after its budget or the cap of `group` there has
/// shrunk.
pub(crate) fn fit(set: &Buffers, domain: DomainId, group: GroupId) -> Eviction {
    let domain_state = set.core.domain_state(domain);
    if domain_state.comes_under_pressure((0, group)) {
        start_tracking(set, domain);
    }
    let bytes = match group {
        GroupId::NONE => domain_state.ledger.excess(),
        group => domain_state.ledger.group_excess(group),
    };
    let limits = set.core.eviction_limits(Trigger::Room { bytes, by: None });
    residency::fit(set, domain, group, &limits).into()
}

impl From<residency::Evicted> for Eviction {
    fn from(evicted: residency::Evicted) -> Self {
        Self { bytes: evicted.moved, stayed: evicted.failures }
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Arc<Eviction>>();
};
