//! Placements: the kinds of domains in which devices may use a buffer, in order of preference.
//!
//! Kernel counterparts: `ttm_placement`; `preferred_domains` and `allowed_domains` of an amdgpu buffer object.

use super::domain_id::DomainKind;

/// The kinds of domains in which devices may use a buffer, best first.
///
/// A new buffer takes the first one that has room; other buffers are evicted for that. If a device attaches that
/// cannot reach the buffer there, the buffer moves to the first one that all attached devices can reach.
///
/// A placement says where devices may *use* a buffer, not where it may be *kept*. Any buffer that nothing uses may
/// be evicted to system memory: under pressure, by a smaller cap, by [`crate::SharedBuffer::evict`], or by
/// [`crate::Engine::evict_all`]. To keep a buffer where it is, pin it ([`crate::Attachment::pin`]): pins count
/// against a quota, placements do not. (amdgpu: `amdgpu_evict_flags` evicts to system memory whatever
/// `allowed_domains` says, and the next submission validates the object back.)
///
/// A requested move ([`crate::SharedBuffer::migrate`]) overrides the placement: the buffer is then used where it
/// was moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// In the home device's memory if every attached device can reach it there, otherwise in system memory.
    ///
    /// An evicted buffer is used in system memory until it is restored. Uses restore it as far as
    /// [`crate::ResidencyOptions`] allow.
    #[default]
    VramOrSystem,
    /// Only in the home device's memory: a device that cannot reach it there cannot attach, even while the buffer is
    /// evicted.
    ///
    /// An evicted buffer returns before a device uses it: [`crate::Attachment::map`] and
    /// [`crate::Attachment::remap`], [`crate::SharedBuffer::remap_all`], [`crate::Engine::submit_remapped`],
    /// [`crate::Attachment::remapped`] and its forms, [`crate::Attachment::pin`] and
    /// [`crate::SharedBuffer::export_foreign`] first move it. They evict other buffers for it, and wait for that for
    /// at most the engine timeout, whatever [`crate::ResidencyOptions`] allow. If the buffer cannot return, the use
    /// fails and nothing has changed:
    ///
    /// - [`crate::Error::OutOfMemory`] names the buffers that could not be evicted. Buffers of one submission do not
    ///   evict each other, so they have to fit at the same time.
    /// - [`crate::Error::Busy`] while the host accesses the buffer where it is kept.
    /// - [`crate::Error::DeviceLost`] if the device is unplugged. The content of an evicted buffer is unharmed:
    ///   [`crate::SharedBuffer::migrate`] chooses another domain for its use.
    ///
    /// [`crate::SharedBuffer::host_access`] and [`crate::Engine::copy`] are no uses in this sense: they find the bytes
    /// where the buffer is kept.
    Vram,
    /// In system memory.
    System,
}

/// Which buffers have slabs together: for [`crate::EngineDescriptor::slabs`].
///
/// A device imports a slab whole. On GPUs that concerns every buffer in it. `amdgpu` moves an exported object to system
/// memory when a device without peer-to-peer access maps it (`amdgpu_dma_buf_map`), and keeps it there when a static
/// importer does (`amdgpu_dma_buf_pin`). RADV makes every import resident in every submission
/// (`radv_amdgpu_copy_global_bo_list`), and the kernel orders such submissions behind the fences of other importers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SlabGrouping {
    /// As [`SlabGrouping::BySharers`] from the first device on that is not a software one. The memory of software devices
    /// is the host's: an import maps the same pages, and moves nothing.
    #[default]
    Auto,
    /// Buffers that the same devices share. A device imports slabs of its own sets, and no others.
    ///
    /// A new buffer begins where buffers of its size and home device belong, by what most of them did: first with
    /// buffers that only the home device uses. If another device attaches it after all, it moves to a slab of its
    /// devices, as for any move ([`crate::observe::MoveCause::Reach`]); without a copy if it was never written. A
    /// buffer that is kept in place then (mapped statically, pinned, in a host access), or for which there is no free
    /// memory, stays, and the device imports its slab.
    BySharers,
    /// All buffers, whichever devices share them. No attach of a device that can reach the buffer moves it.
    Common,
}

impl Placement {
    /// The kinds of domains in which devices may use the buffer, best first.
    pub fn kinds(self) -> &'static [DomainKind] {
        match self {
            Self::VramOrSystem => &[DomainKind::Vram, DomainKind::System],
            Self::Vram => &[DomainKind::Vram],
            Self::System => &[DomainKind::System],
        }
    }
}
