//! Who takes part: adapters, the devices opened or adopted on them, their queues.
//!
//! Kernel counterpart: `struct drm_device`, seen from an importer (`dma_buf_attachment::dev`).
//! Vulkan: `VkPhysicalDevice`, `VkDevice`, `VkQueue`.
//!
//! An [`Adapter`] is a set of facts, read once and never changed. A [`Device`] is opened by peerbuf
//! or adopted from an application; it is the parent of everything made on it and is destroyed after
//! the last of those. Drivers that say one thing and do another are listed in [`quirks`], each row
//! with its evidence.
//!
//! What is not here: memory is allocated in [`crate::memory`], and whether two devices can share any
//! is found out by trying, in [`crate::transfer`]; what a driver *says* it can export or import is a
//! fact of the adapter and proves nothing.

mod adapter;
mod adopt;
mod budget;
mod calls;
#[expect(clippy::module_inception, reason = "the file is named after the type that it holds")]
mod device;
mod external;
mod formats;
mod inner;
mod instance;
mod lane;
mod open;
mod queue;
mod queue_lock;
pub mod quirks;
mod select;
mod semaphore;
mod work;

pub use adapter::{Adapter, AdapterKind, DrmNode, Heap, MemoryType, PciAddress, Uuid};
pub use adopt::{AdoptedDevice, AdoptedQueue};
pub use calls::{Call, Calls};
pub use device::{Device, DeviceId};
pub use external::{ExternalBuffers, ExternalSemaphores, HandleType};
pub use formats::{FormatModifier, vulkan_format};
pub use instance::{Message, MessageSink, Validation, instance_extensions};
pub use queue_lock::QueueLock;
pub use select::{AdapterSelector, ParseSelectorError};

pub(crate) use budget::HeapBudget;
pub(crate) use external::SHARED_BUFFER_USAGE;
pub(crate) use inner::{DeviceInner, Image};
pub(crate) use instance::Instance;
pub(crate) use lane::Lane;
pub(crate) use queue::{Body, Submit};
pub(crate) use semaphore::{OwnedSemaphore, SemaphoreHandle, Waits};
