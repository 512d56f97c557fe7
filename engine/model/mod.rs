//! Models: small scenarios, each run in thousands of interleavings of its threads (`make model`). A checker
//! chooses the next thread at every lock, wait and atomic operation.
//!
//! Only the primitives that locks are made of are replaced (`engine/sync/primitive.rs`): the models run the
//! engine itself. Waits do not time out here, so a lost wake-up is a deadlock. The checker reports deadlocks
//! and panics, with the schedule that led to them.
//!
//! `locks` and `fences` need no Vulkan. `moves`, `pins`, `endings`, `evictions`, `purges` and `images` run on a
//! real device. The checker does not control its driver: a wait in the driver is one step, in which no other
//! thread runs, and the checker does not choose when the device finishes. A schedule that failed there may
//! therefore pass when it is replayed; in `locks` and `fences` it fails again. Run the models by their names
//! alone: the other tests use threads that the checker does not control.

mod endings;
mod evictions;
mod fences;
mod images;
mod locks;
mod moves;
mod pins;
mod purges;
mod scene;
mod stage;

use std::num::NonZeroUsize;

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Arc;
use shuttle::thread;
use shuttle::{Config, MaxSteps, Runner};

/// More steps than any model needs that terminates.
const STEPS: usize = 100_000;
/// Drivers run on the models' stacks and need more than the checker's default of 32 KiB.
const STACK: usize = 4 << 20;
/// Forced thread switches that a bug may need and still be found.
const DEPTH: usize = 3;

/// Runs `scenario` in `count` interleavings chosen at random, and in as many with at most [`DEPTH`] forced
/// thread switches (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding
/// Bugs").
///
/// The seed is fixed, so that two runs of the same code choose the same interleavings. With `SOAK=n` in the
/// environment (`make soak`), there are n times as many, chosen anew in every run.
fn sample(count: usize, scenario: fn()) {
    match more() {
        None => {
            run(RandomScheduler::new_from_seed(1, count), scenario);
            run(PctScheduler::new_from_seed(1, DEPTH, count), scenario);
        }
        Some(times) => {
            run(RandomScheduler::new(count * times.get()), scenario);
            run(PctScheduler::new(DEPTH, count * times.get()), scenario);
        }
    }
}

/// Runs `scenario` in every possible interleaving.
fn exhaust(scenario: fn()) {
    run(DfsScheduler::new(None, false), scenario);
}

fn run(scheduler: impl Scheduler + 'static, scenario: fn()) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.stack_size = STACK;
    let ran = Runner::new(scheduler, config).run(scenario);
    assert!(ran > 0, "a model ran");
}

fn more() -> Option<NonZeroUsize> {
    let times = std::env::var("SOAK").ok().filter(|times| !times.is_empty())?;
    Some(times.parse().expect("SOAK is a number, and not 0"))
}

/// Runs each of `work` on a thread of its own and returns their results.
fn together<S: Send + Sync + 'static, R: Send + 'static, const T: usize>(
    shared: &Arc<S>,
    work: [fn(&S) -> R; T],
) -> [R; T] {
    let threads = work.map(|work| {
        let shared = Arc::clone(shared);
        thread::spawn(move || work(&shared))
    });
    threads.map(|thread| thread.join().expect("no thread panics"))
}
