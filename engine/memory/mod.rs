//! Where bytes live: domains, placements, backings, slabs, host memory, dma-bufs.
//!
//! Kernel counterparts: `ttm_resource_manager` (domain), `ttm_placement`, `ttm_resource` (backing),
//! `dma-heap` and `udmabuf` (system memory that devices can import).
//! Vulkan: `VkDeviceMemory` with `VkExportMemoryAllocateInfo`, `VkImportMemoryFdInfoKHR`,
//! `VkImportMemoryHostPointerInfoEXT`.
//!
//! ```text
//!  Provider ──allocates──► Allocation ──cut by Pool──► Slab, slots ─┐
//!                              │  └───────whole──────────────────────┴──► Backing
//!                              └─ View per device (one import, one VkBuffer)
//! ```
//!
//! An *allocation* is one fixed, exportable piece of memory: what an fd names. Each device that takes
//! part has one *view* of it, made once, however many buffers live inside. A *backing* is what one
//! buffer has: a slot of a slab, or a whole allocation.
//!
//! What is not here: which provider suits a set of devices is proved in [`crate::transfer`]; which
//! buffers stay and which go is not decided in this module.

mod account;
mod address_space;
mod allocation;
mod backing;
mod claims;
pub(crate) mod dma_buf;
mod domain;
mod host;
mod host_copy;
mod memory_type;
mod placement;
mod pool;
mod pools;
mod provider;
mod size_class;
mod slab;
pub(crate) mod staging;
mod view;
mod volatile;
pub(crate) mod wide;

pub use account::GroupUsage;
pub use domain::{DomainId, DomainUsage};
pub use placement::{DomainKind, Placement};
pub use provider::Provider;

pub(crate) use account::{Charge, GroupId};
pub(crate) use allocation::{Allocation, Origin, Take};
pub(crate) use backing::{Backing, Content};
pub(crate) use domain::{Claim, Domain, Room};
pub(crate) use host_copy::{copy_by_host, zero_by_host};
pub(crate) use pool::Pool;
pub(crate) use pools::Pools;
pub(crate) use provider::{candidates, has_host_only_memory};
pub(crate) use size_class::{SLOT_ALIGN, footprint};
pub(crate) use view::{View, create_buffer};
pub(crate) use volatile::HostPtr;
