//! The move of a buffer: plan, destination, lock, check, invalidate, copy, commit.
//!
//! Kernel counterparts: `ttm_bo_handle_move_mem`, `ttm_bo_move_accel_cleanup`, `ttm_bo_bounce_temp_buffer`.
//!
//! ```text
//!  plan ──► destination ──► execute ──► invalidate ──► copier ──► commit
//!  (nothing locked)         (reservation)   │             │         (nothing fails)
//!                                           │             └─ no device can copy: fallback
//!                                           └─ the move must wait: in_progress (move fence)
//! ```
//!
//! A step before `commit` that fails leaves the buffer as it was.
//!
//! Not here: which buffers move (`eviction/`), and which fences a device waits for (`crate::sync`).

mod alike;
mod batch;
mod commit;
mod copier;
mod copy_path;
mod destination;
mod execute;
mod fallback;
mod host_rows;
mod in_progress;
mod invalidate;
mod leave_exported;
mod migrate;
mod migrate_many;
mod nowait;
mod plan;
mod rearrange;
mod request;
mod row_gaps;
mod shared;

pub(in crate::buffer) use batch::{MAX_BATCH, MayBlock, MoveBatch};
pub(in crate::buffer) use commit::{MoveSummary, commit};
pub(in crate::buffer) use copier::Copier;
pub(in crate::buffer) use execute::{no_path, relocate};
pub(in crate::buffer) use invalidate::invalidate_importers;
pub use migrate::Migration;
pub(crate) use migrate_many::migrate_many;
pub(in crate::buffer) use nowait::ZEROED_AT_ONCE;
pub(in crate::buffer) use plan::Plan;
pub(crate) use rearrange::{Rearranged, Rearrangement};
pub(in crate::buffer) use request::{MoveOutcome, MoveRequest};
