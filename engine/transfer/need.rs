//! Which routes of a pair a caller has a use for: plain data.

use super::refusal::Route;
use super::verdict::Working;
use crate::memory::DomainKind;

/// Which routes are proved. The others stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// None but those that are known.
    Known,
    /// This route: what an import of one provider's memory needs.
    One(Route),
    /// The best route to the first device's own memory; for a device and itself, also the best one to system memory. These
    /// are what the costs of accesses are measured on.
    Costs,
    /// The best route to each kind of memory.
    EachKind,
    /// All routes.
    All,
}

impl Need {
    /// Whether a route that nothing is known about is tried, if these work already.
    pub(super) fn wants(self, route: Route, working: &[Working]) -> bool {
        let Some(kind) = route.kind() else { return self == Self::All || self == Self::One(route) };
        let is_first = || working.iter().all(|found| found.route.kind() != Some(kind));
        match self {
            Self::Known => false,
            Self::All => true,
            Self::One(wanted) => route == wanted,
            Self::EachKind => is_first(),
            Self::Costs => {
                let own =
                    kind == DomainKind::Vram || working.iter().any(|of| of.route == Route::Local);
                own && is_first()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The routes that are tried one after the other if these work.
    fn tried(need: Need, works: &[Route]) -> Vec<Route> {
        let (mut tried, mut working) = (vec![], vec![]);
        for &route in [Route::Local].iter().chain(Route::LADDER) {
            if !need.wants(route, &working) {
                continue;
            }
            tried.push(route);
            if works.contains(&route) {
                let read = Duration::from_micros(1);
                working.push(Working { route, read, bytes: 1, exporter: None, import: None });
            }
        }
        tried
    }

    #[test]
    fn one_route_is_that_route() {
        for &route in Route::LADDER {
            assert_eq!(tried(Need::One(route), Route::LADDER), [route]);
        }
    }

    #[test]
    fn the_best_of_each_kind_ends_at_the_first_that_works() {
        use Route::{Anonymous, DmaBuf, DmaHeap, Local, Memfd, OpaqueFd, Udmabuf};
        assert_eq!(tried(Need::EachKind, &[Local, DmaHeap, Memfd]), [Local, DmaHeap]);
        let found = tried(Need::EachKind, &[OpaqueFd, Udmabuf, Anonymous]);
        assert_eq!(found, [Local, DmaBuf, OpaqueFd, DmaHeap, Udmabuf]);
    }

    #[test]
    fn costs_need_system_memory_of_a_device_and_itself_alone() {
        use Route::{DmaBuf, DmaHeap, Local, OpaqueFd, Udmabuf};
        assert_eq!(tried(Need::Costs, &[Local, Udmabuf]), [Local, DmaHeap, Udmabuf]);
        assert_eq!(tried(Need::Costs, &[OpaqueFd, DmaHeap]), [Local, DmaBuf, OpaqueFd]);
    }

    #[test]
    fn all_are_all() {
        let all: Vec<_> = [Route::Local].iter().chain(Route::LADDER).copied().collect();
        assert_eq!(tried(Need::All, &all), all);
    }
}
