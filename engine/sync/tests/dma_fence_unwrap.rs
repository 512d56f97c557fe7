//! `drivers/dma-buf/st-dma-fence-unwrap.c`: many fences as one.
//!
//! There are no fence containers here. A list of fences takes the place of a merged fence, with the rules of
//! [`Fences::add`]. The kernel merges sync files.
//!
//! | upstream | here |
//! |---|---|
//! | `unwrap_array`, `unwrap_chain`, `unwrap_chain_array` | nothing to unwrap; a list returns each fence once: `dma_resv.rs` |
//! | `unwrap_merge` | [`different_fences_are_all_kept`] |
//! | `unwrap_merge_duplicate` | [`a_fence_is_kept_once`] |
//! | `unwrap_merge_seqno` | [`of_one_timeline_the_later_fence_is_kept`] |
//! | `unwrap_merge_order` | [`the_order_of_adding_does_not_matter`] |
//! | `unwrap_merge_complex`, `unwrap_merge_complex_seqno` | [`any_mix_matches_a_plain_model`] |
//! | the kernel's own merging, and G12's stub for an empty list | [`sync_files_are_merged_by_the_kernel`] |
//!
//! These need points on a timeline, so a device is opened; nothing is recorded on it, and its timeline
//! advances when the test says so.

use std::io::Write;
use std::time::Duration;

use crate::device::{Device, QueueKind, SemaphoreHandle};
use crate::error::Error;
use crate::sync::{Fence, Fences, Signal, Usage, merge_sync_files};
use crate::{Engine, EngineDescriptor};

const LONG: Duration = Duration::from_secs(3600);
const USAGES: [Usage; 4] = [Usage::Move, Usage::Write, Usage::Read, Usage::Bookkeep];

/// An engine and `count` devices of it.
fn devices(count: usize) -> (Engine, Vec<Device>) {
    let engine = Engine::open(&EngineDescriptor::new()).expect("Vulkan is there");
    let adapter = engine.adapters().iter().find(|adapter| adapter.missing().is_empty());
    let adapter = adapter.expect("some adapter can take part").clone();
    let open = |_| engine.open_device(&adapter).expect("it opens");
    let devices = (0..count).map(open).collect();
    (engine, devices)
}

/// A point that the timeline has not reached. Its work is submitted later, or never.
fn point(device: &Device, value: u64) -> Fence {
    Fence::new(&device.0, value)
}

/// Advances a device's timeline by one.
fn advance(device: &Device) {
    device.submitted().and_then(|fence| fence.wait(LONG)).expect("an empty submission");
}

fn is_same(one: &Fence, other: &Fence) -> bool {
    one.covers(other) && other.covers(one)
}

/// Asserts that a query returns these fences, once each, in any order.
fn assert_pending(fences: &mut Fences, query: Usage, expected: &[&Fence], what: &str) {
    let found = fences.pending(query);
    let all = expected.iter().all(|fence| found.iter().any(|one| is_same(one, fence)));
    assert!(all && found.len() == expected.len(), "{what}: {found:?} instead of {expected:?}");
}

/// upstream: `unwrap_merge`
#[test]
fn different_fences_are_all_kept() {
    let (_engine, devices) = devices(2);
    let (host, _signal) = Fence::host();
    let beside = Fence::on(&devices[0].0, QueueKind::Transfer, 1);
    let all = [point(&devices[0], 1), point(&devices[1], 1), beside, host];
    assert!(!all[0].covers(&all[1]), "equal values of different timelines");
    assert!(!all[0].covers(&all[2]) && !all[2].covers(&all[0]), "equal values of different lanes");
    for usage in USAGES {
        let mut fences = Fences::default();
        all.iter().for_each(|fence| fences.add(usage, fence.clone()));
        assert_pending(&mut fences, usage, &[&all[0], &all[1], &all[2], &all[3]], "all");
    }
}

/// upstream: `unwrap_merge_duplicate`
#[test]
fn a_fence_is_kept_once() {
    let (_engine, devices) = devices(1);
    let fence = point(&devices[0], 7);
    for usage in USAGES {
        let mut fences = Fences::default();
        for _ in 0..3 {
            fences.add(usage, fence.clone());
        }
        fences.add(usage, point(&devices[0], 7));
        assert_pending(&mut fences, Usage::Bookkeep, &[&fence], "the same four times");
    }
}

/// upstream: `unwrap_merge_seqno`, with the usages of `dma_resv_add_fence`: a later point takes an earlier
/// one's place if every query for the earlier one returns it.
#[test]
fn of_one_timeline_the_later_fence_is_kept() {
    let (_engine, devices) = devices(1);
    let (early, late) = (point(&devices[0], 3), point(&devices[0], 5));
    for old in USAGES {
        for new in USAGES {
            let what = format!("early {old:?}, late {new:?}");
            let mut fences = Fences::default();
            fences.add(old, early.clone());
            fences.add(new, late.clone());
            let both = [&early, &late];
            let expected = if new <= old { &both[1..] } else { &both[..] };
            assert_pending(&mut fences, Usage::Bookkeep, expected, &what);
            // A query for the early one still returns it, or the late one.
            assert!(fences.pending(old).iter().any(|fence| fence.covers(&early)), "{what}");
            assert!(fences.pending(new).iter().any(|fence| fence.covers(&late)), "{what}");
        }
    }
}

/// upstream: `unwrap_merge_order`
#[test]
fn the_order_of_adding_does_not_matter() {
    let (_engine, devices) = devices(2);
    let (host, _signal) = Fence::host();
    let late = [point(&devices[0], 5), point(&devices[1], 4)];
    let early = [point(&devices[0], 3), point(&devices[1], 2)];
    let all = [&late[0], &early[0], &early[1], &host, &late[1], &Fence::signalled()];
    for turn in 0..all.len() {
        for backwards in [false, true] {
            let mut order: Vec<_> = (0..all.len()).map(|at| all[(at + turn) % all.len()]).collect();
            if backwards {
                order.reverse();
            }
            let mut fences = Fences::default();
            order.iter().for_each(|fence| fences.add(Usage::Read, (*fence).clone()));
            let what = format!("in the order {order:?}");
            assert_pending(&mut fences, Usage::Read, &[&late[0], &late[1], &host], &what);
        }
    }
}

/// upstream: `unwrap_merge_complex`, `unwrap_merge_complex_seqno`: any mix of timelines, values, events
/// of the host and usages, while some of them signal, against a model that keeps everything.
#[test]
fn any_mix_matches_a_plain_model() {
    let (_engine, devices) = devices(3);
    for seed in 0..60 {
        Mix::new(&devices, seed).run(80);
    }
}

/// A list, and every fence that was ever added to it.
struct Mix<'a> {
    devices: &'a [Device],
    reached: Vec<u64>,
    hosts: Vec<(Fence, Option<Signal>)>,
    fences: Fences,
    added: Vec<(Usage, Source)>,
    random: u64,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Point { device: usize, value: u64 },
    Host(usize),
}

impl<'a> Mix<'a> {
    fn new(devices: &'a [Device], seed: u64) -> Self {
        let reached = devices
            .iter()
            .map(|device| device.0.completed(QueueKind::Main).expect("alive"))
            .collect();
        let random = seed * 7919 + 1;
        Self { devices, reached, hosts: vec![], fences: Fences::default(), added: vec![], random }
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            match self.next(10) {
                0 => self.advance(),
                1 => self.signal(),
                2 => self.add_host(),
                3 => self.fences.add(USAGES[0], Fence::signalled()),
                _ => self.add_point(),
            }
            USAGES.into_iter().for_each(|query| self.check(query));
        }
        drop(self.hosts);
        self.hosts = vec![];
        self.added.retain(|(_, source)| matches!(source, Source::Point { .. }));
        let pending = |(_, source): &(Usage, Source)| match source {
            Source::Point { device, value } => *value > self.reached[*device],
            Source::Host(_) => false,
        };
        let idle = !self.added.iter().any(pending);
        assert_eq!(self.fences.is_idle(), idle);
    }

    fn advance(&mut self) {
        let device = self.next(self.devices.len());
        advance(&self.devices[device]);
        self.reached[device] += 1;
    }

    fn signal(&mut self) {
        if let Some(at) = self.hosts.len().checked_sub(1) {
            let at = self.next(at + 1);
            self.hosts[at].1 = None;
        }
    }

    fn add_host(&mut self) {
        if self.hosts.is_empty() || self.next(2) == 0 {
            let (fence, signal) = Fence::host();
            self.hosts.push((fence, Some(signal)));
        }
        let (at, usage) = (self.next(self.hosts.len()), USAGES[self.next(4)]);
        self.fences.add(usage, self.hosts[at].0.clone());
        self.added.push((usage, Source::Host(at)));
    }

    fn add_point(&mut self) {
        let (device, usage) = (self.next(self.devices.len()), USAGES[self.next(4)]);
        // Near the reached value, so that some have signalled.
        let value = self.reached[device].max(1) - 1 + self.next(6) as u64;
        self.fences.add(usage, point(&self.devices[device], value));
        self.added.push((usage, Source::Point { device, value }));
    }

    /// A query's result covers every fence that was added, and contains no useless fence.
    fn check(&mut self, query: Usage) {
        let found = self.fences.pending(query);
        let asked: Vec<_> = self.added.iter().filter(|(usage, _)| *usage <= query).collect();
        let mut expected = vec![];
        for (device, of) in self.devices.iter().enumerate() {
            let values = asked.iter().filter_map(|(_, source)| match source {
                Source::Point { device: on, value } if *on == device => Some(*value),
                _ => None,
            });
            let last = values.max().filter(|&value| value > self.reached[device]);
            expected.extend(last.map(|value| point(of, value)));
        }
        let hosts = self.hosts.iter().enumerate().filter(|(at, (_, signal))| {
            let added =
                |(_, source): &&(Usage, Source)| matches!(source, Source::Host(of) if of == at);
            signal.is_some() && asked.iter().any(added)
        });
        expected.extend(hosts.map(|(_, (fence, _))| fence.clone()));
        // The result covers the model's fences, and the model's fences cover the result.
        let covered =
            |by: &[Fence], all: &[Fence]| all.iter().all(|one| by.iter().any(|it| it.covers(one)));
        let what = format!("query for {query:?}: {found:?} instead of {expected:?}");
        assert!(covered(&found, &expected) && covered(&expected, &found), "{what}");
        // Useless: a duplicate, or a signalled fence. An earlier point may be there for a stronger usage.
        assert!(found.iter().all(|fence| !fence.is_over()), "{what}");
        let copies = |fence| found.iter().filter(|other| is_same(other, fence)).count();
        assert!(found.iter().all(|fence| copies(fence) == 1), "{what}");
    }

    fn next(&mut self, below: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % below
    }
}

/// The kernel's `sync_file_merge`: a merged file signals once all have, in any number and order. Needs a
/// driver that exports `SYNC_FD`, which the virtual machine has.
#[test]
fn sync_files_are_merged_by_the_kernel() {
    assert!(merge_sync_files(vec![]).expect("nothing to merge").is_none());
    let engine = Engine::open(&EngineDescriptor::new()).expect("Vulkan is there");
    let mut devices: Vec<_> = engine
        .adapters()
        .iter()
        .filter(|adapter| adapter.missing().is_empty())
        .flat_map(|adapter| [(); 2].map(|()| engine.open_device(adapter).expect("it opens")))
        .collect();
    devices.retain(|device| {
        let exports = device.0.shares_semaphores(SemaphoreHandle::SYNC_FD, false).0;
        let file = device.submitted().and_then(|fence| fence.to_sync_file());
        assert!(exports || matches!(file, Err(Error::Unsupported { .. })), "{file:?}");
        exports
    });
    if devices.is_empty() {
        let vm = std::env::var_os("PEERBUF_VM").is_some_and(|value| value == "1");
        assert!(!vm, "the vm tier must have a driver with SYNC_FD");
        let why = "merging sync files runs in the vm tier: no driver here exports SYNC_FD";
        writeln!(std::io::stderr(), "{why}").expect("standard error is open");
        return;
    }
    let files = |device: &Device| {
        // A driver may report instead that all work has finished; then there is no file.
        let file = |_| device.submitted().and_then(|fence| fence.to_sync_file()).ok();
        (0..3).filter_map(file).collect::<Vec<_>>()
    };
    let files: Vec<_> = devices.iter().chain(devices.iter().rev()).flat_map(files).collect();
    let merged = merge_sync_files(files).expect("all are sync files").expect("at least one");
    let fence = Fence::from_sync_file(merged).expect("what was merged is a sync file");
    fence.wait(LONG).expect("all signal");
    assert!(fence.is_signalled().expect("no error") && fence.is_over());
    assert!(fence.covers(&fence.clone()) && !fence.covers(&point(&devices[0], 1)));
}
