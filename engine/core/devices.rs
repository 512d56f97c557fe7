//! The devices of one engine, each with the tools that were made on it.

use std::sync::atomic::{AtomicU8, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::pin_quota::PinQuota;
use super::registry::SlotId;
use crate::device::{DeviceId, DeviceInner, HeapBudget};
use crate::error::{Error, Result};
use crate::memory::staging::Staging;
use crate::memory::{Domain, DomainId, HOST_GRANULE, Imports, Pools, import_heap, vram_heap};
use crate::observe::note_shared_write;
use crate::residency::{DomainState, ResidencyOptions};
use crate::sync::primitive::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::transfer::{CachedRoutes, ComputeKernels, CopySpeeds};

/// The devices of one engine, by number. The table only grows, and entries never move: that of a removed device stays. So a look-up takes no
/// lock and counts no reference, which matters for every pin and every new buffer.
#[derive(Debug)]
pub(crate) struct DeviceTable {
    /// The n-th block has 2ⁿ entries: together one entry for each possible device number, and no more.
    blocks: [OnceLock<Block>; 16],
    /// The number of devices. Locked while a device joins.
    joining: Mutex<u16>,
    /// The least `max_allocation` of all devices. Relaxed: it orders nothing, and only shrinks.
    max_allocation: AtomicU64,
}

type Block = Box<[OnceLock<Arc<DeviceEntry>>]>;

/// One device, with the tools and the memory state that belong to it.
#[derive(Debug)]
pub(crate) struct DeviceEntry {
    /// Made at their first use; locked while they are made. `None` again once the device has left.
    tools: Mutex<Option<Tools>>,
    /// The copy speeds, once they were measured.
    pub(crate) speeds: OnceLock<CopySpeeds>,
    /// How often the measurement timed out.
    pub(crate) timed_out: AtomicU8,
    pub(crate) measuring: Mutex<()>,
    pub(crate) vram: DomainState<SlotId>,
    /// The index of the heap that `vram` is the ledger of.
    heap: usize,
    /// When the driver's budget was polled last, in milliseconds since the engine was opened, plus 1. 0 is
    /// never.
    polled_at: AtomicU64,
    /// Whether the budget was polled since [`DeviceEntry::take_polled`] was called. Relaxed: the next poll
    /// sets it again.
    polled: AtomicBool,
    /// Whether a thread adapts the memory to what was polled.
    adapts: AtomicBool,
    /// Whether the device is unplugged: no buffer may move to its memory. Relaxed: a move reads it under the
    /// reservation, which the unplug takes afterwards.
    unplugged: AtomicBool,
    /// What the unplug did with its buffers.
    unplug_report: Mutex<UnplugReport>,
    pub(crate) pin_quota: PinQuota,
    pub(super) refused_at_home: CachedRoutes,
    /// The pools of the memory that it exports. Each has a reference to it.
    pub(super) pools: Pools,
    pub(crate) device: Arc<DeviceInner>,
}

/// What peerbuf makes on a device to copy with.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) kernels: Arc<ComputeKernels>,
    pub(crate) staging: Arc<Staging>,
}

impl DeviceTable {
    pub(crate) fn new() -> Self {
        Self {
            blocks: std::array::from_fn(|_| OnceLock::new()),
            joining: Mutex::new(0),
            max_allocation: AtomicU64::new(u64::MAX),
        }
    }

    /// The largest allocation that every device can make and import, in bytes. It shrinks as devices join.
    pub(crate) fn max_allocation(&self) -> u64 {
        self.max_allocation.load(Ordering::Relaxed)
    }

    /// Adds a device. `open` opens it with the given number. `system` is the ledger of system memory, of which the
    /// memory of an integrated device is a part.
    ///
    /// # Errors
    ///
    /// Those of `open`, and [`Error::Unsupported`] for the 65,536th device.
    pub(crate) fn join(
        &self,
        options: &ResidencyOptions,
        system: &Arc<Domain>,
        open: impl FnOnce(DeviceId) -> Result<Arc<DeviceInner>>,
    ) -> Result<Arc<DeviceInner>> {
        let mut count = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        let next = count.checked_add(1).ok_or_else(|| Error::Unsupported {
            device: "the engine".into(),
            missing: "more than 65,535 devices in one engine".into(),
        })?;
        let device = open(DeviceId(*count))?;
        let heap = vram_heap(&device);
        let size = device.adapter().heaps().get(heap).map_or(0, |heap| heap.size);
        let domain = Domain::new(DomainId::Vram(device.id()), size);
        let domain = match device.adapter().shares_system_memory() {
            true => domain.part_of(system),
            false => domain,
        };
        let member = Arc::new(DeviceEntry {
            tools: Mutex::default(),
            speeds: OnceLock::new(),
            timed_out: AtomicU8::new(0),
            measuring: Mutex::new(()),
            vram: DomainState::new(domain, options.policy),
            heap,
            polled_at: AtomicU64::new(0),
            polled: AtomicBool::new(false),
            adapts: AtomicBool::new(false),
            unplugged: AtomicBool::new(false),
            unplug_report: Mutex::default(),
            pin_quota: PinQuota::default(),
            refused_at_home: CachedRoutes::default(),
            pools: Pools::default(),
            device: Arc::clone(&device),
        });
        let (block, index) = index_of(device.id());
        // Host memory is a multiple of this, and is imported whole.
        let limit = device.adapter().max_allocation();
        let limit = (limit - limit % HOST_GRANULE).max(HOST_GRANULE);
        self.max_allocation.fetch_min(limit, Ordering::Relaxed);
        let vacant = || (0..1usize << block).map(|_| OnceLock::new()).collect();
        self.blocks[block].get_or_init(vacant)[index].get_or_init(|| member);
        *count = next;
        Ok(device)
    }

    pub(crate) fn get(&self, device: DeviceId) -> Option<&Arc<DeviceEntry>> {
        let (block, index) = index_of(device);
        self.blocks.get(block)?.get()?[index].get()
    }

    /// All devices that have not left, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<DeviceEntry>> {
        let blocks = self.blocks.iter().map_while(OnceLock::get);
        let entries = blocks.flat_map(|block| block.iter().map_while(OnceLock::get));
        entries.filter(|entry| !entry.device.is_removed())
    }

    /// A reference to the device with a number, for a holder that the removal of the device counts; it may be about to
    /// leave. `None` if there is none, or it has left.
    ///
    /// Locks: none; waits for a removal that counts the references, which waits for none.
    pub(crate) fn device(&self, device: DeviceId) -> Option<Arc<DeviceInner>> {
        let entry = self.get(device)?;
        loop {
            note_shared_write();
            let found = Arc::clone(&entry.device);
            // After the count: the removal either sees it, or has set its mark before.
            fence(Ordering::SeqCst);
            if !found.is_counted() {
                return Some(found).filter(|device| !device.is_removed());
            }
            drop(found);
            if !entry.device.wait_until_counted() {
                return None;
            }
        }
    }

    /// References as [`DeviceTable::device`] returns them, to all devices, in the order of their numbers.
    pub(crate) fn devices(&self) -> impl Iterator<Item = Arc<DeviceInner>> {
        self.iter().filter_map(|entry| self.device(entry.device.id()))
    }
}

/// The block of a device, and its index in the block.
fn index_of(device: DeviceId) -> (usize, usize) {
    let number = device.index() + 1;
    let block = number.ilog2();
    (block as usize, number - (1 << block))
}

impl DeviceEntry {
    /// The tools of the device, made by `make` on first use.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub(crate) fn tools(
        &self,
        make: impl FnOnce(&Arc<DeviceInner>) -> Result<Tools>,
    ) -> Result<Tools> {
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tools) = &*tools {
            return Ok(tools.clone());
        }
        Ok(tools.insert(make(&self.device)?).clone())
    }

    /// Takes the tools out, for a device that leaves.
    pub(crate) fn take_tools(&self) -> Option<Tools> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Polls how much memory the driver leaves to this process, of its own and for imports. Does nothing within half a
    /// second of the last poll: the call is slow on some drivers, and the budget does not change faster. GPUOpen's
    /// memory allocator polls it as rarely.
    pub(crate) fn poll_budget(&self, age: Duration, imports: &Imports) {
        const PAUSE: u64 = 500;
        // CAST: enough for half a billion years.
        let now = age.as_millis() as u64 + 1;
        let last = self.polled_at.load(Ordering::Relaxed);
        if last != 0 && now < last + PAUSE {
            return;
        }
        // Of concurrent callers, one polls.
        if self.polled_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.poll_budget_now(imports);
        }
    }

    /// As [`DeviceEntry::poll_budget`], whenever the last poll was: before an operation fails for want of it.
    pub(crate) fn poll_budget_now(&self, imports: &Imports) {
        let adapter = self.device.adapter();
        let report = |heap| self.device.calls().heap_budget().or_else(|| adapter.heap_budget(heap));
        let reported = report(self.heap);
        let of_imports = match import_heap(&self.device) {
            Some(heap) if heap == self.heap => reported,
            heap => heap.and_then(report),
        };
        if let Some(budget) = of_imports {
            imports.reported(self.device.id(), budget);
        }
        let Some(HeapBudget { budget, usage }) = reported else { return };
        let before = self.vram.ledger.budget();
        self.vram.ledger.reported(budget, usage);
        if self.vram.ledger.budget() != before {
            self.vram.budget_changed();
        }
        self.polled.store(true, Ordering::Relaxed);
    }

    /// The turn to adapt the memory to the budget, if that was polled since the last turn, and no thread has the turn. An
    /// eviction allocates memory and may poll: then this one's own thread asks again.
    pub(crate) fn take_polled(&self) -> Option<Adapting<'_>> {
        let is_free =
            self.polled.load(Ordering::Relaxed) && !self.adapts.swap(true, Ordering::Acquire);
        // Made only then: its drop gives the turn back.
        let turn = is_free.then(|| Adapting(&self.adapts))?;
        self.polled.swap(false, Ordering::Relaxed).then_some(turn)
    }

    /// Marks the device as unplugged, for good. Returns `false` if it was already.
    pub(crate) fn mark_unplugged(&self) -> bool {
        !self.unplugged.swap(true, Ordering::Relaxed)
    }

    /// What the unplug did with its buffers; the unplug counts them here.
    pub(crate) fn unplug_report(&self) -> MutexGuard<'_, UnplugReport> {
        self.unplug_report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_unplugged(&self) -> bool {
        self.unplugged.load(Ordering::Relaxed)
    }
}

/// The turn to adapt the memory of a device to its budget.
#[derive(Debug)]
pub(crate) struct Adapting<'a>(&'a AtomicBool);

impl Drop for Adapting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The result of [`crate::Engine::unplug`], in numbers of buffers that were in the device's memory.
#[doc(alias = "Abandoned")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UnplugReport {
    /// Buffers that had a clean copy elsewhere, which replaces the lost bytes.
    pub promoted: usize,
    /// Buffers whose bytes are lost.
    pub lost: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_an_entry_of_its_own() {
        assert_eq!((index_of(DeviceId(0)), index_of(DeviceId(1))), ((0, 0), (1, 0)));
        assert_eq!((index_of(DeviceId(2)), index_of(DeviceId(6))), ((1, 1), (2, 3)));
        assert_eq!(index_of(DeviceId(u16::MAX - 1)), (15, (1 << 15) - 1));
        assert_eq!(
            DeviceTable::new().get(DeviceId(u16::MAX)).map(|_| ()),
            None,
            "`None`, no panic"
        );
    }
}
