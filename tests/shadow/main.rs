//! Random operations on a few buffers, against a shadow of each: plain bytes and plain rules.
//!
//! After every step: everybody at a buffer was told once of each of its moves, what is held has not moved,
//! what failed has changed nothing, and as many objects are alive as the shadows know. The bytes are those
//! of the last writer that has finished; they are looked at after many steps but not after all, because
//! a look waits for what is under way, and moves behind copies behind moves are what this is about.
//!
//! In one of the tests calls into drivers and the kernel fail every now and then: an operation that fails
//! for that reason has changed nothing, and succeeds the second time.
//!
//! The same seed gives the same operations: `SHADOW_SEED=5 cargo test --test shadow` runs that one alone.

#[path = "../common/mod.rs"]
mod common;
mod parts;
mod residency;
mod revocation;
mod steps;
mod subject;
mod together;
mod uses;

use std::collections::{BTreeMap, VecDeque};

use common::random::Random;
use common::{Rig, say, soak};
use peerbuf::observe::Object;
use peerbuf::{Device, Engine};
use subject::Subject;

/// Operations per seed.
const STEPS: u32 = 400;
/// What is printed of them when one went wrong.
const TAIL: usize = 40;

/// The buffers, and what is done to them.
struct World<'a> {
    engine: &'a Engine,
    devices: &'a [Device],
    random: Random,
    subjects: Vec<Subject>,
    /// Numbers given out: of subjects, of chairs, of patterns.
    last: u32,
    seed: u64,
    log: VecDeque<String>,
    met: Met,
    /// Whether calls fail.
    faulty: bool,
}

/// How often something came of an operation that is worth being met.
type Met = BTreeMap<&'static str, u32>;

/// What no run is without.
const WORTH_MEETING: [&str; 18] = [
    "moved",
    "moved where no device sees both places",
    "moved for a newcomer",
    "moved out of its slab",
    "busy",
    "unreachable",
    "stale",
    "still mapped",
    "kept its seat by a mapping",
    "moved within its place",
    "moved with others",
    "remapped together",
    "revoked",
    "handed out",
    "armed again",
    "evicted",
    "evicted without a copy",
    "came back",
];

/// Nor is one of many seeds without this. In the virtual machine there are too few.
const RARE: &str = "evicted by parts";

/// What a faulty run is not without either.
const FAILED: &str = "failed, and then succeeded";

impl<'a> World<'a> {
    fn new(engine: &'a Engine, devices: &'a [Device], seed: u64, faulty: bool) -> Self {
        let (random, log) = (Random::new(seed), VecDeque::new());
        let met = Met::new();
        Self { engine, devices, random, subjects: vec![], last: 0, seed, log, met, faulty }
    }

    fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    fn device(&mut self) -> Device {
        self.random.pick(self.devices).clone()
    }

    /// What is about to be done: said if it goes wrong.
    fn note(&mut self, text: String) {
        if self.log.len() == TAIL {
            self.log.pop_front();
        }
        self.log.push_back(text);
    }

    /// What came of it.
    fn met(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
        if let Some(last) = self.log.back_mut() {
            last.push_str(": ");
            last.push_str(what);
        }
    }

    fn run(&mut self) {
        for step in 0..STEPS {
            steps::any(self, step);
            self.check();
        }
        self.look_at_all();
        while !self.subjects.is_empty() {
            steps::drop_one(self, 0);
            self.check();
        }
    }

    /// What must be true after every step.
    fn check(&self) {
        let subjects = || self.subjects.iter();
        subjects().for_each(|subject| subject.check(self.faulty));
        let attached = |subject: &Subject| subject.chairs.iter().filter(|c| c.is_taken()).count();
        for (object, count) in [
            (Object::Buffer, self.subjects.len()),
            (Object::Attachment, subjects().map(attached).sum()),
            (Object::Mapping, subjects().map(|s| s.mappings.len()).sum()),
            (Object::Pin, subjects().map(|s| s.pins.len()).sum()),
            (Object::ForeignExport, subjects().map(|s| s.exports.len()).sum()),
            (Object::HostAccess, subjects().filter(|s| s.host.is_some()).count()),
        ] {
            // CAST: a handful.
            assert_eq!(self.engine.live().count(object), count as u64, "live: {object:?}");
        }
        residency::check_accounts(&self.engine.report());
    }

    fn look_at_all(&mut self) {
        for index in 0..self.subjects.len() {
            self.note(format!("look at {}", self.subjects[index].id));
            let random = &mut self.random;
            self.subjects[index].look(random);
        }
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let tail: Vec<_> = self.log.iter().map(|line| format!("  {line}")).collect();
            say(&format!(
                "the last {} operations of SHADOW_SEED={}:\n{}",
                tail.len(),
                self.seed,
                tail.join("\n")
            ));
        }
    }
}

/// The seeds to run: one from the environment, or the first few.
fn seeds() -> impl Iterator<Item = u64> {
    let wanted = std::env::var("SHADOW_SEED").ok();
    let wanted = wanted.map(|seed| seed.parse().expect("SHADOW_SEED is a number"));
    let few = u64::from(soak::times(20, 2));
    wanted.map_or(1..=few, |seed| seed..=seed)
}

fn run_all(rig: &Rig, faulty: bool) {
    let devices = rig.twice_each();
    // A proof that fails because of a fault would be remembered as the route's own failure.
    for (from, to) in devices.iter().flat_map(|from| devices.iter().map(move |to| (from, to))) {
        rig.engine().route(from, to).expect("routes can be proved");
    }
    let mut met = Met::new();
    for seed in seeds() {
        let mut world = World::new(rig.engine(), &devices, seed, faulty);
        world.run();
        for (what, times) in &world.met {
            *met.entry(what).or_default() += times;
        }
    }
    say(&format!("{met:?}"));
    // One seed alone, for a replay, may miss some.
    if std::env::var_os("SHADOW_SEED").is_none() {
        let rare = (!common::in_vm()).then_some(RARE);
        for what in WORTH_MEETING.into_iter().chain(faulty.then_some(FAILED)).chain(rare) {
            assert!(met.contains_key(what), "{what}: never met, only {met:?}");
        }
    }
}

#[test]
fn any_sequence_of_operations_does_what_its_shadow_says() {
    run_all(&Rig::with(residency::nobody_returns), false);
}

#[test]
fn any_sequence_does_where_the_host_cannot_map_device_memory() {
    let rig = Rig::with(residency::nobody_returns);
    rig.engine().calls().set_unmappable_device_memory(true);
    run_all(&rig, false);
}

#[test]
fn any_sequence_does_while_calls_fail() {
    run_all(&Rig::with(residency::nobody_returns), true);
}
