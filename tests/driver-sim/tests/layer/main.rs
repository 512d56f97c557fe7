//! Each switch on lavapipe and SwiftShader: its behaviour is there with the switch, and is not without it.
//!
//! A test names what it shows. Its body runs in a child process under the layer; what the body says is the same
//! as in `README.md`.

mod gpu;
mod harness;

mod devices;
mod imports;
mod loss;
mod memory;
mod queues;
mod tiling;
