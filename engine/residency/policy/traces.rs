//! Traces for [`replay`](super::replay()): generated ones (frame loops, scans, popularity, changes) and a
//! recorded one. They are the same in every run.
//!
//! Unless a trace says otherwise, each buffer has 1 MiB and 1000 of them fit.

use std::collections::HashMap;

use super::interface::Slot;
use super::random::Random;
use super::replay::Use;
use crate::memory::DomainId;
use crate::observe::trace::{AccessEvent, read};

/// The bytes of a buffer, where all have the same size.
const EACH: u64 = 1 << 20;
/// How many such buffers fit.
const FIT: usize = 1000;
/// The approximate number of uses in a trace.
const USES: usize = 220_000;

/// A list of uses, and the size of a domain for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The name of the trace.
    pub name: String,
    /// The size of the domain in bytes.
    pub capacity: u64,
    /// The uses, in order.
    pub uses: Vec<Use>,
}

/// All traces.
pub fn catalogue() -> impl Iterator<Item = Trace> {
    MAKERS.iter().map(|(name, make)| {
        let (capacity, uses) = make();
        Trace { name: (*name).into(), capacity, uses }
    })
}

/// The trace of this name.
#[must_use]
pub fn named(name: &str) -> Option<Trace> {
    let (name, make) = MAKERS.iter().find(|(known, _)| *known == name)?;
    let (capacity, uses) = make();
    Some(Trace { name: (*name).into(), capacity, uses })
}

/// The uses that an engine has recorded for one domain ([`crate::observe::trace::read`]), in order. Buffers are
/// renumbered by their first use. The result is empty for system memory, because nothing is evicted from there.
pub fn recorded(accesses: &[AccessEvent], domain: DomainId) -> Vec<Use> {
    let mut known = HashMap::new();
    let uses =
        accesses.iter().filter(|access| access.domain == domain && domain != DomainId::System);
    uses.map(|access| {
        let next = known.len();
        let number = *known.entry(access.buffer).or_insert(next);
        Use { slot: slot(number), bytes: access.bytes }
    })
    .collect()
}

/// The size of the domain, and the uses.
type Made = (u64, Vec<Use>);
type Maker = fn() -> Made;

const MAKERS: [(&str, Maker); 21] = [
    ("frame loop 1.1", || equal(frame_loop(1100))),
    ("frame loop 1.25", || equal(frame_loop(1250))),
    ("frame loop 1.5", || equal(frame_loop(1500))),
    ("frame loop 2", || equal(frame_loop(2000))),
    ("shuffled loop 1.25", || equal(shuffled_loop(1250))),
    ("zipf 0.8", || equal(zipf(0.8, 0))),
    ("zipf 0.8 + one-shot", || equal(zipf(0.8, 30))),
    ("zipf 1.0", || equal(zipf(1.0, 0))),
    ("zipf 1.0 + one-shot", || equal(zipf(1.0, 30))),
    ("render, slow window 1.2", || equal(render(600, 600, 8))),
    ("render, fast window 0.9", || equal(render(450, 450, 60))),
    ("streaming", || equal((0..USES).collect())),
    ("scan over a hot set", || equal(scan(600, 800))),
    ("phase changes", || equal(phases())),
    ("camera cuts 1.25", || equal(cuts(1250))),
    ("back and forth 1.25", || equal(back_and_forth(1250))),
    ("random 10", || equal(random(10_000))),
    ("a dozen buffers 1.2", || (10 * EACH, same_size(&frames(12, 4000)))),
    ("mixed sizes, frame loop 1.25", mixed_loop),
    ("mixed sizes, zipf 0.9", mixed_zipf),
    ("recorded: the demo", demo),
];

fn same_size(numbers: &[usize]) -> Vec<Use> {
    numbers.iter().map(|&number| Use { slot: slot(number), bytes: EACH }).collect()
}

fn slot(number: usize) -> Slot {
    // CAST: traces have fewer buffers than uses, and far fewer uses than 2³².
    Slot(number as u32)
}

fn equal(numbers: Vec<usize>) -> Made {
    // CAST: a small constant.
    (FIT as u64 * EACH, same_size(&numbers))
}

/// All buffers in turn, `count` times.
fn frames(buffers: usize, count: usize) -> Vec<usize> {
    (0..count).flat_map(|_| 0..buffers).collect()
}

fn frame_loop(buffers: usize) -> Vec<usize> {
    frames(buffers, USES / buffers)
}

/// Each frame uses all buffers, in an order of its own.
fn shuffled_loop(buffers: usize) -> Vec<usize> {
    let mut random = Random::new(1);
    let mut order: Vec<_> = (0..buffers).collect();
    (0..USES / buffers)
        .flat_map(|_| {
            shuffle(&mut order, &mut random);
            order.clone()
        })
        .collect()
}

fn shuffle(list: &mut [usize], random: &mut Random) {
    for end in (1..list.len()).rev() {
        list.swap(end, random.below(end + 1));
    }
}

/// Random numbers below a bound; the probability of the n-th is proportional to n to the power of `-exponent`.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=count)
                .map(|n| {
                    sum += f64::from(n).powf(-exponent);
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self, random: &mut Random) -> usize {
        let sum = self.0.last().copied().unwrap_or(0.0);
        let at = random.unit() * sum;
        self.0.partition_point(|&up_to| up_to <= at).min(self.0.len() - 1)
    }
}

/// 10,000 buffers by popularity. `one_shot` per cent of the uses are of buffers that are never used again.
fn zipf(exponent: f64, one_shot: usize) -> Vec<usize> {
    const POPULAR: u32 = 10_000;
    let (mut random, zipf) = (Random::new(2), Zipf::new(POPULAR, exponent));
    let mut fresh = zipf.0.len();
    (0..USES)
        .map(|_| {
            if random.below(100) < one_shot {
                fresh += 1;
                return fresh - 1;
            }
            zipf.draw(&mut random)
        })
        .collect()
}

/// A frame uses `hot` buffers and a window of `seen` others, which advances by `step` through 10,000 buffers.
fn render(hot: usize, seen: usize, step: usize) -> Vec<usize> {
    const WORLD: usize = 10_000;
    (0..USES / (hot + seen))
        .flat_map(|frame| {
            let window = (0..seen).map(move |n| hot + (frame * step + n) % WORLD);
            (0..hot).chain(window)
        })
        .collect()
}

/// A frame uses `hot` buffers and the next `cold` of 50,000 others.
fn scan(hot: usize, cold: usize) -> Vec<usize> {
    const ARCHIVE: usize = 50_000;
    (0..USES / (hot + cold))
        .flat_map(|frame| {
            (0..hot).chain((0..cold).map(move |n| hot + (frame * cold + n) % ARCHIVE))
        })
        .collect()
}

/// Eight phases of 25 times the capacity, each with other buffers: loops, popularity, a window.
fn phases() -> Vec<usize> {
    const PHASE: usize = 25 * FIT;
    let parts = [
        frame_loop(1250),
        zipf(0.8, 0),
        render(450, 450, 60),
        frame_loop(1100),
        shuffled_loop(1500),
        zipf(1.0, 30),
        back_and_forth(1250),
        render(600, 600, 8),
    ];
    parts
        .iter()
        .enumerate()
        .flat_map(|(number, part)| part.iter().take(PHASE).map(move |n| number * 50_000 + n))
        .collect()
}

/// A frame loop in which two per cent of the buffers are replaced each frame, and half of them every 20 frames.
fn cuts(buffers: usize) -> Vec<usize> {
    let mut random = Random::new(3);
    let mut seen: Vec<_> = (0..buffers).collect();
    let mut fresh = buffers;
    let mut uses = Vec::with_capacity(USES);
    for frame in 0..USES / buffers {
        let replaced = if frame % 20 == 19 { buffers / 2 } else { buffers / 50 };
        for _ in 0..replaced {
            seen[random.below(buffers)] = fresh;
            fresh += 1;
        }
        uses.extend_from_slice(&seen);
    }
    uses
}

/// All buffers in turn, then in the opposite order.
fn back_and_forth(buffers: usize) -> Vec<usize> {
    (0..USES / (2 * buffers)).flat_map(|_| (0..buffers).chain((0..buffers).rev())).collect()
}

fn random(buffers: usize) -> Vec<usize> {
    let mut random = Random::new(4);
    (0..USES).map(|_| random.below(buffers)).collect()
}

/// Sizes from 4 KiB to 64 MiB; each doubling is equally likely.
fn sizes(count: usize) -> Vec<u64> {
    const SMALLEST: f64 = 4096.0;
    const DOUBLINGS: f64 = 14.0;
    let mut random = Random::new(5);
    (0..count)
        // CAST: at most 64 MiB, and whole pages are enough.
        .map(|_| (SMALLEST * (random.unit() * DOUBLINGS).exp2()) as u64 & !0xfff)
        .collect()
}

fn of_sizes(numbers: &[usize], sizes: &[u64], part: f64) -> Made {
    let total: u64 = sizes.iter().sum();
    // CAST: a part of the total, which is far below 2⁵³.
    let capacity = (total as f64 * part) as u64;
    let uses = numbers.iter().map(|&n| Use { slot: slot(n), bytes: sizes[n] }).collect();
    (capacity, uses)
}

fn mixed_loop() -> Made {
    const BUFFERS: usize = 1250;
    of_sizes(&frame_loop(BUFFERS), &sizes(BUFFERS), 0.8)
}

fn mixed_zipf() -> Made {
    of_sizes(&zipf(0.9, 0), &sizes(10_000), 0.1)
}

/// The part of `peerbuf demo --vram 64M --trace` about that memory: 128 frames slide over 64 buffers of 4 MiB.
fn demo() -> Made {
    const TRACE: &[u8] = include_bytes!("traces/demo.json");
    let accesses = read(TRACE).expect("the trace was written by an engine");
    let uses = accesses.first().map(|first| recorded(&accesses, first.domain));
    (64 << 20, uses.unwrap_or_default())
}
