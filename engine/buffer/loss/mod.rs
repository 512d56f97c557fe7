//! Device loss, and buffers whose content is undefined.
//!
//! A lost device is unplugged: its buffers go on in their clean copies, or are poisoned. A poisoned buffer
//! reports `Error::Poisoned` until its content is accepted.
//!
//! Kernel counterparts: `drm_dev_unplug`, `dma_fence_set_error`.
//!
//! May be known here: the commit of a move, since promoting a clean copy is one; and the choice of a new home.
//! What is not here: how a lost device is detected ([`crate::device`]).

mod device_lost;
mod poison;
mod remove;

pub(crate) use device_lost::unplug;
pub(crate) use remove::remove;
