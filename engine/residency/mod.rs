//! Which buffers stay in a device's memory, and which are evicted when it is full.
//!
//! Each device's memory has a budget, which [`Engine::set_cap`](crate::Engine::set_cap) can limit. A buffer that
//! does not fit evicts others to system memory. They return when a device uses them again.
//!
//! - The *policy* of a domain chooses what to evict. The default, [`policy::Adaptive`], learns from the uses of
//!   each buffer. [`policy::Lru`] and [`policy::Clock`] are the classic alternatives, and an application can
//!   implement [`policy::Policy`] itself. [`policy::replay`] compares policies over recorded or generated uses.
//! - The [`Priority`] of a buffer goes before the policy: all buffers of a lower priority are evicted before any
//!   of a higher one.
//! - [`ResidencyOptions`] are the options of an engine: which policy, how fast evicted buffers return, whether clean copies
//!   are kept, and whether a buffer migrates automatically to the device that uses it most.
//! - [`EvictionFailures`] tell why an allocation failed: which buffers could not be evicted, and for what reason
//!   ([`SkipReason`]).
//!
//! Kernel counterpart: TTM (`ttm_bo_mem_space`, `ttm_bo_evict`, the lists of `ttm_resource_manager`).

// How the parts work together:
//
//  a buffer that needs memory ──► with_room ──charge──► Domain (the ledger)
//                                     │ no room
//                                     ▼
//               EvictionList, by priority ──asks──► Policy: what to evict
//                                     │ victims
//                                     ▼
//               World::evict (the engine moves each to a domain that its placement allows)
//
// Nothing here knows Vulkan, or what a shared buffer is. Residency states what it needs as a trait (`World`),
// which the engine implements, and a model of an engine in the tests.

mod auto_migration;
mod bulk_move;
mod domain_state;
mod eviction_failures;
mod eviction_list;
mod eviction_order;
mod group;
mod group_members;
mod list_entry;
mod options;
pub mod policy;
mod priority;
mod room;
#[cfg(test)]
mod tests;
mod throttle;
mod walk;
mod world;

pub use eviction_failures::{CapReached, EvictionFailures, SkipReason};
pub use options::ResidencyOptions;
pub use priority::Priority;

pub(crate) use auto_migration::{AccessCost, AccessCounts, AutoMigration, BufferUse};
pub(crate) use bulk_move::{BulkGroup, BulkGroupTable};
pub(crate) use domain_state::DomainState;
pub(crate) use eviction_list::SpanningGroups;
pub(crate) use group::{Group, Groups};
pub(crate) use list_entry::Victim;
pub(crate) use room::{Found, PlacementOption, Rejected, evict_bytes, fit, with_room};
pub(crate) use throttle::{Allowance, Throttle};
pub(crate) use walk::Evicted;
pub(crate) use world::{EvictionLimits, Outcomes, ReleaseWait, Trigger, World};
