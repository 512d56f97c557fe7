//! Adapters, the devices opened or adopted on them, and their queues.
//!
//! Kernel counterpart: `struct drm_device`, seen from an importer (`dma_buf_attachment::dev`).
//! Vulkan: `VkPhysicalDevice`, `VkDevice`, `VkQueue`.
//!
//! An [`Adapter`] is a set of facts, read once and never changed. A [`Device`] is opened by peerbuf
//! or adopted from an application; it is the parent of everything made on it and is destroyed after
//! the last of those. Drivers whose behaviour differs from what they report are listed in [`quirks`], each
//! row with its evidence.
//!
//! May be known here: the instance, errors and counters. `id`, `handle_type` and `selector` know nothing else,
//! so that errors can name a device.
//!
//! What is not here: memory is allocated in [`crate::memory`]. Whether two devices can share memory is proved
//! by experiment in [`crate::transfer`]; what a driver *reports* that it can export or import is a fact of the
//! adapter and proves nothing.

mod adapter;
mod adapter_read;
mod adopt;
mod calls;
#[expect(clippy::module_inception, reason = "the file is named after the type that it holds")]
mod device;
mod enumerate;
mod export_thread;
mod external;
#[cfg(any(test, feature = "testing"))]
mod faults;
mod formats;
mod handle_type;
mod heap_budget;
mod id;
mod image_facts;
mod image_formats;
mod in_flight;
mod inner;
mod instance;
mod leaving;
mod mirrors;
mod open;
mod queue;
mod queue_lock;
mod queue_progress;
mod queues;
pub mod quirks;
mod select;
mod selector;
mod semaphore;
mod semaphore_export;
mod spare_semaphores;
mod submit;
mod timeline;
mod timestamps;
mod wait_semaphores;
mod work;

pub use adapter::{Adapter, Heap, MemoryType};
pub use adopt::{AdoptedDevice, AdoptedQueue};
pub use calls::{Call, Calls, StoppedQueues};
pub use device::Device;
pub use external::{ExternalBuffers, ExternalSemaphores};
pub use formats::{FormatModifier, vulkan_format};
pub use handle_type::{HandleType, Uuid};
pub use id::DeviceId;
pub use image_facts::{
    ExternalImages, ImageFormats, ImageLimits, ImageRefusal, ModifierImages, TilingImages,
};
pub use instance::{Loader, Message, MessageSink, Validation, instance_extensions};
pub use queue_lock::QueueLock;
pub use selector::{AdapterKind, AdapterSelector, DrmNode, ParseSelectorError, PciAddress};

pub(crate) use external::{SHARED_BUFFER_USAGE, SemaphoreHandle};
pub(crate) use heap_budget::HeapBudget;
pub(crate) use inner::{DeviceInner, TimelineMirror};
pub(crate) use instance::Instance;
pub(crate) use leaving::Leaving;
pub(crate) use queues::QueueKind;
pub(crate) use semaphore::OwnedSemaphore;
pub(crate) use submit::{Body, Submit};
pub(crate) use timeline::Reading;
pub(crate) use timestamps::{Stamp, Timestamps};
pub(crate) use wait_semaphores::Waits;
