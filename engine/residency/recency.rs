//! Who is in a place and may be asked to leave, in the order in which to ask.
//!
//! Kernel counterpart: the lists of a `ttm_resource_manager`, one per priority, and the device's list of
//! what cannot be evicted.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::policy::{Policy, Slot};
use super::priority::Priority;
use crate::observe::Pick;

/// The buffers of one place: those that are in it, and those that would like to be.
///
/// `K` is what the owner finds a buffer by. A pinned buffer that somebody tried to evict is *parked*: in no
/// order, until it is used again or everything else was tried.
#[derive(Debug)]
pub(crate) struct Recency<K> {
    // Innermost; held for no call but the policy's.
    inner: Mutex<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    entries: Vec<Entry<K>>,
    vacant: Vec<u32>,
    /// Those that may lose their content, whatever their priority, then the others by priority. Each is made
    /// when somebody has it.
    ranks: [Option<Box<dyn Policy>>; RANKS],
    make: fn() -> Box<dyn Policy>,
    capacity: u64,
    /// How many are here and may be asked to leave.
    here: u32,
    /// Slots that were parked, some of which may not be any more. Each is there once.
    parked: VecDeque<u32>,
}

const RANKS: usize = 1 + Priority::ALL.len();

/// Twelve bytes, for a key of four: there may be a million.
#[derive(Clone, Copy, Debug)]
struct Entry<K> {
    key: K,
    /// In units of [`UNIT`], rounded up.
    units: u32,
    priority: Priority,
    state: State,
    marks: u8,
    /// The how many-th who has the slot. It wraps: whoever is taken for somebody 256 before is parked for no
    /// reason, and asked later than its turn.
    tenant: u8,
}

/// Its content may be lost.
const PURGEABLE: u8 = 1;
/// The slot is in the list of the parked ones; it stays there until its turn comes, whoever has it.
const QUEUED: u8 = 2;

/// What all footprints are multiples of.
const UNIT: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody's.
    Vacant,
    /// It would like to be here, and is elsewhere.
    Away,
    /// It is here, and may be asked to leave.
    Here,
    /// It is here, and was found to be pinned.
    Parked,
}

/// Somebody to be asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Victim<K> {
    pub(crate) slot: Slot,
    pub(crate) key: K,
    /// Bytes that it has in use there.
    pub(crate) bytes: u64,
    tenant: u8,
}

pub(crate) type Victims<K> = SmallVec<[Victim<K>; 8]>;

impl<K: Copy> Recency<K> {
    pub(crate) fn new(make: fn() -> Box<dyn Policy>, capacity: u64) -> Self {
        let inner = Inner {
            entries: vec![],
            vacant: vec![],
            ranks: [const { None }; RANKS],
            make,
            capacity,
            here: 0,
            parked: VecDeque::new(),
        };
        Self { inner: Mutex::new(inner) }
    }

    /// A buffer that is here, or would like to be.
    pub(crate) fn join(&self, key: K, bytes: u64, priority: Priority, here: bool) -> Slot {
        let mut inner = self.lock();
        let state = if here { State::Here } else { State::Away };
        let entry = Entry { key, units: units(bytes), priority, state, marks: 0, tenant: 0 };
        let slot = match inner.vacant.pop() {
            Some(slot) => {
                let Entry { marks, tenant, .. } = inner.entries[slot as usize];
                let (marks, tenant) = (marks & QUEUED, tenant.wrapping_add(1));
                inner.entries[slot as usize] = Entry { marks, tenant, ..entry };
                Slot(slot)
            }
            None => {
                inner.entries.push(entry);
                // CAST: nobody has 2^32 buffers.
                Slot(inner.entries.len() as u32 - 1)
            }
        };
        if here {
            inner.here += 1;
            inner.rank(entry.rank()).admit(slot, entry.bytes());
        }
        slot
    }

    /// The buffer is gone, or does not want to be here any more.
    pub(crate) fn leave(&self, slot: Slot) {
        let mut inner = self.lock();
        let entry = inner.entry(slot);
        inner.rank(entry.rank()).forget(slot);
        inner.set(slot, State::Vacant);
        inner.vacant.push(slot.0);
    }

    /// Somebody uses it.
    pub(crate) fn used(&self, slot: Slot) {
        self.lock().used(slot);
    }

    /// Somebody uses all of these: they age together, in this order.
    pub(crate) fn used_all(&self, slots: impl IntoIterator<Item = Slot>) {
        let mut inner = self.lock();
        slots.into_iter().for_each(|slot| inner.used(slot));
    }

    /// It has moved: it is here, with so many bytes, or elsewhere.
    pub(crate) fn moved(&self, slot: Slot, here: Option<u64>) {
        let mut inner = self.lock();
        let before = inner.entry(slot);
        if let Some(bytes) = here {
            inner.entries[slot.0 as usize].units = units(bytes);
        }
        let entry = inner.entry(slot);
        match (before.state, here) {
            (State::Away, Some(_)) => inner.rank(entry.rank()).admit(slot, entry.bytes()),
            // It has another slot or allocation here.
            (State::Here, Some(_)) if entry.units != before.units => {
                inner.rank(entry.rank()).leave(slot);
                inner.rank(entry.rank()).admit(slot, entry.bytes());
            }
            (State::Here, None) => inner.rank(entry.rank()).leave(slot),
            (State::Parked, None) => {}
            _ => return,
        }
        inner.set(slot, if here.is_some() { State::Here } else { State::Away });
    }

    /// It was found to be pinned. If it has gone meanwhile, or has left, nothing happens, whoever has its
    /// slot now: nobody holds its lock any more.
    pub(crate) fn park(&self, victim: &Victim<K>) {
        let (slot, mut inner) = (victim.slot, self.lock());
        let entry = inner.entries[slot.0 as usize];
        if entry.state != State::Here || entry.tenant != victim.tenant {
            return;
        }
        inner.rank(entry.rank()).leave(slot);
        inner.set(slot, State::Parked);
        inner.entries[slot.0 as usize].marks |= QUEUED;
        if entry.marks & QUEUED == 0 {
            inner.parked.push_back(slot.0);
        }
    }

    /// How many may be parked.
    pub(crate) fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    /// Puts up to `count` of those that were parked first back in order: they may not be pinned any more.
    /// Those whom `skip` names were asked just now.
    pub(crate) fn recheck(&self, count: usize, skip: &dyn Fn(Slot) -> bool) {
        let mut inner = self.lock();
        for _ in 0..count {
            let Some(slot) = inner.parked.pop_front().map(Slot) else { return };
            if inner.entries[slot.0 as usize].state == State::Parked && skip(slot) {
                inner.parked.push_back(slot.0);
                continue;
            }
            inner.entries[slot.0 as usize].marks &= !QUEUED;
            inner.unpark(slot);
        }
    }

    /// It matters so much from now on.
    pub(crate) fn set_priority(&self, slot: Slot, priority: Priority) {
        self.lock().change(slot, |entry| entry.priority = priority);
    }

    /// Whether its content may be lost, from now on. Those are asked before all others.
    pub(crate) fn set_purgeable(&self, slot: Slot, purgeable: bool) {
        let mark = if purgeable { PURGEABLE } else { 0 };
        self.lock().change(slot, |entry| entry.marks = entry.marks & !PURGEABLE | mark);
    }

    /// How many bytes the place holds, from now on.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        let mut inner = self.lock();
        inner.capacity = bytes;
        inner.ranks.iter_mut().flatten().for_each(|rank| rank.capacity(bytes));
    }

    /// Whom to ask to leave so that `wanted` bytes become free: the smallest set that is enough, of those
    /// that come first: who may lose its content before all others (kernel: the shrinkers of TTM's drivers),
    /// then lowest priority first; fewer bytes if there is nobody else. None whom `skip` names, and none that
    /// is to keep its content and has a priority above `most`.
    pub(crate) fn victims(
        &self,
        wanted: u64,
        most: Priority,
        skip: &dyn Fn(Slot) -> bool,
    ) -> Victims<K> {
        let mut inner = self.lock();
        let (mut slots, mut victims, mut sum) = (vec![], Victims::new(), 0);
        for rank in 0..=1 + most.index() {
            if sum >= wanted {
                break;
            }
            let Some(policy) = &mut inner.ranks[rank] else { continue };
            slots.clear();
            policy.victims(wanted - sum, skip, &mut slots);
            for &slot in &slots {
                let entry = inner.entry(slot);
                sum += entry.bytes();
                victims.push(entry.victim(slot));
            }
        }
        spare(&mut victims, sum.saturating_sub(wanted));
        victims
    }

    /// Everybody who is here, parked or not.
    #[cfg(test)]
    pub(crate) fn residents(&self) -> Vec<Victim<K>> {
        let inner = self.lock();
        let here =
            |&(_, entry): &(usize, &Entry<K>)| matches!(entry.state, State::Here | State::Parked);
        let entries = inner.entries.iter().enumerate().filter(here);
        // CAST: as in `join`.
        entries.map(|(at, entry)| entry.victim(Slot(at as u32))).collect()
    }

    /// Whoever has a slot, as if it had been chosen.
    #[cfg(test)]
    pub(crate) fn victim(&self, slot: Slot) -> Victim<K> {
        self.lock().entry(slot).victim(slot)
    }

    /// How victims are chosen, for explanations, and how many others there are that might have been.
    pub(crate) fn pick(&self) -> (Pick, u32) {
        let inner = self.lock();
        let ranks = inner.ranks[1..].iter().flatten().count();
        let pick = if ranks > 1 { Pick::LowestPriority } else { Pick::Rule };
        (pick, inner.here)
    }

    /// Bytes of bookkeeping, those of the policy included.
    #[cfg(test)]
    pub(crate) fn footprint(&self) -> usize {
        let inner = self.lock();
        let policies: usize = inner.ranks.iter().flatten().map(|rank| rank.footprint()).sum();
        inner.entries.capacity() * size_of::<Entry<K>>()
            + (inner.vacant.capacity() + inner.parked.capacity()) * size_of::<u32>()
            + policies
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy> Inner<K> {
    fn entry(&self, slot: Slot) -> Entry<K> {
        let entry = self.entries[slot.0 as usize];
        debug_assert_ne!(entry.state, State::Vacant, "slots are given up when their buffers go");
        entry
    }

    fn set(&mut self, slot: Slot, state: State) {
        let entry = &mut self.entries[slot.0 as usize];
        let before = std::mem::replace(&mut entry.state, state);
        self.here += u32::from(state == State::Here);
        self.here -= u32::from(before == State::Here);
    }

    fn used(&mut self, slot: Slot) {
        self.unpark(slot);
        let entry = self.entry(slot);
        self.rank(entry.rank()).access(slot, entry.bytes(), entry.state == State::Here);
    }

    fn unpark(&mut self, slot: Slot) {
        let entry = self.entries[slot.0 as usize];
        if entry.state == State::Parked {
            self.set(slot, State::Here);
            self.rank(entry.rank()).admit(slot, entry.bytes());
        }
    }

    /// Changes what decides where in the order it stands. Within its rank it stays where it is.
    fn change(&mut self, slot: Slot, change: impl FnOnce(&mut Entry<K>)) {
        let before = self.entry(slot);
        change(&mut self.entries[slot.0 as usize]);
        let entry = self.entry(slot);
        if entry.rank() == before.rank() {
            return;
        }
        self.rank(before.rank()).forget(slot);
        if entry.state == State::Here {
            self.rank(entry.rank()).admit(slot, entry.bytes());
        }
    }

    fn rank(&mut self, rank: usize) -> &mut dyn Policy {
        let (make, capacity) = (self.make, self.capacity);
        let rank = self.ranks[rank].get_or_insert_with(|| {
            let mut policy = make();
            policy.capacity(capacity);
            policy
        });
        &mut **rank
    }
}

impl<K> Entry<K> {
    /// Which of the ranks it belongs to.
    fn rank(&self) -> usize {
        if self.marks & PURGEABLE == 0 { 1 + self.priority.index() } else { 0 }
    }

    fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT
    }
}

impl<K: Copy> Entry<K> {
    fn victim(&self, slot: Slot) -> Victim<K> {
        Victim { slot, key: self.key, bytes: self.bytes(), tenant: self.tenant }
    }
}

fn units(bytes: u64) -> u32 {
    // CAST: saturated. Beyond a tebibyte the order does not matter.
    bytes.div_ceil(UNIT).min(u64::from(u32::MAX)) as u32
}

/// Takes out those that need not go, the last ones first: they are the most worth keeping.
fn spare<K>(victims: &mut Victims<K>, mut surplus: u64) {
    for at in (0..victims.len()).rev() {
        if victims[at].bytes <= surplus {
            surplus -= victims.remove(at).bytes;
        }
    }
}
