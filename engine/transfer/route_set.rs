//! Sets of routes, and one that is kept until a verdict changes.

use super::refusal::Route;
use crate::sync::primitive::atomic::{AtomicU64, Ordering};

/// A set of routes, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct RouteSet(u16);

impl RouteSet {
    /// Bits that all routes together take.
    const BITS: u32 = u16::BITS;

    pub(crate) fn contains(self, route: Route) -> bool {
        self.0 & bit(route) != 0
    }
}

impl FromIterator<Route> for RouteSet {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        Self(routes.into_iter().fold(0, |bits, route| bits | bit(route)))
    }
}

fn bit(route: Route) -> u16 {
    1 << route as u16
}

/// A set of routes that was computed from verdicts, with the version of the verdicts.
///
/// **Invariant:** the word is `version << 16 | set`. 0 is right from the start: version 0 has no verdicts.
#[derive(Debug, Default)]
pub(crate) struct CachedRoutes(AtomicU64);

impl CachedRoutes {
    /// The set of `version`, computed if that of another version is kept. `version` is read before, so what
    /// `compute` sees may be newer; then the version has changed, and the next call computes again.
    pub(crate) fn get(&self, version: u64, compute: impl FnOnce() -> RouteSet) -> RouteSet {
        // Relaxed: version and set are one word, and nothing else depends on it.
        let kept = self.0.load(Ordering::Relaxed);
        if kept >> RouteSet::BITS == version {
            // CAST: the low bits are the set.
            return RouteSet(kept as u16);
        }
        let set = compute();
        self.0.store(version << RouteSet::BITS | u64::from(set.0), Ordering::Relaxed);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_routes_that_it_was_made_of() {
        let all = || Route::LADDER.iter().copied().chain([Route::Local]);
        for member in all() {
            let set = RouteSet::from_iter([member]);
            assert!(all().all(|route| set.contains(route) == (route == member)), "{member}");
        }
    }

    #[test]
    fn a_kept_set_is_computed_once_for_each_version() {
        let (cached, set) = (CachedRoutes::default(), RouteSet::from_iter([Route::Memfd]));
        let unasked = || -> RouteSet { unreachable!("it is kept") };
        assert_eq!(cached.get(0, unasked), RouteSet::default(), "no verdicts");
        assert_eq!(cached.get(7, || set), set);
        assert_eq!(cached.get(7, unasked), set);
        assert_eq!(cached.get(8, RouteSet::default), RouteSet::default());
    }
}
