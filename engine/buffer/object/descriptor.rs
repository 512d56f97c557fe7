//! What a buffer is to be.

use std::sync::Arc;

use ash::vk;

use super::buffer::Buffers;
use super::client_group::ClientGroup;
use super::creation_flags::CreationFlags;
use crate::device::SHARED_BUFFER_USAGE;
use crate::error::{Error, Result};
use crate::memory::{GroupId, Placement};
use crate::residency::Priority;

/// What a [`crate::SharedBuffer`] is to be: its size, and what has a default.
///
/// ```
/// use peerbuf::{BufferDescriptor, Placement};
///
/// let frame = BufferDescriptor::new(1920 * 1080 * 4).name("frame").placement(Placement::System);
/// assert_eq!(frame.size(), 8_294_400);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferDescriptor {
    size: u64,
    name: Option<Box<str>>,
    usage: vk::BufferUsageFlags,
    placement: Placement,
    peer_to_peer: bool,
    priority: Priority,
    discardable: bool,
    client: Option<ClientGroup>,
}

impl BufferDescriptor {
    /// A buffer of `size` bytes; anywhere, nameless, for every use that needs no extension.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            name: None,
            usage: SHARED_BUFFER_USAGE,
            placement: Placement::default(),
            peer_to_peer: true,
            priority: Priority::default(),
            discardable: false,
            client: None,
        }
    }

    /// Gives it a name, for errors, events and reports.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Says what devices will do with it.
    ///
    /// The `VkBuffer` of a [`crate::Mapping`] spans a whole slab and can do everything that needs no
    /// extension, whatever is said here; saying it makes a use that it cannot do an error when the
    /// buffer is created. For other uses there is [`crate::Mapping::own_buffer`].
    #[must_use]
    pub fn usage(mut self, usage: vk::BufferUsageFlags) -> Self {
        self.usage = usage;
        self
    }

    /// Says where it may live.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Says how much it matters that it is where it wants to be: whom an eviction takes first.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Says that its content may be lost whenever its place is needed, from the beginning: a cache. It is
    /// asked to leave before all others, in system memory, too; its bytes are dropped, not copied, and
    /// whoever uses it then is told ([`Error::Purged`]). [`crate::SharedBuffer::set_purgeable`] says the
    /// same, or the contrary, while it lives.
    #[must_use]
    pub fn discardable(mut self) -> Self {
        self.discardable = true;
        self
    }

    /// Puts it on the account of a client group: what it has in use is counted there, wherever it is, and
    /// limited by what the group may have.
    #[must_use]
    pub fn client(mut self, group: &ClientGroup) -> Self {
        self.client = Some(group.clone());
        self
    }

    /// Says whether it may live in one device's own memory while another one is attached; `true` unless it
    /// is said. Importers offer ([`crate::Importer::allow_peer2peer`]), the proved route decides, and this
    /// is the owner's veto: for a device whose own memory is slow for others, or too dear.
    #[must_use]
    #[doc(alias = "allow_peer2peer")]
    pub fn peer_to_peer(mut self, allowed: bool) -> Self {
        self.peer_to_peer = allowed;
        self
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(in crate::buffer) fn check(&self, home: &str) -> Result<()> {
        match self.size {
            0 => Err(Error::InvalidSize { size: 0, rule: "at least one byte" }),
            _ if !SHARED_BUFFER_USAGE.contains(self.usage) => Err(Error::Unsupported {
                device: home.to_owned(),
                missing: format!(
                    "{:?} in buffers that span a slab (see Mapping::own_buffer)",
                    self.usage & !SHARED_BUFFER_USAGE
                ),
            }),
            _ => Ok(()),
        }
    }

    /// What devices will do with it.
    pub fn usages(&self) -> vk::BufferUsageFlags {
        self.usage
    }

    /// What it says, in a byte.
    pub(in crate::buffer) fn flags(&self) -> CreationFlags {
        let flags = [self.peer_to_peer, self.discardable, self.name.is_some()];
        CreationFlags::new(self.placement, self.priority, flags)
    }

    pub(in crate::buffer) fn prioritised(&self) -> Priority {
        self.priority
    }

    pub(in crate::buffer) fn may_be_lost(&self) -> bool {
        self.discardable
    }

    /// On whose account it is to be.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`].
    pub(in crate::buffer) fn account(&self, set: &Arc<Buffers>) -> Result<GroupId> {
        self.client.as_ref().map_or(Ok(GroupId::NONE), |group| group.id(set))
    }

    pub(in crate::buffer) fn placed(&self) -> Placement {
        self.placement
    }

    pub(in crate::buffer) fn into_name(self) -> Option<Box<str>> {
        self.name
    }
}
