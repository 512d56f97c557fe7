//! Belady's choice: of what is in memory, that leaves which is used again last. No other choice brings in less.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// How many of `uses` are not in a memory of `room` things at their use. It is empty at first.
pub(crate) fn misses<T: Copy + Eq + Hash + Ord>(uses: &[T], room: usize) -> u64 {
    // The next use of the same thing.
    let mut next = vec![usize::MAX; uses.len()];
    let mut seen = HashMap::new();
    for (at, thing) in uses.iter().enumerate().rev() {
        next[at] = seen.insert(*thing, at).unwrap_or(usize::MAX);
    }
    let mut there: HashMap<T, usize> = HashMap::new();
    let mut by_next: BTreeSet<(usize, T)> = BTreeSet::new();
    let mut misses = 0;
    for (thing, next) in uses.iter().zip(next) {
        match there.insert(*thing, next) {
            Some(known) => {
                by_next.remove(&(known, *thing));
            }
            None => {
                misses += 1;
                if there.len() > room
                    && let Some((_, last)) = by_next.pop_last()
                {
                    there.remove(&last);
                }
            }
        }
        by_next.insert((next, *thing));
    }
    misses
}

/// The example of Belady's paper would do as a test; a bench has none, so that it is checked at each run.
pub(crate) fn check() -> Result<(), String> {
    let uses = [7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1];
    match misses(&uses, 3) {
        9 => Ok(()),
        other => Err(format!("Belady's choice misses 9 times in this string, not {other}")),
    }
}
