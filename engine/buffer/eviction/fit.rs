//! A smaller budget: buffers that no longer fit are evicted.

use std::sync::Arc;

use crate::buffer::object::Buffers;
use crate::buffer::tracking::start_tracking;
use crate::memory::{DomainId, GroupId};
use crate::residency::{self, Obstacles, Trigger};

/// What [`crate::Engine::evict_all`], [`crate::Engine::set_cap`], [`crate::Engine::model_heap`] and
/// [`crate::ClientGroup::set_cap`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Eviction {
    /// Bytes that have left.
    pub bytes: u64,
    /// What had to stay, and why.
    pub stayed: Obstacles,
}

/// Less may be in use in a domain, or be a group's there: whoever does not fit any more goes.
pub(crate) fn fit(set: &Buffers, domain: DomainId, group: GroupId) -> Eviction {
    let store = set.core.domain_state(domain);
    if store.comes_under_pressure((0, group)) {
        start_tracking(set, domain);
    }
    let bytes = match group {
        GroupId::NONE => store.ledger.excess(),
        group => store.ledger.group_excess(group),
    };
    let limits = set.core.eviction_limits(Trigger::Room { bytes, by: None });
    residency::fit(set, domain, group, &limits).into()
}

impl From<residency::Evicted> for Eviction {
    fn from(evicted: residency::Evicted) -> Self {
        Self { bytes: evicted.moved, stayed: evicted.obstacles }
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Arc<Eviction>>();
};
