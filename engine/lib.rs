//! peerbuf: GPU buffers that can move while they are shared.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod buffer;
mod core;
pub mod device;
mod engine;
mod error;
pub mod memory;
pub mod observe;
pub mod sync;
pub mod transfer;

pub use buffer::{
    Access, Attachment, BufferDescriptor, CopyRegion, DetachError, ForeignExport, ForeignFacts,
    ForeignHandle, HostAccess, Mapping, OwnBuffer, RawView, Scope, SharedBuffer,
};
pub use device::{Adapter, AdapterSelector, AdoptedDevice, Device, HandleType, Validation};
pub use engine::{Engine, EngineDescriptor};
pub use error::{Error, ForeignFdReason, Result};
pub use memory::{DomainId, DomainKind, Placement, Provider};
pub use sync::{Fence, Usage};
pub use transfer::{Route, Verdict};
