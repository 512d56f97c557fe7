//! What the speeds of a run are judged by: the host's memory, and how much one operation differs from itself.

use std::hint::black_box;
use std::time::{Duration, Instant};

use peerbuf::CopyBy;

use super::super::run::{HostCopy, HostSpeed, Noise};
use super::super::stats;
use super::bed::Bed;
use super::leg::{Leg, Plan};
use super::place::Place;

/// Bytes of the measurements of memory: more than the caches of most processors hold.
const SIZE: usize = 64 << 20;

/// How often each is measured.
const TIMES: usize = 7;

/// The speed of the host's memory: the best that was seen, since what is possible is judged by it.
pub(super) fn host(bed: &mut Bed<'_>) -> Vec<HostSpeed> {
    let source = vec![0xa5u8; SIZE];
    let mut target = vec![0x5au8; SIZE];
    let mut all: Vec<HostSpeed> = Vec::new();
    let mut add = |copy, nanos: Option<f64>| {
        let Some(nanos) = nanos else { return };
        // CAST: far below 2⁵³.
        let bytes_per_second = SIZE as f64 * 1e9 / nanos;
        match all.iter_mut().find(|speed| speed.copy == copy) {
            Some(speed) => speed.bytes_per_second = speed.bytes_per_second.max(bytes_per_second),
            None => {
                let size_bytes = SIZE as u64;
                all.push(HostSpeed { copy, node: None, size_bytes, bytes_per_second });
            }
        }
    };
    add(HostCopy::Memcpy, time(|| black_box(&mut target).copy_from_slice(black_box(&source))));
    add(HostCopy::ParallelCopy, time(|| copy_by_all(&mut target, &source)));
    add(
        HostCopy::Read,
        time(|| {
            black_box(sum(black_box(&source)));
        }),
    );
    add(HostCopy::Write, time(|| black_box(&mut target).fill(black_box(7))));
    drop((source, target));
    // By the library, as the cells have it: between two pieces of memory that a device can import.
    for (copy, by) in
        [(HostCopy::Memcpy, CopyBy::Host), (HostCopy::StreamingCopy, CopyBy::HostPastCache)]
    {
        let plan = Plan { from: Place::Host(0), to: Place::Host(0), by };
        let Ok(leg) = bed.leg(&plan, SIZE as u64, 0) else { continue };
        // The first one touches the memory.
        let times: Result<Vec<_>, _> =
            (0..=TIMES).map(|_| leg.copy(0).map(|times| times.host)).collect();
        add(copy, times.ok().and_then(|times| least(&times[1..])));
    }
    all
}

/// Measures the host's memory again, and keeps the better ones.
pub(super) fn again(bed: &mut Bed<'_>, speeds: &mut [HostSpeed]) {
    if speeds.is_empty() || bed.stop.reason().is_some() {
        return;
    }
    for other in host(bed) {
        if let Some(speed) = speeds.iter_mut().find(|speed| speed.copy == other.copy) {
            speed.bytes_per_second = speed.bytes_per_second.max(other.bytes_per_second);
        }
    }
}

fn least(times: &[f64]) -> Option<f64> {
    times.iter().copied().min_by(f64::total_cmp)
}

/// The least time in nanoseconds, after one run that is not counted.
fn time(mut work: impl FnMut()) -> Option<f64> {
    work();
    let times: Vec<_> = (0..TIMES)
        .map(|_| {
            let start = Instant::now();
            work();
            // CAST: far below 2⁵³.
            start.elapsed().as_nanos() as f64
        })
        .collect();
    least(&times)
}

/// Copies with all processors at once.
fn copy_by_all(target: &mut [u8], source: &[u8]) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = source.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (target, source) in target.chunks_mut(part).zip(source.chunks(part)) {
            scope.spawn(move || black_box(target).copy_from_slice(black_box(source)));
        }
    });
}

/// Reads all words.
fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

/// How much one copy on the first device differs from itself, for a small and a large size.
pub(super) fn noise(bed: &mut Bed<'_>) -> Vec<Noise> {
    let by = CopyBy::MainQueue(bed.devices[0].clone());
    let plan = Plan { from: Place::Own(0), to: Place::Own(0), by };
    let classes = [(4 << 10, 101), (SIZE as u64, 15)];
    let mut all = Vec::new();
    for (size, most) in classes {
        let Ok(leg) = bed.leg(&plan, size, 0) else { continue };
        all.extend(
            of_pairs(&leg, most, bed.noise_time())
                .and_then(|pairs| stats::noise("a copy within device0", Some(size), &pairs)),
        );
    }
    all
}

/// Times of the same copy in the order A B B A, for at most `within`, but of some pairs.
fn of_pairs(leg: &Leg<'_>, most: usize, within: Duration) -> Option<Vec<(f64, f64)>> {
    const FEW: usize = 7;
    let mut turn = 0;
    let mut copy = || {
        turn += 1;
        Some(leg.copy(turn).ok()?.host)
    };
    for _ in 0..2 * leg.turns() {
        copy()?;
    }
    let (start, mut pairs) = (Instant::now(), Vec::new());
    while pairs.len() < FEW || pairs.len() < most && start.elapsed() < within {
        let (first, second, third, fourth) = (copy()?, copy()?, copy()?, copy()?);
        pairs.push((first + fourth, second + third));
    }
    Some(pairs.into_iter().map(|(a, b)| (a / 2.0, b / 2.0)).collect())
}
