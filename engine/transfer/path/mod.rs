//! Which path a copy takes, and the paths that need more than one device.
//!
//! Kernel counterparts: `ttm_bo_move_accel` and `ttm_bo_move_memcpy`, between which TTM's drivers choose;
//! `ttm_bo_bounce_temp_buffer` for copies through an intermediate buffer.
//!
//! Copy speeds are measured on each device (`calibrate`) and kept as a table (`speeds`). The table decides
//! among the possible paths (`choose`). If no device sees both backings, the bytes go through staging memory
//! (`ring`), and the calling thread waits for that (`bounce`).

mod bounce;
mod calibrate;
mod choose;
mod ring;
mod speeds;

pub use speeds::{CopySpeed, CopySpeeds};

pub(crate) use bounce::{BounceEnd, BouncePath};
pub(crate) use calibrate::measure;
pub(crate) use choose::{CopyChoice, CopyConditions, MOMENT, PART, choose, host_share};
pub(crate) use ring::{Unfinished, staged_copy};
pub(crate) use speeds::{ASSUMED_HOST_BYTES, PAUSE, assumed};
