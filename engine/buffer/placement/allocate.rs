//! A backing for a buffer, evicting others if need be.
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
    /// A backing in the first acceptable place that `accept` likes: where there is room, else where there is
    /// when others have gone, as far as `terms` say.
    ///
    /// # Errors
    ///
    /// Why the last place failed; if `accept` liked none, `Ok(None)`.
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

    /// The same, with why it is not a better place.
    pub(in crate::buffer) fn allocate_best(
        &self,
        request: &BackingRequest<'_>,
        limits: &EvictionLimits,
        accept: impl Fn(Provider) -> bool,
    ) -> Result<Option<Found<Backing, Error>>> {
        let BackingRequest { home, placement, size, dedicated, group } = *request;
        self.poll_budget(home.id());
        let bytes = footprint(size, dedicated).ok_or_else(|| Error::too_large(size))?;
        let place = |(nth, &kind): (usize, &DomainKind)| PlacementOption {
            domain: match kind {
                DomainKind::Vram => DomainId::Vram(home.id()),
                DomainKind::System => DomainId::System,
            },
            fallback: nth > 0,
        };
        // Nobody makes room in a place that would not do. Where there is room it is found out soon enough.
        let does = |place: &PlacementOption, kind| {
            let ledger = &self.core.domain_state(place.domain).ledger;
            ledger.used().saturating_add(bytes) <= ledger.budget()
                || self.core.providers.possible(home, kind).into_iter().any(&accept)
        };
        let kinds = placement.kinds().iter().enumerate();
        let places: SmallVec<[PlacementOption; 2]> = kinds
            .map(|at| (place(at), *at.1))
            .filter(|(place, kind)| does(place, *kind))
            .map(|at| at.0)
            .collect();
        for place in &places {
            if self.core.domain_state(place.domain).comes_under_pressure((bytes, group)) {
                start_tracking(self, place.domain);
            }
        }
        with_room(self, &places, (bytes, group), limits, &mut |domain, room| {
            let made = self.core.allocate_in(domain, request, &accept);
            let made = made.map(|backing| backing.charged_to(group));
            if made.is_ok() {
                room.spend();
            }
            made
        })
    }
}
