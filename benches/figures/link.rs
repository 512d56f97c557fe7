//! Copies between two devices by each way, and how long `peerbuf bench link --quick` takes.

use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use peerbuf::{CopyBy, CopyRegion, SharedBuffer};

use crate::Outcome;
use crate::by_hand::{ByHand, check_pattern, write_pattern};
use crate::copy::{Ours, SIZE, Turns, in_turns};
use crate::figure::{Direction, Figure};
use crate::hand::Recorded;
use crate::measure::{Compared, Contender, Plan, compare, compare_all};
use crate::setup::{Setup, TIMEOUT};

/// How often each way is tried, to find the fastest ones.
const TRIES: usize = 5;

/// No round begins later than this after the first one, but for a few.
const BUDGET: Duration = Duration::from_secs(10);

/// `link_best_way`: the way that the engine chooses, against the fastest of all that there are.
pub(crate) fn best_way(setup: &Setup) -> Outcome<Vec<Figure>> {
    let pair = Ours::new(setup)?;
    let ways = setup.engine.copy_ways(&pair.from, &pair.to)?;
    let ways: Vec<_> =
        ways.into_iter().filter(|way| way.missing.is_none()).map(|way| way.by).collect();
    let by = |by: &CopyBy| copy_by(setup, (&pair.from, &pair.to), by);
    let mut timed =
        ways.iter().map(|way| Ok((least(|| by(way))?, way))).collect::<Outcome<Vec<_>>>()?;
    timed.sort_by_key(|(time, _)| *time);
    let [first, second, third, ..] = &timed[..] else {
        return Err(format!("only {} ways from one device to the other", timed.len()).into());
    };
    let [mut a, mut b, mut c] = [first, second, third].map(|(_, way)| move || by(way));
    let baselines: [Contender<'_>; 3] = [&mut a, &mut b, &mut c];
    let ours = || {
        let fence = setup.engine.copy(&pair.from, &pair.to, CopyRegion::first(SIZE))?;
        Ok(fence.wait(TIMEOUT)?)
    };
    // The first copy may measure.
    ours()?;
    let compared = compare_all(Plan::MILLISECONDS, BUDGET, ours, baselines)?;
    pair.check(setup)?;
    let slowest = |a: &&Compared, b: &&Compared| a.ratio.median.total_cmp(&b.ratio.median);
    let worst = *compared.iter().min_by(slowest).ok_or("no way")?;
    Ok(vec![Figure::speed(
        "link_best_way",
        "64 MiB to the other device by the way that the engine chooses",
        "the fastest of all ways",
        Some(0.97),
        worst,
    )])
}

/// `link_overhead`: the copy of a cell of `peerbuf bench link`, pulled by the other device, against the same one by hand.
pub(crate) fn overhead(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (near, far) = (&setup.near, &setup.far);
    let sources = ByHand::new(near, far, setup.handle, SIZE)?;
    let targets = ByHand::new(far, near, setup.handle, SIZE)?;
    let by_hand = || {
        let source = sources.create()?;
        write_pattern(near, &source, SIZE)?;
        let seen = sources.share(&source)?;
        let target = targets.create()?;
        let recorded = Recorded::copy(far, &seen, &target, SIZE)?;
        Ok((recorded, source, seen, target))
    };
    let (ours, by_hand) = in_turns(|| Ours::new(setup), by_hand)?;
    let (mut turns, mut their_turns) = (Turns::default(), Turns::default());
    let by = CopyBy::MainQueue(far.clone());
    let compared = compare(
        Plan::MILLISECONDS,
        || {
            let pair = &ours[turns.next()];
            let region = CopyRegion::first(SIZE);
            let run = setup.engine.copy_by(&pair.from, &pair.to, region, &by)?;
            run.fence().wait(TIMEOUT)?;
            // As the benchmark does for each of its samples.
            run.device_time()?;
            Ok(())
        },
        || by_hand[their_turns.next()].0.run(),
    )?;
    ours.iter().try_for_each(|pair| pair.check(setup))?;
    by_hand.iter().try_for_each(|(.., target)| check_pattern(far, target, SIZE))?;
    Ok(vec![Figure::speed(
        "link_overhead",
        "64 MiB pulled by the other device, as a cell of `bench link`",
        "one recorded copy out of an imported fd",
        Some(0.98),
        compared,
    )])
}

/// `link_both`: both directions at once, each pulled by its destination, against one after the other: as many times as
/// fast as their sum is more than one direction.
pub(crate) fn both(setup: &Setup) -> Outcome<Vec<Figure>> {
    let there = Ours::new(setup)?;
    let back = Ours::new(setup)?;
    let ways = [
        ((&there.from, &there.to), CopyBy::MainQueue(setup.far.clone())),
        // Out of the far device's memory into the near one's, so that the bytes differ from those that are there.
        ((&back.to, &back.from), CopyBy::MainQueue(setup.near.clone())),
    ];
    let copy = |index: usize| copy_by(setup, ways[index].0, &ways[index].1);
    let compared = compare(
        Plan::MILLISECONDS,
        || {
            let ready = Barrier::new(2);
            // Boxed errors do not leave their thread.
            let on_thread = |index| {
                ready.wait();
                copy(index).map_err(|error| error.to_string())
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(|| on_thread(1));
                let first = on_thread(0);
                let second = other.join().map_err(|_| "a thread panicked".to_owned());
                first.and(second.and_then(|done| done)).map_err(Into::into)
            })
        },
        || (0..2).try_for_each(copy),
    )?;
    there.check(setup)?;
    Ok(vec![Figure::speed(
        "link_both",
        "64 MiB in both directions at once, the sum of both",
        "one direction at a time",
        Some(1.2),
        compared,
    )])
}

/// `link_quick_seconds`: the whole of `peerbuf bench link --quick`, with every device of this machine.
pub(crate) fn quick(_: &Setup) -> Outcome<Vec<Figure>> {
    // Only with the feature `cli` is there such a program.
    let Some(program) = option_env!("CARGO_BIN_EXE_peerbuf") else {
        eprintln!("link_quick_seconds: not measured, for it needs --features cli,testing");
        return Ok(vec![]);
    };
    let start = Instant::now();
    let mut command = Command::new(program);
    command.args(["bench", "link", "--quick", "--json"]).stdout(Stdio::null());
    let status = command.status()?;
    if !status.success() {
        return Err(format!("peerbuf bench link --quick: {status}").into());
    }
    let seconds = start.elapsed().as_secs_f64();
    let what = "`peerbuf bench link --quick`, all devices";
    let figure = Figure::count("link_quick_seconds", what, "s", Some(60.0), seconds);
    Ok(vec![figure.within(Direction::AtMost, (seconds, seconds))])
}

/// Copies by a way, and waits.
fn copy_by(setup: &Setup, (from, to): (&SharedBuffer, &SharedBuffer), by: &CopyBy) -> Outcome<()> {
    let run = setup.engine.copy_by(from, to, CopyRegion::first(SIZE), by)?;
    Ok(run.fence().wait(TIMEOUT)?)
}

/// The least time of a few runs, after one that is not counted.
fn least(run: impl Fn() -> Outcome<()>) -> Outcome<Duration> {
    run()?;
    let mut least = Duration::MAX;
    for _ in 0..TRIES {
        let start = Instant::now();
        run()?;
        least = least.min(start.elapsed());
    }
    Ok(least)
}
