//! Who is using it: fences by usage, and what waits for them.
//!
//! Kernel counterparts: `dma_fence` ([`Fence`]), the fences of a `dma_resv` with their usages
//! ([`Usage`]), TTM's delayed delete (the retire list).
//! Vulkan: timeline semaphores; a fence is the timeline of one of a device's lanes and a value on it.
//!
//! # Lock order
//!
//! 0. a device's compute passes, held for the whole of one pass, its bounded wait included,
//! 1. reservations: a single one, or many together in a lock set, which backs off before it could
//!    close a cycle; or many by `try_lock` alone, which waits for nobody,
//! 2. a pool's size class, the retire list, the lists of verdicts, exports, buffers and bridges,
//! 3. an allocation,
//! 4. a device's images of other timelines,
//! 5. a queue; the desk of a bridge; a host fence; what a fence relied on.
//!
//! Whoever holds a lock takes only those below it. Callbacks of fences run under none of them. No
//! reservation is held across a wait for a GPU: waiters take the reservation, copy the fences, let go, wait,
//! and look again.
//!
//! What is not here: who is to be waited for, and by whom. Fences are entered and looked at in
//! the buffers' own module.

mod behind;
mod bridge;
mod event;
mod fence;
mod fences;
mod lock_set;
pub(crate) mod primitive;
mod reservation;
mod retire;
mod sync_file;
#[cfg(test)]
mod tests;
mod waits;

pub use event::{CallbackId, Signal};
pub use fence::Fence;
pub use fences::Usage;
pub use waits::WaitRoute;

pub(crate) use bridge::Bridges;
pub(crate) use fence::merge_sync_files;
pub(crate) use fences::Fences;
pub(crate) use lock_set::{Index, Locked, TimedOut, lock_many};
pub(crate) use reservation::{Guard, Reservation, WaitQueues};
pub(crate) use retire::{Retire, Retired};
pub(crate) use waits::{waits_of_move, waits_on};
