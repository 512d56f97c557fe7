//! Where a buffer wants to be, and its slot among those who are there or would like to be.

use super::age_group::join_age_group;
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::buffer::state::{EvictionEntry, State};
use crate::core::{Core, SlotId};
use crate::memory::{Charge, DomainId, DomainKind, Provider};
use crate::observe::MoveCause;
use crate::residency::{Priority, Trigger};

impl SharedBuffer {
    /// Says how much it matters from now on that the buffer is where it wants to be.
    ///
    /// Locks: the reservation.
    pub fn set_priority(&self, priority: Priority) {
        self.0.set_priority(priority);
    }

    /// How much it matters that the buffer is where it wants to be.
    ///
    /// Locks: the reservation.
    pub fn priority(&self) -> Priority {
        self.0.priority()
    }
}

impl BufferInner {
    /// That room is wanted for it.
    pub(in crate::buffer) fn trigger(&self) -> Trigger {
        Trigger::Room { bytes: self.size, by: Some(self.id()) }
    }

    /// How much it matters that it is where it wants to be.
    pub(crate) fn priority(&self) -> Priority {
        self.lock().entry.priority()
    }

    /// It matters so much from now on.
    pub(crate) fn set_priority(&self, priority: Priority) {
        let mut state = self.lock();
        state.entry.set_priority(priority);
        if let Some(slot) = state.entry.slot() {
            self.core()
                .domain_state(state.entry.order())
                .eviction_list
                .set_priority(slot, priority);
        }
    }

    /// It has moved. The reservation is held.
    pub(in crate::buffer) fn note_move(&self, state: &mut State, cause: MoveCause) {
        match cause {
            MoveCause::Evicted
            | MoveCause::Returned
            | MoveCause::Requested
            | MoveCause::Promoted => {}
            // Somebody has said where it is to be, or it could not be where it was: it does not want to be
            // anywhere else.
            _ => self.want(state, state.location.domain()),
        }
        let now = state.location.domain();
        let entry = state.entry;
        if (entry.is_purgeable() && now == DomainId::System) != entry.is_in_system() {
            self.enlist(state);
        } else if let Some(slot) = state.entry.slot() {
            let order = state.entry.order();
            let here = (now == order).then(|| state.location.footprint());
            self.core().domain_state(order).eviction_list.moved(slot, here);
        }
        let here = now == state.entry.preferred();
        let uses = if here { 0 } else { self.core().throttle.rules().uses_before_return };
        self.backoff.set(uses);
    }

    /// It wants to be there from now on. The reservation is held.
    pub(in crate::buffer) fn want(&self, state: &mut State, place: DomainId) {
        if state.entry.preferred() == place {
            return;
        }
        unlist(self.core(), &mut state.entry);
        state.entry.set_preferred(place);
        self.enlist(state);
        // What is nowhere does not come back by itself.
        let away = state.location.backing().is_some_and(|backing| backing.domain() != place);
        self.backoff.set(u8::from(away));
    }

    /// Its content may be lost from now on, or may not be. The reservation is held.
    pub(in crate::buffer) fn mark_purgeable(&self, state: &mut State, purgeable: bool) {
        if state.entry.is_purgeable() != purgeable {
            unlist(self.core(), &mut state.entry);
            state.entry.set_purgeable(purgeable);
            self.enlist(state);
        }
    }

    /// It takes its slot, if its place has become tight since it came. The reservation is held.
    pub(in crate::buffer) fn line_up_late(&self, state: &mut State) {
        let entry = state.entry;
        if entry.slot().is_none()
            && entry.preferred().kind() == DomainKind::Vram
            && self.core().domain_state(entry.order()).is_under_pressure()
            && !matches!(state.location.provider(), Provider::Foreign(_))
        {
            self.enlist(state);
        }
    }

    /// It takes its slot where it is to stand now; none while it is nowhere. The reservation is held.
    pub(in crate::buffer) fn enlist(&self, state: &mut State) {
        if state.location.backing().is_some() {
            let (now, held) =
                (state.location.domain(), (state.location.footprint(), state.location.group()));
            enlist(self.core(), &mut state.entry, self.slot(), now, held);
        }
    }
}

/// Enters a buffer's eviction entry into the list of its domain, if that keeps one. The buffer is `now` in its
/// preferred domain or elsewhere, with `held` bytes.
pub(in crate::buffer) fn enlist(
    core: &Core,
    entry: &mut EvictionEntry,
    key: SlotId,
    now: DomainId,
    held: impl Into<Charge>,
) {
    unlist(core, entry);
    let purgeable = entry.is_purgeable();
    entry.set_in_system(purgeable && now == DomainId::System);
    let order = entry.order();
    let store = core.domain_state(order);
    let nobody_goes = match order {
        DomainId::System => !purgeable,
        // Nor does anybody where there is room enough.
        DomainId::Vram(_) => !store.is_under_pressure(),
    };
    if nobody_goes {
        return;
    }
    let eviction_list = &store.eviction_list;
    let Charge { bytes, group } = held.into();
    let slot = eviction_list.insert_in(group, key, bytes, entry.priority(), now == order);
    if purgeable {
        eviction_list.set_purgeable(slot, true);
    }
    join_age_group(core, key, order, slot);
    entry.set_slot(slot);
}

/// Takes a buffer's eviction entry out of the list it is in.
pub(in crate::buffer) fn unlist(core: &Core, entry: &mut EvictionEntry) {
    if let Some((order, slot)) = entry.take_slot() {
        core.domain_state(order).eviction_list.remove(slot);
    }
}

/// Somebody may have to go from `domain` from now on: all who want to be there line up, unless they have
/// already.
///
/// Locks: each buffer's reservation, one at a time.
pub(crate) fn start_tracking(set: &Buffers, domain: DomainId) {
    if domain.kind() == DomainKind::Vram && set.core.domain_state(domain).start_tracking() {
        set.live.for_each(|buffer| {
            let mut state = buffer.lock();
            if state.entry.preferred() == domain {
                buffer.line_up_late(&mut state);
            }
        });
    }
}
