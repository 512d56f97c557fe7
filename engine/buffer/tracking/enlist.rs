//! A buffer's preferred domain, and its entry in that domain's eviction list.

use super::age_group::join_age_group;
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::buffer::state::{EvictionEntry, State};
use crate::core::{Core, SlotId};
use crate::memory::{Charge, DomainId, DomainKind, Provider};
use crate::observe::MoveCause;
use crate::residency::{Priority, Trigger};

impl SharedBuffer {
    /// Sets the eviction priority.
    ///
    /// Locks: the reservation.
    pub fn set_priority(&self, priority: Priority) {
        self.0.set_priority(priority);
    }

    /// The eviction priority.
    ///
    /// Locks: the reservation.
    pub fn priority(&self) -> Priority {
        self.0.priority()
    }

    /// Whether the buffer has its content, in its preferred domain. Read without the reservation: it may change at any
    /// time.
    pub(crate) fn is_in_preferred_domain(&self) -> bool {
        !self.0.is_displaced() && !self.0.status.is_purged()
    }
}

impl BufferInner {
    /// The trigger of an eviction that makes room for this buffer.
    pub(in crate::buffer) fn trigger(&self) -> Trigger {
        Trigger::Room { bytes: self.size, by: Some(self.id()) }
    }

    /// The eviction priority.
    ///
    /// Locks: the reservation.
    pub(crate) fn priority(&self) -> Priority {
        self.lock().entry().priority()
    }

    /// Sets the eviction priority.
    ///
    /// Locks: the reservation.
    pub(crate) fn set_priority(&self, priority: Priority) {
        let mut state = self.lock();
        state.entry_mut().set_priority(priority);
        if let Some(slot) = state.entry().slot() {
            self.core()
                .domain_state(state.entry().list_domain())
                .eviction_list
                .set_priority(slot, priority);
        }
    }

    /// Updates the preferred domain, the entry and the back-off after a move out of the domain `from`. The
    /// reservation must be held.
    pub(in crate::buffer) fn note_move(&self, state: &mut State, from: DomainId, cause: MoveCause) {
        match cause {
            MoveCause::Evicted
            | MoveCause::Restored
            | MoveCause::Requested
            | MoveCause::Compacted
            | MoveCause::Rearranged
            | MoveCause::Promoted => {}
            // To other memory of the domain: for an export, or for a device that attaches.
            MoveCause::Exported | MoveCause::Reach if state.location().domain() == from => {}
            // A move within the domain where the buffer is kept does not say that it may be used there.
            _ if self.needs_restore(state) && state.location().domain() == from => {}
            // A caller chose the new domain, or the buffer could not stay where it was. Either way, the new
            // domain becomes the preferred one.
            _ => self.set_preferred(state, state.location().domain()),
        }
        let now = state.location().domain();
        let entry = state.entry();
        if (entry.is_purgeable() && now == DomainId::System) != entry.is_in_system() {
            self.enlist(state);
        } else if let Some(slot) = state.entry().slot() {
            let order = state.entry().list_domain();
            let here = (now == order).then(|| state.location().footprint());
            self.core().domain_state(order).eviction_list.moved(slot, here);
        }
        let here = now == state.entry().preferred();
        let uses = if here { 0 } else { self.core().throttle.options().uses_before_return };
        self.backoff.set(uses);
    }

    /// Sets the preferred domain, and moves the entry to its list. The reservation must be held.
    pub(in crate::buffer) fn set_preferred(&self, state: &mut State, domain: DomainId) {
        if state.entry().preferred() == domain {
            return;
        }
        unlist(self.core(), state.entry_mut());
        state.entry_mut().set_preferred(domain);
        self.enlist(state);
        // A purged buffer is not restored automatically.
        let displaced =
            state.location().backing().is_some_and(|backing| backing.domain() != domain);
        self.backoff.set(u8::from(displaced));
    }

    /// Sets whether the content may be discarded, and enters the buffer into the list that it then belongs
    /// to. The reservation must be held.
    pub(in crate::buffer) fn mark_purgeable(&self, state: &mut State, purgeable: bool) {
        if state.entry().is_purgeable() != purgeable {
            unlist(self.core(), state.entry_mut());
            state.entry_mut().set_purgeable(purgeable);
            self.enlist(state);
        }
    }

    /// Enlists the buffer in its preferred domain if that domain has come under pressure since the buffer was
    /// made. The reservation must be held.
    #[inline]
    pub(in crate::buffer) fn enlist_late(&self, state: &mut State) {
        if self.is_to_be_listed(state) {
            self.enlist(state);
        }
    }

    /// Whether [`BufferInner::enlist_late`] has something to do. The reservation must be held.
    #[inline]
    pub(in crate::buffer) fn is_to_be_listed(&self, state: &State) -> bool {
        let entry = state.entry();
        entry.slot().is_none()
            && entry.preferred().kind() == DomainKind::Vram
            && self.core().domain_state(entry.list_domain()).is_under_pressure()
            && !matches!(state.location().provider(), Provider::Foreign(_))
    }

    /// Enlists the buffer in the list that it belongs to now. A purged buffer is in no list. The reservation
    /// must be held.
    pub(in crate::buffer) fn enlist(&self, state: &mut State) {
        if state.location().backing().is_some() {
            let (now, held) = (
                state.location().domain(),
                (state.location().footprint(), state.location().group()),
            );
            enlist(self.core(), state.entry_mut(), self.slot(), now, held);
        }
    }
}

/// Enters a buffer's eviction entry into the list of its domain, if that domain keeps one. The buffer is in
/// domain `now`, with `held` bytes.
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
    let list_domain = entry.list_domain();
    let domain = core.domain_state(list_domain);
    let evicts_none = match list_domain {
        DomainId::System => !purgeable,
        // A domain with free memory keeps no list.
        DomainId::Vram(_) => !domain.is_under_pressure(),
    };
    if evicts_none {
        return;
    }
    let eviction_list = &domain.eviction_list;
    let Charge { bytes, group } = held.into();
    let slot = eviction_list.insert_in(group, key, bytes, entry.priority(), now == list_domain);
    if purgeable {
        eviction_list.set_purgeable(slot, true);
    }
    join_age_group(core, key, list_domain, slot);
    entry.set_slot(slot);
}

/// Removes a buffer's eviction entry from its list, if it is in one.
pub(in crate::buffer) fn unlist(core: &Core, entry: &mut EvictionEntry) {
    if let Some((order, slot)) = entry.take_slot() {
        core.domain_state(order).eviction_list.remove(slot);
    }
}

/// Enlists every buffer that prefers `domain`, because evictions from it are about to start. Does nothing if
/// that was done before.
///
/// Locks: each buffer's reservation, one at a time.
pub(crate) fn start_tracking(set: &Buffers, domain: DomainId) {
    if domain.kind() == DomainKind::Vram && set.core.domain_state(domain).start_tracking() {
        set.live.for_each(|buffer| {
            let mut state = buffer.lock();
            if state.entry().preferred() == domain {
                buffer.enlist_late(&mut state);
            }
        });
    }
}
