//! The memory of one trial, and the work that uses it.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;

use super::super::compute::{Attempt, Watch, Work};
use super::super::span::Span;
use super::outcome::Until;
use crate::device::{AdapterKind, DeviceInner};
use crate::error::Result;
use crate::memory::{Allocation, DeviceSet, Domain, MemoryPriority, Origin, Provider, View};
use crate::sync::{Fence, RejectionWatch};

/// Bytes of a probe between software devices: all of it fits into a processor's cache.
const SMALL: u64 = 256 << 10;
/// Bytes of a probe between two GPUs. A smaller one takes no longer over PCIe than from VRAM, compared with what a
/// submission costs.
const LARGE: u64 = 64 << 20;
/// Bytes of a probe between a GPU and a software device, which reads slowly.
const MIXED: u64 = 16 << 20;
/// A probe is at most this part of the smaller device's own memory.
const PART: u64 = 64;

/// The size of a probe between two devices.
pub(super) fn probe_bytes(devices: [&DeviceInner; 2]) -> u64 {
    let wanted = match devices.map(|device| device.adapter().kind() == AdapterKind::Cpu) {
        [true, true] => return SMALL,
        [false, false] => LARGE,
        _ => MIXED,
    };
    let most = devices.iter().map(|device| {
        let heaps = device.adapter().heaps().iter().filter(|heap| heap.device_local);
        let own = heaps.map(|heap| heap.size).max().unwrap_or(u64::MAX);
        (own / PART).min(device.adapter().max_allocation())
    });
    let most = most.min().unwrap_or(SMALL).clamp(SMALL, wanted);
    // A power of two, so that halves and pages are whole.
    1 << most.ilog2()
}

/// How a provider allocates memory for a probe on behalf of `exporter`. No budget counts it: it is freed at once, and
/// a full ledger of this engine says nothing about the route.
pub(super) fn origin(provider: Provider, exporter: &Arc<DeviceInner>) -> Origin {
    Origin {
        provider,
        exporter: provider.exporter().map(|_| Arc::clone(exporter)),
        domain: Arc::new(Domain::new(provider.domain(), u64::MAX)),
        calls: Arc::clone(exporter.calls()),
        live: Arc::clone(exporter.live()),
        imports: Arc::default(),
        sharers: DeviceSet::ALL,
        priority: MemoryPriority::DEFAULT,
    }
}

/// Memory that a trial uses. [`super::control::Session::close`] frees it once the work on it is over.
pub(super) struct Memory {
    held: Held,
    fences: RefCell<Vec<Fence>>,
}

/// Memory of a trial, with what else its work uses.
#[derive(Debug)]
pub(super) struct Held {
    /// Dropped first, in their order.
    objects: RefCell<Vec<Arc<dyn Any + Send + Sync>>>,
    pub(super) allocation: Arc<Allocation>,
}

impl Memory {
    pub(super) fn new(allocation: Arc<Allocation>) -> Self {
        Self { held: Held { objects: RefCell::default(), allocation }, fences: RefCell::default() }
    }

    pub(super) fn allocation(&self) -> &Allocation {
        &self.held.allocation
    }

    /// Runs a pass of compute kernels of `device` on the memory, and keeps its fence.
    pub(super) fn run<R>(
        &self,
        device: &Arc<DeviceInner>,
        until: Until,
        pass: impl FnOnce(&Watch<'_>) -> Result<R>,
    ) -> Result<R> {
        let submit = |work: Work<'_>| {
            let rejection = RejectionWatch::main(device);
            let fence = work().inspect_err(|_| self.keep([rejection.fence()]))?;
            self.keep([fence.clone()]);
            Ok(Attempt::Submitted(fence))
        };
        pass(&Watch { timeout: until.left(), submit: &submit })
    }

    /// Waits for other work on the memory, and keeps its fence.
    pub(super) fn wait(&self, until: Until, fence: Fence) -> Result<()> {
        self.keep([fence.clone()]);
        fence.wait(until.left())
    }

    /// Keeps an object that work on the memory uses, as long as the memory.
    pub(super) fn hold(&self, object: Arc<dyn Any + Send + Sync>) {
        self.held.objects.borrow_mut().push(object);
    }

    /// Keeps fences of work on the memory.
    pub(super) fn keep(&self, fences: impl IntoIterator<Item = Fence>) {
        self.fences.borrow_mut().extend(fences);
    }

    /// The memory, and the fences of work that may still use it at `until`.
    pub(super) fn into_parts(self, until: Until) -> (Held, Vec<Fence>) {
        (self.held, still_running(self.fences.into_inner(), until))
    }
}

/// The fences whose work may still use memory at `until`. The trial may have ended before, with a wait that failed. A
/// lost device may go on with its work (Vulkan, "Lost Device").
fn still_running(mut fences: Vec<Fence>, until: Until) -> Vec<Fence> {
    // A wait may fail for reasons other than the work that it waits for, so it is tried more than once.
    const TRIES: u32 = 3;
    let ends = |fence: &Fence| {
        (0..TRIES).any(|_| fence.is_released() || fence.wait_until_released(until.left()).is_ok())
    };
    fences.retain(|fence| !ends(fence));
    fences
}

/// All of a view of `bytes` bytes.
pub(super) fn span(view: &View, bytes: u64) -> Span<'_> {
    Span { view, offset: 0, len: bytes }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_end_of_a_trial_waits_for_work_that_it_has_not_waited_for() {
        let (ends, signal) = Fence::host();
        let (hangs, _signal) = Fence::host();
        let signaller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(signal);
        });
        let until = Until { end: Instant::now() + Duration::from_secs(60) };
        assert!(still_running(vec![Fence::signalled(), ends], until).is_empty());
        signaller.join().expect("the signaller ends");

        let until = Until { end: Instant::now() };
        assert_eq!(still_running(vec![hangs], until).len(), 1);
    }
}
