//! The description of a buffer that is to be created.

use std::sync::Arc;

use ash::vk;

use super::buffer::Buffers;
use super::client_group::ClientGroup;
use super::creation_flags::{CreationFlags, UsageAndMemory};
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
    private: bool,
    dedicated: bool,
    client: Option<ClientGroup>,
}

impl BufferDescriptor {
    /// A buffer of `size` bytes without a name, with default placement and priority. Its usages are all that
    /// need no extension.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            name: None,
            usage: SHARED_BUFFER_USAGE,
            placement: Placement::default(),
            peer_to_peer: true,
            priority: Priority::default(),
            discardable: false,
            private: false,
            dedicated: false,
            client: None,
        }
    }

    /// Sets a name for errors, events and reports.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets what devices will use it for.
    ///
    /// The `VkBuffer` of a [`crate::Mapping`] spans a whole slab and has every usage that needs no extension,
    /// whatever is set here. If a set usage is not among those, creating the buffer fails. For other usages
    /// there is [`crate::Mapping::aliased_buffer`].
    #[must_use]
    pub fn usage(mut self, usage: vk::BufferUsageFlags) -> Self {
        self.usage = usage;
        self
    }

    /// Sets where devices may use it.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the eviction priority. An eviction takes buffers of lower priority first.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Lets the content be discarded from the beginning, whenever its memory is needed: for caches.
    ///
    /// Such a buffer is evicted before all others, from system memory too. Its bytes are discarded, not
    /// copied, and the next use fails with [`Error::Purged`]. [`crate::SharedBuffer::set_purgeable`] changes
    /// this while the buffer lives.
    #[must_use]
    pub fn discardable(mut self) -> Self {
        self.discardable = true;
        self
    }

    /// Lets its memory be of a kind that cannot be exported, while only its home device is attached: for buffers that no
    /// other device is expected to attach.
    ///
    /// GPU drivers treat such memory better: RADV allocates it as always valid
    /// (`AMDGPU_GEM_CREATE_VM_ALWAYS_VALID`), which adds nothing to the list of objects of a submission; an exportable
    /// slab does, on every submission of the device. No import by another device can move it.
    ///
    /// When another device attaches the buffer, or it is exported, it first moves to exportable memory. If it is kept in
    /// place then, that fails with [`Error::Busy`].
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Gives it an allocation of its own wherever it is, whatever its size. No other buffer shares its memory.
    ///
    /// Such a buffer begins at byte 0 of its memory, and its export needs no move. Allocating it costs calls into the driver,
    /// and takes whole pages.
    #[must_use]
    pub fn dedicated(mut self) -> Self {
        self.dedicated = true;
        self
    }

    /// Charges the buffer to a client group: the bytes that it uses are counted there, in whichever domain,
    /// and limited by the group's cap.
    #[must_use]
    pub fn client(mut self, group: &ClientGroup) -> Self {
        self.client = Some(group.clone());
        self
    }

    /// Sets whether it may be in one device's own memory while another device is attached; `true` by default.
    ///
    /// Importers offer this ([`crate::Importer::allow_peer2peer`]), and the proved route decides. This is the
    /// owner's veto, for a device whose own memory is slow for others, or scarce.
    #[must_use]
    #[doc(alias = "allow_peer2peer")]
    pub fn peer_to_peer(mut self, allowed: bool) -> Self {
        self.peer_to_peer = allowed;
        self
    }

    /// The same, but its content is not discarded.
    pub(crate) fn kept(mut self) -> Self {
        self.discardable = false;
        self
    }

    /// The name.
    pub(crate) fn named(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The same with another size in bytes.
    pub(crate) fn sized(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Checks the size and the usages. `home` is the name of the home device, for the error.
    pub(in crate::buffer) fn check(&self, home: &str) -> Result<()> {
        match self.size {
            0 => Err(Error::InvalidSize { size: 0, rule: "at least one byte" }),
            _ if !SHARED_BUFFER_USAGE.contains(self.usage) => Err(Error::Unsupported {
                device: home.to_owned(),
                missing: format!(
                    "{:?} in buffers that span a slab (see Mapping::aliased_buffer)",
                    self.usage & !SHARED_BUFFER_USAGE
                ),
            }),
            _ => Ok(()),
        }
    }

    /// What devices will use it for.
    pub fn usages(&self) -> vk::BufferUsageFlags {
        self.usage
    }

    /// The constant properties, in one byte.
    pub(in crate::buffer) fn flags(&self) -> CreationFlags {
        let flags = [self.peer_to_peer, self.discardable, self.name.is_some(), self.private];
        CreationFlags::new(self.placement, self.priority, flags)
    }

    /// The usages, and whether its memory is its own, in one word.
    pub(in crate::buffer) fn usage_and_memory(&self) -> UsageAndMemory {
        UsageAndMemory::new(self.usage, self.dedicated)
    }

    pub(in crate::buffer) fn is_dedicated(&self) -> bool {
        self.dedicated
    }

    pub(crate) fn prioritised(&self) -> Priority {
        self.priority
    }

    pub(in crate::buffer) fn is_discardable(&self) -> bool {
        self.discardable
    }

    pub(in crate::buffer) fn is_private(&self) -> bool {
        self.private
    }

    /// The number of the client group that the buffer is to be charged to.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] if the group is of another engine.
    pub(in crate::buffer) fn group_id(&self, set: &Arc<Buffers>) -> Result<GroupId> {
        self.client.as_ref().map_or(Ok(GroupId::NONE), |group| group.id(set))
    }

    pub(crate) fn placed(&self) -> Placement {
        self.placement
    }

    pub(in crate::buffer) fn into_name(self) -> Option<Box<str>> {
        self.name
    }
}
