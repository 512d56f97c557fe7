//! Counts the calls that can fail.
//!
//! Every call that makes, shares or uses a buffer's memory is announced here first. So a test can assert that
//! an operation made *no* such call. With the feature `testing` (`faults.rs`) a test can also make the n-th call
//! fail, and check that nothing has changed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Duration;

use ash::vk;

use super::handle_type::HandleType;
use super::heap_budget::HeapBudget;
use crate::observe::ShardSum;

/// A call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
#[non_exhaustive]
pub enum Call {
    /// `vkAllocateMemory` of new memory.
    AllocateMemory,
    /// `vkAllocateMemory` that imports an fd or a host pointer.
    ImportMemory,
    /// `vkGetMemoryFdKHR`.
    GetMemoryFd,
    /// `vkGetMemoryFdPropertiesKHR` and `vkGetMemoryHostPointerPropertiesEXT`.
    GetHandleProperties,
    /// `vkCreateBuffer`.
    CreateBuffer,
    /// `vkBindBufferMemory`.
    BindBufferMemory,
    /// `vkCreateImage`.
    CreateImage,
    /// `vkBindImageMemory`.
    BindImageMemory,
    /// `vkMapMemory`.
    MapMemory,
    /// `vkQueueSubmit`.
    QueueSubmit,
    /// `vkWaitSemaphores`.
    WaitSemaphores,
    /// `vkCreateSemaphore`, for waits across devices.
    CreateSemaphore,
    /// `vkGetSemaphoreFdKHR`.
    GetSemaphoreFd,
    /// `vkImportSemaphoreFdKHR`.
    ImportSemaphoreFd,
    /// `memfd_create` and what prepares it: `ftruncate`, seals.
    MemfdCreate,
    /// `mmap`.
    Mmap,
    /// `fcntl(F_DUPFD_CLOEXEC)`.
    DuplicateFd,
    /// Any `ioctl` of peerbuf: `DMA_BUF_IOCTL_*`, `DMA_HEAP_IOCTL_ALLOC`, `UDMABUF_CREATE`.
    Ioctl,
    /// `vkCreateDevice` of a device on which routes are proved.
    CreateDevice,
    /// `vkBeginCommandBuffer`: each command buffer that peerbuf records.
    BeginCommandBuffer,
    /// `vkGetSemaphoreCounterValue` of a queue's timeline. It is counted alone: fault injection does not fail it.
    GetSemaphoreCounterValue,
}

impl Call {
    /// Every call, in the order of its number.
    pub const ALL: &[Self] = &[
        Self::AllocateMemory,
        Self::ImportMemory,
        Self::GetMemoryFd,
        Self::GetHandleProperties,
        Self::CreateBuffer,
        Self::BindBufferMemory,
        Self::CreateImage,
        Self::BindImageMemory,
        Self::MapMemory,
        Self::QueueSubmit,
        Self::WaitSemaphores,
        Self::CreateSemaphore,
        Self::GetSemaphoreFd,
        Self::ImportSemaphoreFd,
        Self::MemfdCreate,
        Self::Mmap,
        Self::DuplicateFd,
        Self::Ioctl,
        Self::CreateDevice,
        Self::BeginCommandBuffer,
        Self::GetSemaphoreCounterValue,
    ];

    /// The name of the call.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllocateMemory => "vkAllocateMemory",
            Self::ImportMemory => "vkAllocateMemory (import)",
            Self::GetMemoryFd => "vkGetMemoryFdKHR",
            Self::GetHandleProperties => "vkGetMemoryFdPropertiesKHR",
            Self::CreateBuffer => "vkCreateBuffer",
            Self::BindBufferMemory => "vkBindBufferMemory",
            Self::CreateImage => "vkCreateImage",
            Self::BindImageMemory => "vkBindImageMemory",
            Self::MapMemory => "vkMapMemory",
            Self::QueueSubmit => "vkQueueSubmit",
            Self::WaitSemaphores => "vkWaitSemaphores",
            Self::CreateSemaphore => "vkCreateSemaphore",
            Self::GetSemaphoreFd => "vkGetSemaphoreFdKHR",
            Self::ImportSemaphoreFd => "vkImportSemaphoreFdKHR",
            Self::MemfdCreate => "memfd_create",
            Self::Mmap => "mmap",
            Self::DuplicateFd => "fcntl(F_DUPFD_CLOEXEC)",
            Self::Ioctl => "ioctl",
            Self::CreateDevice => "vkCreateDevice",
            Self::BeginCommandBuffer => "vkBeginCommandBuffer",
            Self::GetSemaphoreCounterValue => "vkGetSemaphoreCounterValue",
        }
    }
}

/// Counts calls into drivers and the kernel.
///
/// One per engine, shared by all its devices: [`crate::Engine::calls`]. With the feature `testing` it also fails
/// calls on request.
#[derive(Debug, Default)]
pub struct Calls {
    made: [AtomicU64; Call::ALL.len()],
    /// Whether `faults` is not empty. Relaxed: a fault armed by another thread may miss a call in progress,
    /// which cannot be told from arming it later.
    pub(super) armed: AtomicBool,
    faults: Mutex<Vec<Fault>>,
    /// Imports yield memory of their own instead of the exporter's.
    pub(super) lying_imports: AtomicBool,
    /// Device memory is treated as not mappable by the host.
    pub(super) unmappable: AtomicBool,
    /// Work of devices counts as running when dependencies are chosen, even if it has finished.
    pub(super) pretend_busy: AtomicBool,
    /// Whether `device_faults` differs from its default. Relaxed, as `armed`.
    pub(super) has_device_faults: AtomicBool,
    pub(super) device_faults: Mutex<DeviceFaults>,
    /// Host memory with an fd is treated as a dma-buf with unfinished work.
    pub(super) busy_host_memory: AtomicBool,
    /// Whether a device was reported lost since the engine last checked. It is here because the devices of an
    /// engine share nothing else.
    device_lost: AtomicBool,
    /// Replaces what every driver reports about its heap.
    pub(super) heap_budget: Mutex<Option<HeapBudget>>,
    /// Replaces the limit of what a device may import, in bytes; 0 if it is not replaced. Relaxed: it orders nothing.
    pub(super) import_limit: AtomicU64,
    /// Bytes of reused memory that the host has zeroed. Relaxed: it orders nothing.
    zeroed: AtomicU64,
    /// Bytes that the host has copied between buffers, or for a move. Relaxed: it orders nothing.
    host_copied: ShardSum,
    /// How long the last drop of a device waits without progress. Constant after creation.
    end_timeout: Duration,
    /// The engine's stopped clock in milliseconds plus 1; 0 while it runs. Relaxed: it orders nothing.
    pub(super) clock: AtomicU64,
}

/// Faults of devices that a test asks for, as long as it asks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeviceFaults {
    /// Submissions to a device that has imported memory as this type fail with this code.
    pub(super) failing: Option<(HandleType, vk::Result)>,
    /// Work of these devices appears never to end.
    pub(super) stopped: Option<StoppedQueues>,
    /// Copies of the queue for moves write nothing.
    pub(crate) blind_moves: bool,
    /// Host writes do not reach devices.
    pub(crate) blind_host: bool,
    /// An exporter reads its memory 16 times as slowly once another device has imported it.
    pub(crate) dragging_imports: bool,
}

/// Which devices' work appears never to end, for `Calls::stop_queues` (feature `testing`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoppedQueues {
    /// Those of all devices on which routes are proved.
    OfProbes,
    /// Those of devices on which routes are proved, while they have imported memory as this type.
    WithImport(HandleType),
}

/// A call that must fail, or wait.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) call: Call,
    pub(super) countdown: u64,
    pub(super) outcome: Outcome,
}

/// What becomes of the call.
#[cfg_attr(not(any(test, feature = "testing")), expect(dead_code, reason = "for tests"))]
#[derive(Debug)]
pub(super) enum Outcome {
    /// It fails.
    Fail(vk::Result),
    /// It waits for the other thread of the barrier twice: once it is made, and before it goes on.
    Wait(Arc<Barrier>),
}

impl Calls {
    /// How often `call` was made, failed calls included.
    pub fn made(&self, call: Call) -> u64 {
        self.made[call as usize].load(Ordering::Relaxed)
    }

    /// How many bytes of reused memory the host has zeroed, so that their earlier owner's bytes are not seen.
    pub fn zeroed_bytes(&self) -> u64 {
        self.zeroed.load(Ordering::Relaxed)
    }

    /// How many bytes the host has copied between two backings: by [`crate::Engine::copy`], or by moves.
    pub fn host_copied_bytes(&self) -> u64 {
        self.host_copied.get()
    }

    pub(crate) fn note_host_copied(&self, bytes: u64) {
        self.host_copied.add(bytes);
    }

    pub(crate) fn note_zeroed(&self, bytes: u64) {
        self.zeroed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The counters of an engine whose devices wait so long, without progress, at their ends.
    pub(crate) fn with_end_timeout(end_timeout: Duration) -> Self {
        Self { end_timeout, ..Self::default() }
    }

    /// How long a device waits at its end, without progress.
    pub(crate) fn end_timeout(&self) -> Duration {
        self.end_timeout
    }

    /// Notes that a device is lost. The device is marked as lost before.
    pub(crate) fn note_lost_device(&self) {
        self.device_lost.store(true, Ordering::Release);
    }

    /// Whether a device was reported lost since [`Calls::forget_lost_devices`].
    pub(crate) fn has_lost_device(&self) -> bool {
        self.device_lost.load(Ordering::Relaxed)
    }

    /// Forgets the lost devices noted so far. Call it before the last check of the devices.
    pub(crate) fn forget_lost_devices(&self) {
        // Not a store: the check that follows must see what was noted before.
        self.device_lost.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn heap_budget(&self) -> Option<HeapBudget> {
        *self.heap_budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of system memory that each device may import, if a test has said so.
    pub(crate) fn import_limit(&self) -> Option<u64> {
        self.import_limit.load(Ordering::Relaxed).checked_sub(1)
    }

    /// The time that the engine's stopped clock shows; `None` while it runs.
    pub(crate) fn clock(&self) -> Option<Duration> {
        self.clock.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    pub(crate) fn lying_imports(&self) -> bool {
        self.lying_imports.load(Ordering::Relaxed)
    }

    pub(crate) fn unmappable_device_memory(&self) -> bool {
        self.unmappable.load(Ordering::Relaxed)
    }

    /// Whether finished work counts as running when dependencies are chosen. Constant without the feature
    /// `testing`.
    #[inline]
    pub(crate) fn pretends_busy(&self) -> bool {
        cfg!(any(test, feature = "testing")) && self.pretend_busy.load(Ordering::Relaxed)
    }

    /// The faults of devices that a test asks for; `None` if there are none.
    pub(crate) fn device_faults(&self) -> Option<DeviceFaults> {
        let asked = self.has_device_faults.load(Ordering::Relaxed);
        asked.then(|| *self.device_faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn busy_host_memory(&self) -> bool {
        self.busy_host_memory.load(Ordering::Relaxed)
    }

    /// Counts `call`, which fault injection does not fail.
    pub(super) fn count(&self, call: Call) {
        self.made[call as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `call`; `Err` if it must fail.
    pub(crate) fn enter(&self, call: Call) -> Result<(), vk::Result> {
        self.count(call);
        if self.armed.load(Ordering::Relaxed) { self.next_fault(call) } else { Ok(()) }
    }

    /// Like [`Calls::enter`], for a call whose errors are `errno`s.
    pub(crate) fn enter_os(&self, call: Call) -> Result<(), rustix::io::Errno> {
        self.enter(call).map_err(|_| rustix::io::Errno::NOMEM)
    }

    #[cold]
    fn next_fault(&self, call: Call) -> Result<(), vk::Result> {
        let (mut hit, mut waits) = (Ok(()), vec![]);
        // Every fault counts this call, also those behind the one that fails it.
        self.lock().retain_mut(|fault| {
            if fault.call == call {
                fault.countdown -= 1;
            }
            match &fault.outcome {
                _ if fault.countdown > 0 => {}
                Outcome::Fail(code) => hit = Err(*code),
                Outcome::Wait(barrier) => waits.push(Arc::clone(barrier)),
            }
            fault.countdown > 0
        });
        for barrier in waits {
            barrier.wait();
            barrier.wait();
        }
        hit
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_fails_once_and_every_call_is_counted() {
        let calls = Calls::default();
        calls.fail_nth(Call::Mmap, 2, vk::Result::ERROR_OUT_OF_HOST_MEMORY);
        assert_eq!(calls.enter(Call::Mmap), Ok(()));
        assert_eq!(calls.enter(Call::Ioctl), Ok(()), "another call does not count down");
        assert_eq!(calls.enter(Call::Mmap), Err(vk::Result::ERROR_OUT_OF_HOST_MEMORY));
        assert_eq!(calls.enter(Call::Mmap), Ok(()));
        assert_eq!((calls.made(Call::Mmap), calls.made(Call::Ioctl)), (3, 1));
        assert!(!calls.clear_faults());
    }

    #[test]
    fn faults_count_beside_each_other() {
        let calls = Calls::default();
        for nth in [1, 2, 4] {
            calls.fail_nth(Call::Mmap, nth, vk::Result::ERROR_OUT_OF_HOST_MEMORY);
        }
        let failed: Vec<u32> = (1..=5).filter(|_| calls.enter(Call::Mmap).is_err()).collect();
        assert_eq!(failed, [1, 2, 4]);
    }

    #[test]
    fn numbers_are_indices() {
        for (index, call) in Call::ALL.iter().copied().enumerate() {
            assert_eq!(call as usize, index);
        }
    }
}
