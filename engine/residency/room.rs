//! The search for room in a list of domains: charge, evict the smallest sufficient set, fall back, or fail
//! with the reasons.
//!
//! Kernel counterparts: `ttm_bo_alloc_resource` (the passes over the placement), `ttm_bo_evict_alloc`.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::eviction_failures::EvictionFailures;
use super::walk::{Evicted, Walk};
use super::world::{EvictionLimits, ReleaseWait, World};
use crate::memory::{Charge, Claim, Domain, DomainId, GroupId, Room};

/// A domain where a buffer may be placed (kernel: `ttm_place`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlacementOption {
    pub(crate) domain: DomainId,
    /// Use it only if no other domain has room, even after evictions (kernel: `TTM_PL_FLAG_FALLBACK`).
    pub(crate) fallback: bool,
}

/// How often memory is freed for a provider that is out of memory although the ledger has room.
const ROUNDS: u32 = 5;

/// Why a [`Take`] did not take the room that it was offered.
#[derive(Debug)]
pub(crate) enum Rejected<E> {
    /// The domain does not suit the buffer. Another one may.
    Unsuitable,
    /// The allocation failed, and more room does not help. Another domain may work.
    Failed(E),
    /// The provider is out of memory, whatever the ledger says.
    Full(E),
    /// No domain helps.
    Stop(E),
}

/// Allocates in a domain that has room.
pub(crate) type Take<'a, T, E> = dyn FnMut(DomainId, Room<'_>) -> Result<T, Rejected<E>> + 'a;

/// The result of [`with_room`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<T, E> {
    pub(crate) taken: T,
    /// The error of a better domain, if one failed.
    pub(crate) instead_of: Option<E>,
}

/// Finds room for a charge in one of `options`, and calls `take` with it.
///
/// It tries all domains without evicting, then with evictions; after that the fallback domains in the same
/// way. If the charge's client group has reached its cap, only that group's buffers are evicted. Returns
/// `Ok(None)` if `take` found no domain suitable.
///
/// # Errors
///
/// The error of the last domain that was tried.
///
/// Locks: none may be held.
pub(crate) fn with_room<W: World, T>(
    world: &W,
    options: &[PlacementOption],
    charge: impl Into<Charge>,
    limits: &EvictionLimits,
    take: &mut Take<'_, T, W::Error>,
) -> Result<Option<Found<T, W::Error>>, W::Error> {
    let charge = charge.into();
    let mut last = None;
    for fallback in [false, true] {
        for evicting in [false, true] {
            let suited = options.iter().filter(|option| option.fallback == fallback);
            for option in suited {
                let attempt = if !evicting {
                    without_evicting(world, option.domain, charge, take)
                } else if limits.evict {
                    by_evicting(world, option.domain, charge, limits, take)
                } else {
                    continue;
                };
                match attempt {
                    Ok(taken) => return Ok(Some(Found { taken, instead_of: last })),
                    Err(Rejected::Stop(error)) => return Err(error),
                    Err(Rejected::Full(error) | Rejected::Failed(error)) => last = Some(error),
                    Err(Rejected::Unsuitable) => {}
                }
            }
        }
    }
    last.map_or(Ok(None), Err)
}

fn without_evicting<W: World, T>(
    world: &W,
    domain: DomainId,
    charge: Charge,
    take: &mut Take<'_, T, W::Error>,
) -> Result<T, Rejected<W::Error>> {
    let ledger = &world.domain_state(domain).ledger;
    let room = ledger.charge(charge).or_else(|| {
        let group = capped(ledger, charge).unwrap_or_default();
        world.reclaim(domain, group, &|| ledger.has_room(charge));
        if ledger.is_short_beneath(charge) {
            world.reclaim(DomainId::System, GroupId::NONE, &|| !ledger.is_short_beneath(charge));
        }
        ledger.charge(charge)
    });
    match room {
        Some(room) => take(domain, room),
        None => {
            let capped = capped(ledger, charge);
            let failures = EvictionFailures::default();
            Err(Rejected::Full(world.no_room(domain, charge.bytes, capped, failures)))
        }
    }
}

/// The charge's group, if the charge would exceed that group's cap.
fn capped(ledger: &Domain, charge: Charge) -> Option<GroupId> {
    ledger.is_beyond_cap(charge).then_some(charge.group)
}

fn by_evicting<W: World, T>(
    world: &W,
    domain: DomainId,
    charge: Charge,
    limits: &EvictionLimits,
    take: &mut Take<'_, T, W::Error>,
) -> Result<T, Rejected<W::Error>> {
    let mut round = 0;
    loop {
        let room = make_room(world, domain, charge, limits).map_err(Rejected::Full)?;
        match take(domain, room) {
            // The provider is out of memory: evict, and return what became free to the provider.
            Err(Rejected::Full(error)) if round < ROUNDS => {
                // The first round returns unused memory only, and if there is none, that of sparse blocks. The next ones evict, each
                // twice as much.
                let more =
                    if round == 0 { 0 } else { charge.bytes.saturating_mul(1 << (round - 1)) };
                let evicted = evict_bytes(world, domain, more, limits).moved;
                let mut freed = evicted + world.trim(domain);
                if freed == 0 {
                    freed = world.compact(domain, limits.trigger);
                }
                if freed == 0 && round > 0 {
                    return Err(Rejected::Full(error));
                }
                round += 1;
            }
            taken => return taken,
        }
    }
}

/// Makes room for a charge by evicting, and takes it.
///
/// The claim comes first, so that no other thread can take what becomes free meanwhile.
fn make_room<'a, W: World>(
    world: &'a W,
    domain: DomainId,
    charge: Charge,
    limits: &EvictionLimits,
) -> Result<Room<'a>, W::Error> {
    let ledger = &world.domain_state(domain).ledger;
    let (bytes, group) = (charge.bytes, charge.group);
    if !ledger.could_hold(charge) {
        let capped = (!ledger.group_could_hold(charge)).then_some(group);
        return Err(world.no_room(domain, bytes, capped, EvictionFailures::default()));
    }
    let claim = ledger.claim(charge);
    let mut walk = Walk::new(world, domain, limits);
    // Of the domains that share this one's memory only purgeable buffers free any.
    let mut beside: SmallVec<[_; 4]> = world
        .sharing_memory_with(domain)
        .into_iter()
        .map(|other| Walk::purging(world, other, limits))
        .collect();
    let mut idle = IdleRounds::new(limits);
    loop {
        // Unused memory is freed before any buffer is evicted.
        let of = capped_claim(&claim, group).unwrap_or_default();
        world.reclaim(domain, of, &|| claim.short_of().is_nothing());
        if claim.short_of().beneath > 0 {
            let enough = || claim.short_of().beneath == 0;
            world.reclaim(DomainId::System, GroupId::NONE, &enough);
        }
        if let Some(room) = claim.take() {
            return Ok(room);
        }
        // In this order: bytes that are released in between are then subtracted twice, so that too little is
        // evicted in this turn rather than too much.
        let own_in_flight = if group == GroupId::NONE { 0 } else { world.in_flight(domain, group) };
        let in_flight = world.in_flight(domain, GroupId::NONE);
        let in_flight_beneath =
            if ledger.is_part() { world.in_flight(DomainId::System, GroupId::NONE) } else { 0 };
        let short = claim.short_of();
        // The group's own buffers first: evicting others does not help a group at its cap.
        if short.own > own_in_flight && walk.step(short.own - own_in_flight, group) {
            continue;
        }
        let hopeless = short.own > own_in_flight;
        let beneath = short.beneath.saturating_sub(in_flight_beneath);
        let wanted = short.all.saturating_sub(in_flight).max(beneath);
        if !hopeless && wanted > 0 && walk.step(wanted, GroupId::NONE) {
            continue;
        }
        // What is short there: in a part of system memory the bytes beneath, in system memory all of them.
        let shared = if ledger.is_part() { beneath } else { wanted };
        if !hopeless && shared > 0 && beside.iter_mut().any(|walk| walk.step(shared, GroupId::NONE))
        {
            continue;
        }
        // Enough bytes are in flight, or no candidate is left.
        let waited = if hopeless && own_in_flight == 0 {
            ReleaseWait::TimedOut
        } else {
            // If the group's own bytes in flight are not enough, wait for those only.
            let rest = if hopeless { short.own - own_in_flight } else { 0 };
            let enough = || {
                let now = claim.short_of();
                now.is_nothing() || now.own > 0 && now.own <= rest
            };
            world.wait_for_release(domain, limits, &enough)
        };
        match waited {
            ReleaseWait::Released => {}
            // Another thread has released bytes between the two looks; the next turn takes them.
            ReleaseWait::NothingInFlight
                if (in_flight > 0 || in_flight_beneath > 0 || short.is_nothing())
                    && idle.may_go_on() => {}
            ReleaseWait::NothingInFlight | ReleaseWait::TimedOut => {
                let capped = capped_claim(&claim, group);
                return Err(world.no_room(domain, bytes, capped, walk.failures()));
            }
        }
    }
}

/// Bounds the turns of a search that neither evicts nor waits: each sees a state that another thread has changed
/// meanwhile.
struct IdleRounds {
    rounds: u32,
    /// Until when a search may wait.
    until: Option<Instant>,
}

/// How many idle turns a search has in any case.
const IDLE_ROUNDS: u32 = 64;

impl IdleRounds {
    fn new(limits: &EvictionLimits) -> Self {
        Self { rounds: 0, until: limits.wait }
    }

    /// Counts a turn. Whether there may be another one: for a number of turns, and beyond it until the end of the
    /// search's waits.
    fn may_go_on(&mut self) -> bool {
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds < IDLE_ROUNDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.rounds < IDLE_ROUNDS || self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// The claim's group, if the claim waits for room below that group's cap.
fn capped_claim(claim: &Claim<'_>, group: GroupId) -> Option<GroupId> {
    (group != GroupId::NONE && claim.short_of().own > 0).then_some(group)
}

/// Evicts buffers of at least this many bytes, whatever the budget, and waits until the bytes are released.
pub(crate) fn evict_bytes<W: World>(
    world: &W,
    domain: DomainId,
    bytes: u64,
    limits: &EvictionLimits,
) -> Evicted {
    let mut walk = Walk::new(world, domain, limits);
    while walk.evicted_bytes() < bytes && walk.step(bytes - walk.evicted_bytes(), GroupId::NONE) {}
    if walk.evicted_bytes() > 0 {
        world.wait_for_release(domain, limits, &|| false);
    }
    walk.result()
}

/// Evicts until the usage is within the domain's budget; with a group, until that group's usage is within its
/// cap. Then only its own buffers are evicted.
pub(crate) fn fit<W: World>(
    world: &W,
    domain: DomainId,
    group: GroupId,
    limits: &EvictionLimits,
) -> Evicted {
    let ledger = &world.domain_state(domain).ledger;
    let excess_now = || match group {
        GroupId::NONE => ledger.excess(),
        group => ledger.group_excess(group),
    };
    let mut walk = Walk::new(world, domain, limits);
    loop {
        world.reclaim(domain, group, &|| excess_now() == 0);
        // In this order, as in `make_room`.
        let in_flight = world.in_flight(domain, group);
        let excess = excess_now();
        if excess == 0 {
            return walk.result();
        }
        if excess > in_flight && walk.step(excess - in_flight, group) {
            continue;
        }
        if group != GroupId::NONE && in_flight == 0 {
            // Bytes in flight belong to other groups and do not help.
            return walk.result();
        }
        let rest = if group == GroupId::NONE { 0 } else { excess.saturating_sub(in_flight) };
        match world.wait_for_release(domain, limits, &|| excess_now() <= rest) {
            ReleaseWait::Released => {}
            ReleaseWait::NothingInFlight if in_flight > 0 => {}
            ReleaseWait::NothingInFlight | ReleaseWait::TimedOut => return walk.result(),
        }
    }
}
