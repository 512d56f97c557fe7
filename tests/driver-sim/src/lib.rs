//! Makes Vulkan's software drivers behave as GPU drivers do, so that what hardware does to a program is tested
//! on machines without a GPU.
//!
//! The crate has two parts. The shared library is a Vulkan layer, `VK_LAYER_PEERBUF_driver_sim`; it reads
//! `DRIVER_SIM`. The Rust library sets up the environment of a process that runs under the layer:
//! [`Simulation`].
//!
//! The library has a second layer, [`RECORDER`], which changes nothing: it finds wrong uses of images that several devices
//! share. The README says which.
//!
//! Each behaviour is a switch, see [`Switches`]. A profile is a named set of switches, see [`PROFILES`]. The
//! README has the source of each.

mod config;
mod layer;
mod recorder;
mod rerun;
mod setup;

pub use config::{
    ApiVersion, Code, CopyEngine, FailAt, Family, FamilyFlags, Heap, HostPointer, Identity, Kind,
    LostWaits, Malformed, MapImport, MemoryLayout, MemoryType, PROFILES, Poison, Profile,
    ProfileFile, Size, Subject, Switches, TypeFlags, World, file_of, profile,
};
pub use layer::vkNegotiateLoaderLayerInterfaceVersion;
pub use recorder::recorder_negotiate;
pub use rerun::under;
pub use setup::{Control, LAYER, Missing, RECORDER, Simulation};
