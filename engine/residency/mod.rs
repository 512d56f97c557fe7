//! Who stays, who goes: budgets, room, eviction, priorities, policies.
//!
//! Kernel counterpart: TTM (`ttm_bo_mem_space`, `ttm_bo_evict`, `ttm_resource_manager`'s lists).
//!
//! ```text
//!  a buffer that needs a place ──► with_room ──charge──► Domain (the ledger)
//!                                      │ no room
//!                                      ▼
//!                     Recency, by priority ──asks──► Policy: whom to evict
//!                                      │ victims
//!                                      ▼
//!                     World::evict (the engine moves them; each goes where it may)
//! ```
//!
//! Nothing here knows Vulkan or what a shared buffer is: residency says what it wants of the world
//! (the trait `World`), and the engine, or a model of one in the tests, does it.

mod ageing;
mod attraction;
mod entry;
mod group;
mod obstacles;
mod order;
pub mod policy;
mod priority;
mod recency;
mod rolls;
mod room;
mod rules;
mod store;
#[cfg(test)]
mod tests;
mod throttle;
mod walk;

pub use obstacles::{CapReached, Kept, Obstacles};
pub use priority::Priority;
pub use rules::Rules;

pub(crate) use ageing::Ageing;
pub(crate) use attraction::{Attraction, Drawn, Price, Used};
pub(crate) use group::{Group, Groups};
pub(crate) use recency::{Elsewhere, Victim};
pub(crate) use room::{
    Demand, Evicted, Found, Outcomes, Place, Settled, Terms, Turned, World, evict_bytes, fit,
    with_room,
};
pub(crate) use store::Store;
pub(crate) use throttle::{Allowance, Throttle};
