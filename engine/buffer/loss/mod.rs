//! Devices that are lost, and content that is.
//!
//! Kernel counterparts: `drm_dev_unplug`, `dma_fence_set_error`.

mod device_lost;
mod poison;

pub(crate) use device_lost::abandon;
