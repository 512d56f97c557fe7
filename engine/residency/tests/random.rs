//! Random operations in random order, checked against the state of the model before and after each.
//!
//! After every step:
//! - The usage is the bytes of the buffers plus those in flight, and has not grown beyond the budget.
//! - A buffer that is held or locked has not moved.
//! - A victim that was not evicted has not moved; if it was pinned, held or unreachable, it is parked.
//! - A request that failed has left its buffer unchanged.
//! - No eviction was unnecessary: none of a higher priority while lower ones were enough, and none of another
//!   client group while only the group's own cap was reached.
//! - A group's usage is that of its buffers, and within its cap.
//! - No claim is left.
//!
//! The same seed does the same: `RESIDENCY_SEED=5 cargo test --lib residency::tests::random` runs that one
//! alone. `SOAK=n` runs n times as many seeds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::world::{Attempt, Buffer, Fake, Lock, Nature, Refused, Validated, site};
use super::{EvictionLimits, Make, POLICIES, Random, UNIT, limits, places, seeds};
use crate::memory::{GroupId, GroupUsage};
use crate::residency::bulk_move::BulkGroup;
use crate::residency::eviction_failures::SkipReason;
use crate::residency::priority::Priority;
use crate::residency::room::{evict_bytes, fit};

const STEPS: u32 = 400;
/// The number of client groups.
const GROUPS: usize = 3;
/// The sizes of the domains in units. The last one has room for all buffers.
const SIZES: [u64; 3] = [40, 60, 100_000];
/// How many of the last steps are printed after a failure.
const TAIL: usize = 20;

/// How often each situation occurred. All of [`WORTH_MEETING`] must.
type Met = BTreeMap<&'static str, u32>;

const WORTH_MEETING: [&str; 20] = [
    "evicted",
    "evicted for a victim",
    "made do with a fallback",
    "no room",
    "out of memory",
    "lost its content",
    "pinned",
    "mapped or under host access",
    "locked by others",
    "busy",
    "without room elsewhere",
    "not reachable elsewhere",
    "shrunk",
    "freed at last",
    "a smallest set",
    "stayed where it was",
    "its group has all that it may",
    "only its own",
    "first its own and then others",
    "a smaller cap",
];

struct Run<'a> {
    world: Fake,
    random: Random,
    work: Vec<usize>,
    ages: [Arc<BulkGroup>; 2],
    log: &'a RefCell<Vec<String>>,
    met: &'a RefCell<Met>,
}

/// The state of the model before a step.
struct Before {
    buffers: BTreeMap<u32, Buffer>,
    used: [u64; 3],
    budget: [u64; 3],
    groups: [[GroupUsage; GROUPS]; 3],
    in_flight: u64,
    order: Vec<u32>,
    idle: bool,
}

/// The kind of a step, as far as the checks need it.
enum Step {
    /// No buffer was moved on request.
    Other,
    /// A buffer was requested to be in one of these domains.
    Validate {
        buffer: u32,
        list: Vec<usize>,
        limits: EvictionLimits,
        result: Result<Validated, Refused>,
    },
    /// A buffer was used, or its position in the eviction list changed otherwise.
    Use,
    /// The cap of a group was changed.
    Limit(GroupId),
}

impl<'a> Run<'a> {
    fn new(make: Make, seed: u64, log: &'a RefCell<Vec<String>>, met: &'a RefCell<Met>) -> Self {
        let world = Fake::chain(make, &SIZES.map(|units| units * UNIT));
        let ages = [1, 2].map(|number| Arc::new(BulkGroup::new(number)));
        Self { world, random: Random(seed), work: vec![], ages, log, met }
    }

    fn say(&self, what: String) {
        self.log.borrow_mut().push(what);
    }

    fn met(&self, what: &'static str) {
        *self.met.borrow_mut().entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        let before = self.before();
        let step = self.act();
        self.world.check();
        let asked = self.world.take_attempts();
        self.check_places(&before);
        self.check_moves(&before, &step, &asked);
        if let Step::Validate { buffer, list, limits, result } = &step {
            self.check_request(&before, *buffer, list, result, &asked);
            self.check_own(&before, *buffer, list[0], &asked);
            self.check_set(&before, *buffer, list[0], limits, &asked);
        }
        if let Step::Limit(group) = step {
            let its =
                |asked: &&Attempt| asked.depth > 1 || before.buffers[&asked.buffer].group == group;
            assert_eq!(asked.iter().filter(its).count(), asked.len(), "only its own: {asked:?}");
        }
        self.check_parked(&step, &asked);
    }

    fn before(&self) -> Before {
        let world = &self.world;
        let alive = world.alive();
        let ledger = |at: usize| world.site(at).ledger.usage();
        Before {
            buffers: alive.iter().map(|&each| (each, world.buffer(each))).collect(),
            used: [0, 1, 2].map(|at| ledger(at).used),
            budget: [0, 1, 2].map(|at| ledger(at).budget),
            groups: [0, 1, 2].map(|at| self.groups(at)),
            in_flight: (0..3).map(|at| world.bytes_in_flight(at)).sum(),
            order: world.order(0),
            idle: alive.iter().all(|&each| world.is_idle(each)) && world.works_plainly(),
        }
    }

    /// The usage of each group in a domain; the first has number 1.
    fn groups(&self, at: usize) -> [GroupUsage; GROUPS] {
        // CAST: a few.
        std::array::from_fn(|nth| self.world.site(at).ledger.group(GroupId(1 + nth as u16)))
    }

    /// One operation.
    fn act(&mut self) -> Step {
        let alive = self.world.alive();
        if alive.len() < 4 || alive.len() < 40 && self.random.one_in(4) {
            let bytes = UNIT * (1 + self.random.below(20));
            let priority = *self.random.pick(Priority::ALL);
            // CAST: a few.
            let group = self.random.below(1 + GROUPS as u64) as u16;
            let buffer = self.world.add(Buffer::new(bytes).of(priority).charged_to(group));
            return self.validate(buffer);
        }
        let each = *self.random.pick(&alive);
        match self.random.below(27) {
            0..=6 => self.validate(each),
            7..=9 => {
                self.say(format!("use {each}"));
                self.world.touch(each);
                Step::Use
            }
            10 | 11 => self.drop_it(each),
            12..=15 => self.change(each),
            16 | 17 => self.work(each),
            18 => {
                let priority = *self.random.pick(Priority::ALL);
                self.say(format!("{each} is {priority}"));
                self.world.set_priority(each, priority);
                Step::Use
            }
            19 => self.shrink(),
            20 => self.evict_some(),
            21 | 22 => self.limit(),
            23 => self.age(each),
            _ => self.disturb(),
        }
    }

    fn some_limits(&mut self) -> EvictionLimits {
        let wait = limits().wait.filter(|_| !self.random.one_in(3));
        let max_priority =
            *self.random.pick(&[Priority::Highest, Priority::Highest, Priority::Normal]);
        let (evict, skip_busy) = (!self.random.one_in(8), self.random.one_in(4));
        EvictionLimits { evict, max_priority, wait, skip_busy, ..limits() }
    }

    fn validate(&mut self, buffer: u32) -> Step {
        let lists: [&[usize]; 6] = [&[0], &[0, 1], &[0, 2], &[1], &[1, 2], &[2]];
        let (list, limits) = (self.random.pick(&lists).to_vec(), self.some_limits());
        self.say(format!("validate {buffer} in {list:?}, {limits:?}"));
        let result = self.world.validate(buffer, &places(&list), &limits);
        self.say(format!("  {result:?}"));
        Step::Validate { buffer, list, limits, result }
    }

    fn drop_it(&mut self, each: u32) -> Step {
        self.say(format!("drop {each}"));
        self.world.drop_buffer(each);
        Step::Other
    }

    fn change(&mut self, each: u32) -> Step {
        let what = self.random.below(9);
        self.say(format!("change {each}: {what}"));
        self.world.with(each, |buffer| match what {
            0 => buffer.pins += 1,
            1 | 2 => buffer.pins = 0,
            3 => buffer.held = !buffer.held,
            4 => buffer.lock = Lock::Taken,
            5 => buffer.lock = Lock::Yielding,
            6 => buffer.lock = Lock::Free,
            7 => buffer.discardable = !buffer.discardable,
            _ => buffer.external = !buffer.external,
        });
        Step::Other
    }

    fn work(&mut self, each: u32) -> Step {
        if self.random.one_in(2) || self.work.is_empty() {
            let host = self.random.one_in(3);
            self.say(format!("work on {each}, by the host: {host}"));
            self.work.push(self.world.begin(each, host));
        } else {
            self.say("all work ends".into());
            self.work.drain(..).for_each(|work| self.world.end(work));
        }
        Step::Other
    }

    fn shrink(&mut self) -> Step {
        let at = if self.random.one_in(2) { 0 } else { 1 };
        let cap = self.random.below(SIZES[at] * 3 / 2) * UNIT;
        self.say(format!("no more than {cap} in {at}"));
        let store = self.world.site(at);
        store.ledger.set_cap(Some(cap));
        store.budget_changed();
        let evicted = fit(&self.world, site(at), GroupId::NONE, &limits());
        let done = self.world.site(at).ledger.excess() == 0 || self.world.bytes_in_flight(at) > 0;
        assert!(done || !self.world.could_go(at, GroupId::NONE, &evicted.failures), "{evicted:?}");
        if evicted.moved > 0 {
            self.met("shrunk");
        }
        Step::Other
    }

    /// Changes a group's cap.
    fn limit(&mut self) -> Step {
        let at = if self.random.one_in(3) { 1 } else { 0 };
        // CAST: a few.
        let group = GroupId(1 + self.random.below(GROUPS as u64) as u16);
        // A little less than its usage, or a random size.
        let (used, some) = (self.world.used_by(group.0, at), self.random.below(SIZES[at] * 2 / 3));
        let cap = match self.random.below(4) {
            0 => None,
            1 => Some(some * UNIT),
            _ => Some(used - used.min(self.random.below(4) * UNIT)),
        };
        self.say(format!("{group:?} has no more than {cap:?} in {at}"));
        self.world.cap(group.0, at, cap);
        let evicted = fit(&self.world, site(at), group, &limits());
        let ledger = &self.world.site(at).ledger;
        let done = ledger.group_excess(group) == 0 || self.world.bytes_in_flight(at) > 0;
        assert!(done || !self.world.could_go(at, group, &evicted.failures), "{evicted:?}");
        if evicted.moved > 0 {
            self.met("a smaller cap");
        }
        Step::Limit(group)
    }

    fn age(&mut self, each: u32) -> Step {
        let group = (!self.random.one_in(3)).then(|| self.random.pick(&self.ages).clone());
        self.say(format!("{each} is in bulk group {group:?}"));
        self.world.set_bulk_group(each, group.as_ref());
        Step::Use
    }

    fn evict_some(&mut self) -> Step {
        let at = if self.random.one_in(2) { 0 } else { 1 };
        let bytes = if self.random.one_in(4) { u64::MAX } else { self.random.below(20) * UNIT };
        self.say(format!("evict {bytes} from {at}"));
        let limits = EvictionLimits { max_priority: Priority::Highest, ..self.some_limits() };
        let evicted = evict_bytes(&self.world, site(at), bytes, &limits);
        assert!(
            evicted.moved >= bytes || !self.world.could_go(at, GroupId::NONE, &evicted.failures)
        );
        Step::Other
    }

    /// Changes how providers and copies behave.
    fn disturb(&mut self) -> Step {
        let at = if self.random.one_in(2) { 0 } else { 1 };
        let nature = match self.random.below(8) {
            0 => Nature::Full,
            1 => Nature::Busy,
            2 | 3 => Nature::Limited(SIZES[at] * UNIT / 2),
            _ => Nature::Works,
        };
        let (slow, stuck) = (self.random.one_in(3), self.random.one_in(6));
        self.say(format!("{at} is {nature:?}, slow: {slow}, stuck: {stuck}"));
        self.world.set_nature(at, nature);
        self.world.set_slow(slow);
        self.world.set_stuck(stuck);
        self.world.drop_mappings();
        let some = self.world.alive();
        let each = *self.random.pick(&some);
        self.world.with(each, |buffer| buffer.mapped = !buffer.mapped);
        Step::Other
    }

    // ---- checks after a step ----

    fn check_places(&self, before: &Before) {
        for at in 0..3 {
            let usage = self.world.site(at).ledger.usage();
            let bound = usage.budget.max(before.budget[at]).max(before.used[at]);
            assert!(usage.used <= bound, "domain {at}: {usage:?}");
            if usage.used < before.used[at] && self.world.bytes_in_flight(at) == 0 {
                self.met("freed at last");
            }
            for (was, is) in before.groups[at].iter().zip(self.groups(at)) {
                let bound = is.cap.unwrap_or(u64::MAX).max(was.used);
                assert!(is.used <= bound, "domain {at}: {was:?}, {is:?}");
            }
        }
    }

    fn check_moves(&self, before: &Before, step: &Step, asked: &[Attempt]) {
        for (&each, was) in &before.buffers {
            if !self.world.alive().contains(&each) {
                continue;
            }
            let is = self.world.buffer(each);
            let told: Vec<_> = asked.iter().filter(|asked| asked.buffer == each).collect();
            let went = told.iter().any(|asked| asked.outcome.is_ok());
            let wanted = matches!(step, Step::Validate { buffer, .. } if *buffer == each);
            if !went && !wanted {
                assert_eq!((is.at, is.moves), (was.at, was.moves), "{each} was not told to go");
            }
            let stays = was.pins > 0 || was.held || was.external || was.lock == Lock::Taken;
            if stays && is.at != was.at {
                // A new buffer gets its first backing also if it is locked, or external memory.
                assert!(was.at.is_none() && wanted, "{each} was held: {was:?}, {is:?}");
            }
            if went && is.at.is_none() {
                assert!(was.discardable && !is.content, "{each} has lost what it had");
                self.met("lost its content");
            }
        }
        for asked in asked {
            match asked.outcome {
                Ok(()) if asked.depth > 1 => self.met("evicted for a victim"),
                Ok(()) => self.met("evicted"),
                Err(SkipReason::Pinned) => self.met("pinned"),
                Err(SkipReason::Held) => self.met("mapped or under host access"),
                Err(SkipReason::Locked) => self.met("locked by others"),
                Err(SkipReason::Busy) => self.met("busy"),
                Err(SkipReason::NoRoom) => self.met("without room elsewhere"),
                Err(SkipReason::Unreachable) => self.met("not reachable elsewhere"),
                Err(_) => {}
            }
        }
    }

    fn check_request(
        &self,
        before: &Before,
        buffer: u32,
        list: &[usize],
        result: &Result<Validated, Refused>,
        asked: &[Attempt],
    ) {
        let was = before.buffers.get(&buffer).and_then(|was| was.at);
        let is = self.world.at(buffer);
        match result {
            Ok(Validated::Moved) => {
                assert!(is.is_some_and(|at| list.contains(&at)) && is != was);
                if is != Some(list[0]) {
                    self.met("made do with a fallback");
                }
            }
            Ok(Validated::Stayed) => assert!(is == was && asked.is_empty(), "nothing was to do"),
            Ok(Validated::Dropped) => unreachable!("there were domains"),
            Err(refused) => {
                // It may have been evicted itself, for the victim of a victim.
                let told = |asked: &Attempt| asked.buffer == buffer && asked.outcome.is_ok();
                assert!(is == was || asked.iter().any(told), "{was:?}, {is:?}");
                match refused {
                    Refused::NoRoom { failures, .. } if failures.cap_reached().is_some() => {
                        self.met("its group has all that it may");
                    }
                    Refused::NoRoom { .. } => self.met("no room"),
                    Refused::Full => self.met("out of memory"),
                    Refused::Kept(_) => self.met("stayed where it was"),
                    Refused::Failed => {}
                }
            }
        }
    }

    /// By how many bytes a buffer would exceed its group's cap in the first domain, and that domain's budget.
    fn shorts(&self, before: &Before, buffer: u32) -> (u64, u64) {
        let Buffer { bytes, group, .. } = self.world.buffer(buffer);
        let usage = usize::from(group.0).checked_sub(1).map(|nth| before.groups[0][nth]);
        let own = match usage {
            Some(GroupUsage { cap: Some(cap), used, .. }) => (used + bytes).saturating_sub(cap),
            _ => 0,
        };
        (own, (before.used[0] + bytes).saturating_sub(before.budget[0]))
    }

    /// At its cap a group evicts its own buffers, and others only if the domain is full as well.
    fn check_own(&self, before: &Before, buffer: u32, at: usize, asked: &[Attempt]) {
        let (own_short, short) = self.shorts(before, buffer);
        if at != 0 || own_short == 0 || !self.world.gives(at) {
            return;
        }
        let group = self.world.buffer(buffer).group;
        let asked = asked.iter().filter(|asked| asked.from == 0 && asked.depth == 1);
        let (own, others): (Vec<_>, Vec<_>) =
            asked.partition(|asked| before.buffers[&asked.buffer].group == group);
        if short == 0 {
            assert!(others.is_empty(), "only its own: {others:?}");
        }
        let gone: u64 = own.iter().filter(|own| own.outcome.is_ok()).map(|own| own.bytes).sum();
        if !others.is_empty() {
            assert!(gone + before.in_flight >= own_short, "first its own: {own:?}, {others:?}");
            self.met("first its own and then others");
        } else if gone > 0 {
            self.met("only its own");
        }
    }

    /// If nothing was in flight and no victim was refused, the necessary evictions are known.
    fn check_set(
        &self,
        before: &Before,
        buffer: u32,
        at: usize,
        limits: &EvictionLimits,
        asked: &[Attempt],
    ) {
        let refused = asked.iter().any(|asked| asked.outcome.is_err());
        if at != 0 || before.in_flight > 0 || !before.idle || refused {
            return;
        }
        let (own_short, short) = self.shorts(before, buffer);
        if own_short > 0 && short > 0 {
            // Two sets: the second may make part of the first unnecessary.
            return;
        }
        let (short, group) = (short.max(own_short), self.world.buffer(buffer).group);
        let went: Vec<_> =
            asked.iter().filter(|asked| asked.from == 0 && asked.depth == 1).collect();
        let sum: u64 = went.iter().map(|asked| asked.bytes).sum();
        for gone in went {
            assert!(sum - gone.bytes < short, "{gone:?} could have stayed: {sum}, {short}");
            self.met("a smallest set");
            let priority = |each: u32| before.buffers[&each].priority;
            let may_go = |each: u32| own_short == 0 || before.buffers[&each].group == group;
            let lower = before.order.iter().filter(|&&each| may_go(each));
            let lower = lower.filter(|&&each| priority(each) < priority(gone.buffer));
            let lower: u64 = lower.map(|each| before.buffers[each].bytes).sum();
            assert!(lower < short, "{gone:?} went before those of lower priority");
            assert!(priority(gone.buffer) <= limits.max_priority, "{gone:?}");
        }
    }

    /// A victim that was pinned, held or unreachable is parked.
    fn check_parked(&self, step: &Step, asked: &[Attempt]) {
        if matches!(step, Step::Use) {
            return;
        }
        for asked in asked {
            let long = matches!(
                asked.outcome,
                Err(SkipReason::Pinned | SkipReason::Held | SkipReason::Unreachable)
            );
            if long && self.world.at(asked.buffer) == Some(asked.from) {
                let order = self.world.order(asked.from);
                assert!(!order.contains(&asked.buffer), "{asked:?} is in order");
            }
        }
    }
}

/// Runs one seed with a policy. A panic includes the last steps.
fn run(name: &str, make: Make, seed: u64, met: &RefCell<Met>) {
    let log = RefCell::new(vec![]);
    let steps = AssertUnwindSafe(|| {
        let mut run = Run::new(make, seed, &log, met);
        (0..STEPS).for_each(|_| run.step());
        run.world.alive().into_iter().for_each(|each| run.world.drop_buffer(each));
        run.world.end_all();
        assert_eq!([0, 1, 2].map(|at| run.world.used(at)), [0; 3], "nothing is left");
        run.world.check();
    });
    let Err(panic) = catch_unwind(steps) else { return };
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
    let log = log.borrow();
    let tail =
        log[log.len().saturating_sub(TAIL)..].iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "  {line}");
            text
        });
    panic!("{name}, RESIDENCY_SEED={seed}: {message}\n{tail}");
}

#[test]
fn random_operations_in_random_order() {
    let seeds = seeds(100);
    for (name, make) in POLICIES {
        let met = RefCell::new(Met::new());
        seeds.iter().for_each(|&seed| run(name, make, seed, &met));
        let met = met.into_inner();
        if seeds.len() > 1 {
            for what in WORTH_MEETING {
                assert!(met.contains_key(what), "{name}: never met: {what}; {met:?}");
            }
        }
    }
}
