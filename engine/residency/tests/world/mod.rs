//! A model of an engine without Vulkan: chains of domains, buffers, work on them, and copies whose end a test
//! decides.
//!
//! No time passes: a wait for a copy ends it, unless the model is `stuck`; then the wait fails at once. Only the
//! wait for a lock that a thread holds takes real time.

mod check;
mod newest_first;
mod residency;
mod validate;

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Make;
use crate::device::DeviceId;
use crate::memory::{Domain, DomainId, GroupId};
use crate::residency::bulk_move::BulkGroup;
use crate::residency::domain_state::DomainState;
use crate::residency::eviction_failures::{EvictionFailures, SkipReason};
use crate::residency::policy::Slot;
use crate::residency::priority::Priority;

pub(super) use newest_first::newest_first;
pub(super) use validate::Validated;

/// The domain with a number.
pub(super) fn site(number: usize) -> DomainId {
    DomainId::Vram(DeviceId(u16::try_from(number).expect("a few domains")))
}

fn number(domain: DomainId) -> usize {
    match domain {
        DomainId::Vram(device) => device.index(),
        DomainId::System => unreachable!("domains of the model have numbers"),
    }
}

/// The behaviour of a domain's provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// It has as much memory as the ledger.
    Works,
    /// It is always out of memory (kernel: the bad manager).
    Full,
    /// It fails with an error that more room does not help against (kernel: the busy manager).
    Busy,
    /// It has so many bytes, and needs a call ([`World::trim`](super::super::super::world::World::trim)) to
    /// reuse what was freed.
    Limited(u64),
}

/// The state of a buffer's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    Free,
    Taken,
    /// Taken, and released as soon as a walk waits for it.
    Yielding,
}

/// Why a buffer could not be moved to any of the requested domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The buffer itself cannot move.
    Kept(SkipReason),
    NoRoom {
        at: DomainId,
        failures: EvictionFailures,
    },
    /// The provider is out of memory.
    Full,
    /// The provider failed.
    Failed,
}

/// A domain.
#[derive(Debug)]
struct Site {
    store: DomainState<u32>,
    /// The domain to which victims are evicted.
    slower: Option<usize>,
}

/// A buffer, and everything that can prevent its eviction.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    pub(super) bytes: u64,
    pub(super) priority: Priority,
    /// The client group that it is charged to.
    pub(super) group: GroupId,
    /// Its bulk group.
    age: Option<Arc<BulkGroup>>,
    /// Its domain, if it has a backing.
    pub(super) at: Option<usize>,
    /// Whether its content is valid; `false` after it was discarded.
    pub(super) content: bool,
    pub(super) pins: u32,
    pub(super) held: bool,
    pub(super) lock: Lock,
    /// Work on it. Some of it may be over.
    work: Vec<usize>,
    /// Its content is discarded instead of moved.
    pub(super) discardable: bool,
    /// External memory: it cannot move.
    pub(super) external: bool,
    /// It returns as soon as it was evicted.
    pub(super) restless: bool,
    /// A mapping exists: the bytes stay in use after a move.
    pub(super) mapped: bool,
    /// It is destroyed as soon as it is tried as a victim.
    pub(super) fleeting: bool,
    pub(super) moves: u32,
    preferred: usize,
    /// Its entries in the eviction lists of its current and its preferred domain.
    entries: Vec<(usize, Slot)>,
}

impl Buffer {
    /// A buffer with the defaults.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            priority: Priority::Normal,
            group: GroupId::NONE,
            age: None,
            at: None,
            content: true,
            pins: 0,
            held: false,
            lock: Lock::Free,
            work: vec![],
            discardable: false,
            external: false,
            restless: false,
            mapped: false,
            fleeting: false,
            moves: 0,
            preferred: usize::MAX,
            entries: vec![],
        }
    }

    /// Sets the priority.
    pub(super) fn of(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Sets the client group.
    pub(super) fn charged_to(self, group: u16) -> Self {
        Self { group: GroupId(group), ..self }
    }

    fn slot(&self, at: usize) -> Option<Slot> {
        self.entries.iter().find(|(domain, _)| *domain == at).map(|&(_, slot)| slot)
    }
}

/// Work of a device or of the host.
#[derive(Clone, Copy, Debug)]
struct Work {
    over: bool,
    /// By the host: a queue cannot wait for it.
    host: bool,
}

/// Bytes that no buffer has any more, and that are in use until their work is over.
#[derive(Clone, Debug)]
struct InFlight {
    at: usize,
    bytes: u64,
    group: GroupId,
    work: Vec<usize>,
    /// A mapping of the bytes exists; there is nothing to wait for.
    ghost: bool,
}

/// One attempt to evict a buffer.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) from: usize,
    pub(super) depth: u8,
    pub(super) buffer: u32,
    pub(super) bytes: u64,
    pub(super) outcome: Result<(), SkipReason>,
}

#[derive(Debug)]
struct Inner {
    natures: Vec<Nature>,
    /// The bytes that a limited provider has given out, those that it can reuse after a trim, and those after a compaction.
    given: Vec<u64>,
    warm: Vec<u64>,
    sparse: Vec<u64>,
    buffers: Vec<Option<Buffer>>,
    work: Vec<Work>,
    in_flight: Vec<InFlight>,
    /// Copies last until a wait or a test ends them. Otherwise they are over when they begin.
    slow: bool,
    /// Copies are over when they begin, but the old bytes were not reclaimed yet.
    soon: bool,
    /// Every wait times out.
    stuck: bool,
    /// Once, all bytes in flight are reclaimed just after they were counted.
    raced: bool,
    /// Pairs of domains without a copy path.
    no_way: HashSet<(usize, usize)>,
    asked: Vec<Attempt>,
    bytes_moved: u64,
    trims: u32,
    /// Tries to take bytes that have just become free. Counts the attempts and the successes.
    thief: bool,
    thefts: (u32, u32),
}

/// The model.
#[derive(Debug)]
pub(super) struct Fake {
    sites: Vec<Site>,
    inner: Mutex<Inner>,
    /// A lock was released.
    unlocked: Condvar,
}

impl Fake {
    /// Domains of so many bytes, and the domain to which each one's victims are evicted.
    pub(super) fn new(make: Make, sites: &[(u64, Option<usize>)]) -> Self {
        let count = sites.len();
        let build = |(at, &(bytes, slower)): (usize, &(u64, Option<usize>))| {
            let store = DomainState::new(Domain::new(site(at), bytes), make);
            Site { store, slower }
        };
        let inner = Inner {
            natures: vec![Nature::Works; count],
            given: vec![0; count],
            warm: vec![0; count],
            sparse: vec![0; count],
            buffers: vec![],
            work: vec![],
            in_flight: vec![],
            slow: false,
            soon: false,
            stuck: false,
            raced: false,
            no_way: HashSet::new(),
            asked: vec![],
            bytes_moved: 0,
            trims: 0,
            thief: false,
            thefts: (0, 0),
        };
        Self {
            sites: sites.iter().enumerate().map(build).collect(),
            inner: Mutex::new(inner),
            unlocked: Condvar::new(),
        }
    }

    /// A chain of domains, from the fastest to the slowest.
    pub(super) fn chain(make: Make, bytes: &[u64]) -> Self {
        let last = bytes.len() - 1;
        let slower = |at| (at < last).then_some(at + 1);
        let sites: Vec<_> = bytes.iter().enumerate().map(|(at, &n)| (n, slower(at))).collect();
        Self::new(make, &sites)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- actions of a test ----

    pub(super) fn set_nature(&self, at: usize, nature: Nature) {
        self.inner().natures[at] = nature;
    }

    /// So many bytes of a limited provider are free in blocks that are in use.
    pub(super) fn set_sparse(&self, at: usize, bytes: u64) {
        self.inner().sparse[at] = bytes;
    }

    pub(super) fn set_slow(&self, slow: bool) {
        self.inner().slow = slow;
    }

    pub(super) fn set_stuck(&self, stuck: bool) {
        self.inner().stuck = stuck;
    }

    pub(super) fn set_soon(&self, soon: bool) {
        self.inner().soon = soon;
    }

    pub(super) fn set_raced(&self) {
        self.inner().raced = true;
    }

    pub(super) fn set_thief(&self, thief: bool) {
        self.inner().thief = thief;
    }

    pub(super) fn no_way(&self, from: usize, to: usize) {
        self.inner().no_way.insert((from, to));
    }

    /// Changes a buffer.
    pub(super) fn with<R>(&self, buffer: u32, change: impl FnOnce(&mut Buffer) -> R) -> R {
        let mut inner = self.inner();
        let changed = change(inner.buffer(buffer));
        drop(inner);
        self.unlocked.notify_all();
        changed
    }

    /// Begins work on a buffer, by a device or the host.
    pub(super) fn begin(&self, buffer: u32, host: bool) -> usize {
        let mut inner = self.inner();
        let work = inner.new_work(host);
        inner.buffer(buffer).work.push(work);
        work
    }

    /// Ends work.
    pub(super) fn end(&self, work: usize) {
        self.inner().work[work].over = true;
    }

    /// The number of works begun so far.
    pub(super) fn works(&self) -> usize {
        self.inner().work.len()
    }

    /// Records a use of a buffer.
    pub(super) fn touch(&self, buffer: u32) {
        let mut inner = self.inner();
        for &(at, slot) in &inner.buffer(buffer).entries {
            if let Some(age) = self.sites[at].store.eviction_list.mark_used(slot) {
                let others = (0..self.sites.len()).filter(|&other| other != at);
                others.filter(|&other| age.is_in(site(other))).for_each(|other| {
                    self.sites[other].store.eviction_list.mark_group_used(&age);
                });
            }
        }
    }

    /// Sets the bulk group of a buffer.
    pub(super) fn set_bulk_group(&self, buffer: u32, age: Option<&Arc<BulkGroup>>) {
        let mut inner = self.inner();
        let buffer = inner.buffer(buffer);
        buffer.age = age.cloned();
        for &(at, slot) in &buffer.entries {
            buffer.age.iter().for_each(|age| age.may_be_in(site(at)));
            self.sites[at].store.eviction_list.set_bulk_group(slot, age);
        }
    }

    pub(super) fn set_priority(&self, buffer: u32, priority: Priority) {
        let mut inner = self.inner();
        let buffer = inner.buffer(buffer);
        buffer.priority = priority;
        for &(at, slot) in &buffer.entries {
            self.sites[at].store.eviction_list.set_priority(slot, priority);
        }
    }

    /// Destroys a buffer. Its bytes are in use until its work is over and they were reclaimed.
    pub(super) fn drop_buffer(&self, buffer: u32) {
        let mut inner = self.inner();
        let gone = inner.buffers[buffer as usize].take().expect("it is alive");
        self.release(&mut inner, &gone);
    }

    fn release(&self, inner: &mut Inner, gone: &Buffer) {
        for &(at, slot) in &gone.entries {
            self.sites[at].store.eviction_list.remove(slot);
        }
        if let Some(at) = gone.at {
            let work = gone.work.clone();
            let (bytes, group, ghost) = (gone.bytes, gone.group, gone.mapped);
            inner.in_flight.push(InFlight { at, bytes, group, work, ghost });
        }
    }

    /// Drops the mappings of old backings.
    pub(super) fn drop_mappings(&self) {
        self.inner().in_flight.iter_mut().for_each(|each| each.ghost = false);
    }

    // ---- queries of a test ----

    pub(super) fn buffer(&self, buffer: u32) -> Buffer {
        self.inner().buffer(buffer).clone()
    }

    /// The domain of a buffer.
    pub(super) fn at(&self, buffer: u32) -> Option<usize> {
        self.buffer(buffer).at
    }

    pub(super) fn alive(&self) -> Vec<u32> {
        let inner = self.inner();
        // CAST: a few buffers.
        (0..inner.buffers.len() as u32).filter(|&n| inner.buffers[n as usize].is_some()).collect()
    }

    pub(super) fn used(&self, at: usize) -> u64 {
        self.sites[at].store.ledger.used()
    }

    pub(super) fn site(&self, at: usize) -> &DomainState<u32> {
        &self.sites[at].store
    }

    /// The total of copied bytes.
    pub(super) fn bytes_moved(&self) -> u64 {
        self.inner().bytes_moved
    }

    pub(super) fn thefts(&self) -> (u32, u32) {
        self.inner().thefts
    }

    pub(super) fn trims(&self) -> u32 {
        self.inner().trims
    }

    /// The eviction attempts since the last call.
    pub(super) fn take_attempts(&self) -> Vec<Attempt> {
        std::mem::take(&mut self.inner().asked)
    }

    /// The bytes of a domain that are in flight.
    pub(super) fn bytes_in_flight(&self, at: usize) -> u64 {
        self.inner().in_flight.iter().filter(|each| each.at == at).map(|each| each.bytes).sum()
    }

    /// The slots of all buffers in a domain, by buffer number.
    pub(super) fn slots(&self, at: usize) -> Vec<Slot> {
        self.alive().into_iter().filter_map(|each| self.buffer(each).slot(at)).collect()
    }

    /// The usage of a group in a domain.
    pub(super) fn used_by(&self, group: u16, at: usize) -> u64 {
        self.sites[at].store.ledger.group(GroupId(group)).used
    }

    /// Sets a group's cap in a domain, without evictions.
    pub(super) fn cap(&self, group: u16, at: usize, bytes: Option<u64>) {
        self.sites[at].store.ledger.set_group_cap(GroupId(group), bytes);
    }

    /// The buffers that may be evicted, in order.
    pub(super) fn order(&self, at: usize) -> Vec<u32> {
        let eviction_list = &self.sites[at].store.eviction_list;
        let all = eviction_list.victims(u64::MAX, Priority::Highest, &|_| false);
        all.into_iter().map(|victim| victim.key).collect()
    }
}

impl Inner {
    fn buffer(&mut self, buffer: u32) -> &mut Buffer {
        self.buffers[buffer as usize].as_mut().expect("it is alive")
    }

    fn new_work(&mut self, host: bool) -> usize {
        self.work.push(Work { over: false, host });
        self.work.len() - 1
    }

    fn pending(&self, work: &[usize]) -> Vec<usize> {
        work.iter().copied().filter(|&each| !self.work[each].over).collect()
    }
}
