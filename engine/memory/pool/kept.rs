//! The slots of a pool that threads keep, each with its charge.

use std::sync::atomic::Ordering;

use super::Pool;
use crate::memory::backing::Backing;
use crate::memory::group_account::GroupId;
use crate::memory::keepers::Keeper;
use crate::memory::kept_slots::most_in;
use crate::memory::size_class::{Fit, fit};

impl Pool {
    /// A slot for `size` bytes that this thread keeps, with its charge.
    pub(crate) fn take_kept(&self, size: u64, limit: u64) -> Option<Backing> {
        match fit(size, false, limit)? {
            Fit::Slot(class) => self.kept.take(class),
            Fit::Own(_) => None,
        }
    }

    /// Keeps a slot and its charge for this thread, or gives it back if it may not be kept.
    pub(crate) fn keep_slot(&self, mut backing: Backing) {
        let class = backing.class().filter(|_| backing.group() == GroupId::NONE);
        if let Some(class) = class {
            backing.end_use();
            let may_keep = || {
                let is_emptying = self.emptying.load(Ordering::Relaxed) > 0;
                self.origin.domain.may_keep().filter(|_| !is_emptying).map(most_in)
            };
            drop(self.kept.keep(class, backing, may_keep));
        }
    }

    /// Gives back the slots that threads keep; returns whether there were any.
    pub(crate) fn give_back_kept(&self) -> bool {
        let mut any = false;
        self.kept.take_all(|backing| {
            any = true;
            drop(backing);
        });
        any
    }
}

impl Keeper for Pool {
    fn kept(&self) -> u64 {
        self.kept.bytes()
    }

    fn give_back_kept(&self) -> bool {
        self.give_back_kept()
    }
}
