//! Made runs: one pair of which differs by nothing, one by a delay.

use super::super::made::Random;
use super::super::made::run::{cell, gpu, key, run};
use super::super::run::{End, Figure, Key, Noise, Program, Target};
use super::super::stats;
use super::*;

/// A run of fifty cells. Between two runs each cell's speed differs by up to a percent, for reasons that stay for a
/// whole run; `slower` says by how much each size is slower.
fn made(seed: u64, slower: impl Fn(u64) -> f64) -> Run {
    let mut random = Random::new(seed);
    let mut run = run(vec![gpu(0, "0000:01:00.0", None), gpu(1, "0000:41:00.0", None)]);
    let ends = [(0, 1), (1, 0)].map(|(from, to)| (End::Device(from), End::Device(to)));
    for (from, to) in ends {
        for way in ["dma_buf", "staged", "memfd", "host_visible_dma_buf", "udmabuf"] {
            for size_bytes in [4 << 10, 64 << 10, 1 << 20, 16 << 20, 256_u64 << 20] {
                let key = Key { size_bytes, way: way.into(), ..key(from, to) };
                let placed = 1.0 + 0.01 * (2.0 * random.unit() - 1.0);
                let speed = 12e9 * placed / slower(size_bytes);
                run.cells.push(cell(key, speed, &mut random));
            }
        }
    }
    run
}

fn same(_: u64) -> f64 {
    1.0
}

fn noisy(run: &mut Run, part: f64) {
    for line in &mut run.noise {
        *line = Noise { ratio_lo: 1.0 - part, ratio_hi: 1.0 + part, ..line.clone() };
    }
}

#[test]
fn two_runs_of_the_same_are_not_found_changed_twenty_times_out_of_twenty() {
    for seed in 0..20 {
        let found = compare(&made(2 * seed, same), &made(2 * seed + 1, same), 0.9);
        assert_eq!(found.rows.len(), 50);
        assert_eq!(found.count(Change::Same), 50, "seed {seed}: {:?}", found.rows[0]);
        assert_eq!(found.failing().count(), 0);
    }
}

#[test]
fn a_planted_delay_is_found_where_it_is_and_nowhere_else() {
    // 20 µs per call: much for a copy of 16 MiB of 1.4 ms it is not, for one of 64 KiB it is.
    let delay = |size: u64| {
        let ns = size as f64 / 12.0;
        (ns + 20_000.0) / ns
    };
    for seed in 0..20 {
        let found = compare(&made(2 * seed, same), &made(2 * seed + 1, delay), 0.9);
        let slower: Vec<_> = found.failing().map(|row| row.name.as_str()).collect();
        let expected = ["4 KiB", "64 KiB", "1 MiB"];
        assert_eq!(slower.len(), 10 * expected.len(), "seed {seed}: {slower:?}");
        for row in &found.rows {
            let delayed = expected.iter().any(|size| row.name.contains(&format!(", {size},")));
            let change = if delayed { Change::Slower } else { Change::Same };
            assert_eq!(row.change, change, "seed {seed}: {row:?}");
        }
    }
}

#[test]
fn a_small_change_is_shown_and_does_not_fail() {
    let found = compare(&made(1, same), &made(2, |_| 1.08), 0.9);
    assert_eq!(found.count(Change::Slower), 50, "{:?}", found.rows[0]);
    assert_eq!(found.failing().count(), 0, "0.93 is not below 0.9");
    let found = compare(&made(1, |_| 1.3), &made(2, same), 0.9);
    assert_eq!(found.count(Change::Faster), 50, "{:?}", found.rows[0]);
}

#[test]
fn on_a_noisy_machine_the_answer_is_that_nothing_can_be_told() {
    let (mut before, after) = (made(1, same), made(2, |_| 1.15));
    noisy(&mut before, 0.2);
    let found = compare(&before, &after, 0.9);
    assert_eq!(found.count(Change::CannotTell), 50, "{:?}", found.rows[0]);
    assert_eq!(found.failing().count(), 0);
    // What is beyond the noise is told all the same.
    let found = compare(&before, &made(3, |_| 2.0), 0.9);
    assert_eq!(found.failing().count(), 50, "{:?}", found.rows[0]);
    // Noise that does not hide a change of the size asked for is no obstacle.
    assert_eq!(compare(&before, &made(4, same), 0.5).count(Change::Same), 50);
}

#[test]
fn cells_that_only_one_run_has_are_listed() {
    let (before, mut after) = (made(1, same), made(2, same));
    let gone = after.cells.remove(0);
    let found = compare(&before, &after, 0.9);
    assert_eq!((found.rows.len(), found.only_before.len(), found.only_after.len()), (49, 1, 0));
    assert!(found.only_before[0].contains(&gone.key.way), "{:?}", found.only_before);
    assert_eq!(found.outcome(false), Outcome::Proved, "a run may be asked for fewer cells");
}

#[test]
fn cells_that_can_no_longer_be_measured_fail() {
    let (before, mut after) = (made(1, same), made(2, same));
    after.cells[0].summary = None;
    after.cells[0].note = Some("the device is lost".into());
    let found = compare(&before, &after, 0.9);
    assert_eq!((found.rows.len(), found.only_before.len(), found.lost.len()), (49, 0, 1));
    assert!(found.lost[0].ends_with(": the device is lost"), "{:?}", found.lost);
    assert_eq!(found.outcome(false), Outcome::of(false));
    // What neither run could measure is nothing new.
    let mut before = before;
    before.cells[0].summary = None;
    assert_eq!(compare(&before, &after, 0.9).outcome(false), Outcome::Proved);
}

#[test]
fn of_one_round_nothing_can_be_told() {
    let (before, mut after) = (made(1, same), made(2, |_| 1.5));
    for cell in &mut after.cells {
        cell.summary = stats::summary(&[cell.samples_ns.concat()]);
    }
    let found = compare(&before, &after, 0.9);
    assert_eq!(found.count(Change::CannotTell), 50, "{:?}", found.rows[0]);
}

#[test]
fn counts_are_exact() {
    let figure = |value: f64, direction| Figure {
        id: "bytes".into(),
        what: "bytes each".into(),
        value,
        lo: value,
        hi: value,
        unit: "bytes".into(),
        baseline: None,
        target: None,
        direction,
        seconds: None,
        baseline_seconds: None,
    };
    let with = |value, direction| Run {
        program: Program::Figures,
        cells: vec![],
        figures: vec![figure(value, direction)],
        ..made(1, same)
    };
    let change = |old, new, direction| {
        compare(&with(old, direction), &with(new, direction), 0.9).rows[0].change
    };
    assert_eq!(change(120.0, 120.0, Target::AtMost), Change::Same);
    assert_eq!(change(120.0, 121.0, Target::AtMost), Change::Slower);
    assert_eq!(change(120.0, 119.0, Target::AtMost), Change::Faster);
    assert_eq!(change(120.0, 121.0, Target::AtLeast), Change::Faster);
    assert_eq!(change(0.0, 0.0, Target::AtMost), Change::Same);
    assert_eq!(change(0.0, 1.0, Target::AtMost), Change::Slower);
}

#[test]
fn other_machines_are_told_apart_and_other_drivers_are_not() {
    let run = made(1, same);
    assert_eq!(differences(&run, &run), Vec::<String>::new());
    let mut other = run.clone();
    other.devices[0].driver_info = Some("2.0".into());
    other.machine.kernel = Some("6.19.0".into());
    other.tool.version = "0.2.0".into();
    assert_eq!(differences(&run, &other), Vec::<String>::new());
    let remarks = remarks(&run, &other);
    for part in ["kernel: 6.18.0, 6.19.0", "driver of device0: 1.2.3, 2.0", "version: 0.1.0, 0.2.0"]
    {
        assert!(remarks.iter().any(|it| it == part), "{part:?} is not in {remarks:?}");
    }
    let mut other = run.clone();
    other.devices[1].pci_address = Some("0000:42:00.0".into());
    other.machine.cpu = Some("Another processor".into());
    let found = differences(&run, &other);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].contains("0000:41:00.0") && found[1].contains("0000:42:00.0"), "{found:?}");
}
