//! What stays charged in a domain for slots that threads keep.

use std::sync::Weak;

use super::Domain;
use crate::memory::keepers::Keeper;

impl Domain {
    /// Adds a keeper, before it keeps anything.
    pub(in crate::memory) fn register(&self, keeper: Weak<dyn Keeper>) {
        if let Some(system) = &self.beneath {
            system.register(Weak::clone(&keeper));
        }
        self.keepers.add(keeper);
    }

    /// The budget of which a part may be kept as slots with their charges; `None` if none may be kept.
    pub(in crate::memory) fn may_keep(&self) -> Option<u64> {
        let own = self.keepers.is_open().then(|| self.own_budget())?;
        match &self.beneath {
            Some(system) => system.may_keep().map(|beneath| beneath.min(own)),
            None => Some(own),
        }
    }

    /// Bytes that are charged for slots which no buffer has.
    pub(super) fn kept(&self) -> u64 {
        self.keepers.all().iter().map(|keeper| keeper.kept()).sum()
    }

    /// Gives back all that is kept, in the domain beneath as well, and lets nothing be kept until there is plenty of room.
    /// Returns whether anything was kept.
    ///
    /// Locks: those of the pools.
    pub(super) fn give_back_kept(&self) -> bool {
        let mut any = false;
        if let Some(closed) = self.keepers.close() {
            for keeper in self.keepers.all() {
                any |= keeper.give_back_kept();
            }
            self.keepers.emptied(closed);
        }
        if let Some(system) = &self.beneath {
            any |= system.give_back_kept();
        }
        any
    }

    /// Decides after a charge whether slots may be kept from now on.
    pub(super) fn note_level(&self) {
        let (charged, budget) = (self.charged(), self.own_budget());
        let is_open = self.keepers.is_open();
        if is_open && charged > budget / 2 {
            self.give_back_kept();
        } else if !is_open && charged < budget / 4 {
            // Under the lock: a claim that is made from now on closes it again.
            let claims = self.claims();
            if claims.len() == 0 {
                self.keepers.open();
            }
        }
        if let Some(system) = &self.beneath {
            system.note_level();
        }
    }
}
