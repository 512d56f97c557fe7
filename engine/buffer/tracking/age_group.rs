//! Age groups: buffers that are used together age together.
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

/// Buffers that are used together, and so age together: a use of one is a use of all, and when they have to
/// leave they go one after the other, whoever was used the longest time ago first. The buffers of a draw, of
/// a model, of a sparse resource.
///
/// Made by [`crate::Engine::age_group`]; [`SharedBuffer::set_age_group`] says who is in it. In a place those of one
/// priority stand together: a group does not keep somebody whose priority is lower than that of others.
/// However many are in it, a use costs the same, and one more look for each other device whose memory some of
/// them want to be in. Cheap to clone; all clones are the same group, which lasts as long as somebody is in
/// it.
#[derive(Clone)]
#[doc(alias = "ttm_lru_bulk_move")]
pub struct AgeGroup {
    /// Which engine it is of.
    calls: Arc<Calls>,
    ageing: Arc<BulkGroup>,
}

impl AgeGroup {
    /// A new age group, with no buffer in it.
    pub(crate) fn new(core: &Core) -> Self {
        Self { calls: Arc::clone(&core.calls), ageing: Arc::new(core.bulk_groups.make()) }
    }
}

impl SharedBuffer {
    /// Says in which age group it is from now on; `None` for none, as at first. Of its group it is the one
    /// that was used last. A pinned buffer that was found to be so is in no order, and comes back to its
    /// group when it is not any more.
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
        if let Some(slot) = state.entry.slot() {
            enlist(core, state.entry.order(), slot, age);
        }
        Ok(())
    }
}

fn enlist(core: &Core, place: DomainId, slot: Slot, age: Option<&Arc<BulkGroup>>) {
    if let Some(age) = age {
        age.may_be_in(place);
    }
    core.domain_state(place).eviction_list.set_bulk_group(slot, age);
}

/// A buffer stands in the order of a place from now on, and with its age group if it is in one.
pub(in crate::buffer) fn join_age_group(core: &Core, buffer: SlotId, place: DomainId, slot: Slot) {
    if let Some(age) = core.bulk_groups.of(buffer) {
        enlist(core, place, slot, Some(&age));
    }
}

/// Some of these groups were used; the place `told` knows.
pub(in crate::buffer) fn age_elsewhere(core: &Core, told: Option<DomainId>, ages: SpanningGroups) {
    for age in ages {
        let others = core.domains().filter(|place| Some(*place) != told && age.is_in(*place));
        others.for_each(|place| core.domain_state(place).eviction_list.mark_group_used(&age));
    }
}

impl BufferInner {
    /// It is used: in its order, and its age group wherever that is. The reservation is held.
    pub(in crate::buffer) fn age(&self, state: &State) {
        let Some(slot) = state.entry.slot() else { return self.age_in_no_order() };
        let place = state.entry.order();
        age_elsewhere(
            self.core(),
            Some(place),
            self.core().domain_state(place).eviction_list.mark_used(slot).into_iter().collect(),
        );
    }

    /// It is used, and stands in no order; but others of its age group may. The reservation is held.
    pub(in crate::buffer) fn age_in_no_order(&self) {
        age_elsewhere(
            self.core(),
            None,
            self.core().bulk_groups.of(self.slot()).into_iter().collect(),
        );
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
