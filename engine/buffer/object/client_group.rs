//! Client groups: buffers that are charged to one account, with a cap in each domain.
//!
//! Kernel counterpart: the dmem cgroup controller. There a task is in a group, and its allocations are
//! charged to the group. Here a buffer is in a group.

use std::fmt;
use std::sync::Arc;

use super::buffer::{BufferInner, Buffers, SharedBuffer};
use crate::error::{Error, Result};
use crate::memory::{DomainId, GroupId, GroupUsage};
use crate::residency::Group;

/// The buffers of one client. The bytes that they use together are counted, and can be limited.
///
/// Made by [`crate::Engine::client_group`]. A buffer is assigned to a group when it is created
/// ([`crate::BufferDescriptor::client`]), and stays in it. A clone is cheap, and is the same group. Like a
/// buffer, a group keeps the engine's devices open.
#[derive(Clone)]
#[doc(alias = "cgroup")]
#[doc(alias = "dmem")]
pub struct ClientGroup {
    pub(crate) set: Arc<Buffers>,
    pub(crate) group: Arc<Group>,
}

impl ClientGroup {
    /// The name of the group.
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// The bytes that the group uses in a domain, and its cap there.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] for the VRAM of a device of another engine.
    #[doc(alias = "dmem.current")]
    pub fn usage(&self, domain: DomainId) -> Result<GroupUsage> {
        self.set.core.check_domain(domain)?;
        Ok(self.set.core.domain_state(domain).ledger.group(self.group.id))
    }

    /// The number of the group, for buffers of `set`.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] if the group is of another engine.
    pub(super) fn id(&self, set: &Arc<Buffers>) -> Result<GroupId> {
        if Arc::ptr_eq(&self.set, set) {
            Ok(self.group.id)
        } else {
            Err(Error::ForeignEngine { what: "the client group" })
        }
    }
}

impl SharedBuffer {
    /// The client group that the buffer is charged to, if any.
    ///
    /// Locks: the reservation.
    pub fn client_group(&self) -> Option<ClientGroup> {
        let group = self.0.core().groups.get(self.0.group())?;
        Some(ClientGroup { set: Arc::clone(&*self.0.set), group })
    }
}

impl BufferInner {
    /// The number of the client group that the buffer is charged to.
    pub(in crate::buffer) fn group(&self) -> GroupId {
        self.lock().location().group()
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
