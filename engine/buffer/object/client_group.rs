//! Client groups: buffers on one account, with a cap for each place.
//!
//! Kernel counterpart: the dmem cgroup controller. There a task is in a group, and what it allocates is
//! charged to that; here a buffer is.

use std::fmt;
use std::sync::Arc;

use super::buffer::{BufferInner, Buffers, SharedBuffer};
use crate::error::{Error, Result};
use crate::memory::{DomainId, GroupId, GroupUsage};
use crate::residency::Group;

/// Buffers of one client: what they have in use together is counted, and can be limited.
///
/// Made by [`crate::Engine::client_group`]; a buffer is of a group from its creation on
/// ([`crate::BufferDescriptor::client`]). Cheap to clone; all clones are the same group. Like a buffer it
/// keeps the engine's devices open.
#[derive(Clone)]
#[doc(alias = "cgroup")]
#[doc(alias = "dmem")]
pub struct ClientGroup {
    pub(crate) set: Arc<Buffers>,
    pub(crate) group: Arc<Group>,
}

impl ClientGroup {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// How much the group has in a domain, and may have.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] for the VRAM of a device that does not take part.
    #[doc(alias = "dmem.current")]
    pub fn usage(&self, domain: DomainId) -> Result<GroupUsage> {
        self.set.core.check_domain(domain)?;
        Ok(self.set.core.domain_state(domain).ledger.group(self.group.id))
    }

    /// Its number, for buffers of `core`.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`].
    pub(in crate::buffer) fn id(&self, set: &Arc<Buffers>) -> Result<GroupId> {
        if Arc::ptr_eq(&self.set, set) {
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
        let group = self.0.core().groups.get(self.0.group())?;
        Some(ClientGroup { set: Arc::clone(&self.0.set), group })
    }
}

impl BufferInner {
    /// On whose account it is.
    pub(in crate::buffer) fn group(&self) -> GroupId {
        self.lock().location.group()
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
