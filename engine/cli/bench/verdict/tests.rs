//! A made tree of the kernel's files for each cause, and the verdict that comes of it.

use super::super::made::Random;
use super::super::made::run::{cell, gpu, key, run, software};
use super::super::made::tree::Tree;
use super::super::run::{CopyEngine, Direction, End, HostCopy, HostSpeed, Key, Pattern, Verified};
use super::super::sysfs;
use super::*;

const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:41:00.0";

/// Two GPUs, each below a root port of its own.
fn two(name: &str) -> Tree {
    let tree = Tree::new(&format!("verdict_{name}"));
    tree.gpu(FIRST, &["0000:00:01.1"]);
    tree.gpu(SECOND, &["0000:00:03.1"]);
    tree
}

/// A run on that tree with one cell, which was read while it ran.
fn measured(tree: &Tree, key: Key, bytes_per_second: f64) -> Run {
    let root = tree.root();
    let device = |index, address| gpu(index, address, sysfs::pci(root, address));
    let mut run = run(vec![device(0, FIRST), device(1, SECOND)]);
    let mut cell = cell(key, bytes_per_second, &mut Random::new(1));
    cell.loaded = [FIRST, SECOND].iter().flat_map(|address| sysfs::hops(root, address)).collect();
    run.cells.push(cell);
    judge(&mut run);
    run
}

fn between() -> Key {
    key(End::Device(0), End::Device(1))
}

/// Checks the verdict of the only cell, and that the causes are these kinds, each with these words.
fn check(run: &Run, verdict: Verdict, causes: &[(CauseKind, &str)]) {
    let cell = &run.cells[0];
    assert_eq!(cell.verdict, verdict, "{:?}", (&cell.bound, &cell.bound_at_best, &cell.causes));
    let kinds: Vec<_> = cell.causes.iter().map(|cause| cause.kind).collect();
    assert_eq!(
        kinds,
        causes.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        "{:?}",
        cell.causes
    );
    for (cause, (_, words)) in cell.causes.iter().zip(causes) {
        assert!(cause.evidence.contains(words), "{words:?} is not in {:?}", cause.evidence);
    }
}

fn first_lines(run: &Run) -> String {
    headlines(run).iter().map(|it| format!("{} {}\n", it.tone.mark(), it.text)).collect()
}

#[test]
fn a_fast_pair_is_as_expected() {
    let tree = two("fast");
    let run = measured(&tree, between(), 26e9);
    check(&run, Verdict::AsExpected, &[]);
    let bound = run.cells[0].bound.as_ref().expect("the link is known");
    assert!((bound.bytes_per_second - 31.5e9).abs() < 0.1e9, "{bound:?}");
    assert!(run.cells[0].bound_at_best.is_none(), "the link is as fast as it can be");
    assert!(first_lines(&run).contains("as expected"), "{}", first_lines(&run));
}

#[test]
fn a_narrow_link_is_the_reason() {
    let tree = two("narrow");
    for device in [SECOND, "0000:00:03.1"] {
        tree.set(device, "current_link_width", "4\n");
    }
    let run = measured(&tree, between(), 6.9e9);
    let evidence = "0000:41:00.0 has PCIe 16 GT/s × 4 of 16 GT/s × 16 during the copy";
    check(&run, Verdict::LessBecause, &[(CauseKind::NarrowLink, evidence)]);
    let lines = first_lines(&run);
    assert!(lines.contains("! 1 of 1 directions are slower than they should be"), "{lines}");
    assert!(lines.contains("device0 → device1 by dma_buf: 6.90 GB/s, 22 %"), "{lines}");
    assert!(lines.contains(evidence), "{lines}");
}

#[test]
fn a_slow_link_is_the_reason() {
    let tree = two("slow");
    tree.set(FIRST, "current_link_speed", "2.5 GT/s PCIe\n");
    let run = measured(&tree, between(), 3.5e9);
    let evidence = "PCIe 2.5 GT/s × 16 of 16 GT/s × 16 during the copy";
    check(&run, Verdict::LessBecause, &[(CauseKind::SlowLink, evidence)]);
}

#[test]
fn a_slow_link_that_is_not_used_either_is_not_the_whole_reason() {
    let tree = two("unused");
    tree.set(FIRST, "current_link_speed", "2.5 GT/s PCIe\n");
    let run = measured(&tree, between(), 0.5e9);
    check(&run, Verdict::Less, &[(CauseKind::SlowLink, "2.5 GT/s")]);
    assert!(first_lines(&run).contains("does not account for all of it"), "{}", first_lines(&run));
}

#[test]
fn a_sleeping_device_is_the_reason() {
    let tree = two("asleep");
    tree.set(SECOND, "power/runtime_status", "suspended\n");
    tree.set(SECOND, "power_state", "D3cold\n");
    let run = measured(&tree, between(), 2e9);
    check(&run, Verdict::LessBecause, &[(CauseKind::Asleep, "0000:41:00.0 was asleep (D3cold)")]);
}

#[test]
fn a_far_node_is_the_reason() {
    let tree = two("far");
    tree.set(SECOND, "numa_node", "1\n");
    let run = measured(&tree, between(), 12e9);
    let evidence = "0000:01:00.0 is on node 0, 0000:41:00.0 on node 1";
    check(&run, Verdict::LessBecause, &[(CauseKind::FarNode, evidence)]);
    // Firmware that names no node says nothing.
    tree.set(SECOND, "numa_node", "-1\n");
    check(&measured(&tree, between(), 12e9), Verdict::Less, &[]);
}

#[test]
fn a_small_bar_is_the_reason() {
    let tree = two("bar");
    tree.set(SECOND, "resource", "0x0000000010000000 0x000000001fffffff 0x000000000014220c\n");
    let key = Key { size_bytes: 1 << 30, ..between() };
    let run = measured(&tree, key, 5e9);
    check(&run, Verdict::LessBecause, &[(CauseKind::SmallBar, "BAR of 256 MiB")]);
    // A buffer that fits may lie inside: this is shown, and is no explanation.
    check(
        &measured(&tree, between(), 5e9),
        Verdict::Less,
        &[(CauseKind::SmallBar, "BAR of 256 MiB")],
    );
}

#[test]
fn a_narrow_bridge_is_the_reason() {
    let tree = Tree::new("verdict_bridge");
    tree.gpu(FIRST, &["0000:00:01.1"]);
    // The switch's link to the root has four lanes, the device's own link sixteen.
    tree.gpu(SECOND, &["0000:00:03.1", "0000:40:00.0"]);
    for bridge in ["0000:00:03.1", "0000:40:00.0"] {
        tree.set(bridge, "current_link_width", "4\n");
    }
    let run = measured(&tree, between(), 7e9);
    let evidence = "has 4 lanes, and 0000:41:00.0 has 16 GT/s × 16";
    check(&run, Verdict::LessBecause, &[(CauseKind::NarrowBridge, evidence)]);
}

#[test]
fn a_narrow_slot_is_a_reason_beside_the_narrow_link() {
    let tree = two("slot");
    for device in [SECOND, "0000:00:03.1"] {
        tree.set(device, "current_link_width", "8\n");
    }
    tree.set("0000:00:03.1", "max_link_width", "8\n");
    let causes = [
        (CauseKind::NarrowLink, "× 8 of 16 GT/s × 16"),
        (CauseKind::NarrowBridge, "bridge 0000:00:03.1 has 8 lanes at most"),
    ];
    check(&measured(&tree, between(), 14e9), Verdict::LessBecause, &causes);
}

#[test]
fn bridges_above_both_devices_do_not_limit_what_passes_below_them() {
    let tree = Tree::new("verdict_switch");
    tree.gpu(FIRST, &["0000:00:01.1", "0000:02:00.0", "0000:03:00.0"]);
    tree.gpu(SECOND, &["0000:00:01.1", "0000:02:00.0", "0000:03:01.0"]);
    for bridge in ["0000:00:01.1", "0000:02:00.0"] {
        tree.set(bridge, "current_link_width", "4\n");
    }
    check(&measured(&tree, between(), 27e9), Verdict::AsExpected, &[]);
    // What goes through the host passes them.
    let key = Key { way: "memfd".into(), ..between() };
    let causes = [
        (CauseKind::NarrowBridge, "has 4 lanes"),
        (CauseKind::NarrowBridge, "has 4 lanes"),
        (CauseKind::ThroughHost, "two crossings"),
    ];
    check(&measured(&tree, key, 5e9), Verdict::LessBecause, &causes);
}

#[test]
fn a_way_through_the_host_is_the_reason() {
    let tree = two("host");
    let key = Key { way: "staged".into(), engine: CopyEngine::Ring, ..between() };
    let run = measured(&tree, key, 11e9);
    check(&run, Verdict::LessBecause, &[(CauseKind::ThroughHost, "staged goes through the host")]);
}

#[test]
fn memory_that_the_cache_does_not_hold_is_the_reason() {
    let tree = two("uncached");
    let key = Key {
        engine: CopyEngine::Host,
        way: "host_visible".into(),
        ..key(End::Device(0), End::Host)
    };
    let mut run = measured(&tree, key, 0.05e9);
    run.cells[0].host_cached = Some(false);
    judge(&mut run);
    check(&run, Verdict::LessBecause, &[(CauseKind::Uncached, "cache")]);
}

#[test]
fn one_direction_that_takes_the_speed_is_the_reason() {
    let tree = two("starved");
    let direction = |direction| Key { direction, ..between() };
    let mut run = measured(&tree, direction(Direction::BothThere), 5e9);
    run.cells.push(cell(direction(Direction::BothBack), 24e9, &mut Random::new(2)));
    judge(&mut run);
    check(&run, Verdict::LessBecause, &[(CauseKind::Starved, "takes 4.8 times as much")]);
    assert_eq!(run.cells[1].verdict, Verdict::AsExpected);
}

#[test]
fn what_only_may_matter_is_told_and_explains_nothing() {
    let tree = two("iommu");
    tree.set_iommu("DMA-FQ\n");
    let run = measured(&tree, between(), 12e9);
    let may = [(CauseKind::Iommu, FIRST), (CauseKind::Iommu, SECOND)];
    check(&run, Verdict::Less, &may);
    let lines = first_lines(&run);
    assert!(lines.contains("nothing visible says why; it may matter that the IOMMU"), "{lines}");
}

#[test]
fn without_pci_nothing_is_judged() {
    let tree = Tree::new("verdict_no_pci");
    let run = measured(&tree, between(), 12e9);
    check(&run, Verdict::NotJudged, &[]);
    assert!(first_lines(&run).contains("no pair is judged"), "{}", first_lines(&run));
}

#[test]
fn a_link_that_was_read_in_a_pause_is_no_bound() {
    let tree = two("pause");
    tree.set(FIRST, "current_link_speed", "2.5 GT/s PCIe\n");
    // At 2.5 GT/s it carries 4 GB/s.
    let run = measured(&tree, between(), 26e9);
    check(&run, Verdict::AsExpected, &[]);
    assert!(run.cells[0].bound.as_ref().is_some_and(|bound| bound.bytes_per_second > 31e9));
}

#[test]
fn more_than_the_link_carries_is_a_fault() {
    let tree = two("impossible");
    let run = measured(&tree, between(), 33e9);
    check(&run, Verdict::MoreThanPossible, &[]);
    assert!(first_lines(&run).contains("✗ MORE THAN IS POSSIBLE"), "{}", first_lines(&run));
    // Both directions together carry twice as much.
    let key = Key { direction: Direction::BothSum, ..between() };
    check(&measured(&tree, key, 50e9), Verdict::AsExpected, &[]);
}

#[test]
fn one_device_to_two_narrow_ones_carries_what_both_do_together() {
    let tree = Tree::new("verdict_one_to_all");
    tree.gpu(FIRST, &["0000:00:01.1"]);
    let narrow = [SECOND, "0000:61:00.0"];
    for (address, bridge) in narrow.into_iter().zip(["0000:00:03.1", "0000:00:05.1"]) {
        tree.gpu(address, &[bridge]);
        tree.set(address, "current_link_width", "4\n");
        tree.set(address, "max_link_width", "4\n");
    }
    let root = tree.root();
    let all = [FIRST, narrow[0], narrow[1]];
    for (pattern, from, to) in [
        (Pattern::OneToAll, End::Device(0), End::All),
        (Pattern::AllToOne, End::All, End::Device(0)),
    ] {
        let device = |(index, address)| gpu(index, address, sysfs::pci(root, address));
        let mut run = run((0..).zip(all).map(device).collect());
        // Of 16 GT/s × 4: 7.9 GB/s each.
        let key = Key { pattern, ..key(from, to) };
        let mut cell = cell(key, 14.5e9, &mut Random::new(1));
        cell.loaded = all.iter().flat_map(|address| sysfs::hops(root, address)).collect();
        run.cells.push(cell);
        judge(&mut run);
        check(&run, Verdict::AsExpected, &[]);
        let bound = run.cells[0].bound.as_ref().expect("links are known");
        assert!((15.7e9..15.8e9).contains(&bound.bytes_per_second), "{bound:?}");
        assert_eq!(bound.why, "the links of 2 devices together");
    }
}

#[test]
fn wrong_bytes_come_before_everything() {
    let tree = two("wrong");
    let mut run = measured(&tree, between(), 26e9);
    run.cells[0].verified = Some(Verified { bytes: 64 << 20, wrong_bytes: 4 });
    judge(&mut run);
    check(&run, Verdict::WrongBytes, &[]);
    assert!(first_lines(&run).starts_with("✗ WRONG BYTES"), "{}", first_lines(&run));
}

#[test]
fn small_copies_are_measured_and_not_judged() {
    let tree = two("small");
    let key = Key { size_bytes: 4096, ..between() };
    check(&measured(&tree, key, 0.4e9), Verdict::NotJudged, &[]);
}

#[test]
fn software_devices_are_bounded_by_memcpy_and_say_so_first() {
    let mut run = run(vec![software(0), software(1)]);
    let speed = |copy, size_bytes, bytes_per_second| HostSpeed {
        copy,
        node: None,
        size_bytes,
        bytes_per_second,
    };
    run.machine.host = vec![
        speed(HostCopy::Memcpy, 64 << 20, 14e9),
        speed(HostCopy::StreamingCopy, 64 << 20, 18e9),
        // In the cache, and reads: neither bounds a large copy.
        speed(HostCopy::Memcpy, 64 << 10, 60e9),
        speed(HostCopy::Read, 64 << 20, 30e9),
    ];
    let mut judged = |bytes_per_second| {
        run.cells = vec![cell(between(), bytes_per_second, &mut Random::new(3))];
        judge(&mut run);
        run.clone()
    };
    check(&judged(16e9), Verdict::AsExpected, &[]);
    let bound = judged(16e9).cells[0].bound.clone().expect("memcpy was measured");
    assert_eq!(bound.bytes_per_second, 18e9);
    let software = (CauseKind::SoftwareDevice, "llvmpipe is a software device");
    check(&judged(6e9), Verdict::LessBecause, &[software]);
    check(&judged(40e9), Verdict::MoreThanPossible, &[]);
    let lines = first_lines(&judged(6e9));
    let told = "· 1 of 1 directions are as fast as a software device makes them: ";
    assert!(lines.contains(told) && !lines.contains("slower"), "{lines}");
    assert!(first_lines(&judged(16e9)).starts_with("· all devices are software devices"));
}

#[test]
fn links_carry_what_their_encoding_leaves() {
    let rates = [
        (2.5, 16, 4e9),
        (8.0, 4, 3.938e9),
        (16.0, 16, 31.51e9),
        (32.0, 16, 63.0e9),
        (64.0, 16, 121e9),
    ];
    for (gts, lanes, expected) in rates {
        let rate = bound::bytes_per_second(gts, lanes);
        assert!((rate / expected - 1.0).abs() < 0.001, "{gts} GT/s × {lanes}: {rate}");
    }
}
