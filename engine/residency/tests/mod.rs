//! Residency in a world without Vulkan.
//!
//! `world` is a model of an engine. `ttm_*` are the kernel's own tests of buffers, eviction and managers, with
//! their upstream names. `eviction_order` compares the choice of victims with a plain list, `eviction_list`
//! tests its rules, `room` the promises of the search for room. `random` does random operations, `concurrent`
//! does them from several threads. `dmem` tests client groups, `bulk_move` bulk groups. `simulation` has a
//! million buffers.

mod bulk_move;
mod concurrent;
mod dmem;
mod eviction_list;
mod eviction_order;
mod random;
mod room;
mod simulation;
mod ttm_bo;
mod ttm_bo_evict;
mod ttm_bo_validate;
mod ttm_resource;
mod world;

use super::eviction_failures::EvictionFailures;
use super::policy::{self, Policy};
use super::priority::Priority;
use super::room::PlacementOption;
use super::world::EvictionLimits;
use world::{Attempt, Refused, Validated, site};

/// Makes a policy.
type Make = fn() -> Box<dyn Policy>;

/// Every test must pass with each of these policies, whatever they choose.
const POLICIES: [(&str, Make); 3] =
    [("lru", policy::lru), ("adaptive", policy::adaptive), ("newest first", world::newest_first)];

/// All sizes are multiples of this many bytes.
const UNIT: u64 = 256;

/// The factor by which the long tests are longer: `SOAK=n`, by default 1.
fn soak() -> u64 {
    let times = std::env::var("SOAK").ok().filter(|times| !times.is_empty());
    times.map_or(1, |times| times.parse().expect("SOAK is a number"))
}

/// The seeds of a test: `count` of them, or the one in `RESIDENCY_SEED`.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("RESIDENCY_SEED").ok().filter(|seed| !seed.is_empty()) {
        Some(seed) => vec![seed.parse().expect("RESIDENCY_SEED is a number")],
        None => (0..count * soak()).collect(),
    }
}

/// A placement: the first domain is preferred, the others are fallbacks.
fn places(sites: &[usize]) -> Vec<PlacementOption> {
    let place = |(nth, &number): (usize, &usize)| PlacementOption {
        domain: site(number),
        fallback: nth > 0,
    };
    sites.iter().enumerate().map(place).collect()
}

/// The widest limits. The model takes no time, so the wait ends now; tests with threads set a later time.
fn limits() -> EvictionLimits {
    EvictionLimits {
        trigger: crate::residency::Trigger::Asked,
        evict: true,
        max_priority: Priority::Highest,
        wait: Some(std::time::Instant::now()),
        may_block: false,
        skip_busy: false,
        depth: 0,
    }
}

/// The widest limits without a wait (kernel: `no_wait_gpu`).
fn no_wait() -> EvictionLimits {
    EvictionLimits { wait: None, ..limits() }
}

/// The buffers that an eviction was attempted of.
fn tried(asked: &[Attempt]) -> Vec<u32> {
    asked.iter().map(|asked| asked.buffer).collect()
}

/// The reasons why there was no room.
fn failures(refused: Result<Validated, Refused>) -> EvictionFailures {
    match refused {
        Err(Refused::NoRoom { failures, .. }) => failures,
        other => panic!("expected no room, got {other:?}"),
    }
}

/// Sebastiano Vigna's splitmix64; the same seed gives the same numbers.
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

    /// A random element of `list`, which is not empty.
    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        // CAST: below a `usize`.
        &list[self.below(list.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
