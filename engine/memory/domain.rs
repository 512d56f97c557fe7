//! Domains: places where bytes live, each with its ledger.
//!
//! Kernel counterpart: `ttm_resource_manager` (size and usage).

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::account::{Account, Accounts, Charge, GroupId, GroupUsage};
pub(crate) use super::claims::Short;
use super::claims::{Claims, Promised};
use super::placement::DomainKind;
use crate::device::DeviceId;

/// Which place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DomainId {
    /// A device's own memory.
    Vram(DeviceId),
    /// The host's memory.
    System,
}

impl DomainId {
    /// What kind of place it is.
    pub fn kind(self) -> DomainKind {
        match self {
            Self::Vram(_) => DomainKind::Vram,
            Self::System => DomainKind::System,
        }
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vram(device) => write!(f, "VRAM of {device}"),
            Self::System => f.write_str("system memory"),
        }
    }
}

/// How full a domain is, in bytes: [`crate::Engine::usage`]. Memory of strangers
/// ([`crate::Engine::import_foreign`]) is counted by whoever exports it, and not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainUsage {
    /// What the place has: the heap, or what it is modelled as ([`crate::Engine::model_heap`]); of system
    /// memory all that the machine has, of which a cap says how much may be ours.
    pub capacity: u64,
    /// What buffers may have in use there at once: the least of the capacity, the user's cap
    /// ([`crate::Engine::set_cap`]), and what the driver leaves to us (`VK_EXT_memory_budget`).
    pub budget: u64,
    /// What buffers have in use: each one's slot or allocation, from the moment when it is promised to a
    /// buffer until the last copy out of it has ended.
    pub used: u64,
    /// The most that `used` ever was.
    pub peak: u64,
    /// What is allocated there, slabs with their free slots and warm memory included.
    pub held: u64,
}

/// A domain's ledger: what may be in use at once, and what is.
///
/// `used` never goes beyond the budget of the moment when bytes are charged. It counts what buffers have;
/// what is allocated to cut that from (slabs, warm memory) is counted as `held`, and limited by what the
/// place has, unless that is only modelled: a modelled heap says how much buffers may have, not how slabs
/// are cut.
#[derive(Debug)]
pub(crate) struct Domain {
    id: DomainId,
    // Relaxed is enough for all of them, but where a charge and a claim meet: charging is one
    // read-modify-write, and nothing else is ordered by it. What is read a moment too early is like a charge
    // that came a moment earlier.
    capacity: AtomicU64,
    /// What may be allocated: the real heap.
    physical: u64,
    /// The user's cap and the driver's word; `u64::MAX` if there is none.
    cap: AtomicU64,
    left_to_us: AtomicU64,
    used: AtomicU64,
    peak: AtomicU64,
    held: AtomicU64,
    /// What of it is on the account of which client group.
    accounts: Accounts,
    /// How many claims there are, so that the usual charge takes no lock.
    claimants: AtomicUsize,
    /// Innermost; held for no call. Also held where a group that has a cap is charged: it and the domain are
    /// one step.
    claims: Mutex<Claims>,
}

impl Domain {
    /// A domain of so many bytes.
    pub(crate) fn new(id: DomainId, capacity: u64) -> Self {
        Self {
            id,
            capacity: AtomicU64::new(capacity),
            physical: capacity,
            cap: AtomicU64::new(u64::MAX),
            left_to_us: AtomicU64::new(u64::MAX),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            held: AtomicU64::new(0),
            accounts: Accounts::default(),
            claimants: AtomicUsize::new(0),
            claims: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> DomainId {
        self.id
    }

    pub(crate) fn budget(&self) -> u64 {
        let [capacity, cap, left] = [&self.capacity, &self.cap, &self.left_to_us]
            .map(|limit| limit.load(Ordering::Relaxed));
        capacity.min(cap).min(left)
    }

    pub(crate) fn used(&self) -> u64 {
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

    // ---- limits, which change while things run ----

    /// The place has so many bytes from now on, as far as buffers can tell.
    pub(crate) fn model(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// The user wants no more than this in use; `None` for no cap.
    pub(crate) fn set_cap(&self, cap: Option<u64>) {
        self.cap.store(cap.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The driver says that the process should have no more than `budget` bytes there, and has `usage`: what
    /// is not ours of that is not for us to use. Ours is also what is allocated and not in use: counted as
    /// others', it would shrink the budget the more, the fewer bytes are in use.
    pub(crate) fn reported(&self, budget: u64, usage: u64) {
        let ours = self.held.load(Ordering::Relaxed).max(self.used());
        let others = usage.saturating_sub(ours);
        self.left_to_us.store(budget.saturating_sub(others), Ordering::Relaxed);
    }

    /// How much of it is ours, if it goes by the driver.
    pub(crate) fn left_to_us(&self) -> u64 {
        self.left_to_us.load(Ordering::Relaxed)
    }

    /// By how many bytes more is in use than may be: the budget has shrunk.
    pub(crate) fn excess(&self) -> u64 {
        self.used().saturating_sub(self.budget())
    }

    // ---- groups ----

    /// What a group has, and may have.
    pub(crate) fn group(&self, group: GroupId) -> GroupUsage {
        self.accounts.find(group).map_or_else(|| Account::default().usage(), Account::usage)
    }

    /// The user wants a group to have no more than this; `None` for no cap.
    pub(crate) fn set_group_cap(&self, group: GroupId, cap: Option<u64>) {
        if let Some(account) = self.accounts.get(group) {
            // Under the lock: whoever is charged meanwhile was charged before, or sees it.
            let _claims = self.claims();
            account.set_cap(cap);
        }
    }

    /// By how many bytes a group has more than it may: its cap has shrunk.
    pub(crate) fn group_excess(&self, group: GroupId) -> u64 {
        self.accounts.find(group).map_or(0, |account| account.short_of(0))
    }

    /// Whether a group would have more than half of what it may have.
    pub(crate) fn gets_group_tight(&self, charge: impl Into<Charge>) -> bool {
        let Charge { bytes, group } = charge.into();
        self.accounts.find(group).is_some_and(|account| account.gets_tight(bytes))
    }

    /// Closes a group's account, if nothing is on it: another group may have the number.
    pub(crate) fn close_account(&self, group: GroupId) -> bool {
        self.accounts.find(group).is_none_or(Account::close)
    }

    // ---- bytes that buffers have ----

    /// Takes bytes into use, if they fit beside everybody else's and what others are making room for, and if
    /// their group may have them.
    pub(crate) fn charge(&self, charge: impl Into<Charge>) -> Option<Room<'_>> {
        let charge = charge.into();
        let account = self.accounts.get(charge.group);
        let lock =
            self.claimants.load(Ordering::Relaxed) > 0 || account.is_some_and(Account::is_capped);
        if !lock {
            let room = self.charge_beside(charge, account, Promised::default())?;
            // Whoever has claimed since may have made free what these bytes are; then they are not ours to
            // take. SeqCst, as are the charge and the claim: this sees the claim, or whoever claims sees the
            // bytes in use, and makes others free.
            if self.claimants.load(Ordering::SeqCst) == 0 {
                return Some(room);
            }
        }
        let claims = self.claims();
        let promised = claims.before(u64::MAX, &self.accounts, charge.group);
        self.charge_beside(charge, account, promised)
    }

    /// The lock of the claims is held if the group has a cap: nobody else charges it meanwhile.
    fn charge_beside(
        &self,
        charge: Charge,
        account: Option<&Account>,
        promised: Promised,
    ) -> Option<Room<'_>> {
        let bytes = charge.bytes;
        let own = promised.own.saturating_add(bytes);
        if account.is_some_and(|account| account.is_capped() && account.short_of(own) > 0) {
            return None;
        }
        let limit = self.budget().saturating_sub(promised.all);
        // SeqCst: see `charge`.
        let charged = self.used.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= limit)
        });
        let sum = charged.ok()? + bytes;
        if account.is_some_and(|account| !account.add_within(bytes, promised.own)) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        if sum > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(sum, Ordering::Relaxed);
        }
        Some(Room { domain: self, charge })
    }

    /// Gives bytes back.
    pub(crate) fn credit(&self, charge: impl Into<Charge>) {
        let Charge { bytes, group } = charge.into();
        // First its group: what that is promised grows with what it may have, so nobody takes what it makes
        // free for itself.
        if let Some(account) = self.accounts.find(group) {
            account.take_off(bytes);
        }
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{}: {bytes} given back, {before} in use", self.id);
    }

    /// Whether bytes fit as things are, without anybody's leaving. A look: it may change at once.
    pub(crate) fn has_room(&self, charge: impl Into<Charge>) -> bool {
        self.short_by(charge.into(), u64::MAX, &self.claims()).is_nothing()
    }

    /// Whether it is the group's cap that keeps them out. A look, too.
    pub(crate) fn is_beyond_cap(&self, charge: impl Into<Charge>) -> bool {
        self.short_by(charge.into(), u64::MAX, &self.claims()).own > 0
    }

    fn short_by(&self, charge: Charge, ticket: u64, claims: &Claims) -> Short {
        let Charge { bytes, group } = charge;
        let promised = claims.before(ticket, &self.accounts, group);
        let wanted = self.used().saturating_add(promised.all).saturating_add(bytes);
        let account = self.accounts.find(group).filter(|account| account.is_capped());
        let own = promised.own.saturating_add(bytes);
        Short {
            all: wanted.saturating_sub(self.budget()),
            own: account.map_or(0, |account| account.short_of(own)),
        }
    }

    // ---- bytes that are being made room for ----

    /// Whether bytes fit even with everybody gone.
    pub(crate) fn could_hold(&self, charge: impl Into<Charge>) -> bool {
        let charge = charge.into();
        charge.bytes <= self.budget() && self.group_could_hold(charge)
    }

    /// Whether their group may have them, even with all its own gone.
    pub(crate) fn group_could_hold(&self, charge: impl Into<Charge>) -> bool {
        let Charge { bytes, group } = charge.into();
        self.accounts.find(group).is_none_or(|account| account.could_hold(bytes))
    }

    /// Says that somebody makes room: what becomes free is for those who came first, and for nobody who comes
    /// without a claim. What a group makes free for itself is for that group.
    pub(crate) fn claim(&self, charge: impl Into<Charge>) -> Claim<'_> {
        let charge = charge.into();
        let mut claims = self.claims();
        let ticket = claims.push(charge);
        self.claimants.store(claims.len(), Ordering::SeqCst);
        // Before anything in use is looked at: see `charge`.
        fence(Ordering::SeqCst);
        Claim { domain: self, ticket, charge }
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- what is allocated ----

    /// Counts an allocation of `bytes`; `Err` with what is allocated already if the place has no more.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), u64> {
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(bytes).filter(|&sum| sum <= self.physical)
            })
            .map(|_| ())
    }

    /// An allocation has gone.
    pub(crate) fn let_go(&self, bytes: u64) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{}: {bytes} let go, {before} held", self.id);
    }
}

/// Bytes of a domain that are in use, for somebody who is about to have them. Dropped, they are given back.
#[derive(Debug)]
#[must_use = "dropped, the bytes are given back"]
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

    /// The bytes are somebody's from now on, who gives them back by [`Domain::credit`].
    pub(crate) fn spend(self) {
        std::mem::forget(self);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.domain.credit(self.charge);
    }
}

/// A turn in the queue of those who make room. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    domain: &'a Domain,
    ticket: u64,
    charge: Charge,
}

impl<'a> Claim<'a> {
    /// Takes the bytes, if there is room for them beside what is in use and what was claimed before. That
    /// ends the claim: in the same step, so that nobody counts its bytes twice.
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

    /// How many bytes have to go before [`Claim::take`] succeeds.
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

#[cfg(test)]
mod tests;
