//! **GPU buffers that can move while they are shared.**
//!
//! peerbuf allocates exportable Vulkan memory on one GPU, lets others take it in (any vendor, or a
//! software device), and keeps the freedom to move the bytes afterwards. It is the kernel's dynamic
//! dma-buf and TTM, brought to user space.
//!
//! # What it is, and what it is not
//!
//! We live in user space. A `VkDeviceMemory` never changes its payload, and an exported fd names one
//! fixed allocation. So:
//!
//! * *Moving* means a new backing, a copy, and new views for the devices that peerbuf knows. A
//!   generation number tells old from new.
//! * *Keeping in place* means that this backing stays this buffer's backing. It does not nail down
//!   physical pages: the kernel driver below may still do as it likes.
//! * An fd handed to a stranger cannot be recalled. Handing one out is a visible act
//!   ([`SharedBuffer::export_foreign`]) that pins the buffer until its guard is dropped.
//! * A successful import proves nothing. A route between two devices counts when a pattern was written
//!   on one side and read back on the other ([`Engine::route`]).
//!
//! A buffer moves on request ([`SharedBuffer::migrate`], many at once: [`Engine::migrate_many`]), when a
//! device attaches that cannot reach it where it is, and when it is handed out. Dynamic attachments are told
//! ([`Importer`]; the usual kinds are [`Refault`], [`FenceAndResume`], [`Revocable`]); the mappings of static
//! ones, and [`Pin`]s, keep it in place. It can be taken away from everybody and given back
//! ([`SharedBuffer::revoke`], [`SharedBuffer::unrevoke`]), and one whose writer failed says so until somebody
//! accepts its content.
//!
//! It also moves by itself. When a device's memory is full ([`Engine::model_heap`], [`Engine::set_cap`], what the
//! driver leaves to us), whoever needs room evicts others into system memory; they come back when they are
//! used ([`ResidencyOptions`]). [`SharedBuffer::explain`] says why a buffer is where it is.
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
//! // At home on the first device; wherever both can reach it.
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
//! Applications submit their own commands by [`Engine::submit`], which orders them behind everybody else's on
//! the GPU; those that call `vkQueueSubmit` themselves take [`Mapping::view`] (a `VkBuffer`, an offset, a size)
//! and the two halves of an ownership transfer, [`Mapping::acquire`] and [`Mapping::release`], between
//! [`Mapping::begin_access`] and [`OpenAccess::end`]. They let peerbuf adopt the device they have
//! ([`Engine::adopt_device`]).
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
//! | [`Importer`] | `dma_buf_attach_ops` | – |
//! | [`Pin`] | `dma_buf_pin` | – |
//! | [`HostAccess`] | `dma_buf_begin_cpu_access` | mapped memory |
//! | [`Fence`], [`Usage`] | `dma_fence`, `dma_resv_usage` | timeline semaphore and value |
//! | [`Submission`] | `drm_exec` and a job | `vkQueueSubmit` |
//! | [`Route`], [`WaitRoute`] | p2p distance; dependency of a job | external memory; external semaphores |
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
//! Every fd is an `OwnedFd`, close-on-exec, duplicated before it is given to a driver. All public types
//! but [`Invalidation`] and [`Submission`], which live for one call, are `Send + Sync`. No wait for a
//! device is without a bound ([`EngineDescriptor::timeout`]); dropping never waits for a GPU, except the
//! last drop of a device and of its engine, in bounds. The library prints nothing; it emits [`tracing`]
//! events.

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
    AgeGroup, AliasedBuffer, Attachment, BufferDescriptor, ClientGroup, CopyRegion, DetachError,
    Explanation, FenceAndResume, ForeignExport, ForeignHandle, ForeignInfo, HostAccess, Importer,
    Invalidation, InvalidationCause, Mapping, Migration, OpenAccess, Pin, RawView, Refault,
    Revocable, SharedBuffer, Submission,
};
pub use core::UnplugReport;
pub use device::{
    Adapter, AdapterSelector, AdoptedDevice, Device, DeviceId, HandleType, QueueLock, Uuid,
    Validation,
};
pub use error::{Error, ForeignFdReason, Result};
pub use memory::{DomainId, DomainKind, DomainUsage, GroupUsage, Placement, Provider};
pub use residency::{Priority, ResidencyOptions};
pub use sync::{CallbackId, Fence, Signal, Usage, WaitRoute};
pub use transfer::{PassReport, Refusal, RefusalReason, Route, Scope, Verdict};

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
