//! Which cells there are: the ways of each pair of ends, and what is measured of the best of them.

use peerbuf::{CopyBy, Device, Engine};

use super::super::run::{Actor, Cell, CopyEngine, Direction, End, Key, Pattern};
use super::job::{Part, Spec, missing};
use super::label;
use super::leg::Plan;
use super::place::{Place, Pool, Role, end};

/// Size of the buffers with which ways are looked for.
const PROBE: u64 = 64 << 10;

/// What is to be measured, and the cells of ways that are not there.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) specs: Vec<Spec>,
    pub(super) missing: Vec<Cell>,
}

/// Finds all ways of all pairs of ends.
pub(super) struct Planner<'p, 'a> {
    pub(super) engine: &'a Engine,
    pub(super) devices: &'a [Device],
    pub(super) pool: &'p mut Pool<'a>,
    /// Whether a cell of this name is wanted.
    pub(super) wants: &'p dyn Fn(&Key) -> bool,
    /// Whether compute passes are left out between two ends: where they are slow, they take most of a short run.
    pub(super) quick: bool,
}

impl Planner<'_, '_> {
    /// One copy at a time, by each way: between devices, between each device and the host, and within a device.
    pub(super) fn single(&mut self, size: u64) -> Planned {
        let mut planned = Planned::default();
        let count = self.devices.len();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let ends = (end(from), end(to));
                self.ways(&mut planned, ends, (Place::Own(from), Place::Own(to)), size);
                // Through system memory that both see: one of them copies, and the other one uses it in place.
                let between = Place::Between(from, to);
                self.ways(&mut planned, ends, (Place::Own(from), between), size);
                self.ways(&mut planned, ends, (between, Place::Own(to)), size);
            }
        }
        for device in 0..count {
            let (own, host) = (Place::Own(device), Place::Host(device));
            self.ways(&mut planned, (End::Host, end(device)), (host, own), size);
            self.ways(&mut planned, (end(device), End::Host), (own, host), size);
            self.ways(&mut planned, (end(device), end(device)), (own, own), size);
        }
        planned
    }

    /// The ways from one place to another.
    fn ways(
        &mut self,
        planned: &mut Planned,
        (from_end, to_end): (End, End),
        (from, to): (Place, Place),
        size: u64,
    ) {
        let ends = self
            .pool
            .get(from, PROBE, Role::Source)
            .and_then(|source| Ok((source, self.pool.get(to, PROBE, Role::Target(0))?)));
        let key = |way: &str, engine, actor| Key {
            from: from_end,
            to: to_end,
            way: way.to_owned(),
            engine,
            direction: Direction::There,
            actor,
            size_bytes: size,
            pattern: Pattern::Pair,
            processes: 1,
        };
        let mut absent = |key: Key, why: String| {
            if (self.wants)(&key) {
                planned.missing.push(missing(key, why));
            }
        };
        let (source, target) = match ends {
            Ok(ends) => ends,
            // There is no such memory, for one of the two.
            Err(error) => {
                let key = key("system", CopyEngine::MainQueue, Actor::Importer);
                return absent(key, error.with_causes());
            }
        };
        let (source, target) = (&source[0].buffer, &target[0].buffer);
        let ways = match self.engine.copy_ways(source, target) {
            Ok(ways) => ways,
            Err(error) => {
                let key = key("any", CopyEngine::MainQueue, Actor::Importer);
                return absent(key, error.with_causes());
            }
        };
        for way in ways {
            let plan = Plan { from, to, by: way.by };
            // What the host does in memory that one of the devices imports is what it does in its own.
            let is_left_out = self.quick && from != to && matches!(plan.by, CopyBy::ComputePass(_));
            if is_left_out || !is_meant(&plan, self.devices) {
                continue;
            }
            let name = match (&plan.by, from_end == to_end) {
                (CopyBy::Ring, _) => "staged",
                (CopyBy::Host | CopyBy::HostPastCache, _) => "host_visible",
                (_, true) => "local",
                (by, false) => {
                    let is_sources = by.device() == Some(&source.home());
                    let crossed = match (from, to) {
                        (Place::Own(_), Place::Own(_)) if is_sources => target,
                        (Place::Own(_), Place::Own(_))
                        | (Place::Host(_) | Place::Between(..), _) => source,
                        _ => target,
                    };
                    crossed.provider().name()
                }
            };
            let key = key(name, label::engine_of(&plan.by), actor(&plan, self.devices));
            match way.missing {
                None if (self.wants)(&key) => {
                    let cells = vec![(key, Part::One(0))];
                    planned.specs.push(Spec { cells, plans: vec![plan], size });
                }
                None => {}
                // Said once for each device, and once for each pair and device.
                Some(_) if repeats(&plan) => {}
                Some(error) => {
                    let why = reason(&error, &key.way);
                    absent(key, why);
                }
            }
        }
    }
}

/// Why a way is not there. Of an error that has a reason for each route, that of this way's.
fn reason(error: &peerbuf::Error, way: &str) -> String {
    let reasons = crate::failure::reasons(error);
    let own = reasons.iter().find_map(|reason| reason.strip_prefix(way)?.strip_prefix(": "));
    match own {
        Some(own) => own.to_owned(),
        None if reasons.is_empty() => error.with_causes(),
        None => reasons.join("; "),
    }
}

/// Whether a way is one of the two ends: of copies through memory between two devices, only the end acts whose own memory
/// the other side is, and of those with the host, no ring.
fn is_meant(plan: &Plan, devices: &[Device]) -> bool {
    let by = plan.by.device();
    let of = |device: usize| by == Some(&devices[device]);
    match (plan.from, plan.to) {
        (Place::Own(from), Place::Between(..)) => of(from),
        (Place::Between(..), Place::Own(to)) => of(to),
        (Place::Own(from), Place::Own(to)) if from == to => by.is_some(),
        (Place::Own(_), Place::Own(_)) => true,
        _ => plan.by != CopyBy::Ring,
    }
}

/// Whether the reason why this way is not there is that of another one: a device has no queue for copies whatever it
/// copies, and a compute pass needs what a copy command needs.
fn repeats(plan: &Plan) -> bool {
    match plan.by {
        CopyBy::TransferQueue(_) => plan.from != plan.to,
        CopyBy::ComputePass(_) => true,
        _ => false,
    }
}

/// Which end of the copy acts.
fn actor(plan: &Plan, devices: &[Device]) -> Actor {
    let Some(by) = plan.by.device() else {
        return if plan.by == CopyBy::Ring { Actor::Both } else { Actor::Host };
    };
    match (plan.from, plan.to) {
        (Place::Own(from), Place::Own(_) | Place::Between(..)) if *by == devices[from] => {
            Actor::Exporter
        }
        _ => Actor::Importer,
    }
}

/// The best way from one end to another, as it was measured.
#[derive(Clone, Debug)]
pub(super) struct Best {
    pub(super) key: Key,
    pub(super) plan: Plan,
}

/// Both directions at once, by the best way of each.
pub(super) fn both(there: &Best, back: &Best, size: u64) -> Spec {
    let (from, to) = (there.key.from, there.key.to);
    let key = |of: Key, direction| Key { from, to, direction, size_bytes: size, ..of };
    let sum = common(&[there, back]);
    Spec {
        cells: vec![
            (key(there.key.clone(), Direction::BothThere), Part::One(0)),
            (key(back.key.clone(), Direction::BothBack), Part::One(1)),
            (key(sum, Direction::BothSum), Part::All),
        ],
        plans: vec![there.plan.clone(), back.plan.clone()],
        size,
    }
}

/// Several pairs at once, by the best way of each. There are at least two.
pub(super) fn together(
    pattern: Pattern,
    (from, to): (End, End),
    best: &[&Best],
    size: u64,
) -> Spec {
    let key = Key { from, to, pattern, size_bytes: size, ..common(best) };
    Spec {
        cells: vec![(key, Part::All)],
        plans: best.iter().map(|best| best.plan.clone()).collect(),
        size,
    }
}

/// The key of copies that run at once: what they have in common. There is at least one.
fn common(best: &[&Best]) -> Key {
    let first = &best[0].key;
    let all = |is: fn(&Key, &Key) -> bool| best.iter().all(|best| is(&best.key, first));
    Key {
        way: if all(|it, first| it.way == first.way) { &first.way } else { "best" }.into(),
        engine: if all(|it, first| it.engine == first.engine) {
            first.engine
        } else {
            CopyEngine::Several
        },
        actor: if all(|it, first| it.actor == first.actor) { first.actor } else { Actor::Both },
        ..first.clone()
    }
}
