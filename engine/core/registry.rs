//! The live objects of an engine: a slot each, by a weak reference, so that listing keeps none alive.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use smallvec::SmallVec;

use crate::observe::Shard;

/// All live buffers. A thread that makes buffers has a shard of its own most of the time, and one
/// buffer costs a pointer: there may be a million of them.
#[derive(Debug)]
pub(crate) struct Registry<T>([Mutex<Slots<T>>; SHARDS]);

const SHARDS: usize = 1 << SHARD_BITS;

const SHARD_BITS: u32 = 4;

/// Slots are made this many at a time, so that a list that grows never holds twice what it needs.
const BLOCK: usize = 128;

/// `None` while it is vacant.
type Slot<T> = Option<Weak<T>>;

/// One shard, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Slots<T> {
    blocks: Vec<Box<[Slot<T>]>>,
    /// Those that are vacant, in no order.
    vacant: Vec<u32>,
    /// Of those that were given one: few, or somebody who does not count bytes.
    names: HashMap<u32, Box<str>>,
}

/// Which slot a buffer has: the shard's number, and above it that of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId(u32);

impl<T> Registry<T> {
    /// Gives a buffer that is being made a slot.
    pub(crate) fn add(&self, buffer: Weak<T>, name: Option<Box<str>>) -> SlotId {
        let shard = Shard::mine().index() % SHARDS;
        let mut slots = self.shard(shard);
        let index = slots.vacant();
        *slots.slot(index as usize) = Some(buffer);
        if let Some(name) = name {
            slots.names.insert(index, name);
        }
        // CAST: 2²⁸ buffers in a shard would have 50 GB of state.
        SlotId(index << SHARD_BITS | shard as u32)
    }

    /// Gives the slot of a buffer back whose last reference is gone.
    pub(crate) fn vacate(&self, slot: SlotId, named: bool) {
        let mut slots = self.shard(slot.shard());
        let left = slots.slot(slot.index()).take();
        slots.vacant.push(slot.number());
        let name = if named { slots.names.remove(&slot.number()) } else { None };
        drop(slots);
        drop((left, name));
    }

    /// The name of the buffer that has a slot, if it was given one.
    pub(crate) fn name(&self, slot: SlotId) -> Option<Box<str>> {
        self.shard(slot.shard()).names.get(&slot.number()).cloned()
    }

    /// The buffer that has a slot, if it is alive. Its last other reference may go meanwhile: it is dropped
    /// with what is returned, so not under a lock that a drop takes.
    pub(crate) fn get(&self, slot: SlotId) -> Option<Arc<T>> {
        self.shard(slot.shard()).slot(slot.index()).as_ref()?.upgrade()
    }

    /// Calls `visit` for each live buffer, without a lock of the registry's: `visit` may take the
    /// reservation. A buffer that is made or dropped meanwhile is visited or not.
    ///
    /// A buffer may lose its last other reference meanwhile, and is then dropped here; that takes what
    /// any drop takes, and waits for nothing.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Arc<T>)) {
        self.until(0, |buffer| {
            visit(buffer);
            ControlFlow::Continue(())
        });
    }

    /// The same once around from `from`, which is where an earlier call has ended, or 0, until `visit` breaks
    /// it off; returns where that was.
    pub(crate) fn until(
        &self,
        from: usize,
        mut visit: impl FnMut(&Arc<T>) -> ControlFlow<()>,
    ) -> usize {
        let (first, start) = (from % SHARDS, from / SHARDS);
        // What lies before the start is the last turn's.
        for turn in 0..=SHARDS {
            let shard = (first + turn) % SHARDS;
            let mut block = if turn == 0 { start } else { 0 };
            while turn < SHARDS || block < start {
                let Some(buffers) = self.shard(shard).alive(block) else { break };
                for buffer in buffers {
                    if visit(&buffer).is_break() {
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

    /// In its shard.
    fn number(self) -> u32 {
        self.0 >> SHARD_BITS
    }
}

impl<T> Slots<T> {
    fn new() -> Self {
        Self { blocks: vec![], vacant: vec![], names: HashMap::new() }
    }

    /// The index of a vacant slot.
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

    /// The live ones of a block; `None` if there is no such block.
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
