//! The live objects of one engine, each in a slot with a weak reference: the registry keeps no object alive.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use smallvec::SmallVec;

use crate::observe::Shard;

/// The live objects, in shards. A thread usually has a shard of its own. One object costs a pointer, because
/// there may be a million of them.
#[derive(Debug)]
pub(crate) struct Registry<T>([Mutex<Slots<T>>; SHARDS]);

const SHARDS: usize = 1 << SHARD_BITS;

const SHARD_BITS: u32 = 4;

/// Slots are allocated in blocks of this many, so that a growing list never has twice the memory that it
/// needs.
const BLOCK: usize = 128;

/// A slot; `None` while it is vacant.
type Slot<T> = Option<Weak<T>>;

/// One shard, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Slots<T> {
    blocks: Vec<Box<[Slot<T>]>>,
    /// The vacant slots, in no order.
    vacant: Vec<u32>,
    /// The names of objects that have one. Few have one, unless the application can afford the bytes.
    names: HashMap<u32, Box<str>>,
}

/// The slot of an object: the number of its shard, and above it the index in the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId(u32);

impl<T> Registry<T> {
    /// Adds an object that is being made.
    pub(crate) fn add(&self, object: Weak<T>, name: Option<Box<str>>) -> SlotId {
        let shard = Shard::mine().index() % SHARDS;
        let mut slots = self.shard(shard);
        let index = slots.vacant();
        *slots.slot(index as usize) = Some(object);
        if let Some(name) = name {
            slots.names.insert(index, name);
        }
        // CAST: 2²⁸ buffers in a shard would have 50 GB of state.
        SlotId(index << SHARD_BITS | shard as u32)
    }

    /// Vacates the slot of an object whose last reference is gone.
    pub(crate) fn vacate(&self, slot: SlotId, named: bool) {
        let mut slots = self.shard(slot.shard());
        let vacated = slots.slot(slot.index()).take();
        slots.vacant.push(slot.number());
        let name = if named { slots.names.remove(&slot.number()) } else { None };
        drop(slots);
        drop((vacated, name));
    }

    /// The name of the object in a slot, if it has one.
    pub(crate) fn name(&self, slot: SlotId) -> Option<Box<str>> {
        self.shard(slot.shard()).names.get(&slot.number()).cloned()
    }

    /// The object in a slot, if it is alive.
    ///
    /// If its last other reference is dropped meanwhile, dropping the returned one drops the object. The
    /// caller must not do that under a lock that the object's drop takes.
    pub(crate) fn get(&self, slot: SlotId) -> Option<Arc<T>> {
        self.shard(slot.shard()).slot(slot.index()).as_ref()?.upgrade()
    }

    /// Calls `visit` for each live object, without a lock of the registry, so `visit` may take the
    /// reservation. An object that is made or dropped meanwhile may be visited or not.
    ///
    /// If an object loses its last other reference meanwhile, it is dropped here. That takes the locks that
    /// every drop takes, and waits for nothing.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Arc<T>)) {
        self.visit_from(0, |object| {
            visit(object);
            ControlFlow::Continue(())
        });
    }

    /// Visits the live objects once, beginning at `from`, until `visit` breaks. `from` is 0, or the position
    /// that an earlier call has returned. Returns the position where the visit ended.
    pub(crate) fn visit_from(
        &self,
        from: usize,
        mut visit: impl FnMut(&Arc<T>) -> ControlFlow<()>,
    ) -> usize {
        let (first, start) = (from % SHARDS, from / SHARDS);
        // The last turn visits the blocks before the start.
        for turn in 0..=SHARDS {
            let shard = (first + turn) % SHARDS;
            let mut block = if turn == 0 { start } else { 0 };
            while turn < SHARDS || block < start {
                let Some(objects) = self.shard(shard).alive(block) else { break };
                for object in objects {
                    if visit(&object).is_break() {
                        return block * SHARDS + shard;
                    }
                }
                block += 1;
            }
        }
        from
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Slots<T>> {
        self.0[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotId {
    fn shard(self) -> usize {
        self.0 as usize % SHARDS
    }

    fn index(self) -> usize {
        self.number() as usize
    }

    /// The index in its shard.
    fn number(self) -> u32 {
        self.0 >> SHARD_BITS
    }
}

impl<T> Slots<T> {
    fn new() -> Self {
        Self { blocks: vec![], vacant: vec![], names: HashMap::new() }
    }

    /// Takes a vacant slot, and returns its index.
    fn vacant(&mut self) -> u32 {
        if let Some(vacant) = self.vacant.pop() {
            return vacant;
        }
        // CAST: see `Registry::add`.
        let first = (self.blocks.len() * BLOCK) as u32;
        self.blocks.push(Box::new([const { None }; BLOCK]));
        self.vacant.extend((first + 1..first + BLOCK as u32).rev());
        first
    }

    fn slot(&mut self, index: usize) -> &mut Slot<T> {
        &mut self.blocks[index / BLOCK][index % BLOCK]
    }

    /// The live objects of a block; `None` if there is no such block.
    fn alive(&self, block: usize) -> Option<SmallVec<[Arc<T>; BLOCK]>> {
        let slots = self.blocks.get(block)?;
        Some(slots.iter().flatten().filter_map(Weak::upgrade).collect())
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(Slots::new())))
    }
}
