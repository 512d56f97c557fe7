//! What applications call: the engine, and what it is made with.
//!
//! [`Engine`] is the public face of `core` and `buffer`; its methods are grouped by topic, a file each.

mod descriptor;
mod engine;
mod groups;
mod residency;

pub use descriptor::EngineDescriptor;
pub use engine::Engine;
