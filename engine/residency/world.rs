//! What residency asks of its surroundings: the engine, or a model of one in the tests.
//!
//! Kernel counterparts: `ttm_device_funcs`, `ttm_operation_ctx`.

use std::time::Instant;

use smallvec::SmallVec;

use super::domain_state::DomainState;
use super::eviction_failures::{EvictionFailures, SkipReason};
use super::list_entry::Victim;
use super::priority::Priority;
use crate::device::DeviceId;
use crate::memory::{DomainId, GroupId};

/// Moves buffers for residency, and knows the state of each domain.
pub(crate) trait World {
    /// The key of a buffer in the eviction lists.
    type Key: Copy;
    type Error;

    /// A domain's ledger and eviction list.
    fn domain_state(&self, domain: DomainId) -> &DomainState<Self::Key>;

    /// The domains beside this one whose bytes are charged to the same memory: the memory of integrated devices and
    /// system memory are one.
    fn sharing_memory_with(&self, _domain: DomainId) -> SmallVec<[DomainId; 4]> {
        SmallVec::new()
    }

    /// Evictions from this domain are about to start: enlists all its buffers, unless they already are.
    fn start_tracking(&self, domain: DomainId);

    /// Frees unused memory without waiting: that of destroyed buffers, and backings that buffers have left.
    ///
    /// Then, until there is `enough`, it also drops caches that may be useful again. With a group it drops
    /// only that group's.
    fn reclaim(&self, domain: DomainId, of: GroupId, enough: &dyn Fn() -> bool);

    /// Returns unused memory to the domain's provider, which has run out of it. Returns the number of bytes.
    fn trim(&self, domain: DomainId) -> u64;

    /// Moves idle buffers of the domain together, so that memory becomes unused, and returns that to the domain's provider.
    /// Returns the number of bytes. The buffer that the trigger names stays.
    fn compact(&self, domain: DomainId, trigger: Trigger) -> u64;

    /// Evicts `victims` from a domain: each is moved to a domain that its placement allows, or purged if its
    /// content may be discarded. Returns one result for each, in order. A victim that was not evicted is
    /// unchanged.
    ///
    /// The bytes of an evicted buffer may stay in use until a copy has ended: see [`World::in_flight`] and
    /// [`World::wait_for_release`].
    fn evict(
        &self,
        from: DomainId,
        victims: &[Victim<Self::Key>],
        limits: &EvictionLimits,
    ) -> Outcomes;

    /// Bytes that are about to be released, by any eviction or destruction: those of a group, or without one
    /// all.
    fn in_flight(&self, from: DomainId, of: GroupId) -> u64;

    /// Waits until all bytes that are in flight now are released, but no longer than `limits` allow.
    ///
    /// It calls `enough` after each release, and returns early when that is true.
    fn wait_for_release(
        &self,
        from: DomainId,
        limits: &EvictionLimits,
        enough: &dyn Fn() -> bool,
    ) -> ReleaseWait;

    /// Adds the name of a buffer that was not evicted to `failures`, and the holders of its pins if those were the
    /// reason.
    fn name_kept(&self, key: Self::Key, why: SkipReason, failures: &mut EvictionFailures);

    /// The error for a domain without room. With `capped` the reason is the cap of that client group.
    fn no_room(
        &self,
        domain: DomainId,
        bytes: u64,
        capped: Option<GroupId>,
        failures: EvictionFailures,
    ) -> Self::Error;
}

/// The result of each victim's eviction.
pub(crate) type Outcomes = SmallVec<[Result<(), SkipReason>; 8]>;

/// The result of [`World::wait_for_release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseWait {
    /// Everything was released, or enough.
    Released,
    /// Nothing was in flight.
    NothingInFlight,
    /// Bytes are still in flight, and the time is over.
    TimedOut,
}

/// The reason for a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Bytes are needed; `by` is the number of the buffer that needs them, if it is one.
    Room { bytes: u64, by: Option<u64> },
    /// A device uses the buffer, or is about to.
    Device(DeviceId),
    /// All buffers are evicted or restored.
    All,
    /// The application has asked for it.
    Asked,
}

/// How far a search for room may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EvictionLimits {
    /// Whether it may evict.
    pub(crate) evict: bool,
    /// The highest priority that may be evicted.
    pub(crate) max_priority: Priority,
    /// Until when it may wait for evicted bytes to be released; `None` not to wait.
    pub(crate) wait: Option<Instant>,
    /// Whether it may wait, as long, for a buffer's lock and for the host to finish with it. It does so only
    /// after all other victims were tried (kernel: the ticketed pass of `ttm_lru_walk_for_evict`).
    pub(crate) may_block: bool,
    /// Whether a buffer stays that a device is at work on. Otherwise its copy is queued behind that work.
    pub(crate) skip_busy: bool,
    /// What the room is for.
    pub(crate) trigger: Trigger,
    /// How many evictions this one is nested in: a victim's new domain may be full as well.
    pub(crate) depth: u8,
}

/// How deep evictions may be nested. Domains form chains of two or three.
pub(crate) const DEEPEST: u8 = 3;

impl EvictionLimits {
    /// The limits of evictions that are made for these.
    pub(crate) fn deeper(&self) -> Self {
        Self { depth: self.depth + 1, evict: self.evict && self.depth + 1 < DEEPEST, ..*self }
    }
}
