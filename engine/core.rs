//! What every buffer needs of its engine: devices with their tools, pools, routes, the retire list.
//!
//! [`crate::Engine`] is the public face; this is what stays alive until the last buffer is gone.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::buffer::{self, AgeTable, Exports, GivingUp, Registry, SlotId, Spared};
use crate::device::{Call, Calls, DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::members::{Member, Members, Tools};
use crate::memory::staging::Staging;
use crate::memory::{
    Backing, Domain, DomainId, DomainKind, GroupId, Origin, Placement, Pool, Pools, Provider, Take,
    candidates, footprint,
};
use crate::observe::trace::Tracer;
use crate::observe::{Live, MovedCounters, StallCounters};
use crate::residency::{
    self, Attraction, Demand, Found, Groups, Place, Priority, Rules, Store, Terms, Throttle,
    Turned, policy, with_room,
};
use crate::sync::{Bridges, Retire, WaitQueues};
use crate::transfer::{
    self, CopySpeeds, PairKey, Passes, Refusal, RefusalReason, Route, Routes, Side, Verdict,
};

/// How often copies that were not measured in time are measured again.
const TRIES: u8 = 2;
/// Bytes that are given to a driver that is out of memory, at first.
const RELIEF: u64 = 16 << 20;

/// What a buffer needs a backing for.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) home: &'a DeviceInner,
    pub(crate) placement: Placement,
    pub(crate) size: u64,
    /// Whether it may share its memory with nobody, whatever its size.
    pub(crate) dedicated: bool,
    /// On whose account it is.
    pub(crate) group: GroupId,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    // Constant after creation.
    pub(crate) calls: Arc<Calls>,
    pub(crate) live: Arc<Live>,
    /// The bound of every wait.
    pub(crate) timeout: Duration,
    system: Store<SlotId>,
    /// What the user decides about residency, and how fast buffers come back.
    pub(crate) throttle: Throttle,
    /// Who draws which buffer to itself.
    pub(crate) attraction: Attraction,
    /// Who writes down what happens, if anybody does. Bridges have it, too.
    pub(crate) tracer: Arc<Tracer>,
    /// How many decisions there were.
    pub(crate) decisions: AtomicU64,
    /// What was moved, and why.
    pub(crate) moved: MovedCounters,
    /// How long callers were held up.
    pub(crate) stalls: StallCounters,
    /// Who is not to go for those that are used together with him.
    pub(crate) spared: Spared,
    pub(crate) giving_up: GivingUp,
    /// How many buffers keep a clean copy. Relaxed: it says whether to look for any.
    pub(crate) clean_copies: AtomicUsize,
    /// Where in the registry one was given up last. Relaxed: whose goes next is no matter.
    pub(crate) clean_at: AtomicUsize,
    /// How fast host and devices copy, if somebody has said so.
    pub(crate) said_speeds: Option<CopySpeeds>,
    /// When the engine began.
    began: Instant,
    /// Host providers that this machine has, found out once.
    host_providers: SmallVec<[Provider; 3]>,
    // Each with a lock of its own.
    pub(crate) routes: Routes,
    pub(crate) exports: Exports,
    /// The client groups, and who is in which age group.
    pub(crate) groups: Groups,
    pub(crate) ages: AgeTable,
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
    pub(crate) fn new(timeout: Duration, system_budget: u64, rules: Rules, tracer: Tracer) -> Self {
        let host = [Provider::DmaHeap, Provider::Udmabuf, Provider::Memfd];
        Self {
            calls: Arc::default(),
            live: Arc::default(),
            timeout,
            system: Store::new(Domain::new(DomainId::System, system_budget), policy::lru),
            throttle: Throttle::new(rules),
            attraction: Attraction::new(rules.attraction),
            tracer: Arc::new(tracer),
            decisions: AtomicU64::new(0),
            moved: MovedCounters::default(),
            stalls: StallCounters::default(),
            spared: Spared::default(),
            giving_up: GivingUp::default(),
            clean_copies: AtomicUsize::new(0),
            clean_at: AtomicUsize::new(0),
            said_speeds: None,
            began: Instant::now(),
            host_providers: host
                .into_iter()
                .filter(|provider| provider.missing_on_host().is_none())
                .collect(),
            routes: Routes::default(),
            exports: Exports::default(),
            groups: Groups::default(),
            ages: AgeTable::default(),
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

    /// Gives up the devices that were found to be lost since. Every operation that takes a reservation begins
    /// with this; whoever finds a loss out may hold anything.
    ///
    /// # Panics
    ///
    /// As [`crate::Engine::abandon`].
    ///
    /// Locks: none may be held.
    #[inline]
    pub(crate) fn give_up_lost(&self) {
        if self.calls.has_lost_device() {
            buffer::abandon_lost(self);
        }
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

    /// All domains: the VRAM of each device, then system memory.
    pub(crate) fn domains(&self) -> impl Iterator<Item = DomainId> {
        let devices = self.members.iter().map(|member| DomainId::Vram(member.device.id()));
        devices.chain([DomainId::System])
    }

    /// # Errors
    ///
    /// [`Error::ForeignEngine`] for the VRAM of a device that does not take part.
    pub(crate) fn check_domain(&self, domain: DomainId) -> Result<()> {
        match domain {
            DomainId::Vram(device) => self.find(device).map(|_| ()),
            DomainId::System => Ok(()),
        }
    }

    /// A domain's ledger, and who is there.
    pub(crate) fn store(&self, id: DomainId) -> &Store<SlotId> {
        match id {
            DomainId::Vram(device) => &self.member(device).vram,
            DomainId::System => &self.system,
        }
    }

    /// How far to go for room for somebody who cannot do without: evict whom it takes, and wait for it.
    pub(crate) fn terms(&self, demand: Demand) -> Terms {
        Terms {
            evict: true,
            most: Priority::Highest,
            wait: Some(Instant::now() + self.timeout),
            patient: false,
            skip_busy: false,
            demand,
            depth: 0,
        }
    }

    /// How long the engine has been there.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// A backing in the first acceptable place that `accept` likes: where there is room, else where there is
    /// when others have gone, as far as `terms` say.
    ///
    /// # Errors
    ///
    /// Why the last place failed; if `accept` liked none, `Ok(None)`.
    ///
    /// Locks: none may be held.
    pub(crate) fn allocate(
        &self,
        wish: &Wish<'_>,
        terms: &Terms,
        accept: impl Fn(Provider) -> bool,
    ) -> Result<Option<Backing>> {
        Ok(self.find_backing(wish, terms, accept)?.map(|found| found.taken))
    }

    /// The same, with why it is not a better place.
    pub(crate) fn find_backing(
        &self,
        wish: &Wish<'_>,
        terms: &Terms,
        accept: impl Fn(Provider) -> bool,
    ) -> Result<Option<Found<Backing, Error>>> {
        let Wish { home, placement, size, dedicated, group } = *wish;
        self.poll_budget(home.id());
        let bytes = footprint(size, dedicated).ok_or_else(|| Error::too_large(size))?;
        let place = |(nth, &kind): (usize, &DomainKind)| Place {
            domain: match kind {
                DomainKind::Vram => DomainId::Vram(home.id()),
                DomainKind::System => DomainId::System,
            },
            fallback: nth > 0,
        };
        // Nobody makes room in a place that would not do. Where there is room it is found out soon enough.
        let does = |place: &Place, kind| {
            let ledger = &self.store(place.domain).ledger;
            ledger.used().saturating_add(bytes) <= ledger.budget()
                || self.possible(home, kind).into_iter().any(&accept)
        };
        let kinds = placement.kinds().iter().enumerate();
        let places: SmallVec<[Place; 2]> = kinds
            .map(|at| (place(at), *at.1))
            .filter(|(place, kind)| does(place, *kind))
            .map(|at| at.0)
            .collect();
        for place in &places {
            if self.store(place.domain).gets_tight((bytes, group)) {
                buffer::tighten(self, place.domain);
            }
        }
        with_room(self, &places, (bytes, group), terms, &mut |domain, room| {
            let made = self.allocate_in(domain, wish, &accept);
            let made = made.map(|backing| backing.on_account_of(group));
            if made.is_ok() {
                room.spend();
            }
            made
        })
    }

    /// Looks whether others have taken some of a device's memory, or given it back: whoever does not fit any
    /// more is told to go, and what is out by then, and what nobody uses, goes back to the driver. At most
    /// every half second.
    ///
    /// Locks: none may be held.
    pub(crate) fn poll_budget(&self, device: DeviceId) {
        let (member, domain) = (self.member(device), DomainId::Vram(device));
        member.ask_budget(self.age());
        if !member.has_news() {
            return;
        }
        if member.vram.gets_tight(0) {
            buffer::tighten(self, domain);
        }
        let ledger = &member.vram.ledger;
        if ledger.used() > ledger.left_to_us() {
            let demand = Demand::Room { bytes: ledger.excess(), by: None };
            let terms = Terms { wait: None, ..self.terms(demand) };
            let evicted = residency::fit(self, domain, GroupId::NONE, &terms).moved;
            tracing::debug!(%device, ledger = ?ledger.usage(), evicted, "others need memory");
        }
        if ledger.usage().held > ledger.left_to_us() {
            let trimmed = self.trim_in(domain);
            tracing::debug!(%device, trimmed, "others need memory");
        }
    }

    /// A driver has no memory left for something that is none of our allocations: gives it some, more each
    /// round.
    ///
    /// Locks: none may be held.
    pub(crate) fn relieve(&self, device: DeviceId, round: u32) {
        let bytes = RELIEF << (2 * round);
        let terms = self.terms(Demand::Room { bytes, by: None });
        // At first what nobody uses.
        let trimmed = self.trim();
        let evicted = match round {
            0 => 0,
            _ => residency::evict_bytes(self, DomainId::Vram(device), bytes, &terms).moved,
        };
        tracing::warn!(%device, evicted, trimmed, "the driver is out of memory");
    }

    /// The first provider of a place that has memory, of those that `accept` likes.
    fn allocate_in(
        &self,
        domain: DomainId,
        wish: &Wish<'_>,
        accept: &dyn Fn(Provider) -> bool,
    ) -> Result<Backing, Turned<Error>> {
        let mut last = Err(Turned::Elsewhere);
        for provider in self.possible(wish.home, domain.kind()) {
            if !accept(provider) {
                continue;
            }
            last = match self.pool(provider).allocate(wish.size, wish.dedicated) {
                Ok(backing) => return Ok(backing),
                // Another place has no more descriptors either.
                Err(error @ (Error::FdLimit { .. } | Error::DeviceLost { .. })) => {
                    return Err(Turned::Stop(error));
                }
                Err(error) if error.is_out_of_memory() => Err(Turned::Full(error)),
                Err(error) => Err(Turned::Failed(error)),
            };
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
        self.domains().map(|domain| self.trim_in(domain)).sum()
    }

    /// Gives unused memory of a place back; returns how many bytes. In system memory clean copies are unused.
    pub(crate) fn trim_in(&self, domain: DomainId) -> u64 {
        if domain == DomainId::System {
            buffer::drop_clean_copies(self, GroupId::NONE, &|| false);
        }
        self.retire.collect();
        let there = self.pools.iter().filter(|pool| pool.provider().domain() == domain);
        there.map(Pool::trim).sum()
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
            domain: Arc::clone(&self.store(provider.domain()).ledger),
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
        let mut proved = false;
        let verdict = self.routes.verdict(key, || {
            proved = true;
            let (near, far) = (self.end(from)?, self.end(to)?);
            transfer::prove_all(&near, &far, |provider| self.origin(provider), self.timeout)
        });
        if proved {
            self.attraction.prices().forget();
        }
        verdict
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

    /// How fast the host and a device copy. Measured here, once; while the device is at work, what is assumed
    /// until then.
    ///
    /// Locks: none may be held; this waits for the device, which has nothing else to do.
    pub(crate) fn speeds(&self, device: DeviceId) -> &CopySpeeds {
        if let Some(known) = self.known_speeds(device) {
            return known;
        }
        let member = self.member(device);
        // Who comes while somebody measures does not wait for that.
        let _measuring = match member.measuring.try_lock() {
            Err(TryLockError::WouldBlock) => return transfer::mover::assumed(),
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let measured = self
            .staging(&member.device)
            .and_then(|staging| transfer::mover::measure(&member.device, &staging, &self.retire));
        match measured {
            Ok(None) => transfer::mover::assumed(),
            // The application is at work there. Each try is a wait, so there are few.
            Err(Error::Timeout { .. }) if member.late.fetch_add(1, Ordering::Relaxed) < TRIES => {
                transfer::mover::assumed()
            }
            Ok(Some(speeds)) => member.speeds.get_or_init(|| speeds),
            Err(error) => {
                tracing::warn!(%error, device = member.device.name(), "copies were not measured");
                // It would fail again, at the cost of every move.
                member.speeds.get_or_init(|| transfer::mover::assumed().clone())
            }
        }
    }

    /// The same, if it is known.
    pub(crate) fn known_speeds(&self, device: DeviceId) -> Option<&CopySpeeds> {
        // A model is to take the same way each time.
        let assumed = || cfg!(peerbuf_shuttle).then(transfer::mover::assumed);
        let said = self.said_speeds.as_ref();
        said.or_else(|| self.member(device).speeds.get()).or_else(assumed)
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
