//! Finding room: try, evict the smallest sufficient set, fall back, fail and say why.
//!
//! Kernel counterparts: `ttm_bo_alloc_resource` (the passes over the places), `ttm_bo_evict_alloc`.

use std::time::Instant;

use smallvec::SmallVec;

use super::obstacles::{Kept, Obstacles};
use super::priority::Priority;
use super::recency::Victim;
use super::store::Store;
use super::walk::Walk;
use crate::device::DeviceId;
use crate::memory::{Charge, Claim, Domain, DomainId, GroupId, Room};

/// What residency moves, and how: the engine, or a model of one.
pub(crate) trait World {
    /// What a buffer is found by.
    type Key: Copy;
    type Error;

    /// A place's ledger and buffers.
    fn store(&self, domain: DomainId) -> &Store<Self::Key>;

    /// Somebody is to go from there: all who are there stand in order from now on, if they did not before.
    fn line_up(&self, domain: DomainId);

    /// Gives back what nobody needs any more, without waiting: dropped buffers, places that were left. And,
    /// until there is `enough`, what somebody might need again; if it is for a group, its own.
    fn reap(&self, domain: DomainId, of: GroupId, enough: &dyn Fn() -> bool);

    /// Gives unused memory of a place back to whoever provides it: the provider said that it has no more.
    /// Returns how many bytes.
    fn trim(&self, domain: DomainId) -> u64;

    /// Moves these out of `from`, each to where it may go from there, or drops what they hold if they may
    /// lose it. One result each, in their order. A victim that stays is as it was.
    ///
    /// What has left may have its bytes in use until a copy has ended: [`World::leaving`],
    /// [`World::settle`].
    fn evict(&self, from: DomainId, victims: &[Victim<Self::Key>], terms: &Terms) -> Outcomes;

    /// Bytes that are on their way out of a place, whoever sent them: still in use, and not for long. Those
    /// of a group, or, without one, all.
    fn leaving(&self, from: DomainId, of: GroupId) -> u64;

    /// Waits, at most until `terms` say, until everything that is on its way out of `from` now is out, or
    /// until `enough`, which is asked whenever something may be, says that the rest does not matter.
    fn settle(&self, from: DomainId, terms: &Terms, enough: &dyn Fn() -> bool) -> Settled;

    /// Names those who have pins on a buffer.
    fn name_pins(&self, key: Self::Key, obstacles: &mut Obstacles);

    /// That there is no room; with a group: that it has as much as it may.
    fn no_room(
        &self,
        domain: DomainId,
        bytes: u64,
        capped: Option<GroupId>,
        obstacles: Obstacles,
    ) -> Self::Error;
}

/// What became of each victim.
pub(crate) type Outcomes = SmallVec<[Result<(), Kept>; 8]>;

/// How a wait for what is on its way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Everything is out, or enough.
    Out,
    /// Nothing was on its way.
    Nothing,
    /// Something is, and nobody waits any longer.
    Late,
}

/// A place where a buffer may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) domain: DomainId,
    /// Only when no other place is to be had, even by evicting (kernel: `TTM_PL_FLAG_FALLBACK`).
    pub(crate) fallback: bool,
}

/// What makes a buffer move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// So many bytes are needed, by a buffer of that number if it is one.
    Room { bytes: u64, by: Option<u64> },
    /// A device uses it, or would like to.
    Device(DeviceId),
    /// Everything is to leave, or to come back.
    All,
    /// Somebody said so.
    Asked,
}

/// How far to go for room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Whether anybody may be evicted.
    pub(crate) evict: bool,
    /// Whom at most.
    pub(crate) most: Priority,
    /// Whether to wait until what was evicted is out, and until when.
    pub(crate) wait: Option<Instant>,
    /// Whether to wait, so long, for a buffer's lock and for those who are at work on it. Only when those
    /// were asked who are not (kernel: the ticketed pass of `ttm_lru_walk_for_evict`).
    pub(crate) patient: bool,
    /// Whether a buffer that a device is at work on stays where it is; else its copy is queued behind that.
    pub(crate) skip_busy: bool,
    /// What it is for.
    pub(crate) demand: Demand,
    /// How many evictions this one is for: a victim's new place may be full as well.
    pub(crate) depth: u8,
}

/// How deep evictions may be nested. Places form chains of two or three.
pub(crate) const DEEPEST: u8 = 3;

/// How often memory is made free for a provider that says it has none although the ledger has.
const ROUNDS: u32 = 5;

/// Why what was offered was not taken.
#[derive(Debug)]
pub(crate) enum Turned<E> {
    /// The place is no good for this; another one may be.
    Elsewhere,
    /// It did not work there, for a reason that room does not help against; another place may do.
    Failed(E),
    /// Its provider is out of memory, whatever the ledger says.
    Full(E),
    /// Nothing helps.
    Stop(E),
}

/// Takes what there is room for, in that place.
pub(crate) type Take<'a, T, E> = dyn FnMut(DomainId, Room<'_>) -> Result<T, Turned<E>> + 'a;

impl Terms {
    /// Those of evictions that are made for these.
    pub(crate) fn deeper(&self) -> Self {
        Self { depth: self.depth + 1, evict: self.evict && self.depth + 1 < DEEPEST, ..*self }
    }
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<T, E> {
    pub(crate) taken: T,
    /// Why it is not a better place, if one failed.
    pub(crate) instead_of: Option<E>,
}

/// Finds room for so many bytes in one of `places`, and lets `take` have it. First wherever there is room;
/// then by evicting; then, the same, where it may be if all else fails. `Ok(None)` if `take` wanted none.
///
/// Where the group that they are for has as much as it may, its own go, and nobody else.
///
/// # Errors
///
/// Why the last place was no good.
///
/// Locks: none may be held.
pub(crate) fn with_room<W: World, T>(
    world: &W,
    places: &[Place],
    charge: impl Into<Charge>,
    terms: &Terms,
    take: &mut Take<'_, T, W::Error>,
) -> Result<Option<Found<T, W::Error>>, W::Error> {
    let charge = charge.into();
    let mut last = None;
    for fallback in [false, true] {
        for evicting in [false, true] {
            let suited = places.iter().filter(|place| place.fallback == fallback);
            for place in suited {
                let attempt = if !evicting {
                    at_once(world, place.domain, charge, take)
                } else if terms.evict {
                    by_evicting(world, place.domain, charge, terms, take)
                } else {
                    continue;
                };
                match attempt {
                    Ok(taken) => return Ok(Some(Found { taken, instead_of: last })),
                    Err(Turned::Stop(error)) => return Err(error),
                    Err(Turned::Full(error) | Turned::Failed(error)) => last = Some(error),
                    Err(Turned::Elsewhere) => {}
                }
            }
        }
    }
    last.map_or(Ok(None), Err)
}

fn at_once<W: World, T>(
    world: &W,
    domain: DomainId,
    charge: Charge,
    take: &mut Take<'_, T, W::Error>,
) -> Result<T, Turned<W::Error>> {
    let ledger = &world.store(domain).ledger;
    let room = ledger.charge(charge).or_else(|| {
        let group = capped(ledger, charge).unwrap_or_default();
        world.reap(domain, group, &|| ledger.has_room(charge));
        ledger.charge(charge)
    });
    match room {
        Some(room) => take(domain, room),
        None => {
            let capped = capped(ledger, charge);
            Err(Turned::Full(world.no_room(domain, charge.bytes, capped, Obstacles::default())))
        }
    }
}

/// The group, if it is that one's cap that keeps the bytes out.
fn capped(ledger: &Domain, charge: Charge) -> Option<GroupId> {
    ledger.is_beyond_cap(charge).then_some(charge.group)
}

fn by_evicting<W: World, T>(
    world: &W,
    domain: DomainId,
    charge: Charge,
    terms: &Terms,
    take: &mut Take<'_, T, W::Error>,
) -> Result<T, Turned<W::Error>> {
    let mut round = 0;
    loop {
        let room = make_room(world, domain, charge, terms).map_err(Turned::Full)?;
        match take(domain, room) {
            // Out of memory is an event: somebody goes, and what became free goes back to the provider.
            Err(Turned::Full(error)) if round < ROUNDS => {
                // First what nobody has, then more and more of what somebody has.
                let more =
                    if round == 0 { 0 } else { charge.bytes.saturating_mul(1 << (round - 1)) };
                let evicted = evict_bytes(world, domain, more, terms).moved;
                if evicted + world.trim(domain) == 0 && round > 0 {
                    return Err(Turned::Full(error));
                }
                round += 1;
            }
            taken => return taken,
        }
    }
}

/// Makes room for so many bytes, and takes it in the same walk: what becomes free meanwhile is for nobody
/// else.
fn make_room<'a, W: World>(
    world: &'a W,
    domain: DomainId,
    charge: Charge,
    terms: &Terms,
) -> Result<Room<'a>, W::Error> {
    let ledger = &world.store(domain).ledger;
    let (bytes, group) = (charge.bytes, charge.group);
    if !ledger.could_hold(charge) {
        let capped = (!ledger.group_could_hold(charge)).then_some(group);
        return Err(world.no_room(domain, bytes, capped, Obstacles::default()));
    }
    let claim = ledger.claim(charge);
    let mut walk = Walk::new(world, domain, terms);
    loop {
        // What was dropped goes before what is used.
        let of = capped_claim(&claim, group).unwrap_or_default();
        world.reap(domain, of, &|| claim.short_of().is_nothing());
        if let Some(room) = claim.take() {
            return Ok(room);
        }
        // In this order: what gets out in between is then missing twice, and nobody goes for it.
        let own_leaving = if group == GroupId::NONE { 0 } else { world.leaving(domain, group) };
        let leaving = world.leaving(domain, GroupId::NONE);
        let short = claim.short_of();
        // First its own: the others' leaving does not help a group that has as much as it may.
        if short.own > own_leaving && walk.step(short.own - own_leaving, group) {
            continue;
        }
        let hopeless = short.own > own_leaving;
        if !hopeless && short.all > leaving && walk.step(short.all - leaving, GroupId::NONE) {
            continue;
        }
        // Enough are leaving, or nobody else can be asked.
        let settled = if hopeless && own_leaving == 0 {
            Settled::Late
        } else {
            // What its own leave is out, if that was not enough: the others do not help.
            let rest = if hopeless { short.own - own_leaving } else { 0 };
            let enough = || {
                let now = claim.short_of();
                now.is_nothing() || now.own > 0 && now.own <= rest
            };
            world.settle(domain, terms, &enough)
        };
        match settled {
            Settled::Out => {}
            Settled::Nothing if leaving > 0 || short.is_nothing() => {}
            Settled::Nothing | Settled::Late => {
                let capped = capped_claim(&claim, group);
                return Err(world.no_room(domain, bytes, capped, walk.obstacles()));
            }
        }
    }
}

/// The group, if it is that one's cap that a claim waits for.
fn capped_claim(claim: &Claim<'_>, group: GroupId) -> Option<GroupId> {
    (group != GroupId::NONE && claim.short_of().own > 0).then_some(group)
}

/// What [`evict_bytes`] did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evicted {
    /// Bytes that have left, or are leaving.
    pub(crate) moved: u64,
    pub(crate) obstacles: Obstacles,
}

/// Evicts buffers of so many bytes, whatever the budget says, and waits until they are out.
pub(crate) fn evict_bytes<W: World>(
    world: &W,
    domain: DomainId,
    bytes: u64,
    terms: &Terms,
) -> Evicted {
    let mut walk = Walk::new(world, domain, terms);
    while walk.gone() < bytes && walk.step(bytes - walk.gone(), GroupId::NONE) {}
    if walk.gone() > 0 {
        world.settle(domain, terms, &|| false);
    }
    walk.evicted()
}

/// Evicts until no more is in use than may be: the budget has shrunk, or, with a group, that one's cap; then
/// its own go.
pub(crate) fn fit<W: World>(world: &W, domain: DomainId, group: GroupId, terms: &Terms) -> Evicted {
    let ledger = &world.store(domain).ledger;
    let excess_now = || match group {
        GroupId::NONE => ledger.excess(),
        group => ledger.group_excess(group),
    };
    let mut walk = Walk::new(world, domain, terms);
    loop {
        world.reap(domain, group, &|| excess_now() == 0);
        // In this order, as in `make_room`.
        let leaving = world.leaving(domain, group);
        let excess = excess_now();
        if excess == 0 {
            return walk.evicted();
        }
        if excess > leaving && walk.step(excess - leaving, group) {
            continue;
        }
        if group != GroupId::NONE && leaving == 0 {
            // What is leaving is others', and does not help.
            return walk.evicted();
        }
        let rest = if group == GroupId::NONE { 0 } else { excess.saturating_sub(leaving) };
        match world.settle(domain, terms, &|| excess_now() <= rest) {
            Settled::Out => {}
            Settled::Nothing if leaving > 0 => {}
            Settled::Nothing | Settled::Late => return walk.evicted(),
        }
    }
}
