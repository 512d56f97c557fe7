//! The walk over a domain's eviction list.
//!
//! Kernel counterpart: `ttm_lru_walk_for_evict`.

use smallvec::SmallVec;

use super::eviction_failures::{EvictionFailures, SkipReason};
use super::list_entry::Victim;
use super::policy::Slot;
use super::world::{EvictionLimits, World};
use crate::memory::{DomainId, GroupId};

/// The result of a walk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evicted {
    /// Bytes that were evicted; some may still be in flight.
    pub(crate) moved: u64,
    pub(crate) failures: EvictionFailures,
}

/// One search for victims. Each candidate is tried once, and once more if blocking is allowed.
pub(super) struct Walk<'a, W: World> {
    world: &'a W,
    domain: DomainId,
    limits: EvictionLimits,
    /// The value of `limits.may_block` at the start.
    may_block: bool,
    /// The client group whose buffers are candidates; [`GroupId::NONE`] for all.
    within: GroupId,
    /// Candidates that were tried and not evicted, with the reasons.
    kept: Vec<(Victim<W::Key>, SkipReason)>,
    /// Candidates that were evicted. They may be back already: then they were used, and others are tried
    /// instead.
    evicted: Vec<Slot>,
    evicted_bytes: u64,
    /// The number of parked buffers that were not tried again yet; `None` before the first look.
    parked: Option<usize>,
    /// Whether only purgeable buffers are candidates.
    purges_only: bool,
}

/// How many parked buffers are put back in order at once.
const RECHECK: usize = 64;

impl<'a, W: World> Walk<'a, W> {
    pub(super) fn new(world: &'a W, domain: DomainId, limits: &EvictionLimits) -> Self {
        let limits = limits.deeper();
        let (may_block, within) = (limits.may_block, GroupId::NONE);
        Self {
            world,
            domain,
            limits,
            may_block,
            within,
            kept: vec![],
            evicted: vec![],
            evicted_bytes: 0,
            parked: None,
            purges_only: false,
        }
    }

    /// A walk over the purgeable buffers of a domain. A move of the others would free no byte of what is short.
    pub(super) fn purging(world: &'a W, domain: DomainId, limits: &EvictionLimits) -> Self {
        Self { purges_only: true, ..Self::new(world, domain, limits) }
    }

    /// Bytes that were evicted so far.
    pub(super) fn evicted_bytes(&self) -> u64 {
        self.evicted_bytes
    }

    /// Evicts buffers of about `wanted` bytes: of a client group, or of any. Returns `false` if no candidate is
    /// left.
    pub(super) fn step(&mut self, wanted: u64, within: GroupId) -> bool {
        if within != self.within {
            // Other candidates from now on, at first without blocking.
            (self.within, self.parked, self.limits.may_block) = (within, None, self.may_block);
        }
        // Even if the ledger has room: the provider may have less memory than the ledger says.
        self.world.start_tracking(self.domain);
        let eviction_list = &self.world.domain_state(self.domain).eviction_list;
        loop {
            let tried = self.tried();
            let skip = |slot| tried.binary_search(&slot).is_ok();
            let victims = if self.purges_only {
                eviction_list.purgeable_victims(wanted, &skip)
            } else {
                eviction_list.victims_of(within, wanted, self.limits.max_priority, &skip)
            };
            if !victims.is_empty() {
                let outcomes = self.world.evict(self.domain, &victims, &self.limits);
                for (victim, outcome) in victims.into_iter().zip(outcomes) {
                    self.record(victim, outcome);
                }
                return true;
            }
            if !self.add_candidates() {
                return false;
            }
        }
    }

    /// The slots that were tried. Sorted, so that a walk past many pinned buffers does not take quadratic time.
    fn tried(&self) -> SmallVec<[Slot; 16]> {
        let kept = self.kept.iter().map(|(victim, _)| victim.slot);
        let mut tried: SmallVec<[Slot; 16]> = kept.chain(self.evicted.iter().copied()).collect();
        tried.sort_unstable();
        tried
    }

    /// Makes parked buffers, or buffers that were locked or busy, candidates again. Returns whether there may
    /// be any.
    fn add_candidates(&mut self) -> bool {
        let eviction_list = &self.world.domain_state(self.domain).eviction_list;
        // Parked buffers may have been unpinned since.
        let parked = *self.parked.get_or_insert_with(|| eviction_list.parked());
        if parked > 0 {
            let tried = self.tried();
            let skip = |slot| tried.binary_search(&slot).is_ok();
            eviction_list.recheck(self.within, parked.min(RECHECK), &skip);
            self.parked = Some(parked.saturating_sub(RECHECK));
            return true;
        }
        let before = self.kept.len();
        if self.limits.wait.is_some() && !self.limits.may_block {
            self.limits.may_block = true;
            // A failed move may succeed by another copy path, which needs a wait.
            let again =
                |why| matches!(why, SkipReason::Locked | SkipReason::Busy | SkipReason::Failed);
            self.kept.retain(|(_, why)| !again(*why));
        }
        self.kept.len() < before
    }

    fn record(&mut self, victim: Victim<W::Key>, outcome: Result<(), SkipReason>) {
        match outcome {
            Ok(()) => {
                self.evicted_bytes += victim.bytes;
                self.evicted.push(victim.slot);
            }
            Err(why) => {
                if matches!(why, SkipReason::Pinned | SkipReason::Held | SkipReason::Unreachable) {
                    self.world.domain_state(self.domain).eviction_list.park(&victim);
                }
                self.kept.push((victim, why));
            }
        }
    }

    /// The result so far.
    pub(super) fn result(&self) -> Evicted {
        Evicted { moved: self.evicted_bytes, failures: self.failures() }
    }

    /// The reasons why candidates were not evicted.
    pub(super) fn failures(&self) -> EvictionFailures {
        let mut failures = EvictionFailures::default();
        for (victim, why) in &self.kept {
            failures.add(*why, victim.bytes);
            // A buffer that has left the domain is no obstacle.
            if *why == SkipReason::Pinned || *why != SkipReason::Gone && !failures.names_enough() {
                self.world.name_kept(victim.key, *why, &mut failures);
            }
        }
        failures
    }
}
