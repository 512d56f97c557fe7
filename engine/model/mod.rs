//! Models: small scenarios, each run in thousands of interleavings of its threads by a checker that
//! decides at every lock, wait and atomic operation who goes on (`make model`).
//!
//! Nothing is replaced by a model but what locks are made of (`engine/sync/primitive.rs`): these run the
//! engine itself. A lost wake-up is a deadlock here, since waits do not time out; the checker reports
//! that, and panics, with the schedule that led to it.
//!
//! `locks` needs no Vulkan. `moves`, `pins`, `endings`, `evictions` and `purges` run on a device whose driver the
//! checker does not know of: its waits are steps in which nobody else goes on. By when it has finished
//! something is not the checker's choice, so a schedule that failed there may pass when it is replayed; in
//! `locks` and `fences` it fails again. Run by their names alone: the other tests use threads that the
//! checker does not know of.

mod endings;
mod evictions;
mod fences;
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

/// More than any model needs that comes to an end.
const STEPS: usize = 100_000;
/// Drivers run on the models' stacks, and need more than the checker's 32 KiB.
const STACK: usize = 4 << 20;
/// How many forced changes of the running thread the bugs have that are looked for.
const DEPTH: usize = 3;

/// Runs `scenario` in `count` interleavings chosen at random, and in as many with few changes of the
/// running thread, but at the worst moments (Burckhardt et al., "A Randomized Scheduler with Probabilistic
/// Guarantees of Finding Bugs").
///
/// The same ones every time, so that a change is judged by itself. With `SOAK=n` in the environment
/// (`make soak`), n times as many, and other ones every time.
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

/// Runs `scenario` in every interleaving that there is.
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

/// Runs `work` on threads of their own and returns what they return.
fn together<S: Send + Sync + 'static, R: Send + 'static, const T: usize>(
    shared: &Arc<S>,
    work: [fn(&S) -> R; T],
) -> [R; T] {
    let threads = work.map(|work| {
        let shared = Arc::clone(shared);
        thread::spawn(move || work(&shared))
    });
    threads.map(|thread| thread.join().expect("nobody panics"))
}
