//! The walk past those who may be asked to leave.
//!
//! Kernel counterpart: `ttm_lru_walk_for_evict`.

use smallvec::SmallVec;

use super::obstacles::{Kept, Obstacles};
use super::policy::Slot;
use super::recency::Victim;
use super::room::{Evicted, Terms, World};
use crate::memory::{DomainId, GroupId};

/// One look for victims: each is asked once, and once more with patience.
pub(super) struct Walk<'a, W: World> {
    world: &'a W,
    domain: DomainId,
    terms: Terms,
    /// Whether somebody is to be patient, as it was said.
    patient: bool,
    /// Whose are asked: a client group's own, or anybody's.
    within: GroupId,
    /// Those that were asked and have stayed, with their reasons.
    kept: Vec<(Victim<W::Key>, Kept)>,
    /// Those that were asked and have left. They may be back: then they were used, and others are to go.
    left: Vec<Slot>,
    gone: u64,
    /// How many of those that were parked have not been asked again.
    parked: Option<usize>,
}

/// How many that were parked are asked again at once.
const AGAIN: usize = 64;

impl<'a, W: World> Walk<'a, W> {
    pub(super) fn new(world: &'a W, domain: DomainId, terms: &Terms) -> Self {
        let terms = terms.deeper();
        let (patient, within) = (terms.patient, GroupId::NONE);
        Self {
            world,
            domain,
            terms,
            patient,
            within,
            kept: vec![],
            left: vec![],
            gone: 0,
            parked: None,
        }
    }

    /// Bytes that have been told to go.
    pub(super) fn gone(&self) -> u64 {
        self.gone
    }

    /// Asks as many as are needed for `wanted` bytes, of a group or, without one, of all. `false` if there is
    /// nobody left to ask.
    pub(super) fn step(&mut self, wanted: u64, within: GroupId) -> bool {
        if within != self.within {
            // Others are asked from now on, and at first without patience.
            (self.within, self.parked, self.terms.patient) = (within, None, self.patient);
        }
        // However empty it is by the ledger: the provider may have less.
        self.world.line_up(self.domain);
        let recency = &self.world.store(self.domain).recency;
        loop {
            let asked = self.asked();
            let skip = |slot| asked.binary_search(&slot).is_ok();
            let victims = recency.victims_of(within, wanted, self.terms.most, &skip);
            if !victims.is_empty() {
                let outcomes = self.world.evict(self.domain, &victims, &self.terms);
                for (victim, outcome) in victims.into_iter().zip(outcomes) {
                    self.enter(victim, outcome);
                }
                return true;
            }
            if !self.ask_again() {
                return false;
            }
        }
    }

    /// Sorted: a walk past many that stay must not cost the square of their number.
    fn asked(&self) -> SmallVec<[Slot; 16]> {
        let kept = self.kept.iter().map(|(victim, _)| victim.slot);
        let mut asked: SmallVec<[Slot; 16]> = kept.chain(self.left.iter().copied()).collect();
        asked.sort_unstable();
        asked
    }

    /// Whether somebody who stayed may be asked once more.
    fn ask_again(&mut self) -> bool {
        let recency = &self.world.store(self.domain).recency;
        // Those that were pinned when somebody asked last may not be any more.
        let left = *self.parked.get_or_insert_with(|| recency.parked());
        if left > 0 {
            let asked = self.asked();
            let skip = |slot| asked.binary_search(&slot).is_ok();
            recency.recheck(self.within, left.min(AGAIN), &skip);
            self.parked = Some(left.saturating_sub(AGAIN));
            return true;
        }
        let patience = self.terms.wait.is_some() && !self.terms.patient;
        let before = self.kept.len();
        if patience {
            self.terms.patient = true;
            // A move that failed may have a way out that needs a wait.
            let again = |why| matches!(why, Kept::Locked | Kept::Busy | Kept::Failed);
            self.kept.retain(|(_, why)| !again(*why));
        }
        self.kept.len() < before
    }

    fn enter(&mut self, victim: Victim<W::Key>, outcome: Result<(), Kept>) {
        match outcome {
            Ok(()) => {
                self.gone += victim.bytes;
                self.left.push(victim.slot);
            }
            Err(why) => {
                if matches!(why, Kept::Pinned | Kept::Held | Kept::Unreachable) {
                    self.world.store(self.domain).recency.park(&victim);
                }
                self.kept.push((victim, why));
            }
        }
    }

    /// What it has done.
    pub(super) fn evicted(&self) -> Evicted {
        Evicted { moved: self.gone, obstacles: self.obstacles() }
    }

    /// What stood in its way.
    pub(super) fn obstacles(&self) -> Obstacles {
        let mut obstacles = Obstacles::default();
        for (victim, why) in &self.kept {
            obstacles.add(*why, victim.bytes);
            if *why == Kept::Pinned {
                self.world.name_pins(victim.key, &mut obstacles);
            }
        }
        obstacles
    }
}
