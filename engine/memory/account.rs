//! Accounts: how many bytes of a domain each client group has, and how many it may have.
//!
//! Kernel counterpart: the dmem cgroup controller (`dmem.current`, `dmem.max`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which client group of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct GroupId(pub(crate) u16);

impl GroupId {
    /// No group: nobody counts.
    pub(crate) const NONE: Self = Self(0);
}

/// Bytes, and on whose account they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) bytes: u64,
    pub(crate) group: GroupId,
}

/// On nobody's account.
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

/// How much a client group has of a domain, in bytes: [`crate::ClientGroup::usage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupUsage {
    /// What its buffers may have in use there at once; `None` for no limit but the domain's.
    pub cap: Option<u64>,
    /// What they have: as [`crate::DomainUsage::used`], so what they have left and devices or mappings still
    /// look at counts, and their clean copies do.
    pub used: u64,
    /// The most that `used` ever was.
    pub peak: u64,
}

/// What one group has of one domain.
///
/// Of a group that has a cap, bytes are charged under the domain's lock; what came before the cap was seen
/// is found by [`Account::add_within`].
#[derive(Debug)]
pub(super) struct Account {
    /// `u64::MAX` if there is none.
    cap: AtomicU64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Default for Account {
    fn default() -> Self {
        Self { cap: AtomicU64::new(u64::MAX), used: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }
}

impl Account {
    fn cap(&self) -> u64 {
        self.cap.load(Ordering::SeqCst)
    }

    pub(super) fn is_capped(&self) -> bool {
        self.cap() != u64::MAX
    }

    pub(super) fn set_cap(&self, cap: Option<u64>) {
        // As in `add_within`.
        self.cap.store(cap.unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// How much more it may have.
    pub(super) fn room(&self) -> u64 {
        self.cap().saturating_sub(self.used())
    }

    /// By how much it would be beyond its cap with `bytes` more.
    pub(super) fn short_of(&self, bytes: u64) -> u64 {
        self.used().saturating_add(bytes).saturating_sub(self.cap())
    }

    /// Whether `bytes` more would be beyond half of its cap.
    pub(super) fn gets_tight(&self, bytes: u64) -> bool {
        self.is_capped() && self.used().saturating_add(bytes) > self.cap() / 2
    }

    pub(super) fn could_hold(&self, bytes: u64) -> bool {
        bytes <= self.cap()
    }

    /// Adds bytes, if they are within the cap beside what others of the group were promised. Whether they were.
    ///
    /// Who thinks that there is no cap takes no lock. In one order with everybody's: either the cap is seen here,
    /// or whoever has set it sees the bytes, and evicts for them.
    pub(super) fn add_within(&self, bytes: u64, promised: u64) -> bool {
        let sum = self.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if sum.saturating_add(promised) > self.cap() {
            self.take_off(bytes);
            return false;
        }
        if sum > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(sum, Ordering::Relaxed);
        }
        true
    }

    pub(super) fn take_off(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "{bytes} given back, {before} in use");
    }

    pub(super) fn usage(&self) -> GroupUsage {
        GroupUsage {
            cap: Some(self.cap()).filter(|&cap| cap != u64::MAX),
            used: self.used(),
            peak: self.peak.load(Ordering::Relaxed),
        }
    }

    /// Forgets what there was to know, if nothing is in use.
    pub(super) fn close(&self) -> bool {
        if self.used() > 0 {
            return false;
        }
        self.set_cap(None);
        self.peak.store(0, Ordering::Relaxed);
        true
    }
}

/// The accounts of a domain: a list that only grows and never moves, so that looking one up takes no lock.
/// An account is there from its group's first byte, or its cap, on.
#[derive(Debug)]
pub(super) struct Accounts {
    /// The n-th one holds 2ⁿ: together one for each group.
    blocks: [OnceLock<Box<[Account]>>; 16],
}

impl Default for Accounts {
    fn default() -> Self {
        Self { blocks: std::array::from_fn(|_| OnceLock::new()) }
    }
}

impl Accounts {
    /// That of a group, if there is one yet.
    pub(super) fn find(&self, group: GroupId) -> Option<&Account> {
        let (block, at) = place(group)?;
        self.blocks[block].get().map(|accounts| &accounts[at])
    }

    /// That of a group; `None` without a group.
    pub(super) fn get(&self, group: GroupId) -> Option<&Account> {
        let (block, at) = place(group)?;
        let open = || (0..1usize << block).map(|_| Account::default()).collect();
        Some(&self.blocks[block].get_or_init(open)[at])
    }
}

fn place(group: GroupId) -> Option<(usize, usize)> {
    let number = usize::from(group.0);
    let block = number.checked_ilog2()?;
    Some((block as usize, number - (1 << block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_an_account_of_its_own_and_no_group_none() {
        let accounts = Accounts::default();
        assert!(accounts.get(GroupId::NONE).is_none());
        assert!(accounts.find(GroupId(7)).is_none(), "nobody has asked for it");
        for number in [1, 2, 3, 7, 8, u16::MAX] {
            let account = accounts.get(GroupId(number)).expect("a group");
            assert!(account.add_within(u64::from(number), 0));
        }
        for number in [1, 2, 3, 7, 8, u16::MAX] {
            let usage = accounts.find(GroupId(number)).expect("it was asked for").usage();
            assert_eq!((usage.used, usage.cap), (u64::from(number), None));
        }
    }

    #[test]
    fn an_account_knows_how_far_it_is_from_its_cap() {
        let account = Account::default();
        assert!(account.add_within(6, 1 << 40));
        assert!(!account.gets_tight(1 << 40) && account.could_hold(u64::MAX));
        account.set_cap(Some(10));
        assert_eq!((account.room(), account.short_of(4), account.short_of(7)), (4, 0, 3));
        assert!(!account.add_within(5, 0) && !account.add_within(3, 2), "beyond it");
        assert_eq!(account.usage().used, 6);
        assert!(account.gets_tight(0) && !account.could_hold(11));
        account.set_cap(Some(5));
        assert_eq!((account.room(), account.short_of(0)), (0, 1));
        account.take_off(6);
        let usage = account.usage();
        assert_eq!((usage.cap, usage.used, usage.peak), (Some(5), 0, 6));
        assert!(account.close());
        assert_eq!(account.usage(), Account::default().usage());
        assert!(account.add_within(1, 0));
        assert!(!account.close(), "a byte is still in use");
    }
}
