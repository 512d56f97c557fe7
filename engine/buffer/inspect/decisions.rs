//! What is told of a buffer, to whoever records it: uses, moves, decisions.

use std::sync::atomic::Ordering;

use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::device::DeviceId;
use crate::error::Error;
use crate::memory::{Domain, DomainId, GroupId, GroupUsage};
use crate::observe::{Decision, MoveCause, Pick, Reason, What};
use crate::residency::{AccessCounts, Kept, Trigger};

impl BufferInner {
    /// Something was decided about where it is. The reservation is held.
    pub(in crate::buffer) fn record(
        &self,
        state: &mut State,
        what: What,
        [from, to]: [DomainId; 2],
        reason: Reason,
    ) {
        let when = self.core().counters.decisions.fetch_add(1, Ordering::Relaxed);
        let decision = Decision { what, when, from, to, bytes: self.size, reason };
        state.remember(&decision);
        self.core().tracer.decision(self.id(), &decision);
        tracing::trace!(buffer = self.id(), %decision, "decided");
    }

    /// It is new, and here instead of somewhere better, if that failed.
    ///
    /// Locks: the reservation.
    pub(in crate::buffer) fn record_placement(&self, instead_of: Option<&Error>) {
        if !self.is_displaced() {
            // Not worth remembering; but somebody may look at how full the place is.
            if self.core().tracer.is_on() {
                let domain = self.lock().location.domain();
                self.core().trace_counters(domain);
            }
            return;
        }
        let mut state = self.lock();
        let (wanted, here) = (state.entry.preferred(), state.location.domain());
        let reason = self.why_not_in(wanted, instead_of);
        self.record(&mut state, What::FellBack, [wanted, here], reason);
        self.core().trace_counters(here);
    }

    /// Why it could not be had in `wanted`, by what came of the attempt, if it came to one.
    pub(in crate::buffer) fn why_not_in(&self, wanted: DomainId, error: Option<&Error>) -> Reason {
        let device = match wanted {
            DomainId::Vram(device) => device,
            DomainId::System => self.home_id(),
        };
        match error {
            Some(Error::OutOfMemory { budget, used, code: None, obstacles, .. }) => {
                // What its client group may have there, if that was it.
                let cap = obstacles.cap_reached();
                let most = obstacles.most_pinned();
                Reason::NoRoom {
                    budget: cap.map_or(*budget, |reached| reached.cap),
                    used: cap.map_or(*used, |reached| reached.used),
                    pinned: obstacles.bytes(Kept::Pinned),
                    by: most.map(|(by, _)| by),
                    // CAST: saturated; beyond a few it is "or more".
                    pins: most.map_or(0, |(_, pins)| pins.min(u64::from(u32::MAX)) as u32),
                }
            }
            Some(error) if error.is_out_of_memory() => Reason::DriverOutOfMemory { device },
            None | Some(Error::Unreachable { .. } | Error::Unsupported { .. }) => {
                Reason::NotShareable
            }
            Some(_) => Reason::DriverFailed { device },
        }
    }

    /// Somebody wanted it to go, and it stays. The reservation is held.
    pub(in crate::buffer) fn record_skipped(&self, state: &mut State, kept: Kept) {
        let here = state.location.domain();
        if matches!(kept, Kept::Pinned | Kept::Held)
            && let Some(reason) = what_holds(state)
        {
            self.record(state, What::Stayed, [here, here], reason);
        }
    }

    /// It is used, and does not come back to where it wants to be. Said once for each reason, until something
    /// else is decided: it may be used often. The reservation is held.
    pub(in crate::buffer) fn record_not_restored(&self, state: &mut State, reason: Reason) {
        let places = [state.location.domain(), state.entry.preferred()];
        let kind = std::mem::discriminant(&reason);
        let said =
            state.decisions(self.size).take_while(|last| last.what == What::Stayed).any(|last| {
                [last.from, last.to] == places && std::mem::discriminant(&last.reason) == kind
            });
        if !said {
            self.record(state, What::Stayed, places, reason);
        }
    }

    /// Its content goes. The reservation is held, and it still stands in its order.
    pub(in crate::buffer) fn record_purge(&self, state: &mut State, trigger: Trigger) {
        let here = state.location.domain();
        let reason = match trigger {
            Trigger::Room { bytes, by } => {
                let (_, of) = self.core().domain_state(here).eviction_list.pick();
                Reason::Wanted { bytes, by, pick: Pick::Cheapest, of }
            }
            Trigger::All => Reason::All,
            Trigger::Device(_) | Trigger::Asked => Reason::Asked,
        };
        self.record(state, What::Purged, [here, here], reason);
    }

    /// It has moved. The reservation is held.
    pub(in crate::buffer) fn record_move(
        &self,
        state: &mut State,
        from: DomainId,
        cause: MoveCause,
        trigger: Trigger,
    ) {
        let to = state.location.domain();
        let what = match cause {
            MoveCause::Evicted => What::Evicted,
            MoveCause::Promoted => What::Promoted,
            MoveCause::Returned | MoveCause::Requested => What::Restored,
            MoveCause::Asked | MoveCause::Reach | MoveCause::HandedOut => What::Migrated,
            MoveCause::Attracted => What::Attracted,
        };
        let reason = match (cause, trigger) {
            (MoveCause::HandedOut, _) => Reason::HandedOut,
            (MoveCause::Reach, Trigger::Device(by)) => Reason::Reach { by },
            (MoveCause::Promoted, Trigger::Device(device)) => Reason::DeviceLost { device },
            (MoveCause::Returned, Trigger::Device(by)) => Reason::Used { by },
            (MoveCause::Attracted, Trigger::Device(by)) => self.why_auto_migrated(by),
            (MoveCause::Evicted, Trigger::Room { bytes, by }) => {
                let (pick, others) = self.core().domain_state(from).eviction_list.pick();
                Reason::Wanted { bytes, by, pick, of: others + 1 }
            }
            (_, Trigger::All) => Reason::All,
            _ => Reason::Asked,
        };
        self.record(state, what, [from, to], reason);
        self.core().trace_counters(from);
        self.core().trace_counters(to);
    }

    /// Who drew it, in numbers.
    fn why_auto_migrated(&self, by: DeviceId) -> Reason {
        let AccessCounts { times, others } =
            self.core().auto_migration.access_counts(self.id(), by);
        Reason::UsedMore { by, times, others }
    }
}

/// What keeps a buffer from moving, if something does. Its reservation is held.
pub(in crate::buffer) fn what_holds(state: &State) -> Option<Reason> {
    let pins = state.pinned();
    if pins > 0 {
        let mut lines = state.pin_counters().iter().filter(|line| line.pins() > 0);
        let by = lines.next().map(|line| line.device());
        // CAST: saturated; beyond a few thousand it is "or more".
        return Some(Reason::Pinned { by, pins: pins.min(u64::from(u32::MAX)) as u32 });
    }
    if state.host() > 0 {
        return Some(Reason::HostAccess);
    }
    if state.static_mappings() == 0 {
        return None;
    }
    state.mappings().first().map(|&(by, _)| Reason::Mapped { by })
}

/// That a place has no room for what is to be charged there.
pub(in crate::buffer) fn full(ledger: &Domain, charge: (u64, GroupId)) -> Reason {
    let (budget, used) = match ledger.group(charge.1) {
        GroupUsage { cap: Some(cap), used, .. } if ledger.is_beyond_cap(charge) => (cap, used),
        _ => (ledger.budget(), ledger.used()),
    };
    Reason::NoRoom { budget, used, pinned: 0, by: None, pins: 0 }
}
