//! Group accounts: the bytes of a domain that are charged to each client group, and the cap of the group.
//!
//! Kernel counterpart: the dmem cgroup controller (`dmem.current`, `dmem.max`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::domain_usage::GroupUsage;

/// The number of a client group within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct GroupId(pub(crate) u16);

impl GroupId {
    /// No group: bytes are charged to the domain only.
    pub(crate) const NONE: Self = Self(0);
}

/// Bytes, and the group that they are charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) bytes: u64,
    pub(crate) group: GroupId,
}

/// A charge without a group.
impl From<u64> for Charge {
    fn from(bytes: u64) -> Self {
        Self { bytes, group: GroupId::NONE }
    }
}

impl From<(u64, GroupId)> for Charge {
    fn from((bytes, group): (u64, GroupId)) -> Self {
        Self { bytes, group }
    }
}

/// What one group is charged in one domain.
///
/// If the group has a cap, bytes are charged under the domain's lock. A charge that was made before the cap
/// became visible is detected by [`GroupAccount::charge_within`].
#[derive(Debug)]
pub(super) struct GroupAccount {
    /// `u64::MAX` if there is no cap.
    cap: AtomicU64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Default for GroupAccount {
    fn default() -> Self {
        Self { cap: AtomicU64::new(u64::MAX), used: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }
}

impl GroupAccount {
    fn cap(&self) -> u64 {
        self.cap.load(Ordering::SeqCst)
    }

    pub(super) fn is_capped(&self) -> bool {
        self.cap() != u64::MAX
    }

    pub(super) fn set_cap(&self, cap: Option<u64>) {
        // SeqCst: see `charge_within`.
        self.cap.store(cap.unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// Bytes that can still be charged.
    pub(super) fn room(&self) -> u64 {
        self.cap().saturating_sub(self.used())
    }

    /// Bytes beyond the cap if `bytes` more were charged.
    pub(super) fn short_of(&self, bytes: u64) -> u64 {
        self.used().saturating_add(bytes).saturating_sub(self.cap())
    }

    /// Whether the group would use more than half of its cap with `bytes` more.
    pub(super) fn under_pressure(&self, bytes: u64) -> bool {
        self.is_capped() && self.used().saturating_add(bytes) > self.cap() / 2
    }

    pub(super) fn could_hold(&self, bytes: u64) -> bool {
        bytes <= self.cap()
    }

    /// Charges bytes, if they are within the cap beside the `promised` ones. Returns whether they were charged.
    ///
    /// A charge that sees no cap takes no lock. SeqCst puts both in one order: either the cap is seen here, or the
    /// thread that has set it sees the bytes, and evicts for them.
    pub(super) fn charge_within(&self, bytes: u64, promised: u64) -> bool {
        let sum = self.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if sum.saturating_add(promised) > self.cap() {
            self.uncharge(bytes);
            return false;
        }
        if sum > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(sum, Ordering::Relaxed);
        }
        true
    }

    pub(super) fn uncharge(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "{bytes} uncharged, {before} in use");
    }

    pub(super) fn usage(&self) -> GroupUsage {
        GroupUsage {
            cap: Some(self.cap()).filter(|&cap| cap != u64::MAX),
            used: self.used(),
            peak: self.peak.load(Ordering::Relaxed),
        }
    }

    /// Resets cap and peak if nothing is charged; returns whether it did.
    pub(super) fn close(&self) -> bool {
        if self.used() > 0 {
            return false;
        }
        self.set_cap(None);
        self.peak.store(0, Ordering::Relaxed);
        true
    }
}

/// The accounts of a domain: a list that only grows and never moves, so that a look-up takes no lock. An account
/// is created by its group's first charge, or by its cap.
#[derive(Debug)]
pub(super) struct GroupAccounts {
    /// The n-th block holds 2ⁿ accounts: together one for each group.
    blocks: [OnceLock<Box<[GroupAccount]>>; 16],
}

impl Default for GroupAccounts {
    fn default() -> Self {
        Self { blocks: std::array::from_fn(|_| OnceLock::new()) }
    }
}

impl GroupAccounts {
    /// The account of a group, if it was created.
    pub(super) fn find(&self, group: GroupId) -> Option<&GroupAccount> {
        let (block, at) = position(group)?;
        self.blocks[block].get().map(|accounts| &accounts[at])
    }

    /// The account of a group, created if need be; `None` without a group.
    pub(super) fn get(&self, group: GroupId) -> Option<&GroupAccount> {
        let (block, at) = position(group)?;
        let open = || (0..1usize << block).map(|_| GroupAccount::default()).collect();
        Some(&self.blocks[block].get_or_init(open)[at])
    }
}

fn position(group: GroupId) -> Option<(usize, usize)> {
    let number = usize::from(group.0);
    let block = number.checked_ilog2()?;
    Some((block as usize, number - (1 << block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_an_account_of_its_own_and_no_group_none() {
        let accounts = GroupAccounts::default();
        assert!(accounts.get(GroupId::NONE).is_none());
        assert!(accounts.find(GroupId(7)).is_none(), "not created yet");
        for number in [1, 2, 3, 7, 8, u16::MAX] {
            let account = accounts.get(GroupId(number)).expect("a group");
            assert!(account.charge_within(u64::from(number), 0));
        }
        for number in [1, 2, 3, 7, 8, u16::MAX] {
            let usage = accounts.find(GroupId(number)).expect("created above").usage();
            assert_eq!((usage.used, usage.cap), (u64::from(number), None));
        }
    }

    #[test]
    fn an_account_knows_how_far_it_is_from_its_cap() {
        let account = GroupAccount::default();
        assert!(account.charge_within(6, 1 << 40));
        assert!(!account.under_pressure(1 << 40) && account.could_hold(u64::MAX));
        account.set_cap(Some(10));
        assert_eq!((account.room(), account.short_of(4), account.short_of(7)), (4, 0, 3));
        assert!(!account.charge_within(5, 0) && !account.charge_within(3, 2), "beyond it");
        assert_eq!(account.usage().used, 6);
        assert!(account.under_pressure(0) && !account.could_hold(11));
        account.set_cap(Some(5));
        assert_eq!((account.room(), account.short_of(0)), (0, 1));
        account.uncharge(6);
        let usage = account.usage();
        assert_eq!((usage.cap, usage.used, usage.peak), (Some(5), 0, 6));
        assert!(account.close());
        assert_eq!(account.usage(), GroupAccount::default().usage());
        assert!(account.charge_within(1, 0));
        assert!(!account.close(), "a byte is still in use");
    }
}
