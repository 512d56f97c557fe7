//! `prime`: draws on one GPU, presents on another. The images between the two are shared, and move while they are used.

mod args;
mod checks;
mod copies;
mod frame;
mod loss;
mod open;
mod rest;
mod ring;
mod run;
mod scene;
mod staged;
mod stats;
mod steady;

pub use args::Args;
pub use copies::{Copies, Source, read_back};
pub use run::{Session, run};
pub use scene::{Scene, Target};
