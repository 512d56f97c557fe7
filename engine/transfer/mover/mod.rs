//! The mover: which way bytes travel from one place to another, and the ways that need more than a copy by
//! one device.
//!
//! Kernel counterparts: `ttm_bo_move_accel` and `ttm_bo_move_memcpy`, between which TTM's drivers choose;
//! `ttm_bo_bounce_temp_buffer` for what has to go round.
//!
//! What is fast is measured on each device (`calibrate`), kept as a table (`speeds`), and decides among the
//! ways that are possible (`way`). Where no device sees both places the bytes go through staging memory
//! (`ring`), and whoever wants them there waits (`carrier`).

mod calibrate;
mod carrier;
mod ring;
mod speeds;
mod way;

pub use speeds::{CopySpeed, CopySpeeds};

pub(crate) use calibrate::measure;
pub(crate) use carrier::{Carrier, End};
pub(crate) use ring::{Unfinished, staged_copy};
pub(crate) use speeds::assumed;
pub(crate) use way::{MOMENT, PART, PAUSE, Places, Way, choose};
