//! Eviction policies: which buffers a full domain evicts.
//!
//! A [`Policy`] chooses victims; it does not evict them. It is told of every use, also of buffers in other
//! domains, so that it can learn how soon each of them is used again.
//!
//! There are [`Lru`], [`Clock`], and [`Adaptive`], the default. [`replay`] runs a policy over recorded or
//! generated uses ([`traces`]), and [`belady`] computes what a policy that knows the future would have moved.
//!
//! Kernel counterpart: the `lru` lists of `ttm_resource_manager`, which are always least recently used first.

mod adaptive;
mod belady;
mod clock;
mod interface;
mod list;
mod lru;
mod random;
mod replay;
mod size;
#[cfg(test)]
mod tests;
pub mod traces;

pub use adaptive::Adaptive;
pub use belady::belady;
pub use clock::Clock;
pub use interface::{Policy, Slot};
pub use lru::Lru;
pub use replay::{Replay, Use, replay};

pub(crate) use adaptive::adaptive;
pub(crate) use lru::lru;
