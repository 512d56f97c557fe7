//! What every buffer needs of its engine: devices with their tools, pools, routes, the retire list.
//!
//! [`crate::Engine`] is the public face; this is what stays alive until the last buffer is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use crate::buffer::{Exports, Registry};
use crate::device::{Call, Calls, DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::members::{Member, Members, Tools};
use crate::memory::staging::Staging;
use crate::memory::{
    Backing, Domain, DomainId, DomainKind, Origin, Placement, Pool, Pools, Provider, Take,
    candidates,
};
use crate::observe::Live;
use crate::sync::{Bridges, Retire, WaitQueues};
use crate::transfer::{
    self, PairKey, Passes, Refusal, RefusalReason, Route, Routes, Side, Verdict,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    // Constant after creation.
    pub(crate) calls: Arc<Calls>,
    pub(crate) live: Arc<Live>,
    /// The bound of every wait.
    pub(crate) timeout: Duration,
    system: Arc<Domain>,
    /// Host providers that this machine has, found out once.
    host_providers: SmallVec<[Provider; 3]>,
    // Each with a lock of its own.
    pub(crate) routes: Routes,
    pub(crate) exports: Exports,
    /// Where those sleep that wait for a reservation.
    pub(crate) queues: WaitQueues,
    /// Those who wait for one device on behalf of another. Before the members: their threads end first.
    pub(crate) bridges: Bridges,
    // Declared before the members: memory goes before the devices that it is on.
    pub(crate) retire: Retire,
    pools: Pools,
    pub(crate) members: Members,
    /// All that are alive.
    pub(crate) buffers: Registry,
    next_buffer: AtomicU64,
}

impl Core {
    pub(crate) fn new(timeout: Duration, system_budget: u64) -> Self {
        let host = [Provider::DmaHeap, Provider::Udmabuf, Provider::Memfd];
        Self {
            calls: Arc::default(),
            live: Arc::default(),
            timeout,
            system: Arc::new(Domain::new(DomainId::System, system_budget)),
            host_providers: host
                .into_iter()
                .filter(|provider| provider.missing_on_host().is_none())
                .collect(),
            routes: Routes::default(),
            exports: Exports::default(),
            queues: WaitQueues::new(),
            bridges: Bridges::default(),
            retire: Retire::default(),
            pools: Pools::default(),
            members: Members::new(),
            buffers: Registry::default(),
            next_buffer: AtomicU64::new(0),
        }
    }

    /// The member for a device of this engine.
    pub(crate) fn member(&self, device: DeviceId) -> &Arc<Member> {
        let Some(member) = self.members.get(device) else {
            unreachable!("devices of other engines are turned away")
        };
        member
    }

    /// The device of a number.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`] if there is none.
    pub(crate) fn find(&self, device: DeviceId) -> Result<Arc<DeviceInner>> {
        let member = self.members.get(device);
        member
            .map(|member| Arc::clone(&member.device))
            .ok_or(Error::ForeignEngine { what: "the domain's device" })
    }

    /// Whether the device takes part in this engine, and not in another one: it counts its calls where
    /// this engine does.
    pub(crate) fn check(&self, device: &DeviceInner) -> Result<()> {
        if Arc::ptr_eq(&self.calls, device.calls()) {
            Ok(())
        } else {
            Err(Error::ForeignEngine { what: "the device" })
        }
    }

    pub(crate) fn devices(&self) -> Vec<Arc<DeviceInner>> {
        self.members.iter().map(|member| Arc::clone(&member.device)).collect()
    }

    pub(crate) fn next_buffer(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.next_buffer.fetch_add(1, Ordering::Relaxed)
    }

    // ---- memory ----

    /// The ledger of a domain: budget and bytes in use.
    pub(crate) fn domain(&self, id: DomainId) -> Arc<Domain> {
        match id {
            DomainId::Vram(device) => Arc::clone(&self.member(device).vram),
            DomainId::System => Arc::clone(&self.system),
        }
    }

    /// A backing of `size` bytes in the first acceptable place that has room and that `accept` likes.
    ///
    /// # Errors
    ///
    /// Why the last place failed; if `accept` liked none, `Ok(None)`.
    pub(crate) fn allocate(
        &self,
        home: &DeviceInner,
        placement: Placement,
        size: u64,
        dedicated: bool,
        accept: impl Fn(Provider) -> bool,
    ) -> Result<Option<Backing>> {
        let mut last = Ok(None);
        for &kind in placement.kinds() {
            for provider in self.possible(home, kind) {
                if !accept(provider) {
                    continue;
                }
                let pool = self.pool(provider);
                let made =
                    if dedicated { pool.allocate_dedicated(size) } else { pool.allocate(size) };
                match made {
                    Ok(backing) => return Ok(Some(backing)),
                    // Another place has no more descriptors either.
                    Err(error @ (Error::FdLimit { .. } | Error::DeviceLost { .. })) => {
                        return Err(error);
                    }
                    Err(error) => last = Err(error),
                }
            }
        }
        last
    }

    /// The providers of a kind of place that may work for buffers at home on `home`.
    pub(crate) fn possible(&self, home: &DeviceInner, kind: DomainKind) -> SmallVec<[Provider; 5]> {
        let mut list = candidates(home, kind);
        list.retain(|provider| match *provider {
            Provider::Device { handle, .. } => transfer::can_export(home, handle),
            host => {
                self.host_providers.contains(&host)
                    && host.takes().iter().any(|take| transfer::can_take(home, *take))
            }
        });
        list
    }

    /// Gives unused memory back; returns how many bytes.
    pub(crate) fn trim(&self) -> u64 {
        self.retire.collect();
        self.pools.iter().map(Pool::trim).sum()
    }

    fn pool(&self, provider: Provider) -> &Arc<Pool> {
        self.pools.get(provider, || Pool::new(self.origin(provider)))
    }

    pub(crate) fn origin(&self, provider: Provider) -> Origin {
        Origin {
            provider,
            exporter: match provider {
                Provider::Device { device, .. } => Some(Arc::clone(&self.member(device).device)),
                _ => None,
            },
            domain: self.domain(provider.domain()),
            calls: Arc::clone(&self.calls),
            live: Arc::clone(&self.live),
        }
    }

    // ---- routes ----

    /// What is known of the ways from one device to another; proves them if nothing is known.
    ///
    /// Locks: none may be held; this waits for both devices.
    pub(crate) fn verdict(
        &self,
        from: &Arc<DeviceInner>,
        to: &Arc<DeviceInner>,
    ) -> Result<Arc<Verdict>> {
        let key = PairKey::new(from, to);
        self.routes.verdict(key, || {
            let (near, far) = (self.end(from)?, self.end(to)?);
            transfer::prove_all(&near, &far, |provider| self.origin(provider), self.timeout)
        })
    }

    /// How `device` takes in memory of `provider`, for a buffer at home on `home`; `None` if it cannot,
    /// and then why is added to `refused`.
    ///
    /// # Errors
    ///
    /// What kept a route from being proved.
    ///
    /// Locks: as [`Core::verdict`].
    pub(crate) fn take(
        &self,
        provider: Provider,
        home: &Arc<DeviceInner>,
        device: &Arc<DeviceInner>,
        refused: &mut Vec<Refusal>,
    ) -> Result<Option<Take>> {
        if let Provider::Foreign(handle) = provider {
            let take = foreign_take(provider, home, device);
            if take.is_none() {
                let reason = RefusalReason::NotImportable { side: Side::Second, handle };
                refused.push(Refusal { route: Route::of_foreign(handle), reason });
            }
            return Ok(take);
        }
        let from = match provider {
            Provider::Device { device: exporter, .. } => Arc::clone(&self.member(exporter).device),
            _ => Arc::clone(home),
        };
        if matches!(provider, Provider::Device { .. }) && Arc::ptr_eq(&from, device) {
            return Ok(Some(provider.takes()[0]));
        }
        let verdict = self.verdict(&from, device)?;
        let take = verdict.take(provider);
        if take.is_none() {
            refused.extend(verdict.refused.iter().cloned());
        }
        Ok(take)
    }

    // ---- tools ----

    pub(crate) fn passes(&self, device: &DeviceInner) -> Result<Arc<Passes>> {
        self.tools(device).map(|tools| tools.passes)
    }

    pub(crate) fn staging(&self, device: &DeviceInner) -> Result<Arc<Staging>> {
        self.tools(device).map(|tools| tools.staging)
    }

    fn end(&self, device: &Arc<DeviceInner>) -> Result<transfer::End> {
        let Tools { passes, staging } = self.tools(device)?;
        Ok(transfer::End { device: Arc::clone(device), staging, passes })
    }

    fn tools(&self, device: &DeviceInner) -> Result<Tools> {
        let tools = self.member(device.id()).tools(|device| {
            let staging = Staging::new(device)?;
            let passes = Arc::new(Passes::new(device, &staging)?);
            Ok(Tools { passes, staging })
        });
        tools.cloned()
    }
}

/// A stranger's memory cannot be probed, since writing to it is not ours to do; what the driver says
/// has to do.
fn foreign_take(provider: Provider, home: &DeviceInner, device: &DeviceInner) -> Option<Take> {
    provider.takes().iter().copied().find(|&take| {
        let opaque = take == Take::Fd(crate::device::HandleType::OpaqueFd);
        transfer::can_take(device, take)
            && (!opaque || device.adapter().same_driver_and_device(home.adapter()))
    })
}

impl Drop for Core {
    fn drop(&mut self) {
        // The engine's own end, not that of a buffer: what is still running is waited for, in bounds.
        self.retire.drain(self.timeout);
        tracing::debug!(
            allocations = self.calls.made(Call::AllocateMemory),
            imports = self.calls.made(Call::ImportMemory),
            "engine closed"
        );
    }
}
