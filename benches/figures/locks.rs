//! Cost of locking many reservations together, against mutexes in the order of their addresses.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

use peerbuf::SharedBuffer;
use smallvec::SmallVec;

use crate::Outcome;
use crate::figure::Figure;
use crate::measure::{Compared, Plan, Random, compare};
use crate::setup::Setup;
use crate::share::create_on;
use crate::threads;

const ALL: u16 = 4096;

/// `lock_8`, `lock_32`: that many of 4096, by one thread; `…_threads`: by two.
pub(crate) fn many(setup: &Setup) -> Outcome<Vec<Figure>> {
    let buffers: Vec<_> =
        (0..ALL).map(|_| create_on(setup, &setup.near, 4096)).collect::<Outcome<_>>()?;
    let mutexes: Vec<_> = (0..ALL).map(|_| Mutex::new(0_u64)).collect();
    let by = "mutexes, sorted by address";
    let speed = |id, what, compared| Figure::speed(id, what, by, Some(1.0), compared);
    let [eight, eights] = measure::<8>(setup, &buffers, &mutexes)?;
    let [more, mores] = measure::<32>(setup, &buffers, &mutexes)?;
    Ok(vec![
        speed("lock_8", "lock 8 of 4096 reservations", eight),
        speed("lock_32", "lock 32 of 4096 reservations", more),
        speed("lock_8_threads", "the same, 8, by two threads at once", eights),
        speed("lock_32_threads", "the same, 32, by two threads at once", mores),
    ])
}

/// By one thread, and by two.
fn measure<const N: usize>(
    setup: &Setup,
    buffers: &[SharedBuffer],
    mutexes: &[Mutex<u64>],
) -> Outcome<[Compared; 2]> {
    let ours = |first: usize| -> Outcome<()> {
        let chosen: SmallVec<[&SharedBuffer; N]> =
            indices::<N>(first).into_iter().map(|index| &buffers[index]).collect();
        Ok(setup.engine.model_lock(&chosen, || {
            black_box(());
        })?)
    };
    let theirs = |first: usize| -> Outcome<()> {
        let mut chosen = indices::<N>(first);
        chosen.sort_unstable();
        let mut last = usize::MAX;
        let locked: SmallVec<[_; N]> = chosen
            .into_iter()
            .filter(|&index| std::mem::replace(&mut last, index) != index)
            .map(|index| mutexes[index].lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        black_box(&locked);
        Ok(())
    };
    let (mut random, mut same) = (Random::new(3), Random::new(3));
    let one = compare(
        Plan::MICROSECONDS,
        || ours(random.below(usize::from(ALL))),
        || theirs(same.below(usize::from(ALL))),
    )?;
    Ok([one, threads::compare(ALL, ours, theirs)?])
}

/// Numbers of `N` buffers, in no order.
fn indices<const N: usize>(first: usize) -> [usize; N] {
    let mut random = Random::new(first as u64);
    std::array::from_fn(|_| random.below(usize::from(ALL)))
}
