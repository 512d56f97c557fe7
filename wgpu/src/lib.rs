//! Shared buffers and images of peerbuf as buffers and textures of wgpu.
//!
//! [`Guest`] is a wgpu device that an engine has adopted. [`GuestTexture`] and [`GuestBuffer`] follow an image or a buffer
//! when it moves. A [`Frame`] is a submission of wgpu's that uses them.

mod buffer;
mod commands;
mod error;
mod format;
mod frame;
mod guest;
mod queue;
mod raw;
mod texture;

pub use buffer::GuestBuffer;
pub use error::{Error, Result};
pub use format::texture_format;
pub use frame::{Frame, InFrame};
pub use guest::{Guest, GuestDescriptor};
pub use texture::GuestTexture;

pub use peerbuf;
pub use wgpu;
