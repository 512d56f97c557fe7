//! Counters of live objects: every test ends with them where they began.

use std::sync::atomic::{AtomicI64, Ordering};

/// Something that is born and dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
#[non_exhaustive]
pub enum Object {
    /// A Vulkan device, opened or adopted.
    Device,
    /// An exportable allocation: a slab or a dedicated one.
    Allocation,
    /// A device's view of an allocation: one `VkDeviceMemory` with its `VkBuffer`.
    View,
    /// A [`crate::SharedBuffer`], all its handles counted as one.
    Buffer,
    /// An [`crate::Attachment`].
    Attachment,
    /// A [`crate::Mapping`].
    Mapping,
    /// A [`crate::HostAccess`].
    HostAccess,
    /// A [`crate::ForeignExport`].
    ForeignExport,
    /// A [`crate::Pin`].
    Pin,
}

impl Object {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Device,
        Self::Allocation,
        Self::View,
        Self::Buffer,
        Self::Attachment,
        Self::Mapping,
        Self::HostAccess,
        Self::ForeignExport,
        Self::Pin,
    ];
}

/// How many objects of each kind are alive in one engine: [`crate::Engine::live`].
#[derive(Debug, Default)]
pub struct Live([AtomicI64; Object::ALL.len()]);

impl Live {
    /// How many are alive.
    pub fn count(&self, object: Object) -> u64 {
        // CAST: an object is counted when it is born, before it can die, so never negative.
        self.0[object as usize].load(Ordering::Relaxed).max(0) as u64
    }

    /// How many are alive in all, devices and what the engine keeps warm included.
    pub fn total(&self) -> u64 {
        Object::ALL.into_iter().map(|object| self.count(object)).sum()
    }

    // Relaxed: a statistic; nothing is read because of it.
    pub(crate) fn born(&self, object: Object) {
        self.0[object as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn died(&self, object: Object) {
        self.0[object as usize].fetch_sub(1, Ordering::Relaxed);
    }
}
