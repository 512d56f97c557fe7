//! The kernel's own tests of these locks, as model tests, with their upstream names.

mod drm_exec;
mod ww_mutex;
