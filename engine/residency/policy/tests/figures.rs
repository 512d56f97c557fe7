//! What the default policy moves, compared with Belady's algorithm. Counted, and the same in every run.

use std::collections::BTreeMap;

use super::super::random::Random;
use super::super::{Adaptive, Clock, Lru, Policy, Slot, Use, belady, replay, traces};

/// The most bytes for each trace, as a multiple of Belady's.
const AT_MOST: [(&str, f64); 21] = [
    ("frame loop 1.1", 1.1),
    ("frame loop 1.25", 1.1),
    ("frame loop 1.5", 1.1),
    ("frame loop 2", 1.1),
    ("shuffled loop 1.25", 1.1),
    ("zipf 0.8", 1.45),
    ("zipf 0.8 + one-shot", 1.25),
    ("zipf 1.0", 1.46),
    ("zipf 1.0 + one-shot", 1.2),
    ("render, slow window 1.2", 1.15),
    ("render, fast window 0.9", 1.1),
    ("streaming", 1.0),
    ("scan over a hot set", 1.05),
    ("phase changes", 1.3),
    ("camera cuts 1.25", 1.25),
    ("back and forth 1.25", 1.05),
    // Nine uses of ten miss with any policy; that is 1.512 times the optimum.
    ("random 10", 1.52),
    ("a dozen buffers 1.2", 1.1),
    ("mixed sizes, frame loop 1.25", 1.1),
    ("mixed sizes, zipf 0.9", 1.45),
    ("recorded: the demo", 1.45),
];

#[test]
fn the_default_is_close_to_the_optimum_on_every_trace() {
    let at_most = BTreeMap::from(AT_MOST);
    let mut logarithms = Vec::new();
    for trace in traces::catalogue() {
        let name = &trace.name;
        let best = belady(&trace.uses, trace.capacity);
        let equal = trace.uses.iter().all(|each| each.bytes == trace.uses[0].bytes);
        let policies: [&mut dyn Policy; 3] =
            [&mut Lru::new(), &mut Clock::new(), &mut Adaptive::new()];
        for policy in policies {
            let counts = replay(policy, &trace.uses, trace.capacity);
            assert!(!equal || counts.misses >= best.misses, "{name}: better than the optimum");
            assert!(counts.bytes_in - counts.bytes_out <= trace.capacity, "{name}");
            assert!(!equal || counts.bytes_in == counts.misses * trace.uses[0].bytes, "{name}");
            assert_eq!(counts.accesses, trace.uses.len() as u64, "{name}");
            let ratio = counts.bytes_in as f64 / best.bytes_in as f64;
            if policy.name() == "adaptive" {
                let bound = *at_most.get(name.as_str()).expect("every trace has a bound");
                assert!(ratio <= bound, "{name}: {ratio:.3} times the optimum");
                logarithms.push(ratio.ln());
            } else if name == "frame loop 1.1" {
                assert!(ratio >= 10.0, "{name}: {} moves {ratio:.1} times", policy.name());
            }
        }
    }
    let mean = (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp();
    assert!(mean <= 1.15, "geometric mean {mean:.3}");
}

#[test]
fn a_little_too_much_moves_a_little() {
    let trace = traces::named("frame loop 1.1").expect("it is in the catalogue");
    let bytes = |policy: &mut dyn Policy| replay(policy, &trace.uses, trace.capacity).bytes_in;
    let (lru, adaptive) = (bytes(&mut Lru::new()), bytes(&mut Adaptive::new()));
    assert!(lru >= 9 * adaptive, "{lru} and {adaptive}");
}

#[test]
fn bytes_grow_steadily_with_less_room() {
    // From a domain that just fits down to half of it: the bytes grow with the missing room.
    let trace = traces::named("frame loop 1.1").expect("it is in the catalogue");
    let total = trace.capacity / 10 * 11;
    for part in [100, 99, 95, 90, 80, 67, 50] {
        let capacity = total / 100 * part;
        let bytes = replay(&mut Adaptive::new(), &trace.uses, capacity).bytes_in;
        let best = belady(&trace.uses, capacity).bytes_in;
        assert!(bytes * 100 <= best * 110 + total * 100, "{part} %: {bytes}, at best {best}");
    }
}

#[test]
fn where_lru_is_best_the_default_is_close() {
    // A random walk through 10,000 buffers that uses the ones nearby: there is nothing to learn, and recently
    // used buffers are used again.
    const WORLD: usize = 10_000;
    let (mut random, mut at) = (Random::new(1), 0);
    let uses: Vec<_> = (0..100_000)
        .map(|_| {
            at = (at + WORLD + random.below(21) - 10) % WORLD;
            // CAST: below 10,000.
            let slot = Slot(((at + random.below(800)) % WORLD) as u32);
            Use { slot, bytes: 1 }
        })
        .collect();
    let misses = |policy: &mut dyn Policy| replay(policy, &uses, 1000).misses;
    let (lru, adaptive) = (misses(&mut Lru::new()), misses(&mut Adaptive::new()));
    assert!(adaptive * 100 <= lru * 115, "{adaptive}, and LRU {lru}");
}
