//! Client groups: buffers on one account, with a cap for each place.
//!
//! Kernel counterpart: the dmem cgroup controller. There a task is in a group, and what it allocates is
//! charged to that; here a buffer is.

use std::fmt;
use std::sync::Arc;

use super::buffer::{BufferInner, SharedBuffer};
use crate::core::Core;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::memory::{DomainId, GroupId, GroupUsage};
use crate::residence::{Eviction, fit};
use crate::residency::Group;

/// Buffers of one client: what they have in use together is counted, and can be limited.
///
/// Made by [`Engine::client_group`]; a buffer is of a group from its creation on
/// ([`crate::BufferDescriptor::client`]). Cheap to clone; all clones are the same group. Like a buffer it
/// keeps the engine's devices open.
#[derive(Clone)]
#[doc(alias = "cgroup")]
#[doc(alias = "dmem")]
pub struct ClientGroup {
    core: Arc<Core>,
    group: Arc<Group>,
}

impl Engine {
    /// A new client group, for buffers that are to be counted, and limited, together. The name is for errors
    /// and reports; two groups may have the same.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there are 65,535 groups of which somebody has a handle or a buffer.
    pub fn client_group(&self, name: &str) -> Result<ClientGroup> {
        let core = &self.core;
        let unused = |group| core.domains().all(|id| core.store(id).ledger.close_account(group));
        let group = core.groups.make(name, unused).ok_or_else(|| Error::Unsupported {
            device: "the engine".into(),
            missing: "room for more than 65,535 client groups".into(),
        })?;
        Ok(ClientGroup { core: Arc::clone(core), group })
    }
}

impl ClientGroup {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// Limits what the group's buffers may have in use in a domain, now and while things run; `None` for no
    /// limit but the domain's. Those that do not fit any more are evicted.
    ///
    /// A group that has as much as it may makes room by evicting its own, and nobody else: the smallest set
    /// that is enough, in the order in which they would leave a full domain. If none of them can leave, its
    /// buffer goes where else it may be, or there is [`Error::OutOfMemory`], whose obstacles say so
    /// ([`crate::residency::Obstacles::cap_reached`]). Where the domain is full, anybody may have to go for
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
        self.core.check_domain(domain)?;
        self.core.give_up_lost();
        self.core.store(domain).ledger.set_group_cap(self.group.id, bytes);
        Ok(fit(&self.core, domain, self.group.id))
    }

    /// How much the group has in a domain, and may have.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] for the VRAM of a device that does not take part.
    #[doc(alias = "dmem.current")]
    pub fn usage(&self, domain: DomainId) -> Result<GroupUsage> {
        self.core.check_domain(domain)?;
        Ok(self.core.store(domain).ledger.group(self.group.id))
    }

    /// Its number, for buffers of `core`.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`].
    pub(in crate::buffer) fn id(&self, core: &Arc<Core>) -> Result<GroupId> {
        if Arc::ptr_eq(&self.core, core) {
            Ok(self.group.id)
        } else {
            Err(Error::ForeignEngine { what: "the client group" })
        }
    }
}

impl SharedBuffer {
    /// The client group whose account it is on, if any.
    ///
    /// Locks: the reservation.
    pub fn client_group(&self) -> Option<ClientGroup> {
        let group = self.0.core.groups.get(self.0.group())?;
        Some(ClientGroup { core: Arc::clone(&self.0.core), group })
    }
}

impl BufferInner {
    /// On whose account it is.
    pub(in crate::buffer) fn group(&self) -> GroupId {
        self.lock().place.group()
    }
}

impl PartialEq for ClientGroup {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.group, &other.group)
    }
}

impl Eq for ClientGroup {}

impl fmt::Debug for ClientGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientGroup").field("name", &self.name()).finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<ClientGroup>();
};
