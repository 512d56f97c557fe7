//! Comparison on two threads at once: a shared lock against none.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Outcome;
use crate::measure::{Compared, Rounds};

/// Number of threads of each contender.
const THREADS: usize = 2;
const ROUNDS: usize = 101;

/// Minimum duration of one measured batch, so that starting a thread does not matter.
const BATCH: Duration = Duration::from_millis(5);

/// An operation of a thread on one buffer, given by its index. Indices are random.
pub(crate) trait Operation: Fn(usize) -> Outcome<()> + Sync {}
impl<F: Fn(usize) -> Outcome<()> + Sync> Operation for F {}

/// Measures `ours` against `baseline`. Two threads at once run each of them on indices below `buffers`, each
/// thread in a random order of its own. Seconds are those of one operation of one thread.
pub(crate) fn compare(
    buffers: u16,
    ours: impl Operation,
    baseline: impl Operation,
) -> Outcome<Compared> {
    let orders: [Vec<u16>; THREADS] = std::array::from_fn(|thread| shuffled(buffers, thread));
    let our_batch = batch_size(&orders, &ours)?;
    let their_batch = batch_size(&orders, &baseline)?;
    let mut rounds = Rounds::default();
    for _ in 0..crate::measure::rounds_of(ROUNDS) {
        let first = time(&orders, &ours, our_batch)?;
        let theirs =
            time(&orders, &baseline, their_batch)? + time(&orders, &baseline, their_batch)?;
        let ours = first + time(&orders, &ours, our_batch)?;
        rounds.add(ours, theirs);
    }
    Ok(rounds.summary())
}

/// Measures two threads at once against one of them. The speed is that of all threads together: 2 if they do not
/// disturb each other. The operation is called with the number of its thread.
pub(crate) fn second_thread(operation: impl Fn(usize) -> Outcome<()> + Sync) -> Outcome<Compared> {
    // The thread's number is the only index of its order.
    let orders = [vec![0], vec![1]];
    let operation = |thread: usize| operation(thread);
    let alone = &orders[..1];
    let batch = batch_size(alone, &operation)?;
    let mut rounds = Rounds::default();
    for _ in 0..crate::measure::rounds_of(ROUNDS) {
        let first = time(&orders, &operation, batch)?;
        let one = time(alone, &operation, batch)? + time(alone, &operation, batch)?;
        let both = first + time(&orders, &operation, batch)?;
        // Per operation, whichever thread did it.
        rounds.add(both / THREADS as f64, one);
    }
    Ok(rounds.summary())
}

fn batch_size(orders: &[Vec<u16>], operation: &impl Operation) -> Outcome<u32> {
    let mut size = 1024;
    loop {
        let seconds = time(orders, operation, size)? * f64::from(size);
        if seconds >= BATCH.as_secs_f64() {
            return Ok(size);
        }
        size *= 2;
    }
}

/// Seconds per operation, when each thread does `batch` of them. The time begins when the first thread starts and
/// ends when the last one has finished.
fn time(orders: &[Vec<u16>], operation: &impl Operation, batch: u32) -> Outcome<f64> {
    // CAST: a few threads.
    let waiting = AtomicU32::new(orders.len() as u32);
    let work = &|thread: usize, order: &[u16]| -> Result<(Instant, Instant), String> {
        stay_on(thread).map_err(|error| error.to_string())?;
        waiting.fetch_sub(1, Ordering::AcqRel);
        while waiting.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        let start = Instant::now();
        for &index in order.iter().cycle().take(batch as usize) {
            operation(usize::from(index)).map_err(|error| error.to_string())?;
        }
        Ok((start, Instant::now()))
    };
    let times: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = orders
            .iter()
            .enumerate()
            .map(|(n, order)| scope.spawn(move || work(n, order)))
            .collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect()
    });
    let times = times.into_iter().collect::<Result<Vec<_>, String>>()?;
    let start = times.iter().map(|(start, _)| *start).min().ok_or("no threads")?;
    let end = times.iter().map(|(_, end)| *end).max().ok_or("no threads")?;
    Ok((end - start).as_secs_f64() / f64::from(batch))
}

/// Keeps this thread on a core of its own. Two threads that share a core never contend for a lock, and a busy
/// machine's scheduler was seen to put both on one core for a whole batch.
fn stay_on(thread: usize) -> rustix::io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    let Some(core) = cores.nth(thread) else { return Ok(()) };
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one)
}

/// The numbers below `end` in a random order (Fisher and Yates), the same in every run.
fn shuffled(end: u16, thread: usize) -> Vec<u16> {
    let mut random = crate::measure::Random::new(thread as u64);
    let mut order: Vec<u16> = (0..end).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}
