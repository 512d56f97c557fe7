//! Memory: domains, placements, backings, slabs, host memory, dma-bufs.
//!
//! Kernel counterparts: `ttm_resource_manager` (domain), `ttm_placement`, `ttm_resource` (backing),
//! `dma-heap` and `udmabuf` (system memory that devices can import).
//! Vulkan: `VkDeviceMemory` with `VkExportMemoryAllocateInfo`, `VkImportMemoryFdInfoKHR`,
//! `VkImportMemoryHostPointerInfoEXT`.
//!
//! ```text
//!  Provider ──allocates──► Allocation ──cut by Pool──► Slab, slots ─┐
//!                              │  └───────whole──────────────────────┴──► Backing
//!                              └─ View per device (one import, one VkBuffer; images bound to it)
//! ```
//!
//! An *allocation* is one fixed, exportable piece of memory: what an fd names. Each device that uses it has
//! one *view* of it, created once, however many buffers are inside. A *backing* is the memory of one buffer: a
//! slot of a slab, or a whole allocation.
//!
//! May be known here: devices. `domain_id` knows ids only, so that errors can name a domain.
//!
//! What is not here: which provider suits a set of devices is proved in [`crate::transfer`]. Which buffers stay
//! and which are evicted is decided in [`crate::residency`].

mod address_space;
mod allocation;
mod allocation_fd;
mod allocation_host;
mod allocation_import;
mod allocation_views;
mod backing;
mod block;
mod bound_image;
mod candidates;
mod changes;
mod claim_queue;
mod device_set;
pub(crate) mod dma_buf;
mod domain;
mod domain_id;
mod domain_usage;
mod foreign_file;
mod group_account;
mod heap;
mod host;
mod host_copy;
mod image_spec;
mod import_kind;
mod import_ledger;
mod imports;
mod keepers;
mod kept_slots;
mod memory_type;
mod origin;
mod placement;
mod pool;
mod pools;
mod provider;
mod scrub_map;
mod size_class;
mod slab;
mod slab_class;
mod sparse_blocks;
pub(crate) mod staging;
mod survey;
mod system_memory;
mod unlisted;
mod view;
mod view_create;
mod view_error;
mod view_slots;
mod volatile;
pub(crate) mod wide;
mod zero_unused;

pub use domain_id::{DomainId, DomainKind};
pub use domain_usage::{DomainUsage, GroupUsage, ImportUsage};
pub use placement::{Placement, SlabGrouping};
pub use provider::Provider;

pub(crate) use allocation::Allocation;
pub(crate) use allocation_host::HostWait;
pub(crate) use allocation_import::ForeignFile;
pub(crate) use backing::{Backing, Content};
pub(crate) use bound_image::{BoundImage, UnboundImage};
pub(crate) use candidates::{
    candidates, has_host_only_memory, host_exports, is_coherent_with_caches,
};
pub(crate) use changes::Changes;
pub(crate) use device_set::DeviceSet;
pub(crate) use domain::{Claim, Domain, Room};
pub(crate) use foreign_file::ForeignClaim;
pub(crate) use group_account::{Charge, GroupId};
pub(crate) use heap::vram_heap;
pub(crate) use host::HOST_GRANULE;
pub(crate) use host_copy::{copy_by_host, copy_by_stores, copy_parts_by_host, zero_by_host};
pub(crate) use image_spec::{ImageSpec, PlaneStart, Tiling};
pub(crate) use import_kind::ImportKind;
pub(crate) use import_ledger::import_heap;
pub(crate) use imports::{GiveBack, Imports, Pass};
pub(crate) use memory_type::MemoryPriority;
pub(crate) use origin::Origin;
pub(crate) use pool::{BackingKind, Pool};
pub(crate) use pools::Pools;
pub(crate) use scrub_map::ScrubMap;
pub(crate) use size_class::{SLOT_ALIGN, footprint};
pub(crate) use sparse_blocks::SparseBlocks;
pub(crate) use system_memory::SystemMemory;
pub(crate) use view::{VIEW_LIMIT, View};
pub(crate) use view_create::create_buffer;
pub(crate) use volatile::HostPtr;
