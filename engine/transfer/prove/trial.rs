//! The trial of one route: its memory is allocated, imported, and passed through.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::super::pass::{Pass, Side};
use super::super::path::{Unfinished, staged_copy};
use super::super::refusal::{RefusalReason, Route};
use super::super::verdict::{ExporterSpeed, Trial, Working};
use super::control::Session;
use super::ends::RouteEnd;
use super::judge::{Failure, Judgement, Stage, Tried, Unproved, at, of_staged, on};
use super::memory::{Memory, origin, probe_bytes, span};
use super::outcome::{Outcome, Until};
use super::passes::{Exporter, Shared, verify};
use super::stated::{check_provider, import_pairs};
use crate::device::{AdapterKind, DeviceInner};
use crate::memory::{Allocation, DomainKind, ImportKind, Provider, View};

/// Tries a route: each way in which both devices can import the memory, until one works.
pub(super) fn run(route: Route, session: &mut Session<'_>) -> Outcome {
    if route == Route::Staged {
        return staged(session);
    }
    let mut last = None;
    for way in ways(route, session.devices()) {
        let outcome = try_way(way, session);
        match outcome {
            Outcome::Works(..) | Outcome::NotReady(_) | Outcome::Stop(_) => return outcome,
            // A way that was not tried leaves the route open.
            Outcome::Untried(_) => last = Some(outcome),
            Outcome::Refused(..) => match last {
                Some(Outcome::Untried(_)) => {}
                _ => last = Some(outcome),
            },
        }
    }
    let none = || {
        let reason = RefusalReason::Missing("no memory that both devices can use");
        Outcome::Refused(reason, trial(route, 0, vec![]))
    };
    last.unwrap_or_else(none)
}

/// One way to share memory.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) route: Route,
    pub(super) provider: Provider,
    pub(super) imports: (ImportKind, ImportKind),
}

/// Each way in which both devices can import memory of a route. One device imports it once.
pub(super) fn ways(route: Route, [from, to]: [&Arc<DeviceInner>; 2]) -> Vec<Way> {
    let same = Arc::ptr_eq(from, to);
    let ways_of = |provider| {
        let pairs = match check_provider(provider, from, to) {
            Ok(()) => import_pairs(provider, from, to).unwrap_or_default(),
            Err(_) => vec![],
        };
        let pairs = pairs.into_iter().filter(move |(ours, theirs)| !same || ours == theirs);
        pairs.map(move |imports| Way { route, provider, imports })
    };
    match route.provider(from.id()) {
        Some(provider) => ways_of(provider).collect(),
        None => private_providers(from).flat_map(ways_of).collect(),
    }
}

fn try_way(way: Way, session: &mut Session<'_>) -> Outcome {
    let devices = session.devices();
    let large = probe_bytes(devices.map(|device| &**device));
    let mut bytes = large;
    let mut repeated = false;
    loop {
        let ends = match session.ready() {
            Ok(ends) => ends,
            Err(why) => return Outcome::NotReady(why),
        };
        let share = session.left() / 2;
        let mut attempt =
            Attempt { until: Until { end: Instant::now() + share }, bytes, passes: vec![] };
        let failed = match attempt.run(way, &ends, session) {
            Ok(working) => return Outcome::Works(working, attempt.trial(way.route)),
            Err(Unproved::Refused(reason)) => {
                return Outcome::Refused(reason, attempt.trial(way.route));
            }
            Err(Unproved::Failed(failed)) => failed,
        };
        drop(ends);
        let smallest = probe_bytes_of_least(large);
        if failed.stage != Stage::Use && bytes > smallest && !failed.error.is_device_lost() {
            // Large memory may be refused for its size: udmabuf has a limit, heaps are small.
            bytes = smallest;
            continue;
        }
        match session.judge(failed, Tried { provider: way.provider, bytes, share }) {
            Judgement::RefusedIfRepeated(_) if !repeated => repeated = true,
            Judgement::Refused(reason) | Judgement::RefusedIfRepeated(reason) => {
                return Outcome::Refused(reason, attempt.trial(way.route));
            }
            Judgement::Other(outcome) => return outcome,
        }
    }
}

/// The size to try after a probe of `large` bytes was refused.
fn probe_bytes_of_least(large: u64) -> u64 {
    large.min(1 << 20)
}

fn trial(route: Route, bytes: u64, passes: Vec<Pass>) -> Trial {
    Trial { route, bytes, passes, at: SystemTime::now(), remembered: false }
}

/// One attempt, with the passes that succeeded.
struct Attempt {
    until: Until,
    bytes: u64,
    passes: Vec<Pass>,
}

impl Attempt {
    fn trial(self, route: Route) -> Trial {
        trial(route, self.bytes, self.passes)
    }

    fn run(
        &mut self,
        way: Way,
        ends: &[RouteEnd; 2],
        session: &mut Session<'_>,
    ) -> Result<Working, Unproved> {
        let memory = self.allocate(way.provider, &ends[0])?;
        let alone = if is_measured(way.provider, &ends[0].device) && !session.is_same() {
            match self.allocate(way.provider, &ends[0]) {
                Ok(alone) => Some(alone),
                Err(error) => {
                    session.close([memory], self.until);
                    return Err(error);
                }
            }
        } else {
            None
        };
        let found = self.pass_through(way, ends, &memory, alone.as_ref());
        session.close([memory].into_iter().chain(alone), self.until);
        found
    }

    fn allocate(&self, provider: Provider, near: &RouteEnd) -> Result<Memory, Unproved> {
        let made = Allocation::create(&origin(provider, &near.device), self.bytes);
        made.map(Memory::new).map_err(at(Side::First, Stage::Allocate))
    }

    fn pass_through(
        &mut self,
        way: Way,
        [near, far]: &[RouteEnd; 2],
        memory: &Memory,
        alone: Option<&Memory>,
    ) -> Result<Working, Unproved> {
        let (ours, theirs) = way.imports;
        let view = |memory: &Memory, end: &RouteEnd, kind, side| {
            memory.allocation().view(&end.device, kind).map_err(at(side, Stage::Import))
        };
        let near_view = view(memory, near, ours, Side::First)?;
        let alone_view = alone.map(|alone| view(alone, near, ours, Side::First)).transpose()?;
        let exporter = alone.zip(alone_view.as_ref()).map(|(alone, view)| Exporter {
            end: near,
            shared: (memory, span(&near_view, self.bytes)),
            alone: (alone, span(view, self.bytes)),
            until: self.until,
        });
        let before = exporter.as_ref().map(Exporter::before).transpose()?;
        let far_view = view(memory, far, theirs, Side::Second)?;
        let (bytes, until) = (self.bytes, self.until);
        let ends: [(&RouteEnd, &View); 2] = [(near, &near_view), (far, &far_view)];
        let read = Shared { memory, ends, bytes, until }.prove(&mut self.passes)?;
        let speed = exporter.zip(before).map(|(exporter, before)| exporter.after(before));
        let exporter: Option<ExporterSpeed> = speed.transpose()?;
        let import = (way.route != Route::Local).then_some(theirs);
        Ok(Working { route: way.route, read, bytes, exporter, import })
    }
}

/// Whether a driver may move memory of `provider` to the host because another device imports it: not if it is not in
/// the device's own memory, nor for software devices, which have none.
fn is_measured(provider: Provider, exporter: &DeviceInner) -> bool {
    let Provider::Device { domain: DomainKind::Vram, .. } = provider else { return false };
    let faults = exporter.calls().device_faults();
    exporter.adapter().kind() != AdapterKind::Cpu
        || faults.is_some_and(|faults| faults.dragging_imports)
}

/// The providers of memory that only this device needs to access: memory that it can export, or else import.
fn private_providers(device: &DeviceInner) -> impl Iterator<Item = Provider> + use<> {
    let of_device = [Route::DmaBuf, Route::OpaqueFd];
    let of_host = [Route::DmaHeap, Route::Udmabuf, Route::Memfd, Route::Anonymous];
    let id = device.id();
    of_device.into_iter().chain(of_host).filter_map(move |route| route.provider(id))
}

/// Copies through staging memory of both devices.
fn staged(session: &mut Session<'_>) -> Outcome {
    let ends = match session.ready() {
        Ok(ends) => ends,
        Err(why) => return Outcome::NotReady(why),
    };
    let bytes = probe_bytes_of_least(probe_bytes(session.devices().map(|device| &**device)));
    let mut attempt = Attempt {
        until: Until { end: Instant::now() + session.left() / 2 },
        bytes,
        passes: vec![],
    };
    match attempt.staged(&ends, session) {
        Ok(read) => {
            let working =
                Working { route: Route::Staged, read, bytes, exporter: None, import: None };
            Outcome::Works(working, attempt.trial(Route::Staged))
        }
        Err(Unproved::Refused(reason)) => Outcome::Refused(reason, attempt.trial(Route::Staged)),
        Err(Unproved::Failed(failure)) => of_staged(failure),
    }
}

impl Attempt {
    fn staged(
        &mut self,
        [near, far]: &[RouteEnd; 2],
        session: &mut Session<'_>,
    ) -> Result<Duration, Unproved> {
        let (source, near_view) = self.private(near, session, Side::First)?;
        let (target, far_view) = match self.private(far, session, Side::Second) {
            Ok(made) => made,
            Err(error) => {
                session.close([source], self.until);
                return Err(error);
            }
        };
        let found = self.carry(near, (&source, &near_view), far, (&target, &far_view));
        drop((near_view, far_view));
        session.close([source, target], self.until);
        found
    }

    fn carry(
        &mut self,
        near: &RouteEnd,
        (source, near_view): (&Memory, &View),
        far: &RouteEnd,
        (target, far_view): (&Memory, &View),
    ) -> Result<Duration, Unproved> {
        const SEED: u32 = 0x7374_6167;
        let (from, to) = (span(near_view, self.bytes), span(far_view, self.bytes));
        let filled =
            source.run(&near.device, self.until, |watch| near.kernels.fill(from, SEED, watch));
        filled.map_err(on(Side::First))?;
        let start = Instant::now();
        let copied = staged_copy((from, &near.staging), (to, &far.staging), self.until.left());
        copied.map_err(|Unfinished { error, reading, writing }| {
            source.keep(reading);
            target.keep(writing);
            on(Side::First)(error)
        })?;
        verify(target, far, to, SEED, (Side::Second, Pass::FirstToSecond), self.until)?;
        self.passes.push(Pass::FirstToSecond);
        Ok(start.elapsed())
    }

    /// Memory that only this device needs to access, from the first provider that has some.
    fn private(
        &self,
        end: &RouteEnd,
        session: &mut Session<'_>,
        side: Side,
    ) -> Result<(Memory, Arc<View>), Unproved> {
        let device = &end.device;
        let mut last = RefusalReason::Missing("no memory that the device can use").into();
        for provider in private_providers(device) {
            let kinds = check_provider(provider, device, device)
                .and_then(|()| import_pairs(provider, device, device));
            let Ok(kinds) = kinds else { continue };
            let memory = match self.allocate(provider, end) {
                Ok(memory) => memory,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            match memory.allocation().view(device, kinds[0].1) {
                Ok(view) => return Ok((memory, view)),
                Err(error) => {
                    session.close([memory], self.until);
                    last = Unproved::Failed(Failure { side, stage: Stage::Import, error });
                }
            }
        }
        Err(last)
    }
}
