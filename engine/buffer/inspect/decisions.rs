//! Records decisions about a buffer, with the reason, in its history, in the trace and in the log.

use std::sync::atomic::Ordering;

use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::device::DeviceId;
use crate::error::Error;
use crate::memory::{Domain, DomainId, GroupId, GroupUsage};
use crate::observe::{Decision, MoveCause, Pick, Reason, What};
use crate::residency::{AccessCounts, SkipReason, Trigger};

impl BufferInner {
    /// Records a decision about where the buffer is. The reservation must be held.
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

    /// Records the placement of a new buffer that is not in its preferred domain. `instead_of` is the error
    /// that the attempt to place it there ended with.
    ///
    /// Locks: the reservation.
    pub(in crate::buffer) fn record_placement(&self, instead_of: Option<&Error>) {
        if !self.is_displaced() {
            // An ordinary placement is not recorded. The tracer still gets the new level of the domain.
            if self.core().tracer.is_on() {
                let domain = self.lock().location().domain();
                self.core().trace_counters(domain);
            }
            return;
        }
        let mut state = self.lock();
        let (wanted, here) = (state.entry().preferred(), state.location().domain());
        let reason = self.why_not_in(wanted, instead_of);
        self.record(&mut state, What::FellBack, [wanted, here], reason);
        self.core().trace_counters(here);
    }

    /// The reason why the buffer has no memory in `wanted`: from the error of the attempt, or `None` if there
    /// was no attempt.
    pub(in crate::buffer) fn why_not_in(&self, wanted: DomainId, error: Option<&Error>) -> Reason {
        let device = match wanted {
            DomainId::Vram(device) => device,
            DomainId::System => self.home_id(),
        };
        match error {
            Some(Error::OutOfMemory { budget, used, code: None, failures, .. }) => {
                // If the cap of its client group was reached, the numbers are the group's.
                let cap = failures.cap_reached();
                let most = failures.most_pinned();
                Reason::NoRoom {
                    budget: cap.map_or(*budget, |reached| reached.cap),
                    used: cap.map_or(*used, |reached| reached.used),
                    pinned: failures.bytes(SkipReason::Pinned),
                    by: most.map(|(by, _)| by),
                    // CAST: saturated; the text says "or more" beyond a few.
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

    /// Records that an eviction skipped the buffer because it is pinned or in use. The reservation must be
    /// held.
    pub(in crate::buffer) fn record_skipped(&self, state: &mut State, kept: SkipReason) {
        let here = state.location().domain();
        if matches!(kept, SkipReason::Pinned | SkipReason::Held)
            && let Some(reason) = what_holds(state)
        {
            self.record(state, What::Stayed, [here, here], reason);
        }
    }

    /// Records that a use did not restore the buffer to its preferred domain. Each reason is recorded once
    /// until another decision follows, because uses are frequent. The reservation must be held.
    pub(in crate::buffer) fn record_not_restored(&self, state: &mut State, reason: Reason) {
        let domains = [state.location().domain(), state.entry().preferred()];
        let kind = std::mem::discriminant(&reason);
        let recorded =
            state.decisions(self.size).take_while(|last| last.what == What::Stayed).any(|last| {
                [last.from, last.to] == domains && std::mem::discriminant(&last.reason) == kind
            });
        if !recorded {
            self.record(state, What::Stayed, domains, reason);
        }
    }

    /// Records that the content is discarded. The reservation must be held, and the buffer must still be in
    /// its eviction list.
    pub(in crate::buffer) fn record_purge(&self, state: &mut State, trigger: Trigger) {
        let here = state.location().domain();
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

    /// Records a move that has happened. The reservation must be held.
    pub(in crate::buffer) fn record_move(
        &self,
        state: &mut State,
        from: DomainId,
        cause: MoveCause,
        trigger: Trigger,
    ) {
        let to = state.location().domain();
        let what = match cause {
            MoveCause::Evicted => What::Evicted,
            MoveCause::Promoted => What::Promoted,
            MoveCause::Restored | MoveCause::Requested => What::Restored,
            MoveCause::Asked
            | MoveCause::Reach
            | MoveCause::Exported
            | MoveCause::Compacted
            | MoveCause::Rearranged => What::Migrated,
            MoveCause::AutoMigrated => What::AutoMigrated,
        };
        let reason = match (cause, trigger) {
            (MoveCause::Exported, _) => Reason::Exported,
            (MoveCause::Rearranged, _) => Reason::Rearranged,
            (MoveCause::Reach, Trigger::Device(by)) => Reason::Reach { by },
            (MoveCause::Promoted, Trigger::Device(device)) => Reason::DeviceLost { device },
            (MoveCause::Restored, Trigger::Device(by)) => Reason::Used { by },
            (MoveCause::AutoMigrated, Trigger::Device(by)) => self.why_auto_migrated(by),
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

    /// The access counts that made `by` the target of an auto-migration.
    fn why_auto_migrated(&self, by: DeviceId) -> Reason {
        let AccessCounts { times, others } =
            self.core().auto_migration.access_counts(self.id(), by);
        Reason::UsedMore { by, times, others }
    }
}

/// The reason why a buffer cannot move now, if there is one. The reservation must be held.
pub(in crate::buffer) fn what_holds(state: &State) -> Option<Reason> {
    let pins = state.pinned();
    if pins > 0 {
        let mut pinned = state.pin_counters().iter().filter(|counter| counter.pins() > 0);
        let by = pinned.next().map(|counter| counter.device());
        // CAST: saturated; the text says "or more" beyond a few thousand.
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

/// The reason that a domain has no room for `charge`: its budget, or the group's cap there.
pub(in crate::buffer) fn full(ledger: &Domain, charge: (u64, GroupId)) -> Reason {
    let (budget, used) = match ledger.group(charge.1) {
        GroupUsage { cap: Some(cap), used, .. } if ledger.is_beyond_cap(charge) => (cap, used),
        _ => (ledger.budget(), ledger.used()),
    };
    Reason::NoRoom { budget, used, pinned: 0, by: None, pins: 0 }
}
