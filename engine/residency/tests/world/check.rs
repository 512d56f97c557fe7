//! The invariants that hold after every step.

use std::collections::HashSet;

use super::{Fake, Nature};
use crate::memory::GroupId;
use crate::residency::eviction_failures::EvictionFailures;

impl Fake {
    /// Asserts all invariants. No operation may be in progress.
    pub(in crate::residency::tests) fn check(&self) {
        for at in 0..self.sites.len() {
            self.check_ledger(at);
            self.check_order(at);
        }
    }

    /// Whether a buffer has no pending work and no mapping that would keep its bytes in use.
    pub(in crate::residency::tests) fn is_idle(&self, buffer: u32) -> bool {
        let mut inner = self.inner();
        let each = inner.buffer(buffer).clone();
        !each.mapped && inner.pending(&each.work).is_empty()
    }

    /// Whether a domain's provider has as much memory as its ledger.
    pub(in crate::residency::tests) fn gives(&self, at: usize) -> bool {
        self.inner().natures[at] == Nature::Works
    }

    /// Whether copies take no time and all providers have as much memory as their ledgers.
    pub(in crate::residency::tests) fn works_plainly(&self) -> bool {
        let inner = self.inner();
        !inner.slow && inner.natures.iter().all(|nature| *nature == Nature::Works)
    }

    /// Whether a domain has a candidate that is not among the obstacles.
    pub(in crate::residency::tests) fn could_go(
        &self,
        at: usize,
        of: GroupId,
        failures: &EvictionFailures,
    ) -> bool {
        let kept: u32 = failures.iter().map(|(_, _, count)| count).sum();
        let there = self.site(at).eviction_list.residents();
        let may_go = |key| of == GroupId::NONE || self.buffer(key).group == of;
        // CAST: a few buffers.
        there.iter().filter(|each| may_go(each.key)).count() > kept as usize
    }

    /// Ends all work and frees what is no longer in use.
    pub(in crate::residency::tests) fn end_all(&self) {
        let mut inner = self.inner();
        inner.work.iter_mut().for_each(|work| work.over = true);
        inner.in_flight.iter_mut().for_each(|each| each.ghost = false);
        (0..self.sites.len()).for_each(|at| self.collect(&mut inner, at));
    }

    fn check_ledger(&self, at: usize) {
        let inner = self.inner();
        let ledger = &self.sites[at].store.ledger;
        let usage = ledger.usage();
        let alive = inner.buffers.iter().flatten().filter(|each| each.at == Some(at));
        let live: u64 = alive.map(|each| each.bytes).sum();
        let in_flight: u64 =
            inner.in_flight.iter().filter(|each| each.at == at).map(|each| each.bytes).sum();
        assert_eq!(usage.used, live + in_flight, "domain {at}: resident bytes and those in flight");
        assert_eq!(usage.used, inner.given[at], "domain {at}: bytes from its provider");
        for group in 1..4 {
            let is_its = |of| of == GroupId(group);
            let alive = inner.buffers.iter().flatten().filter(|each| each.at == Some(at));
            let live: u64 = alive.filter(|each| is_its(each.group)).map(|each| each.bytes).sum();
            let in_flight =
                inner.in_flight.iter().filter(|each| each.at == at && is_its(each.group));
            let in_flight: u64 = in_flight.map(|each| each.bytes).sum();
            let used = ledger.group(GroupId(group)).used;
            assert_eq!(used, live + in_flight, "domain {at}, group {group}: bytes of its buffers");
        }
        assert!(usage.peak >= usage.used, "domain {at}: {usage:?}");
        let free = usage.budget.saturating_sub(usage.used);
        assert!(usage.used > usage.budget || ledger.has_room(free), "domain {at}: a claim is left");
    }

    fn check_order(&self, at: usize) {
        let listed = self.order(at);
        let here: HashSet<u32> =
            self.site(at).eviction_list.residents().into_iter().map(|each| each.key).collect();
        let unique: HashSet<u32> = listed.iter().copied().collect();
        assert_eq!(unique.len(), listed.len(), "domain {at}: no duplicates");
        assert!(unique.is_subset(&here), "domain {at}: every entry in order is resident");
        let inner = self.inner();
        for (n, each) in inner.buffers.iter().enumerate() {
            // CAST: a few buffers.
            let known = here.contains(&(n as u32));
            let is_here = each.as_ref().is_some_and(|each| each.at == Some(at));
            assert_eq!(known, is_here, "domain {at}: buffer {n}, {each:?}");
        }
    }
}
