//! Images that several devices share: written on one device, copied and sampled on another, moved, evicted, laid out anew.

#[path = "../common/mod.rs"]
mod common;

mod attach;
mod card;
mod descriptions;
mod dma_bufs;
mod explained;
mod faults;
mod foreign;
mod frames;
mod gles;
mod loss;
mod mappings;
mod matrix;
mod other_programs;
mod padded;
mod planted;
mod preferred;
mod random;
mod relayout;
mod residency;
mod sampler;
mod scanout;
mod submit;
mod tails;
mod texels;
mod torture;
