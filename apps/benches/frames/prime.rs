//! Figures of `prime`, on every pair of devices.

use std::time::Instant;

use clap::Parser;
use peerbuf::{Adapter, Engine, EngineDescriptor};
use peerbuf_apps::prime::{Args, Session};
use peerbuf_apps::program::Program;
use peerbuf_apps::surface::Place;

use crate::Outcome;
use crate::figure::{Direction, Figure};
use crate::measure::{Compared, Plan, compare, rounds_of};
use crate::prime_by_hand::{ByHand, Way};

/// 4K.
const SIZE: [u32; 2] = [3840, 2160];
/// Frames that are read back and compared before anything is measured.
const CHECKED: u32 = 30;
/// Frames before counts and times are taken.
const WARM_UP: usize = 24;

/// One device draws, another one or the same presents.
struct Pair {
    devices: [Adapter; 2],
}

impl Pair {
    fn all() -> Outcome<Vec<Self>> {
        let engine = Engine::open(&EngineDescriptor::new())?;
        let usable: Vec<_> =
            engine.adapters().iter().filter(|one| one.missing().is_empty()).cloned().collect();
        let pair = |a: &Adapter, b: &Adapter| Self { devices: [a.clone(), b.clone()] };
        Ok(usable.iter().flat_map(|a| usable.iter().map(move |b| pair(a, b))).collect())
    }

    fn open(&self, more: &[&str]) -> Outcome<Session> {
        let [render, present] = [0, 1].map(|at| self.devices[at].index().to_string());
        let fixed = ["prime", "--headless", "--plain", "--render", &render, "--present", &present];
        let args = Args::try_parse_from([&fixed[..], more].concat())?;
        Session::open(&args, Place::Headless)
    }

    fn name(&self) -> String {
        let [render, present] = [0, 1].map(|at| self.devices[at].driver_name());
        format!("{render} → {present}")
    }
}

/// One frame, until it is in its image of the swapchain.
fn frame(session: &mut Session) -> Outcome<()> {
    session.next()?;
    session.wait()
}

/// `prime_frame_4k` and `prime_overhead`: what a frame costs beside its drawing. Each frame has its number drawn into it and
/// nothing else, is handed over, copied into the swapchain, presented, and waited for. SwiftShader's surface without a display
/// has 1280×720 texels whatever is asked for, so that pairs which it presents are left out.
pub(crate) fn frames() -> Outcome<Vec<Figure>> {
    let size = format!("{}x{}", SIZE[0], SIZE[1]);
    let (mut direct, mut own, mut overhead) = (vec![], vec![], vec![]);
    for pair in Pair::all()? {
        let last = CHECKED.to_string();
        let mut checked = pair.open(&["--bare", "--size", &size, "--verify", "--frames", &last])?;
        if checked.size() != SIZE {
            Box::new(checked).end()?;
            continue;
        }
        for _ in 0..CHECKED {
            checked.next()?;
        }
        let draws_own = checked.steady_copies() > 0.0;
        Box::new(checked).end()?;
        let devices = [&pair.devices[0], &pair.devices[1]];
        let mut session = pair.open(&["--bare", "--size", &size])?;
        for (way, rows) in [
            (Way::Staged, if draws_own { &mut own } else { &mut direct }),
            (Way::Shared, &mut overhead),
        ] {
            let mut by_hand = ByHand::new(devices, SIZE, way)?;
            (0..CHECKED).try_for_each(|_| by_hand.frame(true))?;
            let compared =
                compare(Plan::MILLISECONDS, || frame(&mut session), || by_hand.frame(false))?;
            rows.push((pair.name(), compared));
        }
        Box::new(session).end()?;
    }
    let staged = "by hand: read back, copied by the host, uploaded";
    Ok(vec![
        worst(
            "prime_frame_4k",
            "a 4K frame beside its drawing: handed over, copied into the swapchain",
            staged,
            2.5,
            direct,
        )?,
        worst(
            "prime_frame_4k_own",
            "the same where the drawer does not draw into the shared layout",
            staged,
            1.5,
            own,
        )?,
        worst(
            "prime_overhead",
            "the same, all pairs",
            "by hand: one shared image",
            0.97,
            overhead,
        )?,
    ])
}

/// The figure of the pair with the lowest ratio. All are printed.
#[expect(clippy::print_stderr, reason = "what the table does not have")]
fn worst(
    id: &'static str,
    what: &'static str,
    baseline: &'static str,
    target: f64,
    all: Vec<(String, Compared)>,
) -> Outcome<Figure> {
    for (name, Compared { ratio, ours, baseline }) in &all {
        eprintln!(
            "{id}: {name}: {:.3} ({:.3} … {:.3}), {:.2} and {:.2} ms",
            ratio.median,
            ratio.lo,
            ratio.hi,
            ours * 1e3,
            baseline * 1e3
        );
    }
    let by_ratio = |a: &Compared, b: &Compared| a.ratio.median.total_cmp(&b.ratio.median);
    let worst = all.into_iter().map(|(_, compared)| compared).min_by(by_ratio);
    Ok(Figure::speed(id, what, baseline, Some(target), worst.ok_or("no such pair of devices")?))
}

/// What peerbuf does in a steady frame of the program, as counts.
pub(crate) fn counts() -> Outcome<Vec<Figure>> {
    let (mut direct, mut own, mut calls, mut waits) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
    for pair in Pair::all()? {
        let mut session = pair.open(&["--size", "640x400"])?;
        (0..2 * WARM_UP).try_for_each(|_| frame(&mut session))?;
        let copies = session.steady_copies();
        if pair.devices[0].driver_name().contains("SwiftShader") {
            own = own.max(copies);
        } else {
            direct = direct.max(copies);
        }
        calls = calls.max(session.steady_calls());
        waits = waits.max(session.host_waits());
        Box::new(session).end()?;
    }
    let count = |id, what, target, value| Figure::count(id, what, "a frame", Some(target), value);
    Ok(vec![
        count("copies_per_frame", "copies of peerbuf's, the worst pair", 0.0, direct),
        count(
            "copies_per_frame_own",
            "the same where the drawer does not draw into the shared layout",
            1.0,
            own,
        ),
        count("calls_per_frame", "allocations, imports, creations, system calls", 0.0, calls),
        count("waits_per_frame", "waits of the thread that submits", 0.0, waits),
    ])
}

/// `route_switch`: the longest frame at a switch, over the median staged frame.
pub(crate) fn switches() -> Outcome<Vec<Figure>> {
    const EVERY: usize = 6;
    let mut worst: Option<[f64; 3]> = None;
    for pair in Pair::all()? {
        let mut session = pair.open(&["--staged"])?;
        (0..WARM_UP).try_for_each(|_| frame(&mut session))?;
        let mut ratios = vec![];
        for _ in 0..rounds_of(11) {
            // There and back, twice.
            let (mut staged, mut at_switch) = (vec![], 0.0_f64);
            for at in 0..4 * EVERY {
                let begun = Instant::now();
                if at % EVERY == 0 {
                    session.switch()?;
                }
                frame(&mut session)?;
                let seconds = begun.elapsed().as_secs_f64();
                if at % EVERY == 0 {
                    at_switch = at_switch.max(seconds);
                } else if at / EVERY % 2 == 1 {
                    staged.push(seconds);
                }
            }
            staged.sort_by(f64::total_cmp);
            ratios.push(at_switch / staged[staged.len() / 2]);
        }
        ratios.sort_by(f64::total_cmp);
        let found = [ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1]];
        if worst.is_none_or(|worst| found[0] > worst[0]) {
            worst = Some(found);
        }
        Box::new(session).end()?;
    }
    let [median, lo, hi] = worst.ok_or("no devices")?;
    let what = "the longest of four frames at a switch of the way, the worst pair";
    let figure =
        Figure::count("route_switch", what, "× the median staged frame", Some(2.0), median);
    Ok(vec![figure.within(Direction::AtMost, (lo, hi))])
}
