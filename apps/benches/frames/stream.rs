//! Figures of `stream`: its tour over a map of three times the memory.

use std::time::Instant;

use clap::Parser;
use peerbuf::{Adapter, Engine, EngineDescriptor};
use peerbuf_apps::program::Program;
use peerbuf_apps::stream::{Args, Checks, Session, TILE_BYTES, World};
use peerbuf_apps::surface::Place;

use crate::Outcome;
use crate::belady;
use crate::figure::{Direction, Figure};
use crate::measure::{Rounds, rounds_of};
use crate::on_demand::OnDemand;

const LEVELS: u32 = 5;
const FRAMES: u32 = 600;
const SIZE: [u32; 2] = [1280, 720];

/// The device of the tour: the first one that blits from the layout of tiles, so that both sides have one image for each.
fn device() -> Outcome<Adapter> {
    let engine = Engine::open(&EngineDescriptor::new())?;
    let mut usable = engine.adapters().iter().filter(|one| one.missing().is_empty());
    let is_wanted = |one: &&Adapter| !one.driver_name().contains("SwiftShader");
    Ok(usable.find(is_wanted).ok_or("no device with blits from rows")?.clone())
}

fn open(adapter: &Adapter, more: &[&str]) -> Outcome<Session> {
    let (device, levels, frames) =
        (adapter.index().to_string(), LEVELS.to_string(), FRAMES.to_string());
    let fixed = [
        "stream",
        "--headless",
        "--plain",
        "--device",
        &device,
        "--levels",
        &levels,
        "--frames",
        &frames,
    ];
    let args = Args::try_parse_from([&fixed[..], more].concat())?;
    Session::open(&args, Place::Headless)
}

/// Seconds of each frame of a tour, the 99th percentile.
fn tour(mut frame: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut times = vec![];
    for _ in 0..FRAMES {
        let begun = Instant::now();
        frame()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() * 99 / 100])
}

/// `stream_p99`.
pub(crate) fn p99() -> Outcome<Vec<Figure>> {
    let adapter = device()?;
    let mut checked = open(&adapter, &["--verify"])?;
    (0..FRAMES).try_for_each(|_| checked.next())?;
    Box::new(checked).end()?;
    let mut ours = open(&adapter, &[])?;
    let (world, room) = (World::new(LEVELS), (ours.budget() / ours.tile_cost()) as usize);
    let mut theirs = OnDemand::new(adapter.index(), (world, SIZE), (FRAMES, room))?;
    let mut checks = Checks::new(world, false, (0, vec![]));
    (0..FRAMES / 4).try_for_each(|_| theirs.frame(Some(&mut checks)))?;
    if let Some(wrong) = checks.wrong.first() {
        return Err(format!("by hand: {wrong}").into());
    }
    let mut our_tour = || {
        tour(|| {
            ours.next()?;
            ours.wait()
        })
    };
    let mut their_tour = || tour(|| theirs.frame(None));
    // Both have flown once before anything is measured.
    our_tour()?;
    their_tour()?;
    let mut rounds = Rounds::default();
    for _ in 0..rounds_of(5) {
        let first = our_tour()?;
        let them = their_tour()? + their_tour()?;
        rounds.add(first + our_tour()?, them);
    }
    Box::new(ours).end()?;
    Ok(vec![Figure::speed(
        "stream_p99",
        "99th percentile of a frame of the tour at 3 × the budget",
        "by hand: created and uploaded on demand, least recently used evicted",
        Some(3.0),
        rounds.summary(),
    )])
}

/// `stream_bytes`: both begin with the tile that shows the whole map.
pub(crate) fn bytes() -> Outcome<Vec<Figure>> {
    belady::check()?;
    let mut session = open(&device()?, &[])?;
    let mut asked = vec![];
    for _ in 0..FRAMES {
        session.next()?;
        // So that no tile is kept by earlier frames, and the number is the same in every run.
        session.wait()?;
        asked.extend_from_slice(session.asked());
    }
    let room = (session.budget() / session.tile_cost()) as usize;
    let best = belady::misses(&asked, room) * TILE_BYTES;
    let brought = session.brought_bytes();
    Box::new(session).end()?;
    let ratio = brought as f64 / best as f64;
    let what = "bytes brought in on the tour, over those of Belady's choice";
    let figure = Figure::count("stream_bytes", what, "×", Some(1.5), ratio);
    Ok(vec![figure.within(Direction::AtMost, (ratio, ratio))])
}
