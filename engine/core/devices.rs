//! The devices of an engine, each with the tools that were made on it.

use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::pin_quota::PinQuota;
use super::registry::SlotId;
use crate::device::{DeviceId, DeviceInner, HeapBudget};
use crate::error::{Error, Result};
use crate::memory::staging::Staging;
use crate::memory::{Domain, DomainId};
use crate::residency::{DomainState, Rules};
use crate::sync::primitive::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::transfer::{ComputeKernels, CopySpeeds};

/// A list that only grows and never moves, so that looking a device up takes no lock and counts no
/// reference: every pin and every new buffer does.
#[derive(Debug)]
pub(crate) struct DeviceTable {
    /// The n-th one holds 2ⁿ: together one for each number that a device can have, and one less.
    blocks: [OnceLock<Block>; 16],
    /// How many there are. Held while one joins.
    joining: Mutex<u16>,
}

type Block = Box<[OnceLock<Arc<DeviceEntry>>]>;

/// A device, and the tools that were made on it.
#[derive(Debug)]
pub(crate) struct DeviceEntry {
    tools: OnceLock<Tools>,
    making: Mutex<()>,
    /// How fast it copies, once that was measured. The mutex is for who measures.
    pub(crate) speeds: OnceLock<CopySpeeds>,
    /// How often they were not measured in time.
    pub(crate) late: AtomicU8,
    pub(crate) measuring: Mutex<()>,
    pub(crate) vram: DomainState<SlotId>,
    /// When the driver was asked last what it leaves to us, in milliseconds since the engine began, plus 1.
    asked: AtomicU64,
    /// Whether nobody has looked since at what that means for those who are there. Relaxed: it is looked at
    /// at the latest when the driver was asked again.
    news: AtomicBool,
    /// Whether nobody is to come to its memory any more. Relaxed: whoever moves a buffer looks under the
    /// reservation, which whoever gives the device up takes afterwards.
    abandoned: AtomicBool,
    /// What became of its buffers then.
    unplug_report: Mutex<Abandoned>,
    pub(crate) pin_quota: PinQuota,
    pub(crate) device: Arc<DeviceInner>,
}

#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) passes: Arc<ComputeKernels>,
    pub(crate) staging: Arc<Staging>,
}

impl DeviceTable {
    pub(crate) fn new() -> Self {
        Self { blocks: std::array::from_fn(|_| OnceLock::new()), joining: Mutex::new(0) }
    }

    /// Lets a device take part; `open` gets its number.
    pub(crate) fn join(
        &self,
        rules: &Rules,
        open: impl FnOnce(DeviceId) -> Result<Arc<DeviceInner>>,
    ) -> Result<Arc<DeviceInner>> {
        let mut count = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        let next = count.checked_add(1).ok_or_else(|| Error::Unsupported {
            device: "the engine".into(),
            missing: "room for more than 65,535 devices".into(),
        })?;
        let device = open(DeviceId(*count))?;
        let heaps = device.adapter().heaps().iter();
        let vram = heaps.filter(|heap| heap.device_local).map(|heap| heap.size).max();
        let domain = Domain::new(DomainId::Vram(device.id()), vram.unwrap_or(0));
        let member = Arc::new(DeviceEntry {
            tools: OnceLock::new(),
            making: Mutex::new(()),
            speeds: OnceLock::new(),
            late: AtomicU8::new(0),
            measuring: Mutex::new(()),
            vram: DomainState::new(domain, rules.policy),
            asked: AtomicU64::new(0),
            news: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            unplug_report: Mutex::default(),
            pin_quota: PinQuota::default(),
            device: Arc::clone(&device),
        });
        let (block, at) = place(device.id());
        let vacant = || (0..1usize << block).map(|_| OnceLock::new()).collect();
        self.blocks[block].get_or_init(vacant)[at].get_or_init(|| member);
        *count = next;
        Ok(device)
    }

    pub(crate) fn get(&self, device: DeviceId) -> Option<&Arc<DeviceEntry>> {
        let (block, at) = place(device);
        self.blocks.get(block)?.get()?[at].get()
    }

    /// All of them, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<DeviceEntry>> {
        let blocks = self.blocks.iter().map_while(OnceLock::get);
        blocks.flat_map(|block| block.iter().map_while(OnceLock::get))
    }
}

fn place(device: DeviceId) -> (usize, usize) {
    let number = device.index() + 1;
    let block = number.ilog2();
    (block as usize, number - (1 << block))
}

impl DeviceEntry {
    /// What was made on the device, made by `make` if nothing was yet.
    pub(crate) fn tools(
        &self,
        make: impl FnOnce(&Arc<DeviceInner>) -> Result<Tools>,
    ) -> Result<&Tools> {
        if let Some(tools) = self.tools.get() {
            return Ok(tools);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tools) = self.tools.get() {
            return Ok(tools);
        }
        let tools = make(&self.device)?;
        Ok(self.tools.get_or_init(|| tools))
    }

    /// Asks the driver how much it leaves to us, unless it was asked less than half a second ago: the call
    /// is slow on some, and what it says does not change faster (GPUOpen's memory allocator polls it as
    /// rarely).
    pub(crate) fn ask_budget(&self, age: Duration) {
        const PAUSE: u64 = 500;
        // CAST: half a billion years.
        let now = age.as_millis() as u64 + 1;
        let asked = self.asked.load(Ordering::Relaxed);
        if asked != 0 && now < asked + PAUSE {
            return;
        }
        // One of those who come at once asks.
        if self.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let said =
            self.device.calls().heap_budget().or_else(|| self.device.adapter().heap_budget());
        let Some(HeapBudget { budget, usage }) = said else { return };
        let before = self.vram.ledger.budget();
        self.vram.ledger.reported(budget, usage);
        if self.vram.ledger.budget() != before {
            self.vram.budget_changed();
        }
        self.news.store(true, Ordering::Relaxed);
    }

    /// Whether the driver was asked since somebody has looked.
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Relaxed) && self.news.swap(false, Ordering::Relaxed)
    }

    /// Gives the device up, for good; whether nobody had.
    pub(crate) fn abandon(&self) -> bool {
        !self.abandoned.swap(true, Ordering::Relaxed)
    }

    /// What has become of its buffers, as whoever gives it up counts them.
    pub(crate) fn unplug_report(&self) -> MutexGuard<'_, Abandoned> {
        self.unplug_report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_unplugged(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// What [`crate::Engine::abandon`] did, in buffers that were in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Abandoned {
    /// Those that had a clean copy elsewhere, which is the buffer from now on.
    pub promoted: usize,
    /// Those whose bytes are gone.
    pub lost: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        assert_eq!((place(DeviceId(0)), place(DeviceId(1))), ((0, 0), (1, 0)));
        assert_eq!((place(DeviceId(2)), place(DeviceId(6))), ((1, 1), (2, 3)));
        assert_eq!(place(DeviceId(u16::MAX - 1)), (15, (1 << 15) - 1));
        assert_eq!(
            DeviceTable::new().get(DeviceId(u16::MAX)).map(|_| ()),
            None,
            "no place, no panic"
        );
    }
}
