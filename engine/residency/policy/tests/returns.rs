//! What a displaced buffer's return is worth: the bytes that cross the bus if it is used where it is until it is worth
//! more than its victims. Counted, and the same in every run.

use super::super::{Adaptive, Policy, Use, traces};

/// Five times the bytes that devices use outside the domain or that are brought in, and the bytes that are evicted: a
/// fifth of them was written since, and is copied out. A displaced buffer may evict others at each second use, if it
/// `asks` then only if it is worth more.
fn bytes_moved(uses: &[Use], capacity: u64, asks: bool) -> u64 {
    const USES_BEFORE_RETURN: u8 = 2;
    #[derive(Clone, Copy, Default)]
    struct Buffer {
        bytes: u64,
        resident: bool,
        /// Uses until it may evict others; 0 before its first use.
        left: u8,
    }
    let count = uses.iter().map(|each| each.slot.index() + 1).max().unwrap_or(0);
    let (mut buffers, mut used, mut moved) = (vec![Buffer::default(); count], 0, 0);
    let (mut policy, mut victims) = (Adaptive::new(), Vec::new());
    for &Use { slot, bytes } in uses {
        let at = slot.index();
        policy.access(slot, bytes, buffers[at].resident);
        if buffers[at].resident {
            continue;
        }
        moved += 5 * bytes;
        let wanted = bytes.saturating_sub(capacity - used);
        if bytes > capacity || wanted > 0 && buffers[at].left > 1 {
            buffers[at].left = buffers[at].left.saturating_sub(1);
            continue;
        }
        if wanted > 0 {
            policy.victims(wanted, &|_| false, &mut victims);
        }
        let is_back = buffers[at].left > 0;
        if asks && is_back && !victims.iter().all(|victim| policy.is_worth_more(slot, *victim)) {
            buffers[at].left = USES_BEFORE_RETURN;
            victims.clear();
            continue;
        }
        for victim in victims.drain(..) {
            policy.leave(victim);
            let victim = &mut buffers[victim.index()];
            (victim.resident, victim.left) = (false, USES_BEFORE_RETURN);
            used -= victim.bytes;
            moved += victim.bytes;
        }
        buffers[at] = Buffer { bytes, resident: true, left: 0 };
        used += bytes;
        policy.admit(slot, bytes);
    }
    moved
}

#[test]
fn buffers_that_return_only_if_they_are_worth_more_move_fewer_bytes() {
    for (name, percent) in [
        ("frame loop 1.25", 90),
        ("shuffled loop 1.25", 91),
        ("zipf 1.0", 98),
        ("phase changes", 97),
        ("camera cuts 1.25", 97),
        ("mixed sizes, zipf 0.9", 98),
    ] {
        let trace = traces::named(name).expect("it is in the catalogue");
        let [without, with] =
            [false, true].map(|asks| bytes_moved(&trace.uses, trace.capacity, asks));
        assert!(with * 100 <= without * percent, "{name}: {with}, and {without} without asking");
    }
}
