//! **GPU buffers that can move while they are shared.**
//!
//! peerbuf allocates exportable Vulkan memory on one GPU and imports it on others, of any vendor, software devices
//! included. Afterwards it can still move the bytes: to another device's memory, to system memory, or out of a
//! device that fails. It is the kernel's dynamic dma-buf and TTM, in user space.
//!
//! # What a move is
//!
//! A `VkDeviceMemory` never changes its payload, and an exported fd names one fixed allocation. So:
//!
//! * A *move* is a new backing, a copy, and new views for the devices that are attached. A generation number tells
//!   old views from new ones.
//! * A *pin* keeps this backing as the buffer's backing. It does not fix physical pages: the kernel driver below
//!   may still move those.
//! * An exported fd cannot be revoked. So an export is an explicit call ([`SharedBuffer::export_foreign`]), and pins
//!   the buffer until its guard is dropped.
//! * A successful import proves nothing. A route between two devices counts once a pattern was written on one side
//!   and read back on the other ([`Engine::route`]).
//!
//! Buffers move on request ([`SharedBuffer::migrate`], [`Engine::migrate_many`]), when a device attaches that cannot
//! reach them, and when they are exported. Dynamic attachments are notified ([`Importer`]; [`Refault`],
//! [`FenceAndResume`] and [`Revocable`] are ready to use). Mappings of static attachments, and [`Pin`]s, keep a
//! buffer in place.
//!
//! Buffers also move by themselves. If a device's memory is full, others are evicted into system memory. They are
//! restored when they are used ([`ResidencyOptions`]). How much fits is what the driver reports, or less
//! ([`Engine::model_heap`], [`Engine::set_cap`]). [`SharedBuffer::explain`] says why a buffer is where it is.
//!
//! Access can be denied and permitted again ([`SharedBuffer::revoke`], [`SharedBuffer::unrevoke`]). If work that
//! writes a buffer fails, uses of the buffer fail with [`Error::Poisoned`] until its content is accepted
//! ([`SharedBuffer::accept_content`]).
//!
//! # An example
//!
//! ```no_run
//! use peerbuf::{Access, BufferDescriptor, Engine, EngineDescriptor};
//!
//! # fn main() -> peerbuf::Result<()> {
//! let engine = Engine::open(&EngineDescriptor::new())?;
//! let first = engine.open_device(&engine.adapters()[0])?;
//! let second = engine.open_device(engine.adapters().last().unwrap_or(&engine.adapters()[0]))?;
//!
//! // The home device is the first; the bytes are wherever both devices can reach them.
//! let frame = engine.create_buffer(&first, BufferDescriptor::new(8 << 20).name("frame"))?;
//! let writer = frame.attach(&first)?;
//! let reader = frame.attach(&second)?;
//!
//! // The first device writes, the second reads the same bytes.
//! writer.map(Access::Write)?.fill(7)?;
//! assert!(reader.map(Access::Read)?.verify(7)?.is_clean());
//! # Ok(())
//! # }
//! ```
//!
//! An application submits its own commands by [`Engine::submit_remapped`], which orders them on the GPU behind all
//! earlier uses of the buffers. An application that calls `vkQueueSubmit` itself takes [`Mapping::view`] (a
//! `VkBuffer`, an offset, a size), records the two halves of an ownership transfer ([`Mapping::acquire`],
//! [`Mapping::release`]), and brackets that with [`Mapping::begin_access`] and [`OpenAccess::end`]. peerbuf can adopt
//! the application's device ([`Engine::adopt_device`]).
//!
//! # Words
//!
//! | here | kernel | Vulkan |
//! |---|---|---|
//! | [`Adapter`] | DRM device | `VkPhysicalDevice` |
//! | [`Device`] | `ttm_device` | `VkDevice` |
//! | [`DomainId`] | `ttm_resource_manager` | heap |
//! | [`Placement`] | `ttm_placement` | choice of memory type |
//! | [`SharedBuffer`] | `struct dma_buf` | – |
//! | [`Attachment`] | `dma_buf_attachment` | – |
//! | [`Mapping`] | mapped `sg_table` | imported memory, bound buffer |
//! | [`AliasedBuffer`] | – | a second buffer on the same memory |
//! | [`Importer`] | `dma_buf_attach_ops` | – |
//! | [`Invalidation`] | `dma_buf_invalidate_mappings` | – |
//! | [`Pin`] | `dma_buf_pin` | – |
//! | [`HostAccess`] | `dma_buf_begin_cpu_access` | mapped memory |
//! | [`ForeignExport`], [`ForeignInfo`] | `dma_buf_export` | `vkGetMemoryFdKHR` |
//! | [`Fence`], [`Usage`] | `dma_fence`, `dma_resv_usage` | timeline semaphore and value |
//! | [`Submission`] | `drm_exec` and a job | `vkQueueSubmit` |
//! | [`Route`], [`WaitRoute`] | p2p distance; dependency of a job | external memory; external semaphores |
//! | [`ResidencyOptions`], [`residency::EvictionFailures`] | `ttm_operation_ctx`, `ttm_lru_walk` | – |
//! | [`ClientGroup`] | dmem cgroup | – |
//! | [`UnplugReport`] | `drm_dev_unplug` | `VK_ERROR_DEVICE_LOST` |
//!
//! The *home* of a buffer is the device whose memory is the buffer's VRAM. A *backing* is the memory that it has now.
//! A *generation* counts its moves. A *clean copy* is a copy in system memory that equals the bytes in VRAM.
//!
//! # Flow
//!
//! ```text
//!  Adapter ──open/adopt──► Device ──allocate──► Allocation ──slot or whole──► Backing ══► SharedBuffer
//!                                                    │                                        │ attach
//!                                              View per device ◄────────────map────────── Attachment
//!                                            (memory, VkBuffer)        (Mapping, generation n)
//! ```
//!
//! # Files, fds, threads
//!
//! Every fd is an `OwnedFd`, close-on-exec, duplicated before it is given to a driver. All public types are
//! `Send + Sync` but [`Invalidation`] and [`Submission`], which live for one call. Every wait for a device has a
//! timeout ([`EngineDescriptor::timeout`]). Drops never wait for a GPU, except the last drop of a device and of its
//! engine, which wait for at most ten seconds. The library prints nothing; it emits [`tracing`] events.
//!
//! # Features
//!
//! None is on by default. `cli` builds the program `peerbuf`. `testing` adds fault injection: [`device::Calls`] can
//! then make calls fail, and drivers misreport.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "peerbuf builds on Linux only: it shares memory as dma-bufs, opaque fds and memfds, and fences as sync files"
);

mod access;
mod api;
mod buffer;
mod core;
pub mod device;
mod error;
mod fd;
pub mod image;
pub mod memory;
#[cfg(all(test, peerbuf_shuttle))]
mod model;
pub mod observe;
pub mod residency;
pub mod sync;
pub mod transfer;

pub use ash;
pub use drm_fourcc;

pub use access::Access;
pub use api::{Engine, EngineDescriptor};
pub use buffer::{
    AgeGroup, AliasedBuffer, Attachment, BufferDescriptor, ClientGroup, Compaction, CopyBy,
    CopyRegion, CopyRun, CopyWay, DetachError, Explanation, FenceAndResume, ForeignExport,
    ForeignHandle, ForeignInfo, HostAccess, Importer, Invalidation, InvalidationCause, Mapping,
    Migration, OpenAccess, Pin, RawView, Refault, Revocable, SharedBuffer, Submission,
};
pub use core::UnplugReport;
pub use device::{
    Adapter, AdapterSelector, AdoptedDevice, Device, DeviceId, HandleType, QueueLock, Uuid,
    Validation,
};
pub use error::{AllocationError, DeviceUsers, Errno, Error, ForeignFdReason, ImportLimit, Result};
pub use image::{
    ImageAttachment, ImageDescriptor, ImageError, ImageExplanation, ImageExport, ImageMapping,
    ImagePart, RawImage, RawLevels, SharedImage, TailedAttachment, TailedImage, TailedMapping,
};
pub use memory::{
    DomainId, DomainKind, DomainUsage, GroupUsage, ImportUsage, Placement, Provider, SlabGrouping,
};
pub use residency::{Priority, ResidencyOptions};
pub use sync::{CallbackId, Fence, FenceSemaphore, Signal, Usage, WaitRoute};
pub use transfer::{PassReport, Refusal, RefusalReason, Route, Scope, Verdict};

/// The guide's code must compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/renderer.md")]
struct Guide;

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
