//! Allocates a backing from the first provider of a domain that has memory.

use std::sync::Arc;

use super::Core;
use super::devices::DeviceEntry;
use super::providers::{BackingRequest, Providers};
use crate::device::{DeviceId, DeviceInner};
use crate::error::Error;
use crate::memory::{
    Backing, BackingKind, DeviceSet, DomainId, DomainKind, GroupId, MemoryPriority, Origin, Pool,
    Provider, SparseBlocks,
};
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
            let unwanted = matches!(provider, Provider::Private { .. }) && !request.private;
            if unwanted || !accept(provider) || (fd_limit.is_some() && provider.has_fd()) {
                continue;
            }
            // Held until the backing has a reference of its own: a removal that began meanwhile counts it.
            let exporter = match provider.exporter() {
                Some(id) => match self.present(id) {
                    Some(exporter) => Some(exporter),
                    None => continue,
                },
                None => None,
            };
            // CAST: the number of a level, 0 to 3.
            let priority = MemoryPriority::of_level(request.priority as u8);
            let pool = self.pool(provider, exporter.as_ref(), request.sharers);
            let (dedicated, sparing) = (request.dedicated, request.sparing);
            let wanted = BackingKind { dedicated, sparing, priority };
            let limits = (limit, self.providers.largest_slab(provider));
            last = match pool.allocate(request.size, wanted, limits) {
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

    /// A slot with its charge that this thread keeps, if the request's first choice is a slot in the home device's memory.
    pub(crate) fn take_kept(
        &self,
        request: &BackingRequest<'_>,
        limit: u64,
        accept: &dyn Fn(Provider) -> bool,
    ) -> Option<Backing> {
        let &BackingRequest { home, placement, size, dedicated, private, group, .. } = request;
        let is_in_vram = placement.kinds().first() == Some(&DomainKind::Vram);
        if !is_in_vram || dedicated || request.sparing || group != GroupId::NONE {
            return None;
        }
        let provider = Providers::first_in_vram(home, private)?;
        // A slot has a reference to the device, which a removal counts.
        if !accept(provider) || home.is_leaving() {
            return None;
        }
        let sharers = self.pool_sharers(provider, request.sharers);
        self.member(home.id()).pools.find(provider, sharers)?.take_kept(size, limit)
    }

    /// Takes up to `count` slots of the pool that `first` came from, for buffers of `size` bytes; none is allocated for them. The
    /// caller has charged the domain for `count` of them, and uncharges the rest.
    pub(crate) fn take_more(
        &self,
        first: &Backing,
        size: u64,
        limit: u64,
        count: usize,
    ) -> Vec<Backing> {
        let (provider, sharers) = (first.allocation().provider(), first.allocation().sharers());
        let pools = match provider.exporter() {
            // Slots have a reference to the device, which a removal counts; `first` has one as well.
            Some(exporter) if self.member(exporter).device.is_leaving() => return vec![],
            Some(exporter) => &self.member(exporter).pools,
            None => &self.providers.pools,
        };
        let pool = pools.find(provider, sharers);
        let limits = (limit, self.providers.largest_slab(provider));
        pool.map_or_else(Vec::new, |pool| pool.take_more(size, limits, count))
    }

    /// Gives back a backing that no work uses any more. A slot in a device's own memory stays with this thread, if it may
    /// keep one more ([`Core::take_kept`]).
    pub(crate) fn recycle(&self, backing: Backing) {
        let (provider, sharers) = (backing.allocation().provider(), backing.allocation().sharers());
        if let DomainId::Vram(device) = provider.domain()
            && let Some(entry) = self.devices.get(device)
            && let Some(pool) = entry.pools.find(provider, sharers)
        {
            pool.keep_slot(backing);
        }
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

    /// A counted reference to a device that takes part; `None` if it is leaving or has left.
    fn present(&self, device: DeviceId) -> Option<Arc<DeviceInner>> {
        // Counted first: a removal that sets its mark after the test sees the reference.
        self.devices.device(device).filter(|device| !device.is_leaving())
    }

    /// The pool of a provider for buffers that `sharers` share. Private memory has one device, and is in one pool.
    ///
    /// `exporter` is a counted reference to [`Provider::exporter`], so that a device which has left gets no pool.
    fn pool(
        &self,
        provider: Provider,
        exporter: Option<&Arc<DeviceInner>>,
        sharers: DeviceSet,
    ) -> &Arc<Pool> {
        let sharers = self.pool_sharers(provider, sharers);
        let pools = match provider.exporter() {
            Some(exporter) => &self.member(exporter).pools,
            None => &self.providers.pools,
        };
        pools.get(provider, sharers, |sharers| {
            Pool::new(Origin { sharers, ..self.origin(provider, exporter) })
        })
    }

    /// The devices that share the pool of a provider for buffers that `sharers` share.
    fn pool_sharers(&self, provider: Provider, sharers: DeviceSet) -> DeviceSet {
        let is_private = matches!(provider, Provider::Private { .. });
        if self.providers.are_grouped() && !is_private { sharers } else { DeviceSet::ALL }
    }

    /// The pools of all providers that take part.
    fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let exported = self.devices.iter().flat_map(|entry| entry.pools.iter());
        self.providers.pools.iter().chain(exported)
    }

    /// Returns unused memory of a domain to its providers. Returns the number of bytes.
    pub(crate) fn trim_pools(&self, domain: DomainId) -> u64 {
        let pools = self.pools().filter(|pool| pool.provider().domain() == domain);
        pools.map(|pool| pool.trim()).sum()
    }

    /// Frees blocks without buffers. Returns the number of bytes.
    pub(crate) fn free_blocks(&self) -> u64 {
        self.pools().map(|pool| pool.free_blocks()).sum()
    }

    /// Zeroes unused memory, `bytes` bytes at most and a slot or allocation more. Returns the number of bytes.
    pub(crate) fn zero_unused(&self, bytes: u64) -> u64 {
        self.pools().fold(0, |zeroed, pool| match bytes.saturating_sub(zeroed) {
            0 => zeroed,
            left => {
                pool.give_back_kept();
                zeroed + pool.zero_unused(left)
            }
        })
    }

    /// Closes the blocks of a domain, or of all, whose buffers have room elsewhere, and that are not nearly full.
    pub(crate) fn close_sparse(&self, domain: Option<DomainId>) -> Vec<SparseBlocks> {
        let is_meant = |pool: &&Arc<Pool>| domain.is_none_or(|of| pool.provider().domain() == of);
        let closed = self.pools().filter(is_meant).map(Pool::close_sparse);
        closed.filter(|blocks| !blocks.is_empty()).collect()
    }

    // ---- who shares a buffer ----

    /// The devices that will share a new buffer, as far as can be told.
    pub(crate) fn predicted_sharers(&self, home: DeviceId, size: u64, id: u64) -> DeviceSet {
        match self.providers.are_grouped() {
            true => self.providers.habits.predict(home, size, id),
            false => DeviceSet::ALL,
        }
    }

    /// Notes that a device other than `home` has attached a buffer. `wrong` are its sharers if its slab was not theirs.
    pub(crate) fn note_shared(
        &self,
        home: DeviceId,
        (size, id): (u64, u64),
        wrong: Option<DeviceSet>,
    ) {
        if self.providers.are_grouped() {
            match wrong {
                None => self.providers.habits.confirm(home, size, id),
                Some(sharers) => self.providers.habits.learn(home, size, sharers),
            }
        }
    }

    /// What an allocation of `provider` must know of its origin: the exporter, the ledger, and the counters.
    pub(crate) fn origin(&self, provider: Provider, exporter: Option<&Arc<DeviceInner>>) -> Origin {
        Origin {
            provider,
            exporter: exporter.map(Arc::clone),
            domain: Arc::clone(&self.domain_state(provider.domain()).ledger),
            calls: Arc::clone(&self.calls),
            live: Arc::clone(&self.live),
            imports: Arc::clone(&self.imports),
            sharers: DeviceSet::ALL,
            priority: MemoryPriority::DEFAULT,
        }
    }
}
