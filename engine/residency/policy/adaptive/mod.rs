//! The adaptive policy: it learns from every use how soon buffers with the same history are used again.

mod among;
mod choice;
mod hull;
mod outlook;
mod policy;
mod residents;
mod scale;
mod shortlist;

pub use choice::Adaptive;
pub(crate) use policy::adaptive;
