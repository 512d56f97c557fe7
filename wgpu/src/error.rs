//! What can go wrong, and what the caller can do about it.

use peerbuf::ash::vk;
use peerbuf::image::{Fourcc, ImageUsage};

/// The result of an operation of this package.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this package. A failed operation has submitted nothing, unless its variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of peerbuf failed; its own documentation says what to do.
    #[error(transparent)]
    Engine(#[from] peerbuf::Error),
    /// The adapter lacks what peerbuf needs. Choose another one: `peerbuf doctor` lists them.
    #[error("{adapter} lacks {}: choose another adapter", .missing.join(", "))]
    #[non_exhaustive]
    Adapter {
        /// The adapter.
        adapter: String,
        /// What it lacks.
        missing: Vec<&'static str>,
    },
    /// The Vulkan loader was not found, or cannot be used.
    #[error("the Vulkan loader: {0}; install libvulkan1 or the like")]
    Loader(String),
    /// The loader is older than Vulkan 1.2.
    #[error("the Vulkan loader offers {}.{}, and 1.2 is needed", vk::api_version_major(*.0), vk::api_version_minor(*.0))]
    LoaderVersion(u32),
    /// The physical device is not the one that the engine lists under its number: a GPU came or left, or a layer that
    /// one of the two instances has sorts them. Open a new engine.
    #[error("physical device {index} is not {adapter}: open a new engine")]
    #[non_exhaustive]
    Order {
        /// The number of the adapter.
        index: usize,
        /// Its name.
        adapter: String,
    },
    /// No queue family draws and computes.
    #[error("{adapter} has no queue that draws and computes: choose another adapter")]
    #[non_exhaustive]
    NoQueue {
        /// The adapter.
        adapter: String,
    },
    /// wgpu does not use this adapter.
    #[error("wgpu does not use {adapter}: it is older than wgpu requires")]
    #[non_exhaustive]
    NotExposed {
        /// The adapter.
        adapter: String,
    },
    /// The features that wgpu would enable leave timeline semaphores off, without which peerbuf cannot adopt a device.
    #[error(
        "wgpu would open {adapter} without timelineSemaphore, which peerbuf needs: choose another adapter"
    )]
    #[non_exhaustive]
    NoTimelines {
        /// The adapter.
        adapter: String,
    },
    /// The adapter does not have what [`wgpu::DeviceDescriptor`] requires.
    #[error("{adapter} does not have {missing}: require less, or choose another adapter")]
    #[non_exhaustive]
    Required {
        /// The adapter.
        adapter: String,
        /// The features or limits.
        missing: String,
    },
    /// wgpu has no texture format for the images of a fourcc.
    #[error(
        "wgpu has no texture format for {fourcc} ({format:?}): share the image in XR24, AR24, AB24, R8 or AB4H, or each plane as an image of its own"
    )]
    #[non_exhaustive]
    Format {
        /// The format of the image.
        fourcc: Fourcc,
        /// The same as Vulkan names it.
        format: vk::Format,
    },
    /// A buffer for uses that it cannot have here: those that map it, since wgpu maps no external memory, and those
    /// that need features.
    #[error(
        "a shared buffer as {0:?}: write it with Queue::write_buffer, and read it through a copy"
    )]
    BufferUsage(wgpu::BufferUsages),
    /// A texture in an access for which it was not attached.
    #[error(
        "{image} was attached to be {attached}, and is to be written: attach it for a use that writes"
    )]
    #[non_exhaustive]
    NotWritten {
        /// The name of the image.
        image: String,
        /// The uses of its attachment.
        attached: ImageUsage,
    },
    /// The texture or buffer is of another device.
    #[error("{name} belongs to {owner}, and not to {used}: attach it there")]
    #[non_exhaustive]
    OtherDevice {
        /// The name of the image or buffer.
        name: String,
        /// The device of its attachment.
        owner: String,
        /// The device of the frame.
        used: String,
    },
    /// An image or a buffer moved again and again while it was to be used.
    #[error("{name} moved {times} times while it was to be used: move it less often")]
    #[non_exhaustive]
    Restless {
        /// Its name.
        name: String,
        /// How often it moved.
        times: u32,
    },
    /// Other threads submit to the queue all the time, so that no moment was found at which wgpu may. What was ahead of
    /// wgpu's submission has run.
    #[error(
        "{device}: other threads submitted {times} times before wgpu could: submit from fewer threads"
    )]
    #[non_exhaustive]
    BusyQueue {
        /// The device.
        device: String,
        /// How often that was tried.
        times: u32,
    },
    /// The queue's lock is held by this thread: this was called within [`crate::Guest::with_queue`], or by a callback of
    /// wgpu's that ran there or in [`crate::Frame::submit`]. Call it afterwards.
    #[error("{device}: called while this thread has the queue's lock: call it after `with_queue`")]
    #[non_exhaustive]
    Reentrant {
        /// The device.
        device: String,
    },
    /// wgpu refused a command buffer. It does not run, nor do those behind it. The frame has ended, and its images and buffers
    /// may be used.
    #[error("wgpu refused commands of the frame: {0}")]
    Refused(String),
    /// A call of wgpu failed. If it is `wgpu::Queue::submit`, wgpu has given its device up, and a part of the frame's commands
    /// may have run: close the guest.
    #[error("{call}: {message}")]
    #[non_exhaustive]
    Wgpu {
        /// The call.
        call: &'static str,
        /// What wgpu says.
        message: String,
    },
    /// A call of Vulkan failed.
    #[error("{call}: {code:?}")]
    #[non_exhaustive]
    Vulkan {
        /// The call.
        call: &'static str,
        /// Its result.
        code: vk::Result,
    },
}

impl Error {
    /// For `map_err`: an error of a call of Vulkan.
    pub(crate) fn vulkan(call: &'static str) -> impl FnOnce(vk::Result) -> Self {
        move |code| Self::Vulkan { call, code }
    }

    /// For `map_err`: an error of a call of wgpu.
    pub(crate) fn wgpu<E: std::fmt::Display>(call: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Wgpu { call, message: error.to_string() }
    }
}
