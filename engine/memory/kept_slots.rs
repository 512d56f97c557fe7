//! Slots that threads keep for their next buffers, with their charges, so that a buffer which is made after one of its size
//! was dropped writes nothing that other threads write.
//!
//! A pool has a shard for each of the first threads ([`Shard`]); all further threads share one. A shard has a lock of its
//! own, and a few slots of each size class. A slot in it is in use as far as its slab, its pool and its domain can tell:
//! its charge stays, and is subtracted where usage is reported ([`Domain`](super::Domain)).
//!
//! | limit | value |
//! |---|---|
//! | largest slot | 64 KiB |
//! | slots of a class in a shard | eight, and 256 KiB |
//! | bytes in a shard, of all classes | a 64th of the domain's budget, at least 256 KiB, at most 4 MiB |
//!
//! With 4 MiB a thread that makes and drops buffers of all these sizes in turn finds seven of eight slots that it needs; with
//! 256 KiB it finds one of four.
//!
//! A shard that has no room for a slot gives back the older half of that class, or all that it has if the bytes are too
//! many. Slots of buffers with a client group are not kept, since all buffers of a group share its account, nor slots that
//! a device still uses.
//!
//! All shards give all their slots back:
//! * before the ledger refuses a charge, and before a claim. So what is kept makes no buffer fail and none leave. From then
//!   on none are kept until less than a quarter of the domain is in use ([`Keeper`](super::keepers::Keeper));
//! * before the pool allocates a block, and in `trim`, `zero_unused` and a compaction. While compaction empties blocks
//!   none are kept, because a kept slot of such a block would be used again;
//! * when a device is removed, each time before its users are counted, and when the engine is dropped. A lost device's
//!   buffers return slots as others do; no buffer is made on it.
//!
//! A thread that ends leaves its slots to the next thread that has its shard. What a thread drops goes to its own shard,
//! whichever thread made it: if one thread makes buffers and another one drops them, half a shard's slots of a class are
//! returned at a time.
//!
//! A slot that leaves a shard, but to a buffer, is uncharged under the shard's lock, and is returned to its slab without it:
//! so a thread that finds the shard empty finds room for its charge.
//!
//! The protocol is that of the shard's lock, under which no other lock is taken. Threads that share a shard wait for it, and
//! those that take all slots back; it is held for a few instructions.
//!
//! Counterparts: the per-CPU slabs of the kernel's allocator (`mm/slub.c`), magazines (Bonwick, USENIX 2001).

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::backing::Backing;
use super::size_class::slot_size;
use crate::observe::{SHARDS, Shard};

/// The largest slot that is kept.
const LARGEST: u64 = 64 << 10;

/// How many slots, and how many bytes, of a class a shard keeps.
const MOST_SLOTS: u64 = 8;
const MOST_OF_CLASS: u64 = 256 << 10;

/// How many bytes a shard keeps: so many parts of what a domain may hold, within these limits.
const PARTS: u64 = 64;
const LEAST: u64 = 256 << 10;
const MOST: u64 = 4 << 20;

/// Slots, each with its charge, that have no room in a shard.
pub(super) type Surplus = SmallVec<[Backing; MOST_SLOTS as usize]>;

/// The slots of a pool that threads keep.
#[derive(Debug)]
pub(super) struct KeptSlots {
    shards: Box<[Kept; SHARDS]>,
    /// Which shards were ever used, as a set of bits. One is set, for good, before its thread looks for the first time
    /// whether slots may be kept.
    used: AtomicU64,
}

const _: () = assert!(SHARDS <= u64::BITS as usize, "a bit for each");

/// What one shard keeps, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Kept {
    /// By size class, the one that was returned last at the end.
    slots: Mutex<Vec<Vec<Backing>>>,
    /// Bytes of all of them. Written under the lock. Relaxed: readers report it.
    bytes: AtomicU64,
}

/// How many bytes a shard keeps in a domain with this budget.
pub(super) fn most_in(budget: u64) -> u64 {
    (budget / PARTS).clamp(LEAST, MOST)
}

/// How many slots of a class a shard keeps; 0 if they are too large.
pub(super) const fn most_of(class: usize) -> u64 {
    let size = slot_size(class);
    let most = MOST_OF_CLASS / size;
    if size > LARGEST {
        0
    } else if most < MOST_SLOTS {
        most
    } else {
        MOST_SLOTS
    }
}

impl KeptSlots {
    /// Takes the slot of a class that this thread kept last.
    pub(super) fn take(&self, class: usize) -> Option<Backing> {
        let kept = &self.shards[Shard::mine().index()];
        let mut slots = kept.lock();
        let taken = slots.get_mut(class)?.pop()?;
        kept.subtract(slot_size(class));
        Some(taken)
    }

    /// Keeps a slot of a class for this thread, if `may_keep` allows so many bytes under the shard's lock. Returns what has no
    /// room.
    pub(super) fn keep(
        &self,
        class: usize,
        slot: Backing,
        may_keep: impl FnOnce() -> Option<u64>,
    ) -> Surplus {
        let (most, size) = (most_of(class), slot_size(class));
        let shard = Shard::mine().index();
        let kept = &self.shards[shard];
        let mut slots = kept.lock();
        // Under the lock: a thread that shares the shard, and finds the bit, comes after the fence.
        if self.used.load(Ordering::Relaxed) & 1 << shard == 0 {
            self.used.fetch_or(1 << shard, Ordering::Relaxed);
            // See `take_all`.
            fence(Ordering::SeqCst);
        }
        let room = if most > 0 { may_keep() } else { None };
        let Some(room) = room else { return Surplus::from_iter([slot]) };
        if slots.len() <= class {
            slots.resize_with(class + 1, Vec::new);
        }
        let mut surplus = Surplus::new();
        if kept.bytes() + size > room {
            // Its thread may need other sizes now than before.
            surplus.extend(slots.iter_mut().flat_map(|of_class| of_class.drain(..)));
            surplus.iter_mut().for_each(Backing::uncharge);
            kept.set(0);
        }
        let of_class = &mut slots[class];
        if of_class.len() as u64 >= most {
            // CAST: MOST_SLOTS at most.
            let half = (most as usize).div_ceil(2);
            surplus.extend(of_class.drain(..half).map(|mut slot| {
                slot.uncharge();
                slot
            }));
            kept.subtract(half as u64 * size);
        }
        of_class.push(slot);
        kept.set(kept.bytes() + size);
        surplus
    }

    /// Takes all slots out, and passes each to `give_back` without a lock. Keeps no slot that [`KeptSlots::keep`] is called
    /// with meanwhile, if the caller has seen to it that slots may not be kept.
    pub(super) fn take_all(&self, mut give_back: impl FnMut(Backing)) {
        // A thread that keeps a slot has the lock before this thread, or finds after it that slots may not be kept. If
        // the shard is not used yet as far as this thread can see, the other one finds it after its own fence.
        fence(Ordering::SeqCst);
        for kept in self.used() {
            let all = {
                let mut slots = kept.lock();
                let mut all = slots.iter_mut().map(std::mem::take).collect::<Vec<_>>();
                all.iter_mut().flatten().for_each(Backing::uncharge);
                kept.set(0);
                all
            };
            all.into_iter().flatten().for_each(&mut give_back);
        }
    }

    /// Bytes of all slots that threads keep.
    pub(super) fn bytes(&self) -> u64 {
        self.used().map(Kept::bytes).sum()
    }

    fn used(&self) -> impl Iterator<Item = &Kept> {
        let used = self.used.load(Ordering::Relaxed);
        self.shards
            .iter()
            .enumerate()
            .filter(move |(at, _)| used & 1 << at != 0)
            .map(|(_, kept)| kept)
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Backing>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn subtract(&self, bytes: u64) {
        self.set(self.bytes() - bytes);
    }

    fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Default for KeptSlots {
    fn default() -> Self {
        let shards = Box::new(std::array::from_fn(|_| Kept::default()));
        Self { shards, used: AtomicU64::new(0) }
    }
}
