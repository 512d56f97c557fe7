//! A run from the first frame to the last, and what is said about it.
#![expect(unsafe_code, reason = "a device of the program's own")]

use std::time::Duration;

use peerbuf::{Engine, EngineDescriptor};
use peerbuf_apps::Result;
use peerbuf_apps::choose::{self, Presenter};
use peerbuf_apps::gpu::Gpu;
use peerbuf_apps::program::{Key, Program};
use peerbuf_apps::surface::Place;
use peerbuf_apps::swapchain::Swapchain;
use serde_json::json;

use crate::args::Args;
use crate::stream::Stream;

/// The program with its device.
struct Session {
    stream: Box<Stream>,
    engine: Engine,
    gpu: Gpu,
    args: Args,
}

/// Opens the program for a place to present.
pub(crate) fn open(args: &Args, place: Place) -> Result<Box<dyn Program>> {
    let engine = Engine::open(&EngineDescriptor::new())?;
    let Presenter { surface, gpu, .. } = choose::presenter(&engine, None, place, args.device)?;
    // SAFETY: `close` drops the engine before it destroys the device.
    let device = unsafe { gpu.adopt(&engine) }?;
    // SAFETY: the surface is of this device's instance, and `close` drops the swapchain first.
    let swapchain = unsafe { Swapchain::new(&gpu, &device, surface, args.size.0, args.vsync) }?;
    let stream = Box::new(Stream::new(&engine, &device, swapchain, args)?);
    Ok(Box::new(Session { stream, engine, gpu, args: args.clone() }))
}

impl Program for Session {
    fn size(&self) -> [u32; 2] {
        self.stream.size()
    }

    fn wanted_size(&self) -> Option<[u32; 2]> {
        None
    }

    fn resize(&mut self, size: [u32; 2]) -> Result<()> {
        self.stream.resize(size)
    }

    fn next(&mut self) -> Result<()> {
        self.stream.next()
    }

    fn is_over(&self) -> bool {
        self.args.frames.is_some_and(|frames| self.stream.frame >= frames)
    }

    fn key(&mut self, key: Key) -> Result<()> {
        let mut camera = self.stream.place();
        let step = 48.0 * camera.scale;
        match key {
            Key::Left => camera.at[0] -= step,
            Key::Right => camera.at[0] += step,
            Key::Up => camera.at[1] -= step,
            Key::Down => camera.at[1] += step,
            Key::Letter('I') => camera.scale /= 1.25,
            Key::Letter('O') => camera.scale *= 1.25,
            Key::Letter('T') => {
                self.stream.camera = None;
                return Ok(());
            }
            Key::Letter(_) => return Ok(()),
        }
        camera.scale = camera.scale.clamp(0.05, 1e4);
        self.stream.camera = Some(camera);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self { mut stream, engine, gpu, args } = *self;
        let said = say(&mut stream, &args);
        drop(stream);
        drop(engine);
        // SAFETY: the engine and everything on the device are dropped.
        unsafe { gpu.destroy() };
        said
    }
}

#[expect(clippy::print_stdout, reason = "what the program is asked for")]
fn say(stream: &mut Stream, args: &Args) -> Result<()> {
    let figures = stream.figures.clone();
    let mut times = figures.times.clone();
    times.sort_unstable();
    let share = |permille: usize| {
        let time = times.get((times.len() * permille / 1000).min(times.len().saturating_sub(1)));
        time.map_or(0.0, |time: &Duration| time.as_secs_f64() * 1e3)
    };
    let ([budget, all], frames) = (stream.memory(), stream.frame);
    let device = stream.device().name().to_owned();
    let (checked, wrong) = stream.finish()?;
    if args.json {
        let all = json!({
            "device": device, "frames": frames, "budget": budget, "map": all,
            "median_ms": share(500), "p99_ms": share(990), "max_ms": share(1000),
            "tiles": figures.tiles, "bytes": figures.bytes, "wanted": figures.wanted,
            "complete": figures.complete, "full": figures.full, "checked": checked, "wrong": wrong,
        });
        println!("{all:#}");
    } else {
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        println!(
            "{frames} frames on {device}: median {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
            share(500),
            share(990),
            share(1000)
        );
        println!(
            "  a map of {:.1} MiB in {:.1} MiB; the largest frame would need {:.1} MiB",
            mib(all),
            mib(budget),
            mib(figures.wanted)
        );
        println!(
            "  {} tiles were brought in, {:.1} MiB; {} frames complete, {} without room",
            figures.tiles,
            mib(figures.bytes),
            figures.complete,
            figures.full
        );
        if args.verify {
            println!("  {checked} tiles on the screen checked, {} wrong", wrong.len());
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
