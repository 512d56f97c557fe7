//! What the programs here share: Vulkan devices that peerbuf adopts, swapchains, pictures, and a number in each frame.
//!
//! `prime` draws on one GPU and presents on another; `stream` shows a map that is larger than the memory that it may use:
//! `cargo run --release --bin prime`, here.

pub mod canvas;
pub mod choose;
pub mod commands;
pub mod gpu;
pub mod host_buffer;
pub mod in_use;
pub mod overlay;
pub mod picture;
pub mod prime;
pub mod program;
pub mod shader;
pub mod stamp;
pub mod stream;
pub mod surface;
pub mod swapchain;

/// An error is a sentence for the person who started the program.
pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The timeout of every wait here.
pub const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
