//! Allocates a backing from the first provider of a domain that has memory.

use std::sync::Arc;

use super::Core;
use super::devices::DeviceEntry;
use super::providers::{BackingRequest, Providers};
use crate::device::DeviceInner;
use crate::error::Error;
use crate::memory::{Backing, DomainId, DomainKind, Origin, Pool, Provider};
use crate::residency::Rejected;
use crate::transfer::{Route, RouteSet};

impl Core {
    /// Allocates from the first provider of a domain that has memory, among those that `accept` allows. No allocation
    /// exceeds `limit` bytes, unless the buffer itself does.
    ///
    /// # Errors
    ///
    /// Those of the last provider. [`Rejected::Unsuitable`] if there is none. After [`Error::FdLimit`] only providers are
    /// tried whose memory has no fd; that error is returned if they fail too.
    pub(crate) fn allocate_in(
        &self,
        domain: DomainId,
        request: &BackingRequest<'_>,
        limit: u64,
        accept: &dyn Fn(Provider) -> bool,
    ) -> Result<Backing, Rejected<Error>> {
        let mut last = Err(Rejected::Unsuitable);
        let mut fd_limit = None;
        for provider in self.possible(request.home, domain.kind()) {
            let leaving = |id| self.member(id).device.is_leaving();
            if !accept(provider)
                || (fd_limit.is_some() && provider.has_fd())
                || provider.exporter().is_some_and(leaving)
            {
                continue;
            }
            last = match self.pool(provider).allocate(request.size, request.dedicated, limit) {
                Ok(backing) => return Ok(backing),
                Err(error @ Error::FdLimit { .. }) => {
                    fd_limit = Some(error);
                    continue;
                }
                // Neither this error nor the limit of fds depends on the domain, so no other domain is tried.
                Err(error @ Error::DeviceLost { .. }) => return Err(Rejected::Stop(error)),
                Err(error) if error.is_out_of_memory() => Err(Rejected::Full(error)),
                Err(error) => Err(Rejected::Failed(error)),
            };
        }
        fd_limit.map_or(last, |error| Err(Rejected::Stop(error)))
    }

    /// The providers of a kind of domain that may suit buffers with the home device `home`, best first. Host-visible
    /// memory of the engine's other devices is last; it suits buffers that its exporter is attached to.
    pub(crate) fn possible<'a>(
        &'a self,
        home: &'a DeviceInner,
        kind: DomainKind,
    ) -> impl Iterator<Item = Provider> + 'a {
        let is_other = move |entry: &&Arc<DeviceEntry>| {
            let device = &entry.device;
            kind == DomainKind::System
                && device.id() != home.id()
                && !device.is_lost()
                && !entry.is_unplugged()
        };
        let others = self.devices.iter().filter(is_other);
        let exported = others.flat_map(|entry| Providers::exports_of(&entry.device));
        // Memory that the home device was seen not to import is left out. What was not tried stays: the first use
        // of it proves it.
        let refused = match kind {
            DomainKind::System => self.refused_at_home(home),
            DomainKind::Vram => RouteSet::default(),
        };
        let works = move |provider: &Provider| {
            provider.exporter().is_some()
                || !Route::of(*provider).is_some_and(|route| refused.contains(route))
        };
        self.providers.possible(home, kind).into_iter().filter(works).chain(exported)
    }

    fn pool(&self, provider: Provider) -> &Arc<Pool> {
        self.providers.pools.get(provider, || Pool::new(self.origin(provider)))
    }

    /// What an allocation of `provider` must know of its origin: the exporter, the ledger, and the counters.
    pub(crate) fn origin(&self, provider: Provider) -> Origin {
        Origin {
            provider,
            exporter: match provider {
                Provider::Device { device, .. } => Some(Arc::clone(&self.member(device).device)),
                _ => None,
            },
            domain: Arc::clone(&self.domain_state(provider.domain()).ledger),
            calls: Arc::clone(&self.calls),
            live: Arc::clone(&self.live),
            imports: Arc::clone(&self.imports),
        }
    }
}
