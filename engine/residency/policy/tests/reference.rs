//! Replay and Belady's optimum, compared with an exhaustive search.

use std::collections::HashMap;

use super::super::random::Random;
use super::super::{Slot, Use, belady, replay, traces};
use super::all;

fn uses(slots: &[u32]) -> Vec<Use> {
    slots.iter().map(|&slot| Use { slot: Slot(slot), bytes: 1 }).collect()
}

/// The minimum number of misses, found by trying every victim.
fn fewest(uses: &[Use], here: &[Slot], capacity: usize) -> u64 {
    let Some((first, rest)) = uses.split_first() else {
        return 0;
    };
    if here.contains(&first.slot) {
        return fewest(rest, here, capacity);
    }
    if here.len() < capacity {
        let mut here = here.to_vec();
        here.push(first.slot);
        return 1 + fewest(rest, &here, capacity);
    }
    (0..here.len())
        .map(|victim| {
            let mut here = here.to_vec();
            here[victim] = first.slot;
            1 + fewest(rest, &here, capacity)
        })
        .min()
        .unwrap_or(0)
}

#[test]
fn no_policy_moves_less_than_belady() {
    let mut random = Random::new(1);
    for _ in 0..300 {
        let capacity = 1 + random.below(3);
        // CAST: below six.
        let slots: Vec<_> = (0..13).map(|_| random.below(6) as u32).collect();
        let uses = uses(&slots);
        let best = fewest(&uses, &[], capacity);
        assert_eq!(belady(&uses, capacity as u64).misses, best, "{slots:?} in {capacity}");
        for mut policy in all() {
            assert!(replay(&mut *policy, &uses, capacity as u64).misses >= best);
        }
    }
}

#[test]
fn a_replay_counts() {
    let uses = uses(&[0, 1, 0, 2, 0, 1]);
    let counts = belady(&uses, 2);
    assert_eq!(counts, replay(&mut super::Lru::new(), &uses, 2));
    assert_eq!((counts.accesses, counts.misses), (6, 4));
    assert_eq!((counts.bytes_in, counts.bytes_out), (4, 2));
}

#[test]
fn buffers_that_fit_move_once() {
    let uses = uses(&[0, 1, 2, 0, 1, 2, 2, 1, 0]);
    for mut policy in all() {
        let counts = replay(&mut *policy, &uses, 3);
        assert_eq!((counts.misses, counts.bytes_in, counts.bytes_out), (3, 3, 0));
    }
}

#[test]
fn a_buffer_that_never_fits_moves_nothing() {
    let mut uses = uses(&[0, 1, 0, 1]);
    uses.insert(2, Use { slot: Slot(2), bytes: 5 });
    for counts in
        all().map(|mut policy| replay(&mut *policy, &uses, 4)).into_iter().chain([belady(&uses, 4)])
    {
        assert_eq!((counts.misses, counts.bytes_in, counts.bytes_out), (3, 2, 0));
    }
}

#[test]
fn an_empty_trace_moves_nothing() {
    for mut policy in all() {
        assert_eq!(replay(&mut *policy, &[], 4), belady(&[], 4));
    }
}

#[test]
fn traces_are_what_they_say() {
    let mut names = Vec::new();
    for trace in traces::catalogue() {
        if trace.name.starts_with("recorded") {
            // Exactly as it was recorded.
            assert_eq!((trace.uses.len(), trace.capacity), (608, 64 << 20), "{}", trace.name);
        } else {
            assert!(trace.uses.len() > 40_000, "{}", trace.name);
        }
        assert!(trace.uses.iter().all(|each| (4096..=64 << 20).contains(&each.bytes)));
        let total: u64 = {
            let mut sizes = HashMap::new();
            trace.uses.iter().for_each(|each| {
                let before = sizes.insert(each.slot, each.bytes);
                assert!(before.is_none_or(|before| before == each.bytes), "{}", trace.name);
            });
            sizes.values().sum()
        };
        assert!(total > trace.capacity, "{}: all buffers fit", trace.name);
        assert_eq!(traces::named(&trace.name), Some(trace.clone()), "the same every time");
        names.push(trace.name);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), traces::catalogue().count());
    assert_eq!(traces::named("no such trace"), None);
}
