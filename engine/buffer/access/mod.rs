//! Bytes are used: submissions, accesses that an application submits itself, the host, copies, compute kernels.
//!
//! Kernel counterparts: a driver's submission ioctl, `dma_buf_begin_cpu_access`.
//!
//! Everything here locks the reservation, checks that the mapping is current, submits, and adds the fence before
//! it unlocks.

mod compute;
mod copy;
mod host_access;
mod open_access;
mod pair;
mod submission;
mod submit;

pub(crate) use copy::copy;
pub use host_access::HostAccess;
pub use open_access::OpenAccess;
pub use pair::CopyRegion;
pub use submission::Submission;
pub(crate) use submit::{submit, submit_remapped};
