//! Guests: wgpu devices that an engine has adopted, on each driver here. The last test runs the others under the validation
//! layer.

mod commands;
mod contract;
mod errors;
mod loss;
mod moving;
mod order;
mod rig;
mod silent;
