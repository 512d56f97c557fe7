//! Groups of buffers: those with a cap of their own, and those that age together.

use std::sync::Arc;

use super::engine::Engine;
use crate::buffer::{AgeGroup, ClientGroup, Eviction, fit};
use crate::error::{Error, Result};
use crate::memory::DomainId;

impl Engine {
    /// A new client group, for buffers that are to be counted, and limited, together. The name is for errors
    /// and reports; two groups may have the same.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there are 65,535 groups of which somebody has a handle or a buffer.
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

    /// A new age group, with nobody in it.
    pub fn age_group(&self) -> AgeGroup {
        AgeGroup::new(&self.set.core)
    }
}

impl ClientGroup {
    /// Limits what the group's buffers may have in use in a domain, now and while things run; `None` for no
    /// limit but the domain's. Those that do not fit any more are evicted.
    ///
    /// A group that has as much as it may makes room by evicting its own, and nobody else: the smallest set
    /// that is enough, in the order in which they would leave a full domain. If none of them can leave, its
    /// buffer goes where else it may be, or there is [`Error::OutOfMemory`], whose failures say so
    /// ([`crate::residency::EvictionFailures::cap_reached`]). Where the domain is full, anybody may have to go for
    /// it, as for anybody else; a cap is no promise that there is room.
    ///
    /// With the default policy a choice among its own costs the same however many others there are
    /// ([`crate::residency::policy::Policy::victims_among`]).
    ///
    /// What the group's buffers have left counts until devices have finished with it and mappings do not
    /// look at it any more, as does a buffer's place before and after a move until that has ended: so a
    /// buffer of more than half of the cap cannot move within the domain. Imported buffers are on nobody's
    /// account.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] for the VRAM of a device that does not take part. What could not go is in the
    /// result.
    ///
    /// Locks: none may be held; waits, in bounds, for what is evicted.
    #[doc(alias = "dmem.max")]
    pub fn set_cap(&self, domain: DomainId, bytes: Option<u64>) -> Result<Eviction> {
        self.set.core.check_domain(domain)?;
        self.set.handle_lost_devices();
        self.set.core.domain_state(domain).ledger.set_group_cap(self.group.id, bytes);
        Ok(fit(&self.set, domain, self.group.id))
    }
}
