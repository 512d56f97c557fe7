//! Random calls, compared with a plain model of the resident buffers.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};

use super::super::random::Random;
use super::super::size::Size;
use super::super::{Adaptive, Clock, Lru, Policy, Slot, Use, replay, traces};
use super::all;

const SLOTS: usize = 90;

/// The resident buffers with their bytes, and their order of last use.
#[derive(Default)]
struct Model {
    here: BTreeMap<Slot, u64>,
    order: Vec<Slot>,
}

impl Model {
    fn admit(&mut self, slot: Slot, bytes: u64) {
        self.leave(slot);
        self.here.insert(slot, bytes);
        self.order.push(slot);
    }

    fn leave(&mut self, slot: Slot) {
        self.here.remove(&slot);
        self.order.retain(|&other| other != slot);
    }

    fn access(&mut self, slot: Slot) {
        if let Some(&bytes) = self.here.get(&slot) {
            self.admit(slot, bytes);
        }
    }
}

fn some_slot(random: &mut Random) -> Slot {
    // CAST: a small number.
    Slot(random.below(SLOTS) as u32)
}

/// One call of any kind except `victims`, to policy and model.
fn step(policy: &mut dyn Policy, model: &mut Model, random: &mut Random) {
    let slot = some_slot(random);
    let bytes = 1 + random.below(1000) as u64;
    match random.below(10) {
        0..5 => {
            policy.access(slot, bytes, model.here.contains_key(&slot));
            model.access(slot);
        }
        5..8 => {
            policy.admit(slot, bytes);
            model.admit(slot, bytes);
        }
        8 => {
            policy.leave(slot);
            model.leave(slot);
        }
        _ => {
            policy.forget(slot);
            model.leave(slot);
        }
    }
}

/// Asks for victims and checks the promises about them.
fn ask(policy: &mut dyn Policy, model: &Model, random: &mut Random) -> Vec<Slot> {
    let skipped: HashSet<_> = (0..random.below(SLOTS)).map(|_| some_slot(random)).collect();
    let wanted = random.below(6000) as u64;
    let asked = Cell::new(0);
    let earlier = Slot(u32::MAX);
    let mut victims = vec![earlier];
    let skip = |slot: Slot| {
        asked.set(asked.get() + 1);
        skipped.contains(&slot)
    };
    policy.victims(wanted, &skip, &mut victims);
    let name = policy.name();
    assert_eq!(victims.remove(0), earlier, "{name} appends");

    let unique: HashSet<_> = victims.iter().collect();
    assert_eq!(unique.len(), victims.len(), "{name} names a buffer twice");
    assert!(victims.iter().all(|slot| !skipped.contains(slot)), "{name} names a skipped one");
    let bytes: Vec<_> = victims
        .iter()
        .map(|slot| *model.here.get(slot).expect("only resident buffers are named"))
        .collect();
    let sum: u64 = bytes.iter().sum();
    let others = model.here.keys().filter(|slot| !skipped.contains(slot)).count();
    assert!(sum >= wanted || victims.len() == others, "{name} names too few");
    assert!(wanted == 0 || bytes.last().is_none_or(|last| sum - last < wanted), "{name}: too many");
    assert!(wanted > 0 || victims.is_empty(), "{name} names a buffer for nothing");
    let here = model.here.len();
    assert!(asked.get() <= 2 * here, "{name} asks {} times about {here}", asked.get());
    if name != "clock" {
        // No buffer is looked at that is neither named nor skipped.
        let passed = model.here.keys().filter(|slot| skipped.contains(slot)).count();
        assert!(asked.get() <= victims.len() + passed, "{name} asks about others");
    }
    victims
}

#[test]
fn victims_keep_the_promises() {
    for mut policy in all() {
        let (mut random, mut model) = (Random::new(1), Model::default());
        for round in 0..20_000 {
            step(&mut *policy, &mut model, &mut random);
            if round % 5 == 0 {
                ask(&mut *policy, &model, &mut random);
            }
            if round % 100 == 0 {
                let mut all_named = Vec::new();
                policy.victims(u64::MAX, &|_| false, &mut all_named);
                all_named.sort_unstable();
                assert!(all_named.iter().eq(model.here.keys()), "{}", policy.name());
            }
        }
        // The memory grows with the slots, not with the calls.
        let before = policy.footprint();
        for _ in 0..20_000 {
            step(&mut *policy, &mut model, &mut random);
        }
        assert_eq!(policy.footprint(), before, "{}", policy.name());
    }
}

#[test]
fn lru_evicts_in_exact_order_of_last_use() {
    let (mut lru, mut random, mut model) = (Lru::new(), Random::new(2), Model::default());
    for _ in 0..5000 {
        step(&mut lru, &mut model, &mut random);
        let mut all_named = Vec::new();
        lru.victims(u64::MAX, &|_| false, &mut all_named);
        assert_eq!(all_named, model.order);
    }
}

#[test]
fn a_reused_slot_is_like_a_new_one() {
    for (mut one, mut other) in all().into_iter().zip(all()) {
        // The new buffer has the slot of a destroyed one, or an unused one.
        let answers = [(&mut one, Slot(0)), (&mut other, Slot(5))].map(|(policy, newcomer)| {
            for slot in [0, 1, 2].map(Slot) {
                policy.access(slot, 1 << 30, false);
                policy.admit(slot, 1 << 30);
            }
            (0..9).for_each(|_| policy.access(Slot(0), 1 << 30, true));
            policy.forget(Slot(0));
            let mut victims = Vec::new();
            policy.victims(u64::MAX, &|_| false, &mut victims);
            assert!(!victims.contains(&Slot(0)), "{}", policy.name());
            for slot in [1, 2].map(Slot) {
                policy.leave(slot);
                policy.admit(slot, 1);
            }
            policy.access(newcomer, 1, false);
            policy.admit(newcomer, 1);
            policy.access(Slot(2), 1, true);
            (1..=3)
                .map(|wanted| {
                    victims.clear();
                    policy.victims(wanted, &|_| false, &mut victims);
                    victims
                        .iter()
                        .map(|&slot| if slot == newcomer { None } else { Some(slot) })
                        .collect()
                })
                .collect::<Vec<Vec<_>>>()
        });
        assert_eq!(answers[0], answers[1], "{}", one.name());
        assert_eq!(answers[0][2].len(), 3, "{}: all three have one byte", one.name());
    }
}

#[test]
fn the_same_calls_have_the_same_answers() {
    for (mut one, mut other) in all().into_iter().zip(all()) {
        let (mut first, mut second) =
            ((Random::new(3), Model::default()), (Random::new(3), Model::default()));
        for _ in 0..3000 {
            step(&mut *one, &mut first.1, &mut first.0);
            step(&mut *other, &mut second.1, &mut second.0);
            let victims = ask(&mut *one, &first.1, &mut first.0);
            assert_eq!(victims, ask(&mut *other, &second.1, &mut second.0), "{}", one.name());
        }
    }
}

#[test]
fn senseless_calls_do_nothing() {
    for mut policy in all() {
        policy.leave(Slot(7));
        policy.forget(Slot(9));
        policy.access(Slot(3), 5, false);
        let mut victims = Vec::new();
        policy.victims(1, &|_| false, &mut victims);
        assert_eq!(victims, [], "{}", policy.name());
    }
}

#[test]
fn clock_gives_a_second_chance() {
    let mut clock = Clock::new();
    (0..4).for_each(|slot| clock.admit(Slot(slot), 1));
    clock.access(Slot(0), 1, true);
    clock.access(Slot(2), 1, true);
    let mut victims = Vec::new();
    clock.victims(3, &|_| false, &mut victims);
    assert_eq!(victims, [1, 3, 0].map(Slot));
}

#[test]
fn sizes_are_exact_for_usual_buffers() {
    for bytes in [0, 1, 4096, (1 << 31) - 1, 1 << 31, 1 << 40] {
        assert_eq!(Size::new(bytes).bytes(), bytes);
    }
    for bytes in [(1 << 31) + 1, (1 << 40) + 70_000, (3 << 40) - 1] {
        let kept = Size::new(bytes).bytes();
        assert!(kept <= bytes && bytes - kept < 1 << 16, "{bytes}: {kept}");
    }
    assert!(Size::new(u64::MAX).bytes() > 1 << 46);
}

#[test]
fn a_million_buffers_take_few_bytes() {
    const MANY: u32 = 1_000_000;
    let per_buffer = |policy: &mut dyn Policy| {
        for slot in 0..MANY {
            policy.access(Slot(slot), 1, false);
            policy.admit(Slot(slot), 1);
        }
        policy.footprint() as f64 / f64::from(MANY)
    };
    assert!(per_buffer(&mut Lru::new()) <= 12.5);
    assert!(per_buffer(&mut Adaptive::new()) <= 24.0);
}

#[test]
fn outdated_knowledge_fades() {
    // A frame loop after something else, and the other way round: after four times the capacity it brings
    // in hardly more than if there had been nothing else.
    let names = ["frame loop 1.25", "zipf 0.8", "render, fast window 0.9", "shuffled loop 1.25"];
    let parts = names.map(|name| {
        let trace = traces::named(name).expect("it is in the catalogue");
        (trace.capacity, trace.uses)
    });
    let capacity = parts[0].0;
    for (_, before) in &parts {
        for (_, after) in &parts {
            let learned = &before[..50_000];
            // Other buffers than before.
            let other: Vec<_> = after[..54_000]
                .iter()
                .map(|each| Use { slot: Slot(each.slot.0 + 50_000), ..*each })
                .collect();
            let start = &other[..4000];
            let upto_start = [learned, start].concat();
            let through = [learned, &other].concat();
            let brought = |uses: &[_]| replay(&mut Adaptive::new(), uses, capacity).misses;
            let late = brought(&through) - brought(&upto_start);
            let alone = brought(&other) - brought(start);
            assert!(
                late * 100 <= alone * 115 + 10_000,
                "{late} after something else, {alone} alone"
            );
        }
    }
}
