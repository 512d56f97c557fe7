//! Allocates a backing from the first provider of a domain that has memory.

use std::sync::Arc;

use super::Core;
use super::providers::BackingRequest;
use crate::error::Error;
use crate::memory::{Backing, DomainId, Origin, Pool, Provider};
use crate::residency::Rejected;

impl Core {
    /// Allocates from the first provider of a domain that has memory, among those that `accept` allows.
    ///
    /// # Errors
    ///
    /// Those of the last provider. [`Rejected::Unsuitable`] if there is none.
    pub(crate) fn allocate_in(
        &self,
        domain: DomainId,
        request: &BackingRequest<'_>,
        accept: &dyn Fn(Provider) -> bool,
    ) -> Result<Backing, Rejected<Error>> {
        let mut last = Err(Rejected::Unsuitable);
        for provider in self.providers.possible(request.home, domain.kind()) {
            if !accept(provider) {
                continue;
            }
            last = match self.pool(provider).allocate(request.size, request.dedicated) {
                Ok(backing) => return Ok(backing),
                // Neither error depends on the domain, so no other domain is tried.
                Err(error @ (Error::FdLimit { .. } | Error::DeviceLost { .. })) => {
                    return Err(Rejected::Stop(error));
                }
                Err(error) if error.is_out_of_memory() => Err(Rejected::Full(error)),
                Err(error) => Err(Rejected::Failed(error)),
            };
        }
        last
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
        }
    }
}
