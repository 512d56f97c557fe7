//! Domains: the ledger of each device's memory, and of system memory.
//!
//! Kernel counterpart: `ttm_resource_manager` (size and usage).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use super::claim_queue::Short;
use super::claim_queue::{ClaimQueue, Promised};
use super::domain_id::DomainId;
use super::domain_usage::DomainUsage;
use super::group_account::{Charge, GroupAccount, GroupAccounts};
use super::keepers::Keepers;
use crate::observe::note_shared_write;

/// A domain's ledger: how many bytes may be in use at once, and how many are.
///
/// A charge succeeds only if `used` stays within the budget at that moment. `used` counts what buffers have.
/// What is allocated for that (slabs, memory kept for reuse) is counted as `held`, and limited by the real size
/// of the heap. A modelled size limits what buffers may have, not how slabs are cut.
#[derive(Debug)]
pub(crate) struct Domain {
    id: DomainId,
    // Relaxed is enough for all of them, except between a charge and a claim: charging is one
    // read-modify-write, and nothing else is ordered by it. A value read slightly too early is equivalent to a
    // charge made slightly earlier.
    capacity: AtomicU64,
    /// What may be allocated: the real size of the heap.
    physical: u64,
    /// What buffers may use if the user sets no cap.
    default_cap: u64,
    /// The user's cap or the default one, and the driver's budget less what others use; `u64::MAX` if there is none.
    cap: AtomicU64,
    driver_budget: AtomicU64,
    used: AtomicU64,
    peak: AtomicU64,
    held: AtomicU64,
    /// System memory, if this is the memory of an integrated device: the same pages under another name. All that is
    /// charged and allocated here is charged and allocated there as well.
    beneath: Option<Arc<Domain>>,
    /// What each client group is charged.
    accounts: GroupAccounts,
    /// What is charged for slots that threads keep.
    keepers: Keepers,
    /// The number of claims, so that the usual charge takes no lock.
    claimants: AtomicUsize,
    /// Innermost; held for no call. Also held while a group that has a cap is charged, so that the group and the
    /// domain are charged in one step.
    claims: Mutex<ClaimQueue>,
}

impl Domain {
    /// A domain of `capacity` bytes.
    pub(crate) fn new(id: DomainId, capacity: u64) -> Self {
        Self::with_default_cap(id, capacity, u64::MAX)
    }

    /// A domain of `capacity` bytes, of which buffers use at most `default_cap` unless the user sets another cap.
    pub(crate) fn with_default_cap(id: DomainId, capacity: u64, default_cap: u64) -> Self {
        Self {
            id,
            capacity: AtomicU64::new(capacity),
            physical: capacity,
            default_cap,
            cap: AtomicU64::new(default_cap),
            driver_budget: AtomicU64::new(u64::MAX),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            held: AtomicU64::new(0),
            beneath: None,
            accounts: GroupAccounts::default(),
            keepers: Keepers::default(),
            claimants: AtomicUsize::new(0),
            claims: Mutex::default(),
        }
    }

    /// The same domain, as a part of `system`.
    pub(crate) fn part_of(mut self, system: &Arc<Self>) -> Self {
        self.beneath = Some(Arc::clone(system));
        self
    }

    pub(crate) fn id(&self) -> DomainId {
        self.id
    }

    /// What may be allocated there: the size of the heap, whatever size is modelled.
    pub(super) fn physical(&self) -> u64 {
        self.physical
    }

    /// What buffers may use at once. In a part of system memory it changes with what others use there.
    pub(crate) fn budget(&self) -> u64 {
        let left_beneath = self.beneath.as_ref().map_or(u64::MAX, |system| {
            self.charged().saturating_add(system.budget().saturating_sub(system.charged()))
        });
        self.own_budget().min(left_beneath)
    }

    /// What buffers may use at once by the limits of this domain alone.
    fn own_budget(&self) -> u64 {
        let [capacity, cap, left] = [&self.capacity, &self.cap, &self.driver_budget]
            .map(|limit| limit.load(Ordering::Relaxed));
        capacity.min(cap).min(left)
    }

    /// What buffers have. While other threads keep and take slots it may be less than at any moment.
    pub(crate) fn used(&self) -> u64 {
        // In this order: what is given back in between is subtracted twice rather than not at all.
        let kept = self.kept();
        self.charged().saturating_sub(kept)
    }

    /// What is charged: what buffers have, and what threads keep for their next ones.
    pub(crate) fn charged(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn usage(&self) -> DomainUsage {
        DomainUsage {
            capacity: self.capacity.load(Ordering::Relaxed),
            budget: self.budget(),
            used: self.used(),
            peak: self.peak.load(Ordering::Relaxed),
            held: self.held.load(Ordering::Relaxed),
        }
    }

    // ---- limits, which may change at any time; each then decides whether threads may keep slots ----

    /// Models a domain of `capacity` bytes. It limits what buffers may use, not what is allocated.
    pub(crate) fn model(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Relaxed);
        self.note_level();
    }

    /// Sets the user's cap on `used`; `None` for the default one.
    pub(crate) fn set_cap(&self, cap: Option<u64>) {
        self.cap.store(cap.unwrap_or(self.default_cap), Ordering::Relaxed);
        self.note_level();
    }

    /// Sets the budget that the driver reports for this process, of which `usage` bytes are allocated.
    ///
    /// What others in the process have allocated is subtracted. What this engine has allocated and does not use
    /// is not subtracted: otherwise the budget would shrink as fewer bytes are in use.
    pub(crate) fn reported(&self, budget: u64, usage: u64) {
        let ours = self.held.load(Ordering::Relaxed).max(self.used());
        let others = usage.saturating_sub(ours);
        self.driver_budget.store(budget.saturating_sub(others), Ordering::Relaxed);
        self.note_level();
    }

    /// The driver's budget for this engine.
    pub(crate) fn driver_budget(&self) -> u64 {
        self.driver_budget.load(Ordering::Relaxed)
    }

    /// Bytes in use beyond the budget, after the budget has shrunk.
    pub(crate) fn excess(&self) -> u64 {
        self.used().saturating_sub(self.budget())
    }

    // ---- bytes that buffers have ----

    /// Charges bytes, if they fit within the budget and the group's cap, together with what is in use and what
    /// is claimed. What threads keep is given back before the charge is refused.
    ///
    /// Locks: those of the pools.
    pub(crate) fn charge(&self, charge: impl Into<Charge>) -> Option<Room<'_>> {
        let charge = charge.into();
        let give_back = || {
            // Another thread may have given back what was charged, so the charge is repeated in any case.
            self.give_back_kept();
            self.charge_now(charge)
        };
        let room = self.charge_now(charge).or_else(give_back);
        self.note_level();
        room
    }

    fn charge_now(&self, charge: Charge) -> Option<Room<'_>> {
        let account = self.accounts.get(charge.group);
        let lock = self.claimants.load(Ordering::Relaxed) > 0
            || account.is_some_and(GroupAccount::is_capped);
        if !lock {
            let room = self.charge_beside(charge, account, Promised::default())?;
            // A claimant since then may have freed these bytes, which are reserved for it. SeqCst, as are the
            // charge and the claim: either this sees the claim, or the claimant sees these bytes in use, and
            // frees others.
            if self.claimants.load(Ordering::SeqCst) == 0 {
                return Some(room);
            }
        }
        let claims = self.claims();
        let promised = claims.before(u64::MAX, &self.accounts, charge.group);
        self.charge_beside(charge, account, promised)
    }

    /// Charges bytes beside what is promised. The caller holds the lock of the claims if the group has a cap, so
    /// that no other thread charges the group meanwhile.
    fn charge_beside(
        &self,
        charge: Charge,
        account: Option<&GroupAccount>,
        promised: Promised,
    ) -> Option<Room<'_>> {
        let bytes = charge.bytes;
        let own = promised.own.saturating_add(bytes);
        if account.is_some_and(|account| account.is_capped() && account.short_of(own) > 0) {
            return None;
        }
        let limit = self.budget().saturating_sub(promised.all);
        note_shared_write();
        // SeqCst: see `charge`.
        let charged = self.used.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= limit)
        });
        let sum = charged.ok()? + bytes;
        if account.is_some_and(|account| !account.charge_within(bytes, promised.own)) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        if self.beneath.as_ref().is_some_and(|system| !system.charge_part(bytes)) {
            self.credit_here(charge);
            return None;
        }
        if sum > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(sum, Ordering::Relaxed);
        }
        Some(Room { domain: self, charge })
    }

    /// Charges bytes of a part. Dropping that part's charge uncharges them.
    fn charge_part(&self, bytes: u64) -> bool {
        self.charge_now(bytes.into()).map(Room::spend).is_some()
    }

    /// Uncharges bytes.
    pub(crate) fn credit(&self, charge: impl Into<Charge>) {
        let charge = charge.into();
        self.credit_here(charge);
        if let Some(system) = &self.beneath {
            system.credit(charge.bytes);
        }
    }

    fn credit_here(&self, charge: Charge) {
        let Charge { bytes, group } = charge;
        // The group first: what its claims reserve in the domain grows with its room, so no other claimant gets
        // what the group frees for itself.
        if let Some(account) = self.accounts.find(group) {
            account.uncharge(bytes);
        }
        note_shared_write();
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{}: {bytes} uncharged, {before} in use", self.id);
    }

    /// Whether bytes fit now, without an eviction, once threads have given back what they keep. A snapshot: it may change at
    /// once.
    pub(crate) fn has_room(&self, charge: impl Into<Charge>) -> bool {
        let Short { all, own, beneath } = self.short_by(charge.into(), u64::MAX, &self.claims());
        let is_kept = |short: u64, domain: &Self| short == 0 || short <= domain.kept();
        own == 0
            && is_kept(all, self)
            && self.beneath.as_ref().map_or(beneath == 0, |system| is_kept(beneath, system))
    }

    /// Whether bytes do not fit because of the group's cap. A snapshot, too.
    pub(crate) fn is_beyond_cap(&self, charge: impl Into<Charge>) -> bool {
        self.short_by(charge.into(), u64::MAX, &self.claims()).own > 0
    }

    fn short_by(&self, charge: Charge, ticket: u64, claims: &ClaimQueue) -> Short {
        let Charge { bytes, group } = charge;
        let promised = claims.before(ticket, &self.accounts, group);
        let wanted = self.charged().saturating_add(promised.all).saturating_add(bytes);
        let account = self.accounts.find(group).filter(|account| account.is_capped());
        let own = promised.own.saturating_add(bytes);
        Short {
            all: wanted.saturating_sub(self.own_budget()),
            own: account.map_or(0, |account| account.short_of(own)),
            beneath: self.short_beneath(bytes, promised),
        }
    }

    // ---- claims: bytes for which room is being made ----

    /// Whether bytes would fit if every buffer were evicted.
    pub(crate) fn could_hold(&self, charge: impl Into<Charge>) -> bool {
        let charge = charge.into();
        let beneath = self.beneath.as_ref().is_none_or(|system| system.could_hold(charge.bytes));
        beneath && charge.bytes <= self.own_budget() && self.group_could_hold(charge)
    }

    /// Whether bytes would fit within the group's cap if every buffer of the group were evicted.
    pub(crate) fn group_could_hold(&self, charge: impl Into<Charge>) -> bool {
        let Charge { bytes, group } = charge.into();
        self.accounts.find(group).is_none_or(|account| account.could_hold(bytes))
    }

    /// Claims bytes before making room for them. Bytes that become free go to claimants in the order of their
    /// claims, and to no charge without a claim. What a group frees for itself is reserved for that group.
    pub(crate) fn claim(&self, charge: impl Into<Charge>) -> Claim<'_> {
        let charge = charge.into();
        let mut claims = self.claims();
        let ticket = claims.push(charge);
        self.claimants.store(claims.len(), Ordering::SeqCst);
        // Before any usage is read: see `charge`.
        fence(Ordering::SeqCst);
        drop(claims);
        self.give_back_kept();
        Claim { domain: self, ticket, charge }
    }

    fn claims(&self) -> MutexGuard<'_, ClaimQueue> {
        note_shared_write();
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Charged bytes of a domain that no buffer has yet. Dropping it uncharges them.
#[derive(Debug)]
#[must_use = "dropping it uncharges the bytes"]
pub(crate) struct Room<'a> {
    domain: &'a Domain,
    charge: Charge,
}

impl Room<'_> {
    #[cfg(test)]
    pub(crate) fn domain(&self) -> DomainId {
        self.domain.id
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.charge.bytes
    }

    /// Passes the charged bytes to a buffer, which uncharges them by [`Domain::credit`].
    pub(crate) fn spend(self) {
        std::mem::forget(self);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.domain.credit(self.charge);
    }
}

/// A claim on bytes of a domain ([`Domain::claim`]). Dropping it ends the claim.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    domain: &'a Domain,
    ticket: u64,
    charge: Charge,
}

impl<'a> Claim<'a> {
    /// Charges the bytes, if they fit beside what is in use and what was claimed before. This ends the claim in
    /// the same step, so that its bytes are not counted twice.
    pub(crate) fn take(&self) -> Option<Room<'a>> {
        let mut claims = self.domain.claims();
        if !claims.has(self.ticket) {
            return None;
        }
        let accounts = &self.domain.accounts;
        let promised = claims.before(self.ticket, accounts, self.charge.group);
        let account = accounts.get(self.charge.group);
        let room = self.domain.charge_beside(self.charge, account, promised)?;
        claims.remove(self.ticket);
        self.domain.claimants.store(claims.len(), Ordering::Relaxed);
        Some(room)
    }

    /// How many bytes must be freed before [`Claim::take`] succeeds.
    pub(crate) fn short_of(&self) -> Short {
        self.domain.short_by(self.charge, self.ticket, &self.domain.claims())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = self.domain.claims();
        claims.remove(self.ticket);
        self.domain.claimants.store(claims.len(), Ordering::Relaxed);
    }
}

mod groups;
mod held;
mod kept;
mod part;
#[cfg(test)]
mod tests;
