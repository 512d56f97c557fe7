//! What every policy promises, and what the default achieves.

mod figures;
mod promises;
mod reference;

use super::{Adaptive, Clock, Lru, Policy};

/// One of each, knowing nobody.
fn all() -> [Box<dyn Policy>; 3] {
    [Box::new(Lru::new()), Box::new(Clock::new()), Box::new(Adaptive::new())]
}
