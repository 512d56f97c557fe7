//! Where a buffer wants to be, and its slot among those who are there or would like to be.

use super::age_group::join_age_group;
use super::registry::SlotId;
use super::shared::BufferInner;
use super::state::State;
use super::traits::{bits_of, priority_of};
use crate::core::Core;
use crate::device::DeviceId;
use crate::memory::{Charge, DomainId, DomainKind, Placement, Provider};
use crate::observe::MoveCause;
use crate::residency::policy::Slot;
use crate::residency::{Demand, Priority};

/// The place in whose order of eviction a buffer stands: where it wants to be, or, if it may lose its content
/// and is in system memory, there.
///
/// From system memory a buffer has nowhere to go: who is to keep its content stands in no order there.
// Packed, for its seven bytes to be no eight: another byte of the state lies beside it.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(super) struct Berth {
    /// [`NO_SLOT`] where there is no order.
    slot: u32,
    /// The device whose memory it is; [`SYSTEM`] is none.
    wanted: u16,
    marks: Marks,
}

const NO_SLOT: u32 = u32::MAX;
/// No device has this number: the 65,536th is turned away.
const SYSTEM: u16 = u16::MAX;

/// How much it matters that it is there, in the lowest two bits, and what else decides about its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks(u8);

const PRIORITY: u8 = 3;
/// Its content may be lost.
const PURGEABLE: u8 = 1 << 2;
/// It stands in the order of system memory.
const IN_SYSTEM: u8 = 1 << 3;

impl Berth {
    /// In no order: that of a stranger's buffer, which nobody ever evicts, or of one that is nowhere yet.
    pub(super) fn none(wanted: DomainId, priority: Priority, purgeable: bool) -> Self {
        let marks = Marks(bits_of(priority)).with(PURGEABLE, purgeable);
        Self { slot: NO_SLOT, wanted: packed(wanted), marks }
    }

    /// It is `now` where it wants to be, or elsewhere, with so many bytes.
    pub(super) fn join(
        &mut self,
        core: &Core,
        key: SlotId,
        now: DomainId,
        held: impl Into<Charge>,
    ) {
        self.leave(core);
        let purgeable = self.is_purgeable();
        self.marks = self.marks.with(IN_SYSTEM, purgeable && now == DomainId::System);
        let store = core.store(self.order());
        let nobody_goes = match self.order() {
            DomainId::System => !purgeable,
            // Nor does anybody where there is room enough.
            DomainId::Vram(_) => !store.is_tight(),
        };
        if nobody_goes {
            return;
        }
        let recency = &store.recency;
        let Charge { bytes, group } = held.into();
        let slot = recency.join_in(group, key, bytes, self.priority(), now == self.order());
        if purgeable {
            recency.set_purgeable(slot, true);
        }
        join_age_group(core, key, self.order(), slot);
        self.slot = slot.0;
    }

    /// In whose order it stands, if in any.
    pub(super) fn order(self) -> DomainId {
        if self.is_in_system() { DomainId::System } else { self.wanted() }
    }

    /// Whether its content may be lost.
    pub(super) fn is_purgeable(self) -> bool {
        self.marks.has(PURGEABLE)
    }

    fn is_in_system(self) -> bool {
        self.marks.has(IN_SYSTEM)
    }

    pub(super) fn wanted(self) -> DomainId {
        match self.wanted {
            SYSTEM => DomainId::System,
            device => DomainId::Vram(DeviceId(device)),
        }
    }

    pub(super) fn priority(self) -> Priority {
        priority_of(self.marks.0)
    }

    pub(super) fn slot(self) -> Option<Slot> {
        (self.slot != NO_SLOT).then_some(Slot(self.slot))
    }

    /// The buffer goes, or wants to be elsewhere.
    pub(super) fn leave(&mut self, core: &Core) {
        if let Some(slot) = self.slot() {
            core.store(self.order()).recency.leave(slot);
        }
        self.slot = NO_SLOT;
    }
}

impl Marks {
    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    fn with(self, mark: u8, on: bool) -> Self {
        Self(self.0 & !mark | if on { mark } else { 0 })
    }
}

fn packed(domain: DomainId) -> u16 {
    match domain {
        DomainId::Vram(device) => device.0,
        DomainId::System => SYSTEM,
    }
}

/// Where a buffer of this placement wants to be.
pub(super) fn preferred_domain(placement: Placement, home: DeviceId) -> DomainId {
    match placement {
        Placement::VramOrSystem | Placement::Vram => DomainId::Vram(home),
        Placement::System => DomainId::System,
    }
}

impl BufferInner {
    /// That room is wanted for it.
    pub(super) fn demand(&self) -> Demand {
        Demand::Room { bytes: self.size, by: Some(self.id()) }
    }

    /// A device uses it; the host is none. The reservation is held.
    pub(super) fn note_use(&self, state: &mut State, device: Option<DeviceId>) {
        self.trace_use(state, device);
        self.note_pull_of_all(state, device);
        self.line_up_late(state);
        self.age(state);
    }

    /// How much it matters that it is where it wants to be.
    pub(crate) fn priority(&self) -> Priority {
        self.lock().berth.priority()
    }

    /// It matters so much from now on.
    pub(crate) fn set_priority(&self, priority: Priority) {
        let mut state = self.lock();
        state.berth.marks = Marks(state.berth.marks.0 & !PRIORITY | bits_of(priority));
        if let Some(slot) = state.berth.slot() {
            self.core.store(state.berth.order()).recency.set_priority(slot, priority);
        }
    }

    /// It has moved. The reservation is held.
    pub(super) fn note_move(&self, state: &mut State, cause: MoveCause) {
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
            self.line_up(state);
        } else if let Some(slot) = state.berth.slot() {
            let order = state.berth.order();
            let here = (now == order).then(|| state.place.footprint());
            self.core.store(order).recency.moved(slot, here);
        }
        let here = now == state.berth.wanted();
        let uses = if here { 0 } else { self.core.throttle.rules().uses_before_return };
        self.away.set(uses);
    }

    /// It wants to be there from now on. The reservation is held.
    pub(super) fn want(&self, state: &mut State, place: DomainId) {
        if state.berth.wanted() == place {
            return;
        }
        state.berth.leave(&self.core);
        state.berth.wanted = packed(place);
        self.line_up(state);
        // What is nowhere does not come back by itself.
        let away = state.place.backing().is_some_and(|backing| backing.domain() != place);
        self.away.set(u8::from(away));
    }

    /// Its content may be lost from now on, or may not be. The reservation is held.
    pub(super) fn let_lose(&self, state: &mut State, purgeable: bool) {
        if state.berth.is_purgeable() != purgeable {
            state.berth.leave(&self.core);
            state.berth.marks = state.berth.marks.with(PURGEABLE, purgeable);
            self.line_up(state);
        }
    }

    /// It takes its slot, if its place has become tight since it came. The reservation is held.
    pub(super) fn line_up_late(&self, state: &mut State) {
        let berth = state.berth;
        if berth.slot().is_none()
            && berth.wanted().kind() == DomainKind::Vram
            && self.core.store(berth.order()).is_tight()
            && !matches!(state.place.provider(), Provider::Foreign(_))
        {
            self.line_up(state);
        }
    }

    /// It takes its slot where it is to stand now; none while it is nowhere. The reservation is held.
    pub(super) fn line_up(&self, state: &mut State) {
        if state.place.backing().is_some() {
            let (now, held) =
                (state.place.domain(), (state.place.footprint(), state.place.group()));
            state.berth.join(&self.core, self.slot(), now, held);
        }
    }
}

/// Somebody may have to go from `domain` from now on: all who want to be there line up, unless they have
/// already.
///
/// Locks: each buffer's reservation, one at a time.
pub(crate) fn tighten(core: &Core, domain: DomainId) {
    if domain.kind() == DomainKind::Vram && core.store(domain).tighten() {
        core.buffers.for_each(|buffer| {
            let mut state = buffer.lock();
            if state.berth.wanted() == domain {
                buffer.line_up_late(&mut state);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_bytes_tell_it_all() {
        for wanted in
            [DomainId::System, DomainId::Vram(DeviceId(0)), DomainId::Vram(DeviceId(65_534))]
        {
            for priority in Priority::ALL {
                for purgeable in [false, true] {
                    let berth = Berth::none(wanted, priority, purgeable);
                    assert_eq!((berth.wanted(), berth.order()), (wanted, wanted));
                    assert_eq!((berth.priority(), berth.is_purgeable()), (priority, purgeable));
                    assert!(!berth.is_in_system() && berth.slot().is_none());
                    let marks = berth.marks.with(IN_SYSTEM, true);
                    let berth = Berth { marks, slot: 0, ..berth };
                    assert_eq!((berth.wanted(), berth.order()), (wanted, DomainId::System));
                    assert_eq!((berth.priority(), berth.is_purgeable()), (priority, purgeable));
                    assert_eq!(berth.slot(), Some(Slot(0)));
                }
            }
        }
        assert_eq!(size_of::<Berth>(), 7);
    }
}
