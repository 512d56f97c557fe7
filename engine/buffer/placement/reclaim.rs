//! Frees unused memory: clean copies, unused slabs.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use crate::buffer::object::Buffers;
use crate::memory::{DomainId, GiveBack, GroupId};

/// Drops clean copies of buffers whose reservation is free, until there is `enough` room. With a group, drops
/// only that group's; with [`GroupId::NONE`], those of all.
///
/// Each call starts where the last one ended, so that many small requests do not visit all buffers each time.
pub(crate) fn drop_clean_copies(set: &Buffers, of: GroupId, enough: &dyn Fn() -> bool) {
    // First those without a pending read: their room is free at once.
    for busy_too in [false, true] {
        if set.clean_copies.load(Ordering::Relaxed) == 0 || enough() {
            return;
        }
        let start = set.clean_at.load(Ordering::Relaxed);
        let end = set.live.visit_from(start, |buffer| {
            let Some(mut state) = buffer.reservation.try_lock(&set.core.queues) else {
                return ControlFlow::Continue(());
            };
            let is_in_group = of == GroupId::NONE || of == state.location().group();
            if !is_in_group || !state.clean_mut().is_some_and(|clean| busy_too || clean.is_idle()) {
                return ControlFlow::Continue(());
            }
            buffer.drop_clean_copy(&mut state);
            drop(state);
            if enough() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        set.clean_at.store(end, Ordering::Relaxed);
    }
}

impl Buffers {
    /// Returns unused memory of all domains to their providers, and unused views to their devices. Returns the number
    /// of bytes of the former.
    pub(crate) fn trim(&self) -> u64 {
        self.core.give_back_views(None, GiveBack::All);
        self.core.domains().map(|domain| self.trim_in(domain)).sum()
    }

    /// Returns unused memory of a domain to its provider. Returns the number of bytes. In system memory,
    /// clean copies count as unused.
    pub(crate) fn trim_in(&self, domain: DomainId) -> u64 {
        if domain == DomainId::System {
            drop_clean_copies(self, GroupId::NONE, &|| false);
        }
        self.core.retire.collect();
        self.core.trim_pools(domain)
    }
}
