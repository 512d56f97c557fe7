//! When buffers migrate, and what that costs compared with an algorithm that knows the future.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::access_costs::AccessCost;
use super::counters::BufferUse;
use super::table::{AccessCounts, AutoMigration, PERIOD_MS, SETS, WAYS, live, lock, set_of};
use crate::device::DeviceId;
use crate::memory::DomainId;

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

/// Devices with their bandwidths in each other's memory, and one buffer.
struct World {
    auto_migration: AutoMigration,
    /// Bandwidth by user, then by owner of the memory; `None` if it was not measured.
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
    /// Each device reads with bandwidth `own` in its own memory and `other` in that of others.
    fn new(devices: usize, own: u64, other: u64) -> Self {
        let speed = |user, owner| Some(if user == owner { own } else { other });
        let row = |user| (0..devices).map(|owner| speed(user, owner)).collect();
        Self {
            auto_migration: AutoMigration::new(true),
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

    fn access_cost(&self, user: usize, owner: usize) -> Option<AccessCost> {
        self.speeds[user][owner].map(AccessCost::from_bandwidth)
    }

    fn costs(&self, user: usize, owner: usize, bytes: u64) -> u64 {
        self.access_cost(user, owner).expect("measured").of(bytes)
    }

    /// The cost of a move, for the device that it moves to.
    fn move_costs(&self, from: usize, to: usize) -> u64 {
        self.costs(to, from, self.size) + self.costs(to, to, self.size)
    }

    /// A use of so many bytes. Returns whether the buffer migrates to `by` before it.
    fn uses(&mut self, by: usize, bytes: u64) -> bool {
        let costs = |user: DeviceId, domain| match domain {
            DomainId::Vram(owner) => self.access_cost(user.index(), owner.index()),
            DomainId::System => None,
        };
        let used = |at, generation| BufferUse {
            buffer: self.buffer,
            generation,
            at: vram(at),
            by: device(by),
            bytes,
        };
        let pays =
            self.auto_migration.pays(&used(self.at, self.generation), self.size, false, costs);
        let from = self.at;
        let generation = self.generation + u32::from(pays);
        if pays {
            self.auto_migration.moved(self.buffer, generation);
        }
        let used = used(if pays { by } else { from }, generation);
        if self.auto_migration.concerns(used.by, used.at, costs) {
            self.auto_migration.note(&used, self.age, costs);
        }
        if pays {
            self.spent += self.move_costs(from, by);
            self.moves += 1;
            (self.at, self.generation) = (by, generation);
        }
        if self.access_cost(by, self.at).is_some() {
            self.spent += self.costs(by, self.at, bytes);
        }
        pays
    }

    /// The number of uses until the buffer migrates to `by`; `None` if it does not.
    fn uses_until_migrated(&mut self, by: usize) -> Option<u32> {
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
fn a_buffer_migrates_when_twice_the_cost_of_the_move_was_saved() {
    // Ten times as fast: each use saves 9, the move costs 11, so the third one saves more than 22.
    let mut world = World::new(2, 10 * GB, GB);
    assert_eq!(world.uses_until_migrated(1), Some(3));
    let moves = world.moves;
    for _ in 0..100 {
        world.uses(1, MIB);
    }
    assert_eq!((moves, world.moves, world.at), (1, 1, 1));
    // Twice as fast: each use saves 1, the move costs 3.
    assert_eq!(World::new(2, 2 * GB, GB).uses_until_migrated(1), Some(6));
}

#[test]
fn a_use_of_a_part_counts_as_that_part() {
    let mut world = World::new(2, 10 * GB, GB);
    let until = (0..1000).find(|_| world.uses(1, MIB / 64));
    // 22 / 9 uses of everything.
    assert_eq!(until, Some(157));
}

#[test]
fn a_small_difference_does_not_count() {
    let mut world = World::new(2, 149 * GB, 100 * GB);
    assert_eq!(world.uses_until_migrated(1), None);
    assert!(world.auto_migration.is_idle(), "nothing was counted");
    assert!(world.auto_migration.sets.get().is_none(), "no table was made");
    assert!(World::new(2, 150 * GB, 100 * GB).uses_until_migrated(1).is_some());
}

#[test]
fn without_auto_migration_nothing_moves_and_nothing_is_counted() {
    let mut world = World::new(2, 10 * GB, GB);
    world.auto_migration = AutoMigration::new(false);
    assert_eq!(world.uses_until_migrated(1), None);
    assert!(world.auto_migration.sets.get().is_none());
}

#[test]
fn a_buffer_stays_with_a_device_that_uses_it_as_much() {
    let mut world = World::new(2, 10 * GB, GB);
    for _ in 0..1000 {
        world.uses(0, MIB);
        world.uses(1, MIB);
    }
    assert_eq!(world.moves, 0);
    // The owner uses half of it each time: the other device saves more than the owner loses.
    for _ in 0..1000 {
        world.uses(0, MIB / 2);
        world.uses(1, MIB);
    }
    assert_eq!((world.moves, world.at), (1, 1));
}

#[test]
fn uses_without_a_known_cost_prevent_a_migration() {
    let mut world = World::new(3, 10 * GB, GB);
    world.speeds[2][1] = None;
    for _ in 0..1000 {
        world.uses(1, MIB);
        world.uses(2, MIB);
    }
    assert_ne!(world.at, 1, "the loss of the third device is unknown");
    // Nor does it migrate to a device whose own cost is unknown.
    let mut world = World::new(2, 10 * GB, GB);
    world.speeds[1][1] = None;
    assert_eq!(world.uses_until_migrated(1), None);
}

#[test]
fn of_three_devices_the_one_that_saves_most_gets_the_buffer() {
    let mut world = World::new(3, 10 * GB, GB);
    for _ in 0..100 {
        world.uses(1, MIB / 4);
        world.uses(2, MIB);
    }
    assert_eq!((world.moves, world.at), (1, 2));
}

#[test]
fn a_move_for_another_reason_starts_the_counters_anew() {
    let mut world = World::new(2, 10 * GB, GB);
    for turn in 1..100 {
        // One use fewer than necessary.
        for _ in 0..3 {
            assert!(!world.uses(1, MIB));
        }
        world.generation = turn;
    }
    assert_eq!(world.uses_until_migrated(1), Some(3));
}

#[test]
fn after_a_refusal_the_gain_starts_anew() {
    let mut world = World::new(2, 10 * GB, GB);
    for _ in 0..3 {
        world.uses(1, MIB);
    }
    world.auto_migration.refused(world.buffer, device(1));
    assert_eq!(world.uses_until_migrated(1), Some(3));
}

#[test]
fn a_use_without_an_access_cost_clears_the_gains() {
    let mut world = World::new(2, 10 * GB, GB);
    for _ in 0..100 {
        world.uses(1, MIB);
        world.auto_migration.clear_gains(world.buffer);
    }
    assert_eq!(world.moves, 0);
}

#[test]
fn a_requested_domain_is_left_for_twice_the_saving() {
    let world = World::new(2, 10 * GB, GB);
    let costs = |user: DeviceId, domain| match domain {
        DomainId::Vram(owner) => world.access_cost(user.index(), owner.index()),
        DomainId::System => None,
    };
    let used = BufferUse { buffer: 7, generation: 0, at: vram(0), by: device(1), bytes: MIB };
    for uses in 1..=5 {
        world.auto_migration.note(&used, Duration::ZERO, costs);
        let pays =
            [false, true].map(|reluctant| world.auto_migration.pays(&used, MIB, reluctant, costs));
        assert_eq!(pays, [uses >= 3, uses >= 5], "{uses}");
    }
}

#[test]
fn access_counts_are_those_since_counting_began() {
    let mut world = World::new(3, 10 * GB, GB);
    for _ in 0..2 {
        world.uses(1, MIB);
    }
    world.uses(0, MIB / 8);
    world.uses(2, MIB / 8);
    assert_eq!(
        world.auto_migration.access_counts(world.buffer, device(1)),
        AccessCounts { times: 2, others: 2 }
    );
    assert_eq!(
        world.auto_migration.access_counts(8, device(1)),
        AccessCounts { times: 0, others: 0 }
    );
}

/// An adversary: the device that does not have the buffer uses it until it moves.
#[test]
fn alternating_users_move_it_at_most_logarithmically_often() {
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
    // With regular turns it stays with one of them.
    let mut world = World::new(2, 10 * GB, GB);
    for turn in 0..1000 {
        for _ in 0..10 {
            world.uses(turn % 2, MIB);
        }
    }
    assert!(world.moves <= 4, "{} moves", world.moves);
}

#[test]
fn old_uses_count_half_and_doublings_are_forgotten() {
    let period = Duration::from_millis(PERIOD_MS);
    let mut world = World::new(2, 10 * GB, GB);
    for _ in 0..1000 {
        assert!(!world.uses(1, MIB), "one use in such a time saves less than the move costs");
        world.age += period;
    }
    let mut world = World::new(2, 10 * GB, GB);
    assert_eq!(world.uses_until_migrated(1), Some(3));
    assert_eq!(world.uses_until_migrated(0), Some(5), "twice as much, so soon");
    world.age += 8 * period;
    // Any use advances the period.
    world.uses(0, MIB);
    assert_eq!(world.uses_until_migrated(1), Some(3));
}

#[test]
fn unused_entries_become_vacant() {
    let mut world = World::new(2, 10 * GB, GB);
    for buffer in 0..100 {
        world.buffer = buffer;
        world.uses(1, MIB);
    }
    assert_eq!(world.auto_migration.live.load(Ordering::Relaxed), 100);
    world.age += Duration::from_millis(3 * PERIOD_MS);
    // A use by the owner counts nothing new, but starts the sweep.
    world.uses(0, MIB);
    assert!(world.auto_migration.is_idle());
}

#[test]
fn a_full_table_keeps_the_most_used_entries() {
    let mut world = World::new(2, 10 * GB, GB);
    // CAST: thousands.
    let many = 20 * ENTRIES as u64;
    world.size = 16 * MIB;
    let mut migrated = 0;
    for other in 0..many {
        world.buffer = 1_000_000 + other;
        world.uses(1, 256);
        if other % 1024 == 0 {
            // The favourite buffer; each use is of a part.
            world.buffer = 7;
            let (at, generation) = (world.at, world.generation);
            if world.uses(1, 2 * MIB) {
                migrated += 1;
                world.auto_migration.refused(7, device(1));
            }
            (world.at, world.generation) = (at, generation);
        }
        let live = world.auto_migration.live.load(Ordering::Relaxed);
        assert!(live <= ENTRIES, "{live}");
    }
    assert!(migrated > 0, "one of {many} was used 80 times");
}

#[test]
fn a_new_buffer_gets_an_entry_when_the_counters_of_the_weakest_are_used_up() {
    let mut world = World::new(2, 10 * GB, GB);
    let mut same = (0..).filter(|&buffer| set_of(buffer) == set_of(7));
    let residents: Vec<u64> = same.by_ref().take(WAYS).collect();
    for &buffer in &residents {
        world.buffer = buffer;
        for _ in 0..16 {
            world.uses(1, 256);
        }
    }
    let times = |world: &World, buffer| world.auto_migration.access_counts(buffer, device(1)).times;
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
fn the_number_of_entries_is_exact_after_any_operations() {
    let mut world = World::new(3, 10 * GB, GB);
    let mut random = Random(1);
    for _ in 0..200_000 {
        world.buffer = random.below(10_000);
        world.at = random.index(3);
        // CAST: few.
        world.generation = random.below(2) as u32;
        match random.below(20) {
            0 => world.auto_migration.refused(world.buffer, device(random.index(3))),
            1 => world.auto_migration.clear_gains(world.buffer),
            2 => world.age += Duration::from_millis(PERIOD_MS / 100),
            _ => {
                world.uses(random.index(3), MIB);
            }
        }
    }
    let sets = world.auto_migration.sets.get().into_iter().flatten();
    let there: usize = sets.map(|set| live(&lock(set))).sum();
    assert!(there > 100, "{there}");
    assert_eq!(there, world.auto_migration.live.load(Ordering::Relaxed));
}

/// The cost of the best domain, with the move there.
fn best_domain(world: &World, trace: &[(usize, u64)]) -> u64 {
    let cost = |domain: usize| {
        let there = if domain == 0 { 0 } else { world.move_costs(0, domain) };
        there + trace.iter().map(|&(by, bytes)| world.costs(by, domain, bytes)).sum::<u64>()
    };
    (0..world.speeds.len()).map(cost).min().expect("a device")
}

#[test]
fn on_random_traces_it_costs_at_most_three_times_the_best_domain() {
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
        // Each device has a share of the uses; in some rounds the shares change with time.
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
        let best = best_domain(&world, &trace);
        assert!(world.spent <= 3 * best, "round {round}: {} for {best}", world.spent);
        moved += u32::from(world.moves > 0);
        // CAST: a ratio of two.
        worst = worst.max(world.spent as f64 / best as f64);
    }
    assert!(moved > 200, "only {moved} of 2000 moved");
    assert!(worst > 1.1, "{worst}: the traces were no challenge");
}

#[test]
fn an_adversary_makes_it_cost_at_most_four_and_a_half_times_the_best_domain() {
    let mut worst = 0.0_f64;
    for ratio in [2, 3, 10, 100, 1000] {
        for stop in 1..10 {
            let mut world = World::new(2, 1000 * GB, 1000 * GB / ratio);
            let mut trace = vec![];
            // Always a use by the device that does not have it, until so many moves.
            while world.moves < stop {
                let by = 1 - world.at;
                trace.push((by, MIB));
                world.uses(by, MIB);
            }
            let best = best_domain(&world, &trace);
            assert!(2 * world.spent <= 9 * best, "{ratio}, {stop}: {} for {best}", world.spent);
            // CAST: a ratio of two.
            worst = worst.max(world.spent as f64 / best as f64);
        }
    }
    assert!(worst > 3.0, "{worst}: the adversary was no challenge");
}
