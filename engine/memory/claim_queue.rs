//! The queue of claims on a domain, and how many bytes earlier claims reserve.
//!
//! Kernel counterpart: `ttm_bo_evict_alloc`, which allocates what it has evicted within the same walk.

use super::group_account::{Charge, GroupAccounts, GroupId};

/// The claims of a domain, first come, first served.
#[derive(Debug, Default)]
pub(super) struct ClaimQueue {
    /// How many claims there have been, so that tickets are unique.
    tickets: u64,
    queue: Vec<Pending>,
}

/// A claim that has not ended.
#[derive(Clone, Copy, Debug)]
struct Pending {
    ticket: u64,
    charge: Charge,
}

impl ClaimQueue {
    /// Appends a claim; returns its ticket.
    pub(super) fn push(&mut self, charge: Charge) -> u64 {
        let ticket = self.tickets;
        self.tickets += 1;
        self.queue.push(Pending { ticket, charge });
        ticket
    }

    /// Removes a claim.
    pub(super) fn remove(&mut self, ticket: u64) {
        self.queue.retain(|claim| claim.ticket != ticket);
    }

    /// Whether a claim has not ended.
    pub(super) fn has(&self, ticket: u64) -> bool {
        self.queue.iter().any(|claim| claim.ticket == ticket)
    }

    /// The number of claims.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// What is promised to the claims before `ticket`, as far as it concerns `group`. `accounts` are the
    /// domain's.
    pub(super) fn before(&self, ticket: u64, accounts: &GroupAccounts, group: GroupId) -> Promised {
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
            // What a group needs beyond its cap is freed from its own buffers. So a group's claims reserve no
            // more of the domain than the room below its cap.
            let same = ahead[..at].iter().filter(|claim| claim.charge.group == of);
            let earlier = same.fold(0, |sum: u64, claim| sum.saturating_add(claim.charge.bytes));
            let room = account.room();
            let share = earlier.saturating_add(bytes).min(room) - earlier.min(room);
            promised.all = promised.all.saturating_add(share);
        }
        promised
    }
}

/// Bytes that earlier claims reserve.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Promised {
    /// In the domain.
    pub(super) all: u64,
    /// Within the group's cap.
    pub(super) own: u64,
}

/// How many bytes must be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short {
    /// Of any buffers.
    pub(crate) all: u64,
    /// Of the group's own buffers.
    pub(crate) own: u64,
    /// Of any memory of the machine, if the domain is a part of system memory.
    pub(crate) beneath: u64,
}

impl Short {
    pub(crate) fn is_nothing(self) -> bool {
        self.all == 0 && self.own == 0 && self.beneath == 0
    }
}
