//! Age groups: buffers that are used together, and take one position in the eviction order.
//!
//! Kernel counterpart: `ttm_bo_set_bulk_move`.

use std::fmt;
use std::sync::Arc;

use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::state::State;
use crate::core::{Core, SlotId};
use crate::device::Calls;
use crate::error::{Error, Result};
use crate::memory::DomainId;
use crate::residency::policy::Slot;
use crate::residency::{BulkGroup, SpanningGroups};

/// Buffers that are used together, for example those of a draw, of a model, or of a sparse resource. A use of
/// one counts as a use of all. They are evicted one after the other, the least recently used first.
///
/// Made by [`crate::Engine::age_group`]; [`SharedBuffer::set_age_group`] assigns a buffer to it. Within a
/// domain, the members of one priority are neighbours in the order. So a group does not protect a member of
/// lower priority than the others.
///
/// A group competes with other buffers as one buffer of the sum of its bytes. Where a domain holds more than 16 others,
/// the default policy looks at some of them, drawn by their bytes. So a group of many members is found sooner.
///
/// A use costs the same for any number of members, plus one look-up for each further device whose memory a
/// member prefers. A clone is cheap, and is the same group. The group lives as long as it has a handle or a
/// member.
#[derive(Clone)]
#[doc(alias = "ttm_lru_bulk_move")]
pub struct AgeGroup {
    /// Identifies the engine.
    calls: Arc<Calls>,
    ageing: Arc<BulkGroup>,
}

impl AgeGroup {
    /// A new age group without members.
    pub(crate) fn new(core: &Core) -> Self {
        Self { calls: Arc::clone(&core.calls), ageing: Arc::new(core.bulk_groups.make()) }
    }
}

impl SharedBuffer {
    /// Assigns the buffer to an age group, as its most recently used member. `None` removes it from its
    /// group; a new buffer is in none.
    ///
    /// A buffer that an eviction has found pinned is in no eviction list. It is listed with its group again
    /// when it is no longer pinned.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] for a group of another engine.
    ///
    /// Locks: the reservation.
    #[doc(alias = "ttm_bo_set_bulk_move")]
    pub fn set_age_group(&self, group: Option<&AgeGroup>) -> Result<()> {
        let (buffer, core) = (&self.0, self.0.core());
        if group.is_some_and(|group| !Arc::ptr_eq(&group.calls, &core.calls)) {
            return Err(Error::ForeignEngine { what: "the age group" });
        }
        let age = group.map(|group| &group.ageing);
        let state = buffer.lock();
        core.bulk_groups.set(buffer.slot(), age);
        if let Some(slot) = state.entry().slot() {
            set_group_in(core, state.entry().list_domain(), slot, age);
        }
        Ok(())
    }
}

/// Sets the age group of an entry in a domain's eviction list.
fn set_group_in(core: &Core, domain: DomainId, slot: Slot, age: Option<&Arc<BulkGroup>>) {
    if let Some(age) = age {
        age.may_be_in(domain);
    }
    core.domain_state(domain).eviction_list.set_bulk_group(slot, age);
}

/// Adds an entry that was just listed in a domain to its buffer's age group, if the buffer is in one.
pub(super) fn join_age_group(core: &Core, buffer: SlotId, domain: DomainId, slot: Slot) {
    if let Some(age) = core.bulk_groups.of(buffer) {
        set_group_in(core, domain, slot, Some(&age));
    }
}

/// Marks these groups as used in all domains except `except`, which has marked them already.
pub(in crate::buffer) fn mark_groups_used(
    core: &Core,
    except: Option<DomainId>,
    ages: SpanningGroups,
) {
    for age in ages {
        let others = core.domains().filter(|domain| Some(*domain) != except && age.is_in(*domain));
        others.for_each(|domain| core.domain_state(domain).eviction_list.mark_group_used(&age));
    }
}

impl BufferInner {
    /// Marks the buffer as used in its eviction list, and its age group in all domains. The reservation must
    /// be held.
    pub(super) fn age(&self, state: &State) {
        let Some(slot) = state.entry().slot() else { return self.age_unlisted() };
        let domain = state.entry().list_domain();
        mark_groups_used(
            self.core(),
            Some(domain),
            self.core().domain_state(domain).eviction_list.mark_used(slot).into_iter().collect(),
        );
    }

    /// Marks the age group of a buffer as used that is in no eviction list itself. The reservation must be
    /// held.
    #[inline]
    pub(in crate::buffer) fn age_unlisted(&self) {
        let groups = &self.core().bulk_groups;
        if !groups.is_empty()
            && let Some(group) = groups.of(self.slot())
        {
            mark_groups_used(self.core(), None, [group].into_iter().collect());
        }
    }
}

impl PartialEq for AgeGroup {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ageing, &other.ageing)
    }
}

impl Eq for AgeGroup {}

impl fmt::Debug for AgeGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgeGroup").field("ageing", &self.ageing).finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<AgeGroup>();
};
