//! Who is using a buffer: fences by usage, and how devices and the host wait for them.
//!
//! A [`Fence`] signals when some work has finished: work of a device, of the host ([`Signal`]), or of another
//! process or API (a sync file). A [`Usage`] says how that work uses the buffer, and so which later uses wait
//! for it. A [`WaitRoute`] says how one device's queue waits for another device's work.
//!
//! Kernel counterparts: `dma_fence` ([`Fence`]), the fences of a `dma_resv` with their usages ([`Usage`]).
//! Vulkan: timeline semaphores; the fence of a submission is a value on the timeline of one of the device's
//! lanes.

// The retire list (`retire`) is TTM's delayed delete. Fences are added to a buffer, and waited for, in the
// buffers' own module.
//
// # Lock order
//
// 0. a device's compute kernels, locked for the whole of one pass, including its wait of at most the engine
//    timeout,
// 1. reservations: a single one; or many together in a lock set, which backs off before it could close a cycle;
//    or many by `try_lock` alone, which waits for no thread,
// 2. a pool's size class, the retire list, the lists of verdicts, exports, buffers and bridges,
// 3. an allocation,
// 4. a device's images of other timelines,
// 5. a queue; the task queue of a bridge; a host fence; the dependencies of a fence.
//
// A thread that holds a lock takes only locks below it. Callbacks of fences are called without any lock. No
// reservation is held across a wait for a GPU: a waiter takes the reservation, copies the fences, releases the
// reservation, waits, and checks again.

mod bridge;
mod callbacks;
mod deferred;
mod dependencies;
mod fence;
mod fence_usage;
mod fences;
mod host_fence;
mod lock_order;
mod lock_set;
mod prefetch;
pub(crate) mod primitive;
mod progress;
mod queue_waits;
mod readings;
mod rejected;
mod reservation;
mod retire;
mod semaphores;
mod sync_file;
#[cfg(test)]
mod tests;
mod wait_many;
mod wait_queue;

pub use fence::Fence;
pub use fence_usage::Usage;
pub use host_fence::{CallbackId, Signal};
pub use queue_waits::WaitRoute;
pub use semaphores::FenceSemaphore;

pub(crate) use bridge::Bridges;
pub(crate) use deferred::{Owner, drop_unlocked};
pub(crate) use dependencies::ReliedOn;
pub(crate) use fences::Fences;
pub(crate) use lock_set::{Index, LockSet, Locked, TimedOut, lock_many, with_locked};
pub(crate) use prefetch::prefetch;
pub(crate) use queue_waits::{waits_of_move, waits_on, waits_on_at};
pub(crate) use readings::Readings;
pub(crate) use rejected::RejectionWatch;
pub(crate) use reservation::{Guard, Reservation};
pub(crate) use retire::{Retire, Retired};
pub(crate) use sync_file::merge_sync_files;
pub(crate) use wait_queue::WaitQueues;
