//! Belady's algorithm: the least that could have been moved, with knowledge of the future.

use std::collections::{BinaryHeap, HashMap};

use super::interface::Slot;
use super::replay::{Replay, Stage, Use};

/// Replays `uses` and always evicts the buffer whose next use is furthest away (L. A. Belady, "A study of
/// replacement algorithms", 1966).
///
/// With buffers of one size this is optimal, if every use brings its buffer in. With mixed sizes it is a
/// reference and not an optimum, because finding the optimum is NP-hard.
pub fn belady(uses: &[Use], capacity: u64) -> Replay {
    let next = next_uses(uses);
    let mut stage = Stage::new(uses, capacity);
    let mut due = vec![0; uses.iter().map(|each| each.slot.index() + 1).max().unwrap_or(0)];
    // Entries of past uses stay in the heap until they are popped. `due` tells whether an entry is current.
    let mut furthest = BinaryHeap::new();
    for (&each, &next) in uses.iter().zip(&next) {
        due[each.slot.index()] = next;
        let wanted = stage.access(each);
        let mut missing = wanted.unwrap_or(0);
        while missing > 0 {
            let Some((when, slot, bytes)) = furthest.pop() else {
                break;
            };
            let slot: Slot = slot;
            if due[slot.index()] == when && stage.is_resident(slot) {
                stage.evict(slot);
                missing = missing.saturating_sub(bytes);
            }
        }
        if wanted.is_some() {
            stage.bring_in(each);
        }
        if stage.is_resident(each.slot) {
            furthest.push((next, each.slot, each.bytes));
        }
    }
    stage.counts
}

/// For each use, the number of the same buffer's next use; `usize::MAX` if there is none.
fn next_uses(uses: &[Use]) -> Vec<usize> {
    let mut seen = HashMap::new();
    let mut next: Vec<_> = uses
        .iter()
        .enumerate()
        .rev()
        .map(|(number, each)| seen.insert(each.slot, number).unwrap_or(usize::MAX))
        .collect();
    next.reverse();
    next
}
