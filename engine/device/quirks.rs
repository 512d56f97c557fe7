//! Drivers whose behaviour differs from what they report, row by row, with the evidence.
//!
//! A row is added when the behaviour was observed, with the place. A workaround elsewhere in the code tests for
//! the [`Effect`], never for a driver's name.

use ash::vk;

/// What a quirk changes in peerbuf's behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// New device memory is all zero, so its first owner needs no scrub.
    FreshMemoryIsZero,
    /// Host pointers can be imported for buffers and images although the driver reports that they cannot.
    HostImportUnreported,
    /// The mapping of a dma-buf can be imported by address. Kernel drivers refuse such mappings.
    ImportsDmaBufMappings,
    /// `VK_EXT_memory_budget` does not react to allocations; budgets must be modelled.
    BudgetIsNotReal,
    /// `OPAQUE_FD`s of other drivers are accepted, and their memory is damaged. No code tests for this:
    /// UUIDs are compared for every driver.
    AcceptsForeignOpaqueFd,
    /// Exporting memory that was imported yields fd −1 with `VK_SUCCESS`. No code tests for this:
    /// the engine keeps the original fd and refuses negative ones from every driver.
    ReexportYieldsNoFd,
    /// The whole `VkDeviceMemory` is filled at allocation, which costs 0.5 ms per MiB.
    AllocationFillsMemory,
    /// Fds that the driver keeps for itself are not close-on-exec. No code tests for this: a process that
    /// starts others must close the fds that it does not know.
    InheritableFds,
    /// An import that fails for lack of address space closes the fd, although the specification leaves it to
    /// the caller. So peerbuf leaves the fd to the driver, unless the driver has refused the file itself.
    ClosesFdOfFailedImport,
    /// An export that fails for lack of fds leaks those that it had opened. No code tests for this: peerbuf
    /// needs few fds, and reports when there are none.
    LeaksFdsAtLimit,
    /// Memory that cannot be exported as a dma-buf on this machine is reported as out of device memory. So that
    /// code refuses the route, and is no shortage.
    NoMemoryMeansNoExport,
    /// Waits on a lost device report the loss at once, while earlier submissions still run. So memory that the device
    /// may write gets no new owner as long as the device exists.
    LostWaitsReturnAtOnce,
}

/// One behaviour of one driver.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Quirk {
    /// The driver.
    pub driver: vk::DriverId,
    /// The versions it was observed with.
    pub versions: &'static str,
    /// What it changes in peerbuf.
    pub effect: Effect,
    /// What happens without the workaround.
    pub symptom: &'static str,
    /// Where it was observed.
    pub evidence: &'static str,
}

/// Mesa's drivers for GPUs have this from its common runtime.
const fn lost_waits(driver: vk::DriverId) -> Quirk {
    Quirk {
        driver,
        versions: "Mesa 23.3 and newer, as read",
        effect: Effect::LostWaitsReturnAtOnce,
        symptom: "vkWaitSemaphores and vkDeviceWaitIdle: ERROR_DEVICE_LOST at once; what was submitted before the loss \
                  still writes",
        evidence: "src/vulkan/runtime/vk_semaphore.c, vk_fence.c, vk_queue.c; not run on a GPU",
    }
}

/// All known quirks.
pub const QUIRKS: &[Quirk] = &[
    lost_waits(vk::DriverId::MESA_RADV),
    lost_waits(vk::DriverId::INTEL_OPEN_SOURCE_MESA),
    lost_waits(vk::DriverId::MESA_NVK),
    lost_waits(vk::DriverId::MESA_TURNIP),
    lost_waits(vk::DriverId::MESA_V3DV),
    lost_waits(vk::DriverId::MESA_PANVK),
    Quirk {
        driver: vk::DriverId::MESA_LLVMPIPE,
        versions: "Mesa 25.0.7",
        effect: Effect::FreshMemoryIsZero,
        symptom: "none: exportable memory is a new memfd, or udmabuf over one",
        evidence: "src/gallium/drivers/llvmpipe/lp_screen.c; every page read zero in tests/sharing/memory.rs",
    },
    Quirk {
        driver: vk::DriverId::MESA_LLVMPIPE,
        versions: "Mesa 25.0.7",
        effect: Effect::BudgetIsNotReal,
        symptom: "usage unchanged after allocating 1 GiB; an allocation of 200 GiB succeeded",
        evidence: "measured 2026-11; gfx-rs/wgpu#7472",
    },
    Quirk {
        driver: vk::DriverId::MESA_LLVMPIPE,
        versions: "Mesa 25.0.7",
        effect: Effect::ReexportYieldsNoFd,
        symptom: "vkGetMemoryFdKHR(DMA_BUF) on imported memory: VK_SUCCESS, fd -1",
        evidence: "measured 2026-11; unspecified by Vulkan, KhronosGroup/Vulkan-Docs#2645",
    },
    Quirk {
        driver: vk::DriverId::MESA_LLVMPIPE,
        versions: "Mesa 25.0.7, with udmabuf",
        effect: Effect::InheritableFds,
        symptom: "the memfd `lp_dma_buf` behind every exportable allocation is inherited by children",
        evidence: "/proc/self/fdinfo in tests/process/fd_hygiene.rs, in the virtual machine",
    },
    Quirk {
        driver: vk::DriverId::MESA_LLVMPIPE,
        versions: "Mesa 25.0.7, with udmabuf",
        effect: Effect::LeaksFdsAtLimit,
        symptom: "vkAllocateMemory fails at RLIMIT_NOFILE, and a memfd and a dma-buf stay open",
        evidence: "tests/process/fd_hygiene.rs, in the virtual machine; not traced in Mesa's source",
    },
    Quirk {
        driver: vk::DriverId::MESA_LLVMPIPE,
        versions: "Mesa 25.0.7",
        effect: Effect::ClosesFdOfFailedImport,
        symptom: "vkAllocateMemory of an OPAQUE_FD: mmap gives ENOMEM, the fd is closed, an error returned",
        evidence: "strace of tests/process/allocation_failures.rs, 2026-11",
    },
    Quirk {
        driver: vk::DriverId::MESA_LLVMPIPE,
        versions: "Mesa 25.0.7, with udmabuf",
        effect: Effect::NoMemoryMeansNoExport,
        symptom: "vkAllocateMemory for export as a dma-buf: ERROR_OUT_OF_DEVICE_MEMORY if UDMABUF_CREATE fails, however \
                  little memory is in use",
        evidence: "refused for that code by the proof of routes since 2026-11; its heap is the host's memory and never full",
    },
    Quirk {
        driver: vk::DriverId::GOOGLE_SWIFTSHADER,
        versions: "5.0.0",
        effect: Effect::HostImportUnreported,
        symptom: "VkExternalBufferProperties for HOST_ALLOCATION is empty, imports work",
        evidence: "measured 2026-11 over memfd and over a dma-buf's mmap; proved again by every probe",
    },
    Quirk {
        driver: vk::DriverId::GOOGLE_SWIFTSHADER,
        versions: "5.0.0",
        effect: Effect::ImportsDmaBufMappings,
        symptom: "none: the driver accesses imported addresses with the processor; it imports no dma-bufs",
        evidence: "measured 2026-11 over the mmap of a dma-heap's dma-buf; proved again by every probe",
    },
    Quirk {
        driver: vk::DriverId::MESA_LLVMPIPE,
        versions: "Mesa 25.0.7",
        effect: Effect::ImportsDmaBufMappings,
        symptom: "none: the driver accesses imported addresses with the processor",
        evidence: "measured 2026-11 over the mmap of a dma-heap's dma-buf; proved again by every probe",
    },
    Quirk {
        driver: vk::DriverId::GOOGLE_SWIFTSHADER,
        versions: "5.0.0",
        effect: Effect::AcceptsForeignOpaqueFd,
        symptom: "a lavapipe OPAQUE_FD imports; a write at offset 0 destroys lavapipe's header, and \
                  every later import of it fails with ERROR_INVALID_EXTERNAL_HANDLE",
        evidence: "measured 2026-11",
    },
    Quirk {
        driver: vk::DriverId::GOOGLE_SWIFTSHADER,
        versions: "5.0.0",
        effect: Effect::ClosesFdOfFailedImport,
        symptom: "vkAllocateMemory of an OPAQUE_FD: mmap gives ENOMEM, the fd is closed, an error returned; \
                  closed once more it may be another thread's file",
        evidence: "strace of tests/process/allocation_failures.rs, 2026-11",
    },
    Quirk {
        driver: vk::DriverId::GOOGLE_SWIFTSHADER,
        versions: "5.0.0",
        effect: Effect::FreshMemoryIsZero,
        symptom: "none: the allocation is filled with zeros, or is a new memfd",
        evidence: "src/Vulkan/VkDeviceMemory.cpp; every page read zero in tests/sharing/memory.rs",
    },
    Quirk {
        driver: vk::DriverId::GOOGLE_SWIFTSHADER,
        versions: "5.0.0",
        effect: Effect::AllocationFillsMemory,
        symptom: "vkAllocateMemory of 64 MiB takes 33 ms when not exportable",
        evidence: "measured 2026-11",
    },
];

/// The quirks of a driver.
pub fn of(driver: vk::DriverId) -> impl Iterator<Item = &'static Quirk> {
    QUIRKS.iter().filter(move |quirk| quirk.driver == driver)
}
