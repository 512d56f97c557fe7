//! Giving unused memory back: clean copies, unused slabs.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use crate::buffer::object::Buffers;
use crate::memory::{DomainId, GroupId};

/// Gives clean copies up whose buffers are not in use at this moment, of a group's own or, without one,
/// anybody's, until there is `enough`: their room is needed.
///
/// From where it ended the last time, so that many who need a little each do not look at all buffers each
/// time.
pub(crate) fn drop_clean_copies(set: &Buffers, of: GroupId, enough: &dyn Fn() -> bool) {
    // At first those that nobody reads any more: their room is there at once.
    for read in [false, true] {
        if set.clean_copies.load(Ordering::Relaxed) == 0 || enough() {
            return;
        }
        let from = set.clean_at.load(Ordering::Relaxed);
        let at = set.live.until(from, |buffer| {
            let Some(mut state) = buffer.reservation.try_lock(&set.core.queues) else {
                return ControlFlow::Continue(());
            };
            let is_its = of == GroupId::NONE || of == state.location.group();
            if !is_its || !state.clean_mut().is_some_and(|clean| read || clean.is_idle()) {
                return ControlFlow::Continue(());
            }
            buffer.drop_clean_copy(&mut state);
            drop(state);
            if enough() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        set.clean_at.store(at, Ordering::Relaxed);
    }
}

impl Buffers {
    /// Gives unused memory back; returns how many bytes.
    pub(crate) fn trim(&self) -> u64 {
        self.core.domains().map(|domain| self.trim_in(domain)).sum()
    }

    /// Gives unused memory of a place back; returns how many bytes. In system memory clean copies are unused.
    pub(crate) fn trim_in(&self, domain: DomainId) -> u64 {
        if domain == DomainId::System {
            drop_clean_copies(self, GroupId::NONE, &|| false);
        }
        self.core.retire.collect();
        self.core.providers.trim(domain)
    }
}
