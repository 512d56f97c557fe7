//! Groups of buffers: those that have a cap of their own, and those that age together.

use std::sync::Arc;

use super::engine::Engine;
use crate::buffer::{AgeGroup, ClientGroup, Eviction, fit};
use crate::error::{Error, Result};
use crate::memory::DomainId;

/// # Groups
///
/// A client group is charged for its buffers, and has caps. An age group is used, and so evicted, as one.
impl Engine {
    /// Creates a client group, for buffers that are counted and limited together. Errors and reports show the
    /// name, which need not be unique.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there are 65,535 groups that have a handle or a buffer.
    pub fn client_group(&self, name: &str) -> Result<ClientGroup> {
        let core = &self.set.core;
        let unused = |group| {
            core.domains().all(|id| core.domain_state(id).ledger.close_group_account(group))
        };
        let group = core.groups.make(name, unused).ok_or_else(|| Error::Unsupported {
            device: "the engine".into(),
            missing: "room for more than 65,535 client groups".into(),
        })?;
        Ok(ClientGroup { set: Arc::clone(&self.set), group })
    }

    /// Creates an empty age group.
    pub fn age_group(&self) -> AgeGroup {
        AgeGroup::new(&self.set.core)
    }
}

impl ClientGroup {
    /// Limits how many bytes the group's buffers may use in a domain; `None` leaves only the domain's own limit.
    /// The cap can change at any time. Buffers that no longer fit are evicted.
    ///
    /// A group at its cap makes room by evicting its own buffers, and no others: the smallest sufficient set, in
    /// the order in which they would leave a full domain. If none of them can be evicted, the new buffer is
    /// allocated in another domain of its placement, or the call fails with [`Error::OutOfMemory`], which names
    /// the cap ([`crate::residency::EvictionFailures::cap_reached`]). If the domain itself is full, buffers of any
    /// group may be evicted. A cap does not reserve memory.
    ///
    /// With the default policy the choice among the group's buffers costs the same however many other buffers
    /// there are ([`crate::residency::policy::Policy::victims_among`]).
    ///
    /// Memory that the group's buffers have left is charged until devices have finished with it and mappings no
    /// longer show it. During a move a buffer is charged for the old and the new backing. So a buffer of more than
    /// half of the cap cannot move within the domain. Imported buffers are charged to no group.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] for the VRAM of a device that does not take part. The result says what could not
    /// be evicted.
    ///
    /// Locks: none may be held; waits for evictions, for at most the engine timeout.
    #[doc(alias = "dmem.max")]
    pub fn set_cap(&self, domain: DomainId, bytes: Option<u64>) -> Result<Eviction> {
        self.set.core.check_domain(domain)?;
        self.set.handle_lost_devices();
        self.set.core.domain_state(domain).ledger.set_group_cap(self.group.id, bytes);
        Ok(fit(&self.set, domain, self.group.id))
    }
}
