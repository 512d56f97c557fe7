//! Proves routes: data is written on one side and read back on the other, in both directions.
//!
//! A successful import proves nothing: NVIDIA/open-gpu-kernel-modules#1037 (the importer's first submission fails),
//! #1324 (writes silently dropped under an IOMMU), and SwiftShader with another driver's opaque fd. So a route is
//! used only once data has gone through it: by shaders, by the host if it maps the memory, and by the queue that
//! moves use.
//!
//! A route that does not work may cost the device that tries it. So routes are tried on devices of their own
//! (`ends`), never on the application's. Before each route, an empty submission must end on both (`control`): if
//! it does not, a device is busy, and the route is *untried*. If it does, a failure is the route's (`judge`), which
//! is refused, and the next one is tried.
//!
//! Routes are tried when there is a use for them ([`Need`]), best first: an attach tries the one that leads to the memory
//! of its buffer, and others only if that one is refused.
//!
//! All routes that are tried at once have one deadline. Memory that a hung route or a lost device may use stays with its devices,
//! until its work is over or the engine ends.
//!
//! Kernel counterpart: none; `pci_p2pdma_distance` decides by a list of bridges.

mod control;
mod ends;
mod image;
mod judge;
mod memory;
mod outcome;
mod passes;
mod stated;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use super::need::Need;
use super::refusal::{Refusal, RefusalReason, Route};
use super::untried::Untried;
use super::verdict::Verdict;
use crate::device::DeviceInner;
use crate::error::Error;

pub(crate) use ends::{ProbeDevices, ProbesHeld};
pub(crate) use image::{
    Ended, ImageFault, ImageMemory, ImageOutcome, ImagePasses, ImageProbe, ImageRead, ProbePlane,
};
pub(super) use image::{linear_places, prove_image};
pub(super) use outcome::Outcome;

use control::Session;

/// What is to be proved of a pair.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    /// What is known already.
    pub(super) known: Option<&'a Verdict>,
    pub(super) need: Need,
    /// Whether routes that could not be tried earlier are tried again.
    pub(super) retry: bool,
}

/// Tries the routes from `from` to `to` that are needed and not known. All of it ends within about `limit`.
///
/// Returns what is known then, and the error that kept the remaining routes from being tried, if it is one that the
/// caller can mend: no file descriptors.
///
/// Locks: none may be held; this waits for devices.
pub(super) fn prove(
    pair: (&Arc<DeviceInner>, &Arc<DeviceInner>),
    task: Task<'_>,
    probes: &ProbeDevices,
    limit: Duration,
) -> (Verdict, Option<Error>) {
    prove_watched(pair, task, probes, limit, |_| {})
}

/// A step of a proof.
pub(super) enum Step<'a> {
    /// The route is tried now. The devices are open.
    Trying(Route),
    /// The trial has ended.
    Tried(Route, &'a Outcome),
}

/// As [`prove`]; calls `watch` before and after each trial.
pub(super) fn prove_watched(
    (from, to): (&Arc<DeviceInner>, &Arc<DeviceInner>),
    task: Task<'_>,
    probes: &ProbeDevices,
    limit: Duration,
    mut watch: impl FnMut(Step<'_>),
) -> (Verdict, Option<Error>) {
    let mut session = Session::new([from, to], probes, limit);
    walk(from, to, task, |route| {
        if let Err(why) = session.may_try() {
            return Outcome::NotReady(why);
        }
        watch(Step::Trying(route));
        let outcome = trial::run(route, &mut session);
        watch(Step::Tried(route, &outcome));
        outcome
    })
}

/// Goes through all routes: those that cannot work by what is reported, those that are known, those that are not
/// needed, and the others, which `try_route` tries.
pub(super) fn walk(
    from: &Arc<DeviceInner>,
    to: &Arc<DeviceInner>,
    Task { known, need, retry }: Task<'_>,
    mut try_route: impl FnMut(Route) -> Outcome,
) -> (Verdict, Option<Error>) {
    let (mut found, mut unneeded) = (Found::default(), vec![]);
    for route in ladder(Arc::ptr_eq(from, to)) {
        // What is reported may have changed since, if `known` was read from a file.
        if let Err(reason) = stated::check(route, from, to) {
            found.refused.push(Refusal { route, reason });
            continue;
        }
        if known.is_some_and(|known| found.take_over(known, route)) {
            continue;
        }
        let needed = need.wants(route, &found.working);
        let mut earlier = known.iter().flat_map(|known| &known.untried);
        match earlier.find(|refusal| refusal.route == route) {
            // If it is due and not needed, it is tried once it is.
            Some(untried) if !retry => found.untried.push(untried.clone()),
            _ if !needed => unneeded.push(route),
            _ => match found.why_not() {
                Some(why) => found.leave(route, why),
                None => found.add(route, try_route(route)),
            },
        }
    }
    // Devices that are not ready for one route are not asked again for the next one, before the delay is over.
    if let Some(why) = found.why_not() {
        unneeded.into_iter().for_each(|route| found.leave(route, why.clone()));
        found.untried.sort_by_key(|refusal| refusal.route);
    }
    let Found { working, refused, untried, trials, stopped, .. } = found;
    (Verdict::new(working, refused, untried, trials), stopped)
}

/// The routes that are to be tried: all but those that cannot work by what is reported, and those that are known.
pub(super) fn open_routes(
    from: &Arc<DeviceInner>,
    to: &Arc<DeviceInner>,
    known: Option<&Verdict>,
) -> Vec<Route> {
    let is_known = |route| known.is_some_and(|known| Found::default().take_over(known, route));
    let open = ladder(Arc::ptr_eq(from, to)).filter(|route| !is_known(*route));
    open.filter(|route| stated::check(*route, from, to).is_ok()).collect()
}

/// The verdict on a pair whose routes this thread could not try within `limit`.
pub(super) fn out_of_time(
    (from, to): (&Arc<DeviceInner>, &Arc<DeviceInner>),
    task: Task<'_>,
    limit: Duration,
) -> Verdict {
    walk(from, to, task, |_| Outcome::Untried(Untried::OutOfTime { limit })).0
}

/// The verdict on a pair, as far as an earlier one is still true by what is reported. Nothing is tried.
pub(super) fn recalled(
    (from, to): (&Arc<DeviceInner>, &Arc<DeviceInner>),
    earlier: &Verdict,
) -> Verdict {
    let task = Task { known: Some(earlier), need: Need::Known, retry: false };
    walk(from, to, task, |_| Outcome::Untried(Untried::OutOfTime { limit: Duration::ZERO })).0
}

/// The routes to try, best first. A device accesses its own exports without a route, and needs no staging.
pub(super) fn ladder(same: bool) -> impl Iterator<Item = Route> {
    let local = same.then_some(Route::Local);
    local.into_iter().chain(Route::LADDER.iter().copied().filter(move |route| {
        let of_host = [Route::DmaHeap, Route::Udmabuf, Route::Memfd, Route::Anonymous];
        !same || of_host.contains(route)
    }))
}

/// What was found out so far.
#[derive(Default)]
struct Found {
    working: Vec<super::verdict::Working>,
    refused: Vec<Refusal>,
    untried: Vec<Refusal>,
    trials: Vec<super::verdict::Trial>,
    /// Why no other route is tried: the devices themselves are not ready.
    not_ready: Option<Untried>,
    stopped: Option<Error>,
}

impl Found {
    /// Takes over what an earlier proof found out about a route, if it did.
    fn take_over(&mut self, known: &Verdict, route: Route) -> bool {
        let working = known.working.iter().find(|working| working.route == route);
        let refused = known.refused.iter().find(|refusal| refusal.route == route);
        self.working.extend(working.copied());
        self.refused.extend(refused.cloned());
        self.trials.extend(known.trials.iter().find(|trial| trial.route == route).cloned());
        working.is_some() || refused.is_some()
    }

    /// Why no further route is tried; `None` if the next one is.
    fn why_not(&self) -> Option<Untried> {
        let stopped = self.stopped.as_ref();
        let shortage = stopped.map(|error| Untried::Shortage { cause: error.to_string() });
        shortage.or_else(|| self.not_ready.clone())
    }

    /// Leaves a route untried.
    fn leave(&mut self, route: Route, why: Untried) {
        self.untried.push(Refusal { route, reason: RefusalReason::NotProvedYet(why) });
    }

    fn add(&mut self, route: Route, outcome: Outcome) {
        match outcome {
            Outcome::Works(working, trial) => {
                self.working.push(working);
                self.trials.push(trial);
            }
            Outcome::Refused(reason, trial) => {
                tracing::debug!(route = route.name(), %reason, "route refused");
                self.refused.push(Refusal { route, reason });
                self.trials.push(trial);
            }
            Outcome::Untried(why) => self.leave(route, why),
            Outcome::NotReady(why) => {
                self.not_ready = Some(why.clone());
                self.leave(route, why);
            }
            Outcome::Stop(error) => {
                let why = Untried::Shortage { cause: error.to_string() };
                self.stopped = Some(error);
                self.leave(route, why);
            }
        }
    }
}
