//! Proves routes in a child process: a driver that crashes, or a call that never returns, ends the child alone.
//!
//! The child is the program of [`crate::EngineDescriptor::probe_program`], started as `program probe …`
//! ([`Request`]). It opens the same adapters, tries the routes, and writes lines to its standard output
//! ([`Line`]): first that it runs, then each route before its trial and the result after it. So if it dies during a
//! trial, that route is refused, and another child tries the remaining ones. A child that is not done in time is
//! killed; the route that it was trying is refused if that trial alone took longer than all of them may.

mod process;
mod words;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::need::Need;
use super::pair_key::PairKey;
use super::pass::Side;
use super::prove::{self, Outcome, ProbeDevices, Step, Task};
use super::refusal::{Refusal, RefusalReason, Route};
use super::route_file::Record;
use super::untried::Untried;
use super::verdict::{Trial, Verdict};
use crate::device::DeviceInner;
use crate::error::Error;

pub(crate) use words::Request;

use process::{Answer, End};
use words::Line;

/// No further child is started if less than this part of the limit is left.
const LEAST: u32 = 16;

/// Tries the routes that `known` says nothing about, in children. All of it ends within about `limit`.
///
/// `None` if the program cannot do it: the first child does not start, or it sees other adapters. After an answer,
/// the remaining routes are left untried instead: one of them may be what ends the children.
///
/// Locks: none may be held; this waits for the children.
pub(super) fn prove(
    program: &Path,
    (from, to): (&Arc<DeviceInner>, &Arc<DeviceInner>),
    known: Option<&Verdict>,
    limit: Duration,
) -> Option<Verdict> {
    let end = Instant::now() + limit;
    let pair = PairKey::new(from, to).text(&super::route_file::kernel());
    let mut open = prove::open_routes(from, to, known);
    let mut outcomes: Vec<(Route, Outcome)> = Vec::new();
    let mut missing = Untried::OutOfTime { limit };
    let ended = |how: &str| {
        let cause = format!("the child process ended: {how}");
        Untried::NoProbeDevice { side: Side::First, cause }
    };
    let mut answered = false;
    while !open.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        if answered && left < limit / LEAST {
            break;
        }
        let ladder = prove::ladder(Arc::ptr_eq(from, to));
        let request = Request {
            from: from.adapter().index(),
            to: to.adapter().index(),
            same: Arc::ptr_eq(from, to),
            // So that the child's own deadline comes first.
            limit: left * 3 / 4,
            skip: ladder.filter(|route| !open.contains(route)).collect(),
            pair: pair.clone(),
        };
        let Some(answer) = process::ask(program, &request, left) else {
            if answered {
                missing = ended("it has not answered");
                break;
            }
            return None;
        };
        answered = true;
        let before = open.len();
        for (route, outcome) in answer_outcomes(&answer, &request) {
            // A child may say anything.
            if let Some(at) = open.iter().position(|of| *of == route) {
                open.remove(at);
                outcomes.push((route, outcome));
            }
        }
        match answer.end {
            End::Died(how) if open.len() == before => {
                missing = ended(&how);
                break;
            }
            End::Died(_) => {}
            End::Done | End::Late { .. } => break,
        }
    }
    let try_route = |route| {
        let at = outcomes.iter().position(|(of, _)| *of == route);
        at.map_or_else(|| Outcome::Untried(missing.clone()), |at| outcomes.swap_remove(at).1)
    };
    Some(prove::walk(from, to, all_but(known), try_route).0)
}

/// A child tries all routes: to start it takes longer.
fn all_but(known: Option<&Verdict>) -> Task<'_> {
    Task { known, need: Need::All, retry: true }
}

/// What a child found out, and what its end says about the route that it was trying.
fn answer_outcomes(answer: &Answer, request: &Request) -> Vec<(Route, Outcome)> {
    let outcomes = answer.lines.iter().filter_map(|line| outcome(line, &request.pair));
    let mut outcomes: Vec<_> = outcomes.collect();
    let trial = |route| {
        let at = SystemTime::now();
        Trial { route, bytes: 0, passes: vec![], at, remembered: false }
    };
    let trying = answer.trying();
    let refused = match &answer.end {
        End::Done => None,
        End::Died(how) => Some(RefusalReason::Crashed { how: how.clone() }),
        // All trials together end within the limit, so this one has not kept it. One that was cut short may work.
        End::Late { silent } if *silent > request.limit => {
            Some(RefusalReason::NeverReturned { after: *silent })
        }
        End::Late { .. } => None,
    };
    if let Some((route, reason)) = trying.zip(refused) {
        tracing::warn!(route = route.name(), %reason, "the child process that tried a route");
        outcomes.push((route, Outcome::Refused(reason, trial(route))));
    }
    outcomes
}

fn outcome(line: &Line, pair: &str) -> Option<(Route, Outcome)> {
    match line {
        Line::Tried(record) if record.pair == pair => {
            let trial = Trial { remembered: false, ..record.trial.clone() };
            let route = trial.route;
            let outcome = match &record.result {
                Ok(working) => Outcome::Works(*working, trial),
                Err(refusal) => Outcome::Refused(refusal.reason.clone(), trial),
            };
            Some((route, outcome))
        }
        Line::Untried(route, cause) => {
            Some((*route, Outcome::Untried(Untried::Shortage { cause: cause.clone() })))
        }
        _ => None,
    }
}

/// The first line of an answer, written before a driver is called.
pub(crate) fn first_line() -> String {
    Line::Started.to_string()
}

/// The line of a child that cannot open the adapters.
pub(crate) fn other_line() -> String {
    Line::Other.to_string()
}

/// Tries the routes of a request, and writes the answer after its first line. The child's side.
///
/// # Errors
///
/// [`Error::Os`] if the answer cannot be written.
pub(crate) fn answer(
    request: &Request,
    (from, to): (&Arc<DeviceInner>, &Arc<DeviceInner>),
    mut write: impl FnMut(&str) -> Result<(), Error>,
) -> Result<(), Error> {
    let pair = PairKey::new(from, to).text(&super::route_file::kernel());
    if pair != request.pair {
        return write(&other_line());
    }
    let skipped = |&route: &Route| Refusal { route, reason: RefusalReason::Missing("skipped") };
    let skip = request.skip.iter().map(skipped).collect();
    let known = Verdict::new(vec![], skip, vec![], vec![]);
    let probes = ProbeDevices::default();
    let mut written = Ok(());
    let watch = |step: Step<'_>| {
        let line = match step {
            Step::Trying(route) => Some(Line::Trying(route)),
            Step::Tried(route, outcome) => line_of(&pair, route, outcome),
        };
        if let Some(line) = line
            && written.is_ok()
        {
            written = write(&line.to_string());
        }
    };
    let (verdict, _) =
        prove::prove_watched((from, to), all_but(Some(&known)), &probes, request.limit, watch);
    written?;
    // Those whose trial has ended are repeated, which changes nothing.
    for Refusal { route, reason } in &verdict.untried {
        let cause = match reason {
            RefusalReason::NotProvedYet(why) => why.to_string(),
            other => other.to_string(),
        };
        write(&Line::Untried(*route, cause).to_string())?;
    }
    write(&Line::Done.to_string())
}

/// The line that says how a trial has ended, if it is worth one.
fn line_of(pair: &str, route: Route, outcome: &Outcome) -> Option<Line> {
    let (working, refused, trial) = match outcome {
        Outcome::Works(working, trial) => (vec![*working], vec![], trial),
        Outcome::Refused(reason, trial) => {
            (vec![], vec![Refusal { route, reason: reason.clone() }], trial)
        }
        Outcome::Untried(why) | Outcome::NotReady(why) => {
            return Some(Line::Untried(route, why.to_string()));
        }
        Outcome::Stop(error) => return Some(Line::Untried(route, error.to_string())),
    };
    let verdict = Verdict::new(working, refused, vec![], vec![trial.clone()]);
    Record::of_verdict(pair, &verdict).next().map(Line::Tried)
}
