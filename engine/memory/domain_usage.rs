//! The usage of a domain, as a user and a report see it: plain data.

/// The usage of a domain, in bytes: [`crate::Engine::usage`]. Imported foreign memory
/// ([`crate::Engine::import_foreign`]) is counted by its exporter, and not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainUsage {
    /// The size of the domain: the heap, or its modelled size ([`crate::Engine::model_heap`]). For system memory,
    /// all memory of the machine, or the limit of the process' memory cgroup if that is less.
    pub capacity: u64,
    /// What buffers may use there at once: the least of the capacity, the cap
    /// ([`crate::Engine::set_cap`], which says what it is by default), and the driver's budget (`VK_EXT_memory_budget`).
    pub budget: u64,
    /// What buffers use: the slot or allocation of each, from its reservation until the last copy out of it
    /// has ended.
    pub used: u64,
    /// The highest value that `used` has had, together with the free slots that threads kept at that moment for their next
    /// buffers: 256 KiB per thread and pool of the device at most, and none in a domain that is more than half full.
    pub peak: u64,
    /// What is allocated there, including free slots of slabs and unused memory kept for reuse.
    pub held: u64,
}

/// The usage of a domain by a client group, in bytes: [`crate::ClientGroup::usage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupUsage {
    /// What its buffers may use there at once; `None` for no limit but the domain's.
    pub cap: Option<u64>,
    /// What its buffers use, counted as [`crate::DomainUsage::used`]. This includes memory that they have left
    /// and that devices or mappings still use, and their clean copies.
    pub used: u64,
    /// The highest value that `used` has had.
    pub peak: u64,
}

/// What a device has imported: [`crate::Engine::imports`]. In bytes of the memory that was imported, which is that of
/// whole slabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ImportUsage {
    /// System memory, which includes host-visible memory of other devices.
    pub system: u64,
    /// The memory of other devices.
    pub peers: u64,
    /// How many imports there are. Each is one `VkDeviceMemory`.
    pub views: u64,
    /// The bytes of system memory that the device may import: the largest heap that is not its own, or else its
    /// largest heap; or what the driver's budget for that heap leaves (`VK_EXT_memory_budget`), if that is less.
    /// `u64::MAX` for a software device.
    pub limit: u64,
}

impl ImportUsage {
    /// The bytes of system memory that the device may still import.
    pub(crate) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.system)
    }
}
