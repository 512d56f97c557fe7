//! Traces that are only measured: no constant of a policy is chosen by their results.

mod desktop;
mod games;
mod maps;
mod models;

use super::recorder::Maker;

pub(super) fn makers() -> Vec<Maker> {
    [games::MAKERS, desktop::MAKERS, models::MAKERS, maps::MAKERS].concat()
}
