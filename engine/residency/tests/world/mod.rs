//! A world without Vulkan: places in chains, buffers, work on them, and copies that take as long as a test
//! wants.
//!
//! Time stands still: whoever waits for a copy finds it finished, unless the world is `stuck`, and then the
//! wait ends at once and in vain. Only a lock that a thread holds is waited for in earnest.

mod check;
mod newest_first;
mod residency;
mod validate;

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Make;
use crate::device::DeviceId;
use crate::memory::{Domain, DomainId, GroupId};
use crate::residency::ageing::Ageing;
use crate::residency::obstacles::{Kept, Obstacles};
use crate::residency::policy::Slot;
use crate::residency::priority::Priority;
use crate::residency::store::Store;

pub(super) use newest_first::newest_first;
pub(super) use validate::Validated;

/// The place of a number.
pub(super) fn site(number: usize) -> DomainId {
    DomainId::Vram(DeviceId(u16::try_from(number).expect("a few places")))
}

fn number(domain: DomainId) -> usize {
    match domain {
        DomainId::Vram(device) => device.index(),
        DomainId::System => unreachable!("places have numbers here"),
    }
}

/// What the provider of a place does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// It has whatever the ledger has.
    Works,
    /// It says that it is out of memory, whatever the ledger says (kernel: the bad manager).
    Full,
    /// It fails, for a reason that room does not help against (kernel: the busy manager).
    Busy,
    /// It has so many bytes, and needs to be told ([`World::trim`](super::super::room::World::trim)) to
    /// take back what nobody uses.
    Tight(u64),
}

/// Whether somebody has a buffer's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    Free,
    Taken,
    /// And will be let go as soon as somebody waits for it.
    Yielding,
}

/// Why there was no place for a buffer, or why it did not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Something keeps it.
    Kept(Kept),
    NoRoom {
        at: DomainId,
        obstacles: Obstacles,
    },
    /// The provider is out of memory.
    Full,
    /// The provider failed.
    Failed,
}

/// A place.
#[derive(Debug)]
struct Site {
    store: Store<u32>,
    /// Where victims go.
    slower: Option<usize>,
}

/// A buffer, with all that can stand in its way.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    pub(super) bytes: u64,
    pub(super) priority: Priority,
    /// On whose account it is.
    pub(super) group: GroupId,
    /// The age group that it is in.
    age: Option<Arc<Ageing>>,
    /// Where it is, if it has bytes.
    pub(super) at: Option<usize>,
    /// Whether its bytes are what was written; not after it was discarded.
    pub(super) content: bool,
    pub(super) pins: u32,
    pub(super) held: bool,
    pub(super) lock: Lock,
    /// Work that devices do on it; what is over may be among it.
    work: Vec<usize>,
    /// It loses its content rather than moves.
    pub(super) discardable: bool,
    /// Somebody else's memory: it cannot move.
    pub(super) external: bool,
    /// Comes back as soon as it has left.
    pub(super) restless: bool,
    /// Somebody has a mapping of wherever it is: the bytes stay in use when it has left.
    pub(super) haunted: bool,
    /// Is dropped as soon as somebody asks whether it can go.
    pub(super) fleeting: bool,
    pub(super) moves: u32,
    wanted: usize,
    /// Its slots: in the place where it is, and in the one where it wants to be.
    berths: Vec<(usize, Slot)>,
}

impl Buffer {
    /// What everybody starts with.
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
            haunted: false,
            fleeting: false,
            moves: 0,
            wanted: usize::MAX,
            berths: vec![],
        }
    }

    /// Of another priority.
    pub(super) fn of(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// On a group's account.
    pub(super) fn on_account_of(self, group: u16) -> Self {
        Self { group: GroupId(group), ..self }
    }

    fn slot(&self, at: usize) -> Option<Slot> {
        self.berths.iter().find(|(place, _)| *place == at).map(|&(_, slot)| slot)
    }
}

/// Something that a device, or the host, is going to finish.
#[derive(Clone, Copy, Debug)]
struct Work {
    over: bool,
    /// No queue can be made to wait for it.
    host: bool,
}

/// Bytes that nobody has any more, and that are in use until their work is over.
#[derive(Clone, Debug)]
struct OnWay {
    at: usize,
    bytes: u64,
    group: GroupId,
    work: Vec<usize>,
    /// A mapping of it lives; there is nothing to wait for.
    ghost: bool,
}

/// One time when somebody was asked to leave.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) from: usize,
    pub(super) depth: u8,
    pub(super) buffer: u32,
    pub(super) bytes: u64,
    pub(super) outcome: Result<(), Kept>,
}

#[derive(Debug)]
struct Inner {
    natures: Vec<Nature>,
    /// What a tight provider has given to buffers, and what it could take back.
    given: Vec<u64>,
    warm: Vec<u64>,
    buffers: Vec<Option<Buffer>>,
    work: Vec<Work>,
    on_way: Vec<OnWay>,
    /// Copies take until somebody finishes them; else they are over when they begin.
    slow: bool,
    /// Copies are over when they begin, and nobody has reaped what they have left.
    soon: bool,
    /// Nobody's wait ends well.
    stuck: bool,
    /// Somebody else reaps, once, just when somebody has looked at what is leaving.
    raced: bool,
    /// From where to where nothing can be copied.
    no_way: HashSet<(usize, usize)>,
    asked: Vec<Asked>,
    bytes_moved: u64,
    trims: u32,
    /// Somebody tries to take what has just become free; how often, and how often that worked.
    thief: bool,
    thefts: (u32, u32),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fake {
    sites: Vec<Site>,
    inner: Mutex<Inner>,
    /// A lock was let go.
    unlocked: Condvar,
}

impl Fake {
    /// Places of so many bytes, and where each one's victims go.
    pub(super) fn new(make: Make, sites: &[(u64, Option<usize>)]) -> Self {
        let count = sites.len();
        let build = |(at, &(bytes, slower)): (usize, &(u64, Option<usize>))| {
            let store = Store::new(Domain::new(site(at), bytes), make);
            Site { store, slower }
        };
        let inner = Inner {
            natures: vec![Nature::Works; count],
            given: vec![0; count],
            warm: vec![0; count],
            buffers: vec![],
            work: vec![],
            on_way: vec![],
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

    /// Places that get slower from the first to the last.
    pub(super) fn chain(make: Make, bytes: &[u64]) -> Self {
        let last = bytes.len() - 1;
        let slower = |at| (at < last).then_some(at + 1);
        let sites: Vec<_> = bytes.iter().enumerate().map(|(at, &n)| (n, slower(at))).collect();
        Self::new(make, &sites)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- what a test decides ----

    pub(super) fn set_nature(&self, at: usize, nature: Nature) {
        self.inner().natures[at] = nature;
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

    /// Changes what a buffer is.
    pub(super) fn with<R>(&self, buffer: u32, change: impl FnOnce(&mut Buffer) -> R) -> R {
        let mut inner = self.inner();
        let changed = change(inner.buffer(buffer));
        drop(inner);
        self.unlocked.notify_all();
        changed
    }

    /// A device begins something with a buffer, or the host does.
    pub(super) fn begin(&self, buffer: u32, host: bool) -> usize {
        let mut inner = self.inner();
        let work = inner.new_work(host);
        inner.buffer(buffer).work.push(work);
        work
    }

    /// Work is over.
    pub(super) fn end(&self, work: usize) {
        self.inner().work[work].over = true;
    }

    /// How much work there has been.
    pub(super) fn works(&self) -> usize {
        self.inner().work.len()
    }

    /// Somebody uses a buffer.
    pub(super) fn touch(&self, buffer: u32) {
        let mut inner = self.inner();
        for &(at, slot) in &inner.buffer(buffer).berths {
            if let Some(age) = self.sites[at].store.recency.used(slot) {
                let others = (0..self.sites.len()).filter(|&other| other != at);
                others.filter(|&other| age.is_in(site(other))).for_each(|other| {
                    self.sites[other].store.recency.aged(&age);
                });
            }
        }
    }

    /// Puts a buffer into an age group, or takes it out of the one that it is in.
    pub(super) fn set_age(&self, buffer: u32, age: Option<&Arc<Ageing>>) {
        let mut inner = self.inner();
        let buffer = inner.buffer(buffer);
        buffer.age = age.cloned();
        for &(at, slot) in &buffer.berths {
            buffer.age.iter().for_each(|age| age.may_be_in(site(at)));
            self.sites[at].store.recency.set_age(slot, age);
        }
    }

    pub(super) fn set_priority(&self, buffer: u32, priority: Priority) {
        let mut inner = self.inner();
        let buffer = inner.buffer(buffer);
        buffer.priority = priority;
        for &(at, slot) in &buffer.berths {
            self.sites[at].store.recency.set_priority(slot, priority);
        }
    }

    /// The last handle goes. Its bytes are in use until its work is over and somebody has reaped it.
    pub(super) fn drop_buffer(&self, buffer: u32) {
        let mut inner = self.inner();
        let gone = inner.buffers[buffer as usize].take().expect("it is alive");
        self.bury(&mut inner, &gone);
    }

    fn bury(&self, inner: &mut Inner, gone: &Buffer) {
        for &(at, slot) in &gone.berths {
            self.sites[at].store.recency.leave(slot);
        }
        if let Some(at) = gone.at {
            let work = gone.work.clone();
            let (bytes, group, ghost) = (gone.bytes, gone.group, gone.haunted);
            inner.on_way.push(OnWay { at, bytes, group, work, ghost });
        }
    }

    /// The mappings of places that were left go.
    pub(super) fn lay_ghosts(&self) {
        self.inner().on_way.iter_mut().for_each(|each| each.ghost = false);
    }

    // ---- what a test looks at ----

    pub(super) fn buffer(&self, buffer: u32) -> Buffer {
        self.inner().buffer(buffer).clone()
    }

    /// Where a buffer is.
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

    pub(super) fn site(&self, at: usize) -> &Store<u32> {
        &self.sites[at].store
    }

    /// Bytes that were copied, since the world began.
    pub(super) fn bytes_moved(&self) -> u64 {
        self.inner().bytes_moved
    }

    pub(super) fn thefts(&self) -> (u32, u32) {
        self.inner().thefts
    }

    pub(super) fn trims(&self) -> u32 {
        self.inner().trims
    }

    /// Who was asked to leave since somebody looked last.
    pub(super) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.inner().asked)
    }

    /// Whether bytes of a place wait for their work to be over.
    pub(super) fn on_way(&self, at: usize) -> u64 {
        self.inner().on_way.iter().filter(|each| each.at == at).map(|each| each.bytes).sum()
    }

    /// The slots that everybody has in a place, by their numbers.
    pub(super) fn slots(&self, at: usize) -> Vec<Slot> {
        self.alive().into_iter().filter_map(|each| self.buffer(each).slot(at)).collect()
    }

    /// How many bytes a group has in a place.
    pub(super) fn used_by(&self, group: u16, at: usize) -> u64 {
        self.sites[at].store.ledger.group(GroupId(group)).used
    }

    /// Limits what a group may have in a place; nobody goes for it.
    pub(super) fn cap(&self, group: u16, at: usize, bytes: Option<u64>) {
        self.sites[at].store.ledger.set_group_cap(GroupId(group), bytes);
    }

    /// Everybody who may be asked to leave, in order.
    pub(super) fn order(&self, at: usize) -> Vec<u32> {
        let recency = &self.sites[at].store.recency;
        let all = recency.victims(u64::MAX, Priority::Highest, &|_| false);
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
