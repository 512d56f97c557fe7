//! The calls that can fail, counted, and failed on request.
//!
//! The calls that make, share and use a buffer's memory announce themselves here first.
//! That gives three things: a test can say that an operation made *no* such call, a test can make the
//! n-th one fail and look whether everything stayed as it was, and CI without a GPU can meet the
//! faults that real drivers have.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ash::vk;

use super::budget::HeapBudget;

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
    /// Any `ioctl` of ours: `DMA_BUF_IOCTL_*`, `DMA_HEAP_IOCTL_ALLOC`, `UDMABUF_CREATE`.
    Ioctl,
}

impl Call {
    /// Every call, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::AllocateMemory,
        Self::ImportMemory,
        Self::GetMemoryFd,
        Self::GetHandleProperties,
        Self::CreateBuffer,
        Self::BindBufferMemory,
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
    ];

    /// The call's own name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllocateMemory => "vkAllocateMemory",
            Self::ImportMemory => "vkAllocateMemory (import)",
            Self::GetMemoryFd => "vkGetMemoryFdKHR",
            Self::GetHandleProperties => "vkGetMemoryFdPropertiesKHR",
            Self::CreateBuffer => "vkCreateBuffer",
            Self::BindBufferMemory => "vkBindBufferMemory",
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
        }
    }
}

/// Counts calls, and fails those that it was told to fail.
///
/// One per engine, shared by all its devices: [`crate::Engine::calls`].
#[derive(Debug, Default)]
pub struct Calls {
    made: [AtomicU64; Call::ALL.len()],
    /// Whether `faults` holds anything. Relaxed: a fault armed by another thread may miss a call that
    /// is under way, and nobody can tell the difference.
    armed: AtomicBool,
    faults: Mutex<Vec<Fault>>,
    /// Imports yield memory of their own instead of the exporter's.
    lying_imports: AtomicBool,
    /// Device memory is treated as if the host could not map it.
    unmappable: AtomicBool,
    /// Whether a device was found to be lost since the engine has looked: its devices have nothing else in common.
    device_lost: AtomicBool,
    /// What is taken for the word of every driver about its heap.
    heap_budget: Mutex<Option<HeapBudget>>,
}

#[derive(Debug)]
struct Fault {
    call: Call,
    countdown: u64,
    code: vk::Result,
}

impl Calls {
    /// How often `call` was made, failed ones included.
    pub fn made(&self, call: Call) -> u64 {
        self.made[call as usize].load(Ordering::Relaxed)
    }

    /// Makes the `nth` call from now (1 is the next one) fail with `code`, without reaching the
    /// driver. For operating-system calls the code says only *that* it fails; they report `ENOMEM`.
    pub fn fail_nth(&self, call: Call, nth: u64, code: vk::Result) {
        self.lock().push(Fault { call, countdown: nth.max(1), code });
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Takes back all faults that have not happened; tells whether there were any.
    pub fn clear_faults(&self) -> bool {
        let mut faults = self.lock();
        let pending = !faults.is_empty();
        faults.clear();
        self.armed.store(false, Ordering::Relaxed);
        pending
    }

    /// From now on every import *succeeds* and yields zeroed memory that has nothing to do with the
    /// exporter's: the driver of NVIDIA/open-gpu-kernel-modules#1037 and the reason for proving
    /// routes with data.
    pub fn set_lying_imports(&self, lying: bool) {
        self.lying_imports.store(lying, Ordering::Relaxed);
    }

    /// From now on new device memory is treated as one that the host cannot map, as most VRAM is.
    pub fn set_unmappable_device_memory(&self, unmappable: bool) {
        self.unmappable.store(unmappable, Ordering::Relaxed);
    }

    /// From now on every driver is taken to say that this process should have no more than `budget` bytes in
    /// its device's heap, and has `usage`; `None` for what they really say.
    pub fn set_heap_budget(&self, said: Option<(u64, u64)>) {
        let said = said.map(|(budget, usage)| HeapBudget { budget, usage });
        *self.heap_budget.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    /// A device is lost; it says so itself by now.
    pub(crate) fn note_lost_device(&self) {
        self.device_lost.store(true, Ordering::Release);
    }

    /// Whether a device was found to be lost since [`Calls::forget_lost_devices`].
    pub(crate) fn has_lost_device(&self) -> bool {
        self.device_lost.load(Ordering::Relaxed)
    }

    /// From here on none was found: to be called before one looks for the last time.
    pub(crate) fn forget_lost_devices(&self) {
        // Not a store: what was noted before is to be seen by that look.
        self.device_lost.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn heap_budget(&self) -> Option<HeapBudget> {
        *self.heap_budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lying_imports(&self) -> bool {
        self.lying_imports.load(Ordering::Relaxed)
    }

    pub(crate) fn unmappable_device_memory(&self) -> bool {
        self.unmappable.load(Ordering::Relaxed)
    }

    /// Counts `call`, and says whether it is to fail.
    pub(crate) fn enter(&self, call: Call) -> Result<(), vk::Result> {
        self.made[call as usize].fetch_add(1, Ordering::Relaxed);
        if self.armed.load(Ordering::Relaxed) { self.next_fault(call) } else { Ok(()) }
    }

    /// The same for a call whose errors are `errno`s.
    pub(crate) fn enter_os(&self, call: Call) -> Result<(), rustix::io::Errno> {
        self.enter(call).map_err(|_| rustix::io::Errno::NOMEM)
    }

    #[cold]
    fn next_fault(&self, call: Call) -> Result<(), vk::Result> {
        let mut hit = Ok(());
        // Every fault counts this call, also those behind the one that it meets.
        self.lock().retain_mut(|fault| {
            if fault.call == call {
                fault.countdown -= 1;
            }
            if fault.countdown == 0 {
                hit = Err(fault.code);
            }
            fault.countdown > 0
        });
        hit
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
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
        for (index, call) in Call::ALL.into_iter().enumerate() {
            assert_eq!(call as usize, index);
        }
    }
}
