//! Where a buffer wants to be, and its slot among those who are there or would like to be.

use super::age_group::join_age_group;
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::buffer::state::{Berth, State};
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
        self.lock().berth.priority()
    }

    /// It matters so much from now on.
    pub(crate) fn set_priority(&self, priority: Priority) {
        let mut state = self.lock();
        state.berth.set_priority(priority);
        if let Some(slot) = state.berth.slot() {
            self.core()
                .domain_state(state.berth.order())
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
            _ => self.want(state, state.place.domain()),
        }
        let now = state.place.domain();
        let berth = state.berth;
        if (berth.is_purgeable() && now == DomainId::System) != berth.is_in_system() {
            self.enlist(state);
        } else if let Some(slot) = state.berth.slot() {
            let order = state.berth.order();
            let here = (now == order).then(|| state.place.footprint());
            self.core().domain_state(order).eviction_list.moved(slot, here);
        }
        let here = now == state.berth.wanted();
        let uses = if here { 0 } else { self.core().throttle.rules().uses_before_return };
        self.away.set(uses);
    }

    /// It wants to be there from now on. The reservation is held.
    pub(in crate::buffer) fn want(&self, state: &mut State, place: DomainId) {
        if state.berth.wanted() == place {
            return;
        }
        unlist(self.core(), &mut state.berth);
        state.berth.set_wanted(place);
        self.enlist(state);
        // What is nowhere does not come back by itself.
        let away = state.place.backing().is_some_and(|backing| backing.domain() != place);
        self.away.set(u8::from(away));
    }

    /// Its content may be lost from now on, or may not be. The reservation is held.
    pub(in crate::buffer) fn let_lose(&self, state: &mut State, purgeable: bool) {
        if state.berth.is_purgeable() != purgeable {
            unlist(self.core(), &mut state.berth);
            state.berth.set_purgeable(purgeable);
            self.enlist(state);
        }
    }

    /// It takes its slot, if its place has become tight since it came. The reservation is held.
    pub(in crate::buffer) fn line_up_late(&self, state: &mut State) {
        let berth = state.berth;
        if berth.slot().is_none()
            && berth.wanted().kind() == DomainKind::Vram
            && self.core().domain_state(berth.order()).is_under_pressure()
            && !matches!(state.place.provider(), Provider::Foreign(_))
        {
            self.enlist(state);
        }
    }

    /// It takes its slot where it is to stand now; none while it is nowhere. The reservation is held.
    pub(in crate::buffer) fn enlist(&self, state: &mut State) {
        if state.place.backing().is_some() {
            let (now, held) =
                (state.place.domain(), (state.place.footprint(), state.place.group()));
            enlist(self.core(), &mut state.berth, self.slot(), now, held);
        }
    }
}

/// Enters a buffer's eviction entry into the list of its domain, if that keeps one. The buffer is `now` in its
/// preferred domain or elsewhere, with `held` bytes.
pub(in crate::buffer) fn enlist(
    core: &Core,
    entry: &mut Berth,
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
pub(in crate::buffer) fn unlist(core: &Core, entry: &mut Berth) {
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
            if state.berth.wanted() == domain {
                buffer.line_up_late(&mut state);
            }
        });
    }
}
