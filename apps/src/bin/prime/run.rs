//! A run from the first frame to the last, and what is said about it.
#![expect(unsafe_code, reason = "devices of the program's own")]

use peerbuf::{Engine, EngineDescriptor};
use peerbuf_apps::Result;
use peerbuf_apps::choose::{self, Presenter};
use peerbuf_apps::gpu::Gpu;
use peerbuf_apps::program::{Key, Program};
use peerbuf_apps::surface::Place;
use peerbuf_apps::swapchain::Swapchain;
use serde_json::json;

use crate::args::Args;
use crate::prime::{Prime, Wish};
use crate::stats::Way;

/// The program with its devices.
struct Session {
    prime: Box<Prime>,
    engine: Engine,
    gpus: Vec<Gpu>,
    args: Args,
}

/// Opens the program for a place to present.
pub(crate) fn open(args: &Args, place: Place) -> Result<Box<dyn Program>> {
    Ok(Box::new(Session::open(args, place)?))
}

impl Session {
    /// Opens the devices, and everything that the first frame needs.
    fn open(args: &Args, place: Place) -> Result<Self> {
        let engine = Engine::open(&EngineDescriptor::new())?;
        let render = choose::adapter(&engine, args.render)?;
        let Presenter { surface, gpu, adapter } =
            choose::presenter(&engine, Some(&render), place, args.present)?;
        // SAFETY: `close` drops the engine before it destroys the devices.
        let present = unsafe { gpu.adopt(&engine) }?;
        let mut gpus = vec![];
        let drawing = if render.index() == adapter.index() {
            present.clone()
        } else {
            let drawing = Gpu::new(&render, None)?;
            // SAFETY: as above.
            let device = unsafe { drawing.adopt(&engine) }?;
            gpus.push(drawing);
            device
        };
        // SAFETY: the surface is of this device's instance, and `close` drops the swapchain first.
        let swapchain =
            unsafe { Swapchain::new(&gpu, &present, surface, args.size.0, args.vsync) }?;
        gpus.push(gpu);
        let prime = Box::new(Prime::new(&engine, [&drawing, &present], swapchain, args)?);
        Ok(Self { prime, engine, gpus, args: args.clone() })
    }
}

impl Program for Session {
    fn size(&self) -> [u32; 2] {
        self.prime.size()
    }

    fn wanted_size(&self) -> Option<[u32; 2]> {
        let every = self.args.resize_every.filter(|every| *every > 0)?;
        let frame = self.prime.frame;
        if frame == 0 || !frame.is_multiple_of(every) {
            return None;
        }
        // Some in which devices pad rows alike, and some in which they do not.
        let step = frame / every % 4;
        let [width, height] = self.args.size.0;
        Some([width.saturating_sub(step * 37).max(1), height.saturating_sub(step * 21).max(1)])
    }

    fn resize(&mut self, size: [u32; 2]) -> Result<()> {
        self.prime.resize(size)
    }

    fn next(&mut self) -> Result<()> {
        self.prime.next()
    }

    fn is_over(&self) -> bool {
        self.args.frames.is_some_and(|frames| self.prime.frame >= frames)
    }

    fn key(&mut self, key: Key) -> Result<()> {
        match key {
            Key::Letter('S') => self.prime.wish(Wish::Switch),
            Key::Letter('M') => self.prime.wish(Wish::Move),
            Key::Letter('E') => self.prime.wish(Wish::Evict),
            Key::Letter('B') => self.prime.wish(Wish::Budget),
            _ => Ok(()),
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self { mut prime, engine, gpus, args } = *self;
        let said = say(&mut prime, &args);
        drop(prime);
        drop(engine);
        for gpu in gpus {
            // SAFETY: the engine and everything on the devices are dropped.
            unsafe { gpu.destroy() };
        }
        said
    }
}

#[expect(clippy::print_stdout, reason = "what the program is asked for")]
fn say(prime: &mut Prime, args: &Args) -> Result<()> {
    let milliseconds =
        |way, permille| prime.stats.share(way, permille).map(|time| time.as_secs_f64() * 1e3);
    let ways = [Way::Shared, Way::Staged].map(|way| {
        (way.name(), milliseconds(way, 500), milliseconds(way, 990), milliseconds(way, 1000))
    });
    let [render, present] = prime.devices().map(|device| device.name().to_owned());
    let (frames, moves, notified) = (prime.frame, prime.moves, prime.notified());
    let events = prime.events.clone();
    let (checked, wrong) = prime.finish()?;
    if args.json {
        let ways: serde_json::Map<_, _> = ways
            .into_iter()
            .map(|(name, median, p99, longest)| {
                (name.to_owned(), json!({ "median_ms": median, "p99_ms": p99, "max_ms": longest }))
            })
            .collect();
        let all = json!({
            "render": render, "present": present, "frames": frames, "ways": ways, "moves": moves,
            "notified": notified, "events": events, "checked": checked, "wrong": wrong,
        });
        println!("{all:#}");
    } else {
        println!("{frames} frames: {render} drew, {present} presented");
        for (name, median, p99, longest) in ways {
            if let (Some(median), Some(p99), Some(longest)) = (median, p99, longest) {
                println!(
                    "  {name}: median {median:.2} ms, p99 {p99:.2} ms, longest {longest:.2} ms"
                );
            }
        }
        println!("  {moves} moves, {notified} callbacks");
        for event in &events {
            println!("  {event}");
        }
        if args.verify {
            println!("  {checked} frames checked, {} wrong", wrong.len());
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
