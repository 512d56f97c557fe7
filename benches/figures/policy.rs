//! Bytes that the eviction policy moves, and its cost. They are computed as by `cargo bench --bench policy`, which
//! prints each trace.

#[path = "../policy/bytes.rs"]
#[expect(dead_code, reason = "the other bench prints each trace")]
mod bytes;
#[path = "../policy/cost.rs"]
#[expect(dead_code, reason = "as above")]
mod cost;
#[path = "../policy/figure.rs"]
#[expect(dead_code, reason = "as above")]
mod figure;
#[path = "../policy/unseen.rs"]
#[expect(dead_code, reason = "as above")]
mod unseen;

use peerbuf::residency::policy::traces;

use crate::Outcome;
use crate::figure::{Direction, Figure};
use crate::setup::Setup;

/// `policy_worst`, `policy_geomean`, `policy_vs_lru`, `policy_unseen_*`: counts, the same in every run.
pub(crate) fn bytes(_: &Setup) -> Outcome<Vec<Figure>> {
    let mut figures = bytes::figures(&bytes::rows(traces::catalogue()));
    figures.extend(unseen::figures(&unseen::measured()));
    Ok(shown(figures))
}

/// `policy_cost`, `pick_scaling`, and the bytes of bookkeeping.
pub(crate) fn cost(_: &Setup) -> Outcome<Vec<Figure>> {
    Ok(shown(cost::figures(&cost::costs())))
}

fn shown(figures: Vec<figure::Figure>) -> Vec<Figure> {
    let shown = figures.into_iter().map(|figure| {
        let figure::Figure { id, what, value, range, target } = figure;
        let range = range.unwrap_or((value, value));
        let (direction, target) = match target {
            Some((figure::Direction::AtLeast, target)) => (Direction::AtLeast, Some(target)),
            Some((figure::Direction::AtMost, target)) => (Direction::AtMost, Some(target)),
            None => (Direction::AtMost, None),
        };
        let unit = if id.ends_with("_bytes") { "bytes" } else { "times" };
        Figure::count(id, what, unit, target, value).within(direction, range)
    });
    shown.collect()
}
