//! The promises of every policy, and the results of the default one.

mod figures;
mod promises;
mod reference;

use super::{Adaptive, Clock, Lru, Policy};

/// One of each policy, without buffers.
fn all() -> [Box<dyn Policy>; 3] {
    [Box::new(Lru::new()), Box::new(Clock::new()), Box::new(Adaptive::new())]
}
