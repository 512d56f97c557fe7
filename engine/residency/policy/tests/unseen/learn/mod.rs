//! Traces that a policy may be adjusted to.

mod desktop;
mod maps;
mod models;
mod games;

use super::recorder::Maker;

pub(super) fn makers() -> Vec<Maker> {
    [games::MAKERS, desktop::MAKERS, models::MAKERS, maps::MAKERS].concat()
}
