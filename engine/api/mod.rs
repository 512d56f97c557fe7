//! What applications call: the engine, and the options that it is opened with.
//!
//! [`Engine`] is the public face of `core` and `buffer`. Its methods are in a file for each topic; each is an
//! `impl` block with a heading, so that the engine's page reads in groups.

mod descriptor;

// In the order of the engine's page. The blank lines keep rustfmt from sorting them.

mod engine;

mod devices;

mod buffers;

mod images;

mod work;

mod fences;

mod routes;

mod image_verdicts;

mod probe;

mod residency;

mod groups;

mod inspection;

pub use descriptor::EngineDescriptor;
pub use engine::Engine;
