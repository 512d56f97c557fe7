//! Who is drawn, and what that costs against those who know everything beforehand.

use std::time::Duration;

use super::*;

const MIB: u64 = 1 << 20;
const GB: u64 = 1_000_000_000;
const ENTRIES: usize = SETS * WAYS;

fn device(number: usize) -> DeviceId {
    // CAST: a few.
    DeviceId(number as u16)
}

fn vram(number: usize) -> DomainId {
    DomainId::Vram(device(number))
}

/// Devices, how fast each reads in each one's memory, and one buffer.
struct World {
    attraction: Attraction,
    /// By user, then by owner; `None` was not measured.
    speeds: Vec<Vec<Option<u64>>>,
    buffer: u64,
    size: u64,
    at: usize,
    generation: u32,
    age: Duration,
    /// Picoseconds.
    spent: u64,
    moves: u32,
}

impl World {
    /// Each reads so fast at home, and so fast elsewhere.
    fn new(devices: usize, own: u64, other: u64) -> Self {
        let speed = |user, owner| Some(if user == owner { own } else { other });
        let row = |user| (0..devices).map(|owner| speed(user, owner)).collect();
        Self {
            attraction: Attraction::new(true),
            speeds: (0..devices).map(row).collect(),
            buffer: 7,
            size: MIB,
            at: 0,
            generation: 0,
            age: Duration::ZERO,
            spent: 0,
            moves: 0,
        }
    }

    fn price(&self, user: usize, owner: usize) -> Option<Price> {
        self.speeds[user][owner].map(Price::of_speed)
    }

    fn costs(&self, user: usize, owner: usize, bytes: u64) -> u64 {
        self.price(user, owner).expect("measured").of(bytes)
    }

    /// What a move costs, for the device that it moves to.
    fn move_costs(&self, from: usize, to: usize) -> u64 {
        self.costs(to, from, self.size) + self.costs(to, to, self.size)
    }

    /// Whether `by` gets it before it uses so many bytes of it.
    fn uses(&mut self, by: usize, bytes: u64) -> bool {
        let prices = |user: DeviceId, place| match place {
            DomainId::Vram(owner) => self.price(user.index(), owner.index()),
            DomainId::System => None,
        };
        let used = |at, generation| Used {
            buffer: self.buffer,
            generation,
            at: vram(at),
            by: device(by),
            bytes,
        };
        let pays = self.attraction.pays(&used(self.at, self.generation), self.size, false, prices);
        let from = self.at;
        let generation = self.generation + u32::from(pays);
        if pays {
            self.attraction.moved(self.buffer, generation);
        }
        let used = used(if pays { by } else { from }, generation);
        if self.attraction.concerns(used.by, used.at, prices) {
            self.attraction.note(&used, self.age, prices);
        }
        if pays {
            self.spent += self.move_costs(from, by);
            self.moves += 1;
            (self.at, self.generation) = (by, generation);
        }
        if self.price(by, self.at).is_some() {
            self.spent += self.costs(by, self.at, bytes);
        }
        pays
    }

    /// How many uses it takes until `by` has it; `None` if it does not get it.
    fn uses_until_drawn(&mut self, by: usize) -> Option<u32> {
        (0..1000).find(|_| self.uses(by, self.size))
    }
}

/// Small and good enough: Steele's SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        // CAST: below a `usize`.
        self.below(bound as u64) as usize
    }
}

#[test]
fn who_reads_elsewhere_all_the_time_gets_it_when_twice_the_move_is_saved() {
    // Ten times as fast: each use saves 9, the move costs 11, so the third one saves more than 22.
    let mut world = World::new(2, 10 * GB, GB);
    assert_eq!(world.uses_until_drawn(1), Some(3));
    let drawn = world.moves;
    for _ in 0..100 {
        world.uses(1, MIB);
    }
    assert_eq!((drawn, world.moves, world.at), (1, 1, 1));
    // Twice as fast: each use saves 1, the move costs 3.
    assert_eq!(World::new(2, 2 * GB, GB).uses_until_drawn(1), Some(6));
}

#[test]
fn uses_of_a_part_count_as_that_part() {
    let mut world = World::new(2, 10 * GB, GB);
    let until = (0..1000).find(|_| world.uses(1, MIB / 64));
    // 22 / 9 uses of everything.
    assert_eq!(until, Some(157));
}

#[test]
fn what_is_hardly_faster_is_not_worth_it() {
    let mut world = World::new(2, 149 * GB, 100 * GB);
    assert_eq!(world.uses_until_drawn(1), None);
    assert!(world.attraction.is_idle(), "nothing was counted");
    assert!(world.attraction.sets.get().is_none(), "nor was there anything to count in");
    assert!(World::new(2, 150 * GB, 100 * GB).uses_until_drawn(1).is_some());
}

#[test]
fn who_switches_it_off_gets_nothing_moved_and_nothing_counted() {
    let mut world = World::new(2, 10 * GB, GB);
    world.attraction = Attraction::new(false);
    assert_eq!(world.uses_until_drawn(1), None);
    assert!(world.attraction.sets.get().is_none());
}

#[test]
fn nobody_is_robbed_who_uses_it_as_much() {
    let mut world = World::new(2, 10 * GB, GB);
    for _ in 0..1000 {
        world.uses(0, MIB);
        world.uses(1, MIB);
    }
    assert_eq!(world.moves, 0);
    // Every other use of the owner's is of half of it: the other one saves more than he loses.
    for _ in 0..1000 {
        world.uses(0, MIB / 2);
        world.uses(1, MIB);
    }
    assert_eq!((world.moves, world.at), (1, 1));
}

#[test]
fn uses_by_one_who_was_not_measured_keep_it_where_it_is() {
    let mut world = World::new(3, 10 * GB, GB);
    world.speeds[2][1] = None;
    for _ in 0..1000 {
        world.uses(1, MIB);
        world.uses(2, MIB);
    }
    assert_ne!(world.at, 1, "nobody knows what the third would lose");
    // Nor does it go where the one who draws was not measured.
    let mut world = World::new(2, 10 * GB, GB);
    world.speeds[1][1] = None;
    assert_eq!(world.uses_until_drawn(1), None);
}

#[test]
fn of_three_the_one_who_saves_most_gets_it() {
    let mut world = World::new(3, 10 * GB, GB);
    for _ in 0..100 {
        world.uses(1, MIB / 4);
        world.uses(2, MIB);
    }
    assert_eq!((world.moves, world.at), (1, 2));
}

#[test]
fn a_move_by_somebody_else_makes_counts_begin_anew() {
    let mut world = World::new(2, 10 * GB, GB);
    for turn in 1..100 {
        // One use fewer than it takes.
        for _ in 0..3 {
            assert!(!world.uses(1, MIB));
        }
        world.generation = turn;
    }
    assert_eq!(world.uses_until_drawn(1), Some(3));
}

#[test]
fn who_could_not_have_it_draws_anew() {
    let mut world = World::new(2, 10 * GB, GB);
    for _ in 0..3 {
        world.uses(1, MIB);
    }
    world.attraction.refused(world.buffer, device(1));
    assert_eq!(world.uses_until_drawn(1), Some(3));
}

#[test]
fn whoever_has_no_price_lets_it_go() {
    let mut world = World::new(2, 10 * GB, GB);
    for _ in 0..100 {
        world.uses(1, MIB);
        world.attraction.lets_go(world.buffer);
    }
    assert_eq!(world.moves, 0);
}

#[test]
fn a_place_that_was_asked_for_is_left_for_twice_as_much() {
    let world = World::new(2, 10 * GB, GB);
    let prices = |user: DeviceId, place| match place {
        DomainId::Vram(owner) => world.price(user.index(), owner.index()),
        DomainId::System => None,
    };
    let used = Used { buffer: 7, generation: 0, at: vram(0), by: device(1), bytes: MIB };
    for uses in 1..=5 {
        world.attraction.note(&used, Duration::ZERO, prices);
        let pays =
            [false, true].map(|reluctant| world.attraction.pays(&used, MIB, reluctant, prices));
        assert_eq!(pays, [uses >= 3, uses >= 5], "{uses}");
    }
}

#[test]
fn the_numbers_are_those_since_counting_began() {
    let mut world = World::new(3, 10 * GB, GB);
    for _ in 0..2 {
        world.uses(1, MIB);
    }
    world.uses(0, MIB / 8);
    world.uses(2, MIB / 8);
    assert_eq!(world.attraction.drawn(world.buffer, device(1)), Drawn { times: 2, others: 2 });
    assert_eq!(world.attraction.drawn(8, device(1)), Drawn { times: 0, others: 0 });
}

/// Whoever plays against it lets the other one use the buffer until it has moved.
#[test]
fn two_who_take_turns_make_it_move_as_often_as_the_logarithm_of_what_they_spend() {
    let mut world = World::new(2, 10 * GB, GB);
    let one_move = world.move_costs(0, 1);
    let mut saved = 0;
    while world.moves < 12 {
        let by = 1 - world.at;
        while !world.uses(by, MIB) {
            saved += world.costs(by, 1 - by, MIB) - world.costs(by, by, MIB);
        }
        assert!(saved >= one_move << world.moves, "{} moves for {saved}", world.moves);
    }
    // And with turns that are always the same, it settles.
    let mut world = World::new(2, 10 * GB, GB);
    for turn in 0..1000 {
        for _ in 0..10 {
            world.uses(turn % 2, MIB);
        }
    }
    assert!(world.moves <= 4, "{} moves", world.moves);
}

#[test]
fn what_was_long_ago_counts_for_half_and_the_doubling_is_forgotten() {
    let period = Duration::from_millis(PERIOD_MS);
    let mut world = World::new(2, 10 * GB, GB);
    for _ in 0..1000 {
        assert!(!world.uses(1, MIB), "one use in such a time saves less than the move costs");
        world.age += period;
    }
    let mut world = World::new(2, 10 * GB, GB);
    assert_eq!(world.uses_until_drawn(1), Some(3));
    assert_eq!(world.uses_until_drawn(0), Some(5), "twice as much, so soon");
    world.age += 8 * period;
    // A use by somebody makes it look at the time.
    world.uses(0, MIB);
    assert_eq!(world.uses_until_drawn(1), Some(3));
}

#[test]
fn what_nobody_uses_any_more_makes_room_by_itself() {
    let mut world = World::new(2, 10 * GB, GB);
    for buffer in 0..100 {
        world.buffer = buffer;
        world.uses(1, MIB);
    }
    assert_eq!(world.attraction.live.load(Ordering::Relaxed), 100);
    world.age += Duration::from_millis(3 * PERIOD_MS);
    // Its owner's: not worth counting, but while others are.
    world.uses(0, MIB);
    assert!(world.attraction.is_idle());
}

#[test]
fn a_full_table_keeps_those_who_are_drawn_most() {
    let mut world = World::new(2, 10 * GB, GB);
    // CAST: thousands.
    let many = 20 * ENTRIES as u64;
    world.size = 16 * MIB;
    let mut drawn = 0;
    for other in 0..many {
        world.buffer = 1_000_000 + other;
        world.uses(1, 256);
        if other % 1024 == 0 {
            // The favourite; each use is a part.
            world.buffer = 7;
            let (at, generation) = (world.at, world.generation);
            if world.uses(1, 2 * MIB) {
                drawn += 1;
                world.attraction.refused(7, device(1));
            }
            (world.at, world.generation) = (at, generation);
        }
        let live = world.attraction.live.load(Ordering::Relaxed);
        assert!(live <= ENTRIES, "{live}");
    }
    assert!(drawn > 0, "one of {many} was used 80 times");
}

#[test]
fn a_newcomer_gets_an_entry_when_it_has_come_more_often_than_the_weakest_counts() {
    let mut world = World::new(2, 10 * GB, GB);
    let mut same = (0..).filter(|&buffer| set_of(buffer) == set_of(7));
    let residents: Vec<u64> = same.by_ref().take(WAYS).collect();
    for &buffer in &residents {
        world.buffer = buffer;
        for _ in 0..16 {
            world.uses(1, 256);
        }
    }
    let times = |world: &World, buffer| world.attraction.drawn(buffer, device(1)).times;
    let there = |world: &World| residents.iter().filter(|&&of| times(world, of) > 0).count();
    // 16 can be halved four times; the fifth time nothing is left.
    for newcomer in same.by_ref().take(4) {
        world.buffer = newcomer;
        world.uses(1, 256);
        assert_eq!((times(&world, newcomer), there(&world)), (0, WAYS));
    }
    world.buffer = same.next().expect("there is always another one");
    world.uses(1, 256);
    assert_eq!((times(&world, world.buffer), there(&world)), (1, WAYS - 1));
}

#[test]
fn entries_are_counted_as_they_come_and_go() {
    let mut world = World::new(3, 10 * GB, GB);
    let mut random = Random(1);
    for _ in 0..200_000 {
        world.buffer = random.below(10_000);
        world.at = random.index(3);
        // CAST: few.
        world.generation = random.below(2) as u32;
        match random.below(20) {
            0 => world.attraction.refused(world.buffer, device(random.index(3))),
            1 => world.attraction.lets_go(world.buffer),
            2 => world.age += Duration::from_millis(PERIOD_MS / 100),
            _ => {
                world.uses(random.index(3), MIB);
            }
        }
    }
    let sets = world.attraction.sets.get().into_iter().flatten();
    let there: usize = sets.map(|set| live(&lock(set))).sum();
    assert!(there > 100, "{there}");
    assert_eq!(there, world.attraction.live.load(Ordering::Relaxed));
}

/// What the best place would have cost, with the move there.
fn best_place(world: &World, trace: &[(usize, u64)]) -> u64 {
    let cost = |place: usize| {
        let there = if place == 0 { 0 } else { world.move_costs(0, place) };
        there + trace.iter().map(|&(by, bytes)| world.costs(by, place, bytes)).sum::<u64>()
    };
    (0..world.speeds.len()).map(cost).min().expect("a device")
}

#[test]
fn on_random_traces_it_costs_at_most_three_times_what_the_best_place_does() {
    let mut random = Random(42);
    let (mut moved, mut worst) = (0, 0.0_f64);
    for round in 0..2000 {
        let devices = 2 + random.index(3);
        let mut world = World::new(devices, GB, GB);
        for user in 0..devices {
            for owner in 0..devices {
                let ratio = if user == owner { 1 } else { 1 + random.below(32) };
                world.speeds[user][owner] = Some(64 * GB / ratio);
            }
        }
        // Each has its share; in some rounds the shares change with time.
        let mut shares: Vec<u64> = (0..devices).map(|_| 1 + random.below(20)).collect();
        let length = 100 + random.below(400);
        let mut trace = vec![];
        for at in 0..length {
            if round % 2 == 1 && at % 50 == 0 {
                shares = (0..devices).map(|_| 1 + random.below(20)).collect();
            }
            let mut point = random.below(shares.iter().sum());
            let by = shares.iter().position(|&share| {
                let here = point < share;
                point = point.saturating_sub(share);
                here
            });
            trace.push((by.expect("within all shares"), 1 + random.below(MIB)));
        }
        for &(by, bytes) in &trace {
            world.uses(by, bytes);
        }
        let best = best_place(&world, &trace);
        assert!(world.spent <= 3 * best, "round {round}: {} for {best}", world.spent);
        moved += u32::from(world.moves > 0);
        // CAST: a ratio of two.
        worst = worst.max(world.spent as f64 / best as f64);
    }
    assert!(moved > 200, "{moved} of 2000 moved: the rest says nothing");
    assert!(worst > 1.1, "{worst}: they were no challenge");
}

#[test]
fn who_plays_against_it_makes_it_cost_four_and_a_half_times_what_the_best_place_does() {
    let mut worst = 0.0_f64;
    for ratio in [2, 3, 10, 100, 1000] {
        for stop in 1..10 {
            let mut world = World::new(2, 1000 * GB, 1000 * GB / ratio);
            let mut trace = vec![];
            // Always whoever does not have it, until so many moves.
            while world.moves < stop {
                let by = 1 - world.at;
                trace.push((by, MIB));
                world.uses(by, MIB);
            }
            let best = best_place(&world, &trace);
            assert!(2 * world.spent <= 9 * best, "{ratio}, {stop}: {} for {best}", world.spent);
            // CAST: a ratio of two.
            worst = worst.max(world.spent as f64 / best as f64);
        }
    }
    assert!(worst > 3.0, "{worst}: nobody plays against it");
}
