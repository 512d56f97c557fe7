//! Allocates a backing for a buffer, evicting other buffers if need be.
//!
//! Kernel counterpart: `ttm_bo_mem_space`.

use smallvec::SmallVec;

use crate::buffer::object::Buffers;
use crate::buffer::tracking::start_tracking;
use crate::core::BackingRequest;
use crate::error::{Error, Result};
use crate::memory::{Backing, DomainId, DomainKind, Provider, footprint};
use crate::residency::{EvictionLimits, Found, PlacementOption, with_room};

impl Buffers {
    /// Allocates a backing in the first domain of the request's placement that has room, from a provider that
    /// `accept` allows. If no domain has room, evicts other buffers, as far as `limits` allow.
    ///
    /// # Errors
    ///
    /// The reason why the last domain failed. `Ok(None)` if `accept` allows no provider of any domain.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn allocate(
        &self,
        request: &BackingRequest<'_>,
        limits: &EvictionLimits,
        accept: impl Fn(Provider) -> bool,
    ) -> Result<Option<Backing>> {
        Ok(self.allocate_best(request, limits, accept)?.map(|found| found.taken))
    }

    /// Takes a slot that this thread keeps, if the first domain of the request's placement is the home device's memory. Its
    /// charge is made, so nothing is evicted, and nothing is written that other threads write.
    ///
    /// Locks: none may be held.
    pub(super) fn allocate_kept(
        &self,
        request: &BackingRequest<'_>,
        accept: impl Fn(Provider) -> bool,
    ) -> Option<Backing> {
        self.poll_budget(request.home.id());
        self.core.take_kept(request, self.core.devices.max_allocation(), &accept)
    }

    /// Allocates up to `count` further backings like `first`, for buffers of `size` bytes: with one charge, from blocks that are
    /// there. No buffer is evicted.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn allocate_more(
        &self,
        first: &Backing,
        size: u64,
        count: usize,
    ) -> Vec<Backing> {
        let (domain, group) = (first.domain(), first.group());
        let (state, each) = (self.core.domain_state(domain), first.footprint());
        // CAST: a count of buffers.
        let charge = (each.saturating_mul(count as u64), group);
        let fits = |limit| state.ledger.charged().saturating_add(charge.0) <= limit;
        if first.is_dedicated() || !fits(state.ledger.budget()) {
            return vec![];
        }
        if state.comes_under_pressure(charge) {
            start_tracking(self, domain);
        }
        let Some(room) = state.ledger.charge(charge) else { return vec![] };
        // A backing uncharges its part of it.
        room.spend();
        let limit = self.core.devices.max_allocation();
        let more = self.core.take_more(first, size, limit, count);
        // CAST: as above.
        state.ledger.credit((each * (count - more.len()) as u64, group));
        more.into_iter().map(|backing| backing.charged_to(group)).collect()
    }

    /// Does the same as [`Buffers::allocate`], and also returns the reason why an earlier domain of the
    /// placement was not used.
    pub(in crate::buffer) fn allocate_best(
        &self,
        request: &BackingRequest<'_>,
        limits: &EvictionLimits,
        accept: impl Fn(Provider) -> bool,
    ) -> Result<Option<Found<Backing, Error>>> {
        let BackingRequest { home, placement, size, dedicated, group, .. } = *request;
        self.poll_budget(home.id());
        // Read once: what is charged and what is allocated must agree.
        let limit = self.core.devices.max_allocation();
        let bytes = footprint(size, dedicated, limit).ok_or_else(|| Error::too_large(size))?;
        let option = |(nth, &kind): (usize, &DomainKind)| PlacementOption {
            domain: match kind {
                DomainKind::Vram => DomainId::Vram(home.id()),
                DomainKind::System => DomainId::System,
            },
            fallback: nth > 0,
        };
        // Without an acceptable provider, evictions from this domain would be of no use. If the domain has
        // room, the allocation itself finds that out.
        let is_useful = |option: &PlacementOption, kind| {
            let ledger = &self.core.domain_state(option.domain).ledger;
            ledger.charged().saturating_add(bytes) <= ledger.budget()
                || self.core.possible(home, kind).any(&accept)
        };
        let kinds = placement.kinds().iter().enumerate();
        let options: SmallVec<[PlacementOption; 2]> = kinds
            .map(|nth_kind| (option(nth_kind), *nth_kind.1))
            .filter(|(option, kind)| is_useful(option, *kind))
            .map(|(option, _)| option)
            .collect();
        for option in &options {
            if self.core.domain_state(option.domain).comes_under_pressure((bytes, group)) {
                start_tracking(self, option.domain);
            }
        }
        with_room(self, &options, (bytes, group), limits, &mut |domain, room| {
            let allocated = self.core.allocate_in(domain, request, limit, &accept);
            let allocated = allocated.map(|backing| backing.charged_to(group));
            if allocated.is_ok() {
                room.spend();
            }
            allocated
        })
    }
}
