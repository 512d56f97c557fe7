//! How bytes travel: routes and their proof, copies, the mover, compute passes, ownership.
//!
//! Kernel counterparts: `pci_p2pdma_distance` and `allow_peer2peer` (routes), `ttm_bo_move_accel`
//! (copies). Vulkan: `vkCmdCopyBuffer`, queue-family ownership transfers with
//! `VK_QUEUE_FAMILY_EXTERNAL` and `VK_QUEUE_FAMILY_FOREIGN_EXT`.
//!
//! What is not here: nothing in this module knows what a shared buffer is. It works on *spans*: a
//! view, an offset, a length.

mod copy;
pub(crate) mod mover;
mod ownership;
mod pass;
mod prove;
mod route;
mod span;

pub use mover::{CopySpeed, CopySpeeds};
pub use ownership::Scope;
pub use pass::{PassReport, pattern_word};
pub use route::{Refusal, RefusalReason, Route, Side, Verdict, Working};

pub(crate) use copy::{copy, copy_many, from_staging_parts, to_staging, zero};
pub(crate) use mover::{Unfinished, staged_copy};
pub(crate) use ownership::{acquire, release};
pub(crate) use pass::{Attempt, Passes, Watch, Work};
pub(crate) use prove::{End, can_export, can_take, prove_all};
pub(crate) use route::{PairKey, Routes};
pub(crate) use span::Span;
