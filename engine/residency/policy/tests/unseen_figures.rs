//! What the default policy moves on traces that it was not adjusted to. Counted, and the same in every run.

use std::collections::HashMap;

use super::super::random::Random;
use super::super::{Adaptive, Policy, belady, replay};
use super::baselines::baselines;
use super::unseen::{learn, measured};
use super::{Slot, Use};

#[test]
fn on_unseen_traces_the_default_is_close_to_the_best_of_six_others() {
    let (mut logarithms, mut regret) = (vec![0.0; 7], 1.0_f64);
    let mut count = 0.0;
    for trace in measured() {
        let bytes: Vec<_> = [Box::new(Adaptive::new()) as Box<dyn Policy>]
            .into_iter()
            .chain(baselines())
            .map(|mut policy| replay(&mut *policy, &trace.uses, trace.capacity).bytes_in)
            .collect();
        let least = belady(&trace.uses, trace.capacity).bytes_in;
        let best = bytes[1..].iter().min().copied().unwrap_or(0);
        regret = regret.max(bytes[0] as f64 / best as f64);
        count += 1.0;
        for (sum, &bytes) in logarithms.iter_mut().zip(&bytes) {
            *sum += (bytes as f64 / least as f64).ln();
        }
    }
    let means: Vec<_> = logarithms.iter().map(|sum| (sum / count).exp()).collect();
    assert!(means[0] <= 1.32, "{means:?} times the optimum");
    assert!(means[1..].iter().all(|&other| other >= means[0] * 1.2), "{means:?}");
    assert!(regret <= 1.2, "{regret:.3} times the best of the others");
}

#[test]
fn buffers_used_once_do_not_stay_after_a_loop_that_fits() {
    // 900 of 1000 fit, for thirty rounds; afterwards every fourth use is of a buffer that is not used again.
    const LOOP: u32 = 900;
    let mut uses: Vec<u32> = (0..30).flat_map(|_| 0..LOOP).collect();
    let mut fresh = LOOP;
    for number in (0..30).flat_map(|_| 0..LOOP) {
        uses.push(number);
        if number % 3 == 0 {
            uses.push(fresh);
            fresh += 1;
        }
    }
    let uses: Vec<_> = uses.iter().map(|&slot| Use { slot: Slot(slot), bytes: 1 << 20 }).collect();
    let bytes = replay(&mut Adaptive::new(), &uses, 1000 << 20).bytes_in;
    let least = belady(&uses, 1000 << 20).bytes_in;
    assert!(bytes * 100 <= least * 125, "{bytes}, at best {least}");
}

#[test]
fn many_small_buffers_out_of_use_leave_before_large_ones_in_use() {
    // 100 MiB in buffers that were used once, beside 10 GiB in buffers that are used all the time.
    const LARGE: u32 = 5120;
    const SMALL: u32 = 25_600;
    let mut policy = Adaptive::new();
    let all = (0..LARGE).map(|slot| (slot, 2 << 20));
    for (slot, bytes) in all.chain((LARGE..LARGE + SMALL).map(|slot| (slot, 4 << 10))) {
        policy.access(Slot(slot), bytes, false);
        policy.admit(Slot(slot), bytes);
    }
    let mut random = Random::new(1);
    for _ in 0..10 * LARGE {
        // CAST: below `LARGE`.
        policy.access(Slot(random.below(LARGE as usize) as u32), 2 << 20, true);
    }
    let mut victims = Vec::new();
    policy.victims(1 << 20, &|_| false, &mut victims);
    let large = victims.iter().filter(|slot| slot.0 < LARGE).count();
    assert_eq!((large, victims.len()), (0, 256));
}

#[test]
fn unseen_traces_are_what_they_say() {
    let traces: Vec<_> = learn().chain(measured()).collect();
    assert!(traces.len() >= 40);
    for trace in &traces {
        let sizes: HashMap<_, _> = trace.uses.iter().map(|each| (each.slot, each.bytes)).collect();
        assert!(trace.uses.iter().all(|each| sizes[&each.slot] == each.bytes), "{}", trace.name);
        assert!(sizes.values().all(|size| (4 << 10..=256 << 20).contains(size)), "{}", trace.name);
        assert!(sizes.values().all(|&size| size <= trace.capacity), "{}", trace.name);
        assert!(sizes.values().sum::<u64>() > trace.capacity, "{}: all buffers fit", trace.name);
        assert!(trace.uses.len() >= 40_000, "{}", trace.name);
    }
    let again: Vec<_> = learn().chain(measured()).collect();
    assert!(traces == again, "the same every time");
    let mut names: Vec<_> = traces.iter().map(|trace| &trace.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), traces.len());
}
