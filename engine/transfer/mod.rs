//! How bytes travel: routes between devices, copies, compute kernels, queue-family ownership.
//!
//! A [`Route`] says how two devices share bytes. It is used only once data has gone through it in both
//! directions; a [`Verdict`] lists the routes that work, and a [`Refusal`] for every other one. [`CopySpeeds`]
//! are measured once per device and decide whether the host or a device copies. [`Scope`] names the stages and
//! accesses for which a submission of yours acquires a buffer.
//!
//! Kernel counterparts: `pci_p2pdma_distance` and `allow_peer2peer` (routes), `ttm_bo_move_accel`
//! (copies). Vulkan: `vkCmdCopyBuffer`, queue-family ownership transfers with
//! `VK_QUEUE_FAMILY_EXTERNAL` and `VK_QUEUE_FAMILY_FOREIGN_EXT`.

// Nothing in this module knows what a shared buffer is. It works on spans: a view, an offset, a length.

mod capability;
mod child;
mod compute;
mod compute_objects;
mod copy;
mod copy_texels;
mod image_commands;
mod image_probe;
mod need;
mod ownership;
mod pair_key;
mod pass;
pub(crate) mod path;
mod prove;
mod refusal;
mod route;
mod route_file;
mod route_set;
mod routes;
mod scope;
mod span;
mod untried;
mod verdict;

pub use compute::{PassReport, pattern_word};
pub use pass::{Pass, Side};
pub use path::{CopySpeed, CopySpeeds};
pub use refusal::{Refusal, RefusalReason, Route};
pub use scope::Scope;
pub use untried::Untried;
pub use verdict::{ExporterSpeed, Trial, Verdict, Working};

pub(crate) use capability::{can_export, can_export_any, can_import, has_extension};
pub(crate) use child::{Request, answer, first_line, other_line};
pub(crate) use compute::{Attempt, ComputeKernels, Watch, Work};
pub(crate) use copy::{copy, copy_many, copy_on, copy_parts, from_staging_parts, to_staging, zero};
pub(crate) use copy_texels::{TexelCopy, copy_texels};
pub(crate) use image_commands::{
    ImageUse, acquire_image, copy_buffer_to_image, copy_image_to_buffer, release_image,
};
pub(crate) use need::Need;
pub(crate) use ownership::{acquire, outside_family, release};
pub(crate) use pair_key::PairKey;
pub(crate) use path::{Unfinished, staged_copy};
pub(crate) use prove::{
    Ended, ImageFault, ImageMemory, ImageOutcome, ImagePasses, ImageProbe, ImageRead, ProbePlane,
};
pub(crate) use refusal::{first_of, untried};
pub(crate) use route_set::{CachedRoutes, RouteSet};
pub(crate) use routes::Routes;
pub(crate) use span::Span;
