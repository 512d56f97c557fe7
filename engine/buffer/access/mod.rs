//! Uses of a buffer's bytes: submissions, accesses that an application submits itself, host accesses, copies,
//! compute passes.
//!
//! Kernel counterparts: a driver's submission ioctl, `dma_buf_begin_cpu_access`.
//!
//! Every use locks the reservation, checks that the mapping is current, submits, and adds its fence before it
//! unlocks. No wait happens under the reservation.
//!
//! May be known here: attachments and their mappings, and all rooms below. What is not here: how bytes are
//! copied ([`crate::transfer`]), and fences from outside the engine (`foreign/`).

mod bounce_buffer;
mod compute;
mod copy;
mod copy_by;
mod copy_way;
mod held_allocation;
mod host_access;
mod host_share;
mod notes;
mod open_access;
mod pair;
mod remapped;
mod submission;
mod submit;
mod uses;
mod wait;
mod work;

pub(crate) use copy::copy;
pub(crate) use copy_by::{copy_by, copy_ways};
pub use copy_way::{CopyBy, CopyRun, CopyWay};
pub use host_access::HostAccess;
pub use open_access::OpenAccess;
pub use pair::CopyRegion;
pub use submission::Submission;
#[cfg(feature = "testing")]
pub(crate) use submit::lock_together;
pub(crate) use submit::{Remapped, submit, submit_remapped};
pub(crate) use work::{AroundObject, AroundUse};
