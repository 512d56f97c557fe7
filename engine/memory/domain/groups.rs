//! What the client groups use of a domain, and their caps.

use super::Domain;
use crate::memory::domain_usage::GroupUsage;
use crate::memory::group_account::{Charge, GroupAccount, GroupId};

impl Domain {
    /// The usage and the cap of a group.
    pub(crate) fn group(&self, group: GroupId) -> GroupUsage {
        self.accounts
            .find(group)
            .map_or_else(|| GroupAccount::default().usage(), GroupAccount::usage)
    }

    /// Sets the cap of a group; `None` for no cap.
    pub(crate) fn set_group_cap(&self, group: GroupId, cap: Option<u64>) {
        if let Some(account) = self.accounts.get(group) {
            // Under the lock: a concurrent charge was made before, or sees the cap.
            let _claims = self.claims();
            account.set_cap(cap);
        }
    }

    /// Bytes of a group beyond its cap, after the cap has shrunk.
    pub(crate) fn group_excess(&self, group: GroupId) -> u64 {
        self.accounts.find(group).map_or(0, |account| account.short_of(0))
    }

    /// Whether a group would use more than half of its cap.
    pub(crate) fn group_under_pressure(&self, charge: impl Into<Charge>) -> bool {
        let Charge { bytes, group } = charge.into();
        self.accounts.find(group).is_some_and(|account| account.under_pressure(bytes))
    }

    /// Closes a group's account if nothing is charged to it, so that another group may get its number.
    pub(crate) fn close_group_account(&self, group: GroupId) -> bool {
        self.accounts.find(group).is_none_or(GroupAccount::close)
    }
}
