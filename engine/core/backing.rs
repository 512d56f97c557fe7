//! A backing from the first provider of a domain that has memory.

use std::sync::Arc;

use super::Core;
use super::providers::BackingRequest;
use crate::error::Error;
use crate::memory::{Backing, DomainId, Origin, Pool, Provider};
use crate::residency::Rejected;

impl Core {
    /// The first provider of a place that has memory, of those that `accept` likes.
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
                // Another place has no more descriptors either.
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
