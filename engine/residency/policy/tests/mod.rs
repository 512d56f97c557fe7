//! The promises of every policy, and the results of the default one.

mod baselines;
mod figures;
mod promises;
mod reference;
mod returns;
mod unseen;
mod unseen_figures;

use super::traces::Trace;
use super::{Adaptive, Clock, Lru, Policy, Slot, Use};

/// One of each policy, without buffers.
fn all() -> [Box<dyn Policy>; 3] {
    [Box::new(Lru::new()), Box::new(Clock::new()), Box::new(Adaptive::new())]
}
