//! Residency in a world without Vulkan.
//!
//! `world` is the fake; `ttm_*` are the kernel's own tests of buffers, eviction and managers, under their
//! upstream names; `order` holds the choice of victims to a plain list, `recency` to its rules, `room` the
//! search for room to its promises, one by one; `random` does anything in any order, `owners` does it from
//! many threads; `dmem` is the client groups', and `ageing` the age groups'; `simulation` has a million
//! buffers.

mod ageing;
mod dmem;
mod order;
mod owners;
mod random;
mod recency;
mod room;
mod simulation;
mod ttm_bo;
mod ttm_bo_evict;
mod ttm_bo_validate;
mod ttm_resource;
mod world;

use super::obstacles::Obstacles;
use super::policy::{self, Policy};
use super::priority::Priority;
use super::room::{Place, Terms};
use world::{Asked, Refused, Validated, site};

/// Makes a policy.
type Make = fn() -> Box<dyn Policy>;

/// The policies that everything here has to be right with, whatever they choose.
const POLICIES: [(&str, Make); 3] =
    [("lru", policy::lru), ("adaptive", policy::adaptive), ("newest first", world::newest_first)];

/// What sizes are multiples of.
const UNIT: u64 = 256;

/// How many times as long the long tests are: `SOAK=n`, 1 unless somebody asked for more.
fn soak() -> u64 {
    let times = std::env::var("SOAK").ok().filter(|times| !times.is_empty());
    times.map_or(1, |times| times.parse().expect("SOAK is a number"))
}

/// The seeds of a test: `count` of them, or the one of `RESIDENCY_SEED`.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("RESIDENCY_SEED").ok().filter(|seed| !seed.is_empty()) {
        Some(seed) => vec![seed.parse().expect("RESIDENCY_SEED is a number")],
        None => (0..count * soak()).collect(),
    }
}

/// Places as a placement names them: the first is wanted, the others will do.
fn places(sites: &[usize]) -> Vec<Place> {
    let place = |(nth, &number): (usize, &usize)| Place { domain: site(number), fallback: nth > 0 };
    sites.iter().enumerate().map(place).collect()
}

/// As far as one can go. The world takes no time, so the end of the wait is now; owners on threads of their
/// own say otherwise.
fn terms() -> Terms {
    Terms {
        demand: crate::residency::Demand::Asked,
        evict: true,
        most: Priority::Highest,
        wait: Some(std::time::Instant::now()),
        patient: false,
        skip_busy: false,
        depth: 0,
    }
}

/// The same, without any wait (kernel: `no_wait_gpu`).
fn no_wait() -> Terms {
    Terms { wait: None, ..terms() }
}

/// Who was asked to leave.
fn who(asked: &[Asked]) -> Vec<u32> {
    asked.iter().map(|asked| asked.buffer).collect()
}

/// Why there was no room.
fn obstacles(refused: Result<Validated, Refused>) -> Obstacles {
    match refused {
        Err(Refused::NoRoom { obstacles, .. }) => obstacles,
        other => panic!("no room was expected, and not {other:?}"),
    }
}

/// Sebastiano Vigna's splitmix64: the same seed gives the same numbers.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of `list`, which is not empty.
    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        // CAST: below a `usize`.
        &list[self.below(list.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
