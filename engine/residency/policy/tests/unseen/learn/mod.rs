//! Traces that a policy may be adjusted to.

mod desktop;
mod games;
mod maps;
mod models;

use super::recorder::Maker;

pub(super) fn makers() -> Vec<Maker> {
    [games::MAKERS, desktop::MAKERS, models::MAKERS, maps::MAKERS].concat()
}
