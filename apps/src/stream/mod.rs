//! `stream`: flies over a map of shared images that is several times as large as the memory that it may use.

mod args;
mod checks;
mod frame;
mod record;
mod run;
mod tiles;
mod view;
mod world;

pub use args::Args;
pub use run::{Session, run};
