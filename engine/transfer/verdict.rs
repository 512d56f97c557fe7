//! What is known of the routes between two devices: which were proved, how, how fast, and which one to use.

use std::time::{Duration, SystemTime};

use super::pass::Pass;
use super::refusal::{Refusal, RefusalReason, Route};
use super::route_set::RouteSet;
use crate::memory::{DomainKind, ImportKind, Provider};

/// A route that was proved, and how fast it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Working {
    /// The route.
    pub route: Route,
    /// How long the second device took to read the probe's bytes once the route was warm. This is one pass
    /// over the bytes; for [`Route::Staged`] the copy before it is included.
    pub read: Duration,
    /// Size of the probe in bytes.
    pub bytes: u64,
    /// How fast the first device read its own memory before and after the second one imported it. `None` if that
    /// was not measured: the memory is not the first device's, or the device is a software one, all of whose
    /// memory is the host's.
    pub exporter: Option<ExporterSpeed>,
    /// How the second device imported the memory; `None` for routes without an import.
    pub(crate) import: Option<ImportKind>,
}

impl Working {
    /// Whether the route moves the first device's memory to the host ([`RefusalReason::DragsOut`]). Such a route is
    /// one over system memory.
    pub fn drags_out(&self) -> bool {
        self.exporter.is_some_and(|speed| speed.is_dragged())
    }

    /// The time for a number of bytes, for comparison with a route that was proved with another number.
    fn read_of(&self, bytes: u64) -> f64 {
        // CAST: an estimate.
        self.read.as_secs_f64() * bytes as f64 / self.bytes.max(1) as f64
    }
}

/// How long the first device of a route took to read its own memory. Each is the best of several passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExporterSpeed {
    /// Before the second device imported it.
    pub before: Duration,
    /// Afterwards.
    pub after: Duration,
    /// Other memory of the same kind and size, which is not shared, between the passes of `after`.
    pub alone: Duration,
}

impl ExporterSpeed {
    /// Whether the import made the exporter slow: the memory takes more than twice the time that it took before,
    /// and more than twice the time that other memory takes now. So a busy machine is not mistaken for it.
    pub fn is_dragged(&self) -> bool {
        self.after > self.before * 2 && self.after > self.alone * 2
    }
}

/// What was done to prove one route: the evidence of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trial {
    /// The route.
    pub route: Route,
    /// Size in bytes of the memory that was shared.
    pub bytes: u64,
    /// The passes that found the right bytes.
    pub passes: Vec<Pass>,
    /// When it was done, by the system's clock.
    pub at: SystemTime,
    /// Whether it was done by another engine, and read from the file of [`crate::EngineDescriptor::route_cache`].
    pub remembered: bool,
}

/// Everything known about the routes from one device to another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// The route to use. [`Route::Staged`] if the devices cannot share memory.
    pub route: Route,
    /// Whether the route was proved with data, in both directions.
    pub verified: bool,
    /// All routes that were proved, best first.
    pub working: Vec<Working>,
    /// The routes that do not work, with the reason.
    pub refused: Vec<Refusal>,
    /// The routes that were not tried yet, because a device was busy or full. They are tried again when a buffer
    /// would use them, after an increasing delay.
    pub untried: Vec<Refusal>,
    /// What was done to prove each route that was tried.
    pub trials: Vec<Trial>,
    /// Size in bytes of the probe of the route to use.
    pub probe_bytes: u64,
}

/// How much faster a route must be to be preferred to one higher on the ladder.
const WORTH_IT: f64 = 2.0;

impl Verdict {
    /// Chooses among the working routes: the highest on the ladder, unless another one is twice as fast, or it
    /// drags the first device's memory to the host and another one does not. For a device and itself,
    /// [`Route::Local`] always wins.
    pub(crate) fn new(
        working: Vec<Working>,
        refused: Vec<Refusal>,
        untried: Vec<Refusal>,
        trials: Vec<Trial>,
    ) -> Self {
        let chosen = working.iter().copied().reduce(|best, next| {
            let faster = next.read_of(best.bytes) * WORTH_IT < best.read.as_secs_f64();
            let better =
                if best.drags_out() == next.drags_out() { faster } else { best.drags_out() };
            if best.route != Route::Local && next.route.is_shared() && better { next } else { best }
        });
        Self {
            route: chosen.map_or(Route::Staged, |chosen| chosen.route),
            verified: chosen.is_some(),
            probe_bytes: chosen.map_or(0, |chosen| chosen.bytes),
            working,
            refused,
            untried,
            trials,
        }
    }

    /// How the second device imports memory of `provider`.
    ///
    /// # Errors
    ///
    /// The reason why it does not; `None` if there is none on the list.
    pub(crate) fn import_kind(
        &self,
        provider: Provider,
    ) -> Result<Option<ImportKind>, Option<RefusalReason>> {
        let route = Route::of(provider).ok_or(None)?;
        let Some(working) = self.working.iter().find(|working| working.route == route) else {
            let reasons = self.refused.iter().chain(&self.untried);
            let mut reasons = reasons.filter(|refusal| refusal.route == route);
            return Err(reasons.next().map(|refusal| refusal.reason.clone()));
        };
        match working.exporter.filter(|_| working.drags_out() && self.has_system_route()) {
            Some(ExporterSpeed { before, after, .. }) => {
                Err(Some(RefusalReason::DragsOut { before, after }))
            }
            None => Ok(working.import),
        }
    }

    /// The routes that do not work.
    pub(crate) fn refused_set(&self) -> RouteSet {
        self.refused.iter().map(|refusal| refusal.route).collect()
    }

    /// Whether the route was proved, and works.
    pub(crate) fn works(&self, route: Route) -> bool {
        self.working.iter().any(|working| working.route == route)
    }

    /// Whether a trial, or what drivers report, has decided about the route.
    pub(crate) fn knows(&self, route: Route) -> bool {
        self.works(route) || self.refused.iter().any(|refusal| refusal.route == route)
    }

    /// Whether it works, but moves the first device's memory to the host.
    pub(crate) fn drags_out(&self, route: Route) -> bool {
        self.working.iter().any(|working| working.route == route && working.drags_out())
    }

    /// Whether a route over system memory works.
    fn has_system_route(&self) -> bool {
        let mut working = self.working.iter();
        working.any(|working| working.route.kind() == Some(DomainKind::System))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    fn working(route: Route, micros: u32) -> Working {
        Working { route, read: MICRO * micros, bytes: 1 << 20, exporter: None, import: None }
    }

    fn dragging(route: Route, micros: u32) -> Working {
        let exporter = ExporterSpeed { before: MICRO, after: MICRO * 30, alone: MICRO };
        Working { exporter: Some(exporter), ..working(route, micros) }
    }

    fn choice(list: &[Working]) -> Route {
        Verdict::new(list.to_vec(), vec![], vec![], vec![]).route
    }

    fn check(routes: &[(Route, u32)], expected: Route) {
        let list: Vec<_> = routes.iter().map(|&(route, micros)| working(route, micros)).collect();
        assert_eq!(choice(&list), expected, "{routes:?}");
    }

    #[test]
    fn the_ladder_decides_unless_another_route_is_twice_as_fast() {
        check(&[], Route::Staged);
        check(&[(Route::DmaBuf, 100), (Route::Memfd, 51)], Route::DmaBuf);
        check(&[(Route::DmaBuf, 100), (Route::Memfd, 49)], Route::Memfd);
        check(&[(Route::Memfd, 100), (Route::Staged, 1)], Route::Memfd);
        check(&[(Route::Staged, 100)], Route::Staged);
        check(&[(Route::Local, 100), (Route::Memfd, 1)], Route::Local);
    }

    #[test]
    fn speeds_of_probes_of_different_sizes_are_compared_per_byte() {
        let large = Working { bytes: 64 << 20, ..working(Route::DmaBuf, 6400) };
        assert_eq!(choice(&[large, working(Route::Memfd, 99)]), Route::DmaBuf);
        assert_eq!(choice(&[large, working(Route::Memfd, 49)]), Route::Memfd);
    }

    #[test]
    fn a_route_that_drags_memory_out_comes_behind_one_over_system_memory() {
        assert_eq!(choice(&[dragging(Route::DmaBuf, 10), working(Route::Memfd, 15)]), Route::Memfd);
        assert_eq!(
            choice(&[working(Route::DmaHeap, 15), dragging(Route::DmaBuf, 1)]),
            Route::DmaHeap
        );
        assert_eq!(
            choice(&[dragging(Route::DmaBuf, 10), working(Route::Staged, 1)]),
            Route::DmaBuf
        );
    }

    #[test]
    fn an_exporter_is_dragged_only_if_other_memory_stays_fast() {
        let speed = |before, after, alone| {
            let [before, after, alone] = [before, after, alone].map(|micros| MICRO * micros);
            ExporterSpeed { before, after, alone }.is_dragged()
        };
        assert!(!speed(100, 200, 100), "twice is allowed");
        assert!(speed(100, 201, 100));
        assert!(!speed(100, 5000, 4000), "the machine is busy");
        assert!(!speed(100, 150, 10), "it was as slow before");
    }
}
