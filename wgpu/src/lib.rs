//! Shared buffers and images of peerbuf as buffers and textures of wgpu 30.
//!
//! * [`Guest`] is a wgpu device that an engine has adopted: one `VkDevice` for both.
//! * [`GuestTexture`] and [`GuestBuffer`] follow a shared image or buffer when it moves.
//! * [`Frame`] is a submission of wgpu's that uses them: it waits for other devices, and they wait for it.
//!
//! `docs/wgpu.md` in the repository shows how a renderer uses this, and states the contract: who frees what, in which state a
//! texture is, what a move does to it. [`Guest::open`] has the rules that the application keeps.

mod buffer;
mod commands;
mod error;
mod format;
mod frame;
mod guest;
mod left;
mod queue;
mod raw;
mod submit;
mod texture;
mod uses;

pub use buffer::GuestBuffer;
pub use error::{Error, Result};
pub use format::texture_format;
pub use frame::{Frame, InFrame};
pub use guest::{Guest, GuestDescriptor};
pub use texture::GuestTexture;

pub use peerbuf;
pub use wgpu;

/// The guide's code must compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/wgpu.md")]
struct Guide;
