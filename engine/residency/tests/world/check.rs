//! What is true after every step, whatever was done.

use std::collections::HashSet;

use super::{Fake, Nature};
use crate::memory::GroupId;
use crate::residency::obstacles::Obstacles;

impl Fake {
    /// Asserts it. For when nobody is in the middle of something.
    pub(in crate::residency::tests) fn check(&self) {
        for at in 0..self.sites.len() {
            self.check_ledger(at);
            self.check_order(at);
        }
    }

    /// Whether nothing is at work on a buffer, and nobody but its pins would keep it or any of its bytes.
    pub(in crate::residency::tests) fn is_idle(&self, buffer: u32) -> bool {
        let mut inner = self.inner();
        let each = inner.buffer(buffer).clone();
        !each.haunted && inner.pending(&each.work).is_empty()
    }

    /// Whether a place's provider has what its ledger says.
    pub(in crate::residency::tests) fn gives(&self, at: usize) -> bool {
        self.inner().natures[at] == Nature::Works
    }

    /// Whether copies take no time and all providers have what their ledgers say.
    pub(in crate::residency::tests) fn works_plainly(&self) -> bool {
        let inner = self.inner();
        !inner.slow && inner.natures.iter().all(|nature| *nature == Nature::Works)
    }

    /// Whether somebody in a place could go who is not among those who stood in the way.
    pub(in crate::residency::tests) fn could_go(
        &self,
        at: usize,
        of: GroupId,
        obstacles: &Obstacles,
    ) -> bool {
        let kept: u32 = obstacles.iter().map(|(_, _, count)| count).sum();
        let there = self.site(at).recency.residents();
        let may_go = |key| of == GroupId::NONE || self.buffer(key).group == of;
        // CAST: a few buffers.
        there.iter().filter(|each| may_go(each.key)).count() > kept as usize
    }

    /// All work is over, and what is not in use any more is taken back.
    pub(in crate::residency::tests) fn end_all(&self) {
        let mut inner = self.inner();
        inner.work.iter_mut().for_each(|work| work.over = true);
        inner.on_way.iter_mut().for_each(|each| each.ghost = false);
        (0..self.sites.len()).for_each(|at| self.collect(&mut inner, at));
    }

    fn check_ledger(&self, at: usize) {
        let inner = self.inner();
        let ledger = &self.sites[at].store.ledger;
        let usage = ledger.usage();
        let alive = inner.buffers.iter().flatten().filter(|each| each.at == Some(at));
        let live: u64 = alive.map(|each| each.bytes).sum();
        let on_way: u64 =
            inner.on_way.iter().filter(|each| each.at == at).map(|each| each.bytes).sum();
        assert_eq!(usage.used, live + on_way, "place {at}: who is there, and what is on its way");
        assert_eq!(usage.used, inner.given[at], "place {at}: what its provider gave");
        for group in 1..4 {
            let is_its = |of| of == GroupId(group);
            let alive = inner.buffers.iter().flatten().filter(|each| each.at == Some(at));
            let live: u64 = alive.filter(|each| is_its(each.group)).map(|each| each.bytes).sum();
            let on_way = inner.on_way.iter().filter(|each| each.at == at && is_its(each.group));
            let on_way: u64 = on_way.map(|each| each.bytes).sum();
            let used = ledger.group(GroupId(group)).used;
            assert_eq!(used, live + on_way, "place {at}, group {group}: what its own have");
        }
        assert!(usage.peak >= usage.used, "place {at}: {usage:?}");
        let free = usage.budget.saturating_sub(usage.used);
        assert!(usage.used > usage.budget || ledger.has_room(free), "place {at}: a claim is left");
    }

    fn check_order(&self, at: usize) {
        let listed = self.order(at);
        let here: HashSet<u32> =
            self.site(at).recency.residents().into_iter().map(|each| each.key).collect();
        let unique: HashSet<u32> = listed.iter().copied().collect();
        assert_eq!(unique.len(), listed.len(), "place {at}: nobody is named twice");
        assert!(unique.is_subset(&here), "place {at}: who is in order is here");
        let inner = self.inner();
        for (n, each) in inner.buffers.iter().enumerate() {
            // CAST: a few buffers.
            let known = here.contains(&(n as u32));
            let is_here = each.as_ref().is_some_and(|each| each.at == Some(at));
            assert_eq!(known, is_here, "place {at}: buffer {n}, {each:?}");
        }
    }
}
