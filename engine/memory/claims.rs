//! The queue of those who make room in a domain, and what they were promised.
//!
//! Kernel counterpart: `ttm_bo_evict_alloc`, which takes what it has evicted for within the same walk.

use super::account::{Accounts, Charge, GroupId};

/// Those who make room, first come, first served.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// How many there have been; so no two have the same ticket.
    tickets: u64,
    queue: Vec<Pending>,
}

/// A claim of somebody who makes room.
#[derive(Clone, Copy, Debug)]
struct Pending {
    ticket: u64,
    charge: Charge,
}

impl Claims {
    /// Whoever comes next; returns their ticket.
    pub(super) fn push(&mut self, charge: Charge) -> u64 {
        let ticket = self.tickets;
        self.tickets += 1;
        self.queue.push(Pending { ticket, charge });
        ticket
    }

    /// A claim has ended.
    pub(super) fn remove(&mut self, ticket: u64) {
        self.queue.retain(|claim| claim.ticket != ticket);
    }

    /// Whether a claim has not ended.
    pub(super) fn has(&self, ticket: u64) -> bool {
        self.queue.iter().any(|claim| claim.ticket == ticket)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// What is promised to those before `ticket`, as far as it matters to `group`. `accounts` are the
    /// domain's.
    pub(super) fn before(&self, ticket: u64, accounts: &Accounts, group: GroupId) -> Promised {
        let ahead = &self.queue[..self.queue.partition_point(|claim| claim.ticket < ticket)];
        let mut promised = Promised::default();
        for (at, &Pending { charge: Charge { bytes, group: of }, .. }) in ahead.iter().enumerate() {
            let Some(account) = accounts.find(of) else {
                promised.all = promised.all.saturating_add(bytes);
                continue;
            };
            if of == group {
                promised.own = promised.own.saturating_add(bytes);
            }
            // What a group needs beyond its cap its own make free; of the rest of the place it is to have no
            // more than it may have.
            let same = ahead[..at].iter().filter(|claim| claim.charge.group == of);
            let earlier = same.fold(0, |sum: u64, claim| sum.saturating_add(claim.charge.bytes));
            let room = account.room();
            let share = earlier.saturating_add(bytes).min(room) - earlier.min(room);
            promised.all = promised.all.saturating_add(share);
        }
        promised
    }
}

/// Bytes that others were promised.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Promised {
    /// Of the domain.
    pub(super) all: u64,
    /// Of what the group may have.
    pub(super) own: u64,
}

/// How many bytes are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short {
    /// So many have to leave, whosever they are.
    pub(crate) all: u64,
    /// And so many of the group's own.
    pub(crate) own: u64,
}

impl Short {
    pub(crate) fn is_nothing(self) -> bool {
        self.all == 0 && self.own == 0
    }
}
