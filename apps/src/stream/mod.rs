//! `stream`: flies over a map of shared images that is several times as large as the memory that it may use.

mod args;
mod checks;
mod frame;
mod picture_file;
mod record;
mod run;
mod tiles;
mod view;
mod world;

pub use args::Args;
pub use checks::{Checks, Shown};
pub use picture_file::Pyramid;
pub use record::Commands;
pub use run::{Session, run};
pub use view::{Camera, Part, Rect, tour};
pub use world::{TILE, TILE_BYTES, TileId, World};
