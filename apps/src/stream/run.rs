//! A run from the first frame to the last, and what is said about it.
#![expect(unsafe_code, reason = "a device of the program's own")]

use std::time::Duration;

use crate::Result;
use crate::choose::{self, Lost, Presenter};
use crate::gpu::Gpu;
use crate::program::{self, Key, Program};
use crate::surface::Place;
use crate::swapchain::Swapchain;
use peerbuf::{Adapter, Engine, EngineDescriptor};
use serde_json::json;

use super::args::Args;
use super::frame::{Carried, Stream};
use super::picture_file::Pyramid;
use super::world::{TILE, TileId, World};

/// The program.
#[derive(Debug)]
pub struct Session {
    /// `None` if the device was lost, and no other one presents.
    on: Option<On>,
    args: Args,
    world: World,
    place: Place,
    lost: Lost,
}

/// The program on its device.
struct On {
    stream: Box<Stream>,
    engine: Engine,
    gpu: Gpu,
    adapter: Adapter,
}

/// Runs the program.
///
/// # Errors
///
/// What ended it, or what was wrong with the run, as a sentence.
pub fn run(args: &Args) -> Result<()> {
    let open = |place| -> Result<Box<dyn Program>> { Ok(Box::new(Session::open(args, place)?)) };
    if args.headless {
        program::without_display(open)
    } else {
        program::in_window("stream", args.size.0, open)
    }
}

impl On {
    fn open(
        (args, world): (&Args, World),
        place: Place,
        lost: &Lost,
        carried: Carried,
    ) -> Result<Self> {
        let engine = Engine::open(&EngineDescriptor::new())?;
        let Presenter { surface, gpu, adapter } =
            choose::presenter(&engine, None, place, args.device, lost)?;
        // SAFETY: `close` drops the engine before it destroys the device.
        let device = unsafe { gpu.adopt(&engine) }?;
        // SAFETY: the surface is of this device's instance, and `close` drops the swapchain first.
        let swapchain = unsafe { Swapchain::new(&gpu, &device, surface, args.size.0, args.vsync) }?;
        let stream = Box::new(Stream::new(&engine, &device, swapchain, (args, world), carried)?);
        Ok(Self { stream, engine, gpu, adapter })
    }

    /// Ends what there is on its device.
    fn close(self) -> Carried {
        let Self { stream, engine, gpu, .. } = self;
        let carried = stream.carry();
        drop(engine);
        // SAFETY: the engine and everything on the device are dropped or leaked.
        unsafe { gpu.destroy() };
        carried
    }
}

impl Session {
    /// Opens the device, and makes the map.
    ///
    /// # Errors
    ///
    /// The picture cannot be read; no device presents there; the error of a call.
    pub fn open(args: &Args, place: Place) -> Result<Self> {
        let lost = Lost::default();
        let world = match &args.picture {
            Some(file) => World::of_picture(Pyramid::read(file, TILE)?),
            None => World::new(args.levels.into()),
        };
        let on = On::open((args, world), place, &lost, Carried::default())?;
        Ok(Self { on: Some(on), args: args.clone(), world, place, lost })
    }

    /// Waits until the last frame was copied into its image of the swapchain.
    ///
    /// # Errors
    ///
    /// The work fails, or has not ended for a minute.
    pub fn wait(&self) -> Result<()> {
        self.on.as_ref().map_or(Ok(()), |on| on.stream.wait())
    }

    /// The tiles that the last frame asked for, in the order of their urgency.
    pub fn asked(&self) -> &[TileId] {
        self.on.as_ref().map_or(&[], |on| on.stream.asked())
    }

    /// The memory for tiles in bytes.
    pub fn budget(&self) -> u64 {
        self.on.as_ref().map_or(0, |on| on.stream.memory()[0])
    }

    /// The memory that one tile takes in bytes.
    pub fn tile_cost(&self) -> u64 {
        self.on.as_ref().map_or(1, |on| on.stream.tile_cost())
    }

    /// The bytes that were brought in.
    pub fn brought_bytes(&self) -> u64 {
        self.on.as_ref().map_or(0, |on| on.stream.figures.bytes)
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// What was wrong with the run.
    pub fn end(self: Box<Self>) -> Result<()> {
        let Some(mut on) = self.on else { return Ok(()) };
        let finished = on.stream.finish().map(|(_, wrong)| wrong.join("\n"));
        on.close();
        let wrong = finished?;
        if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
    }

    /// Does something, and goes on with another device if this one is lost.
    fn attempt(&mut self, work: impl FnOnce(&mut Stream) -> Result<()>) -> Result<()> {
        let on = self.on.as_mut().ok_or("the device was lost")?;
        match work(&mut on.stream) {
            Err(error) if on.stream.is_lost(&*error) => self.go_on(&*error),
            done => done,
        }
    }

    /// The map is made again on another device: tiles in the memory of the lost one are gone, and its surface with it.
    fn go_on(&mut self, error: &dyn std::error::Error) -> Result<()> {
        let Some(on) = self.on.take() else { return Ok(()) };
        let (frame, adapter) = (on.stream.frame, on.adapter.clone());
        self.lost.note(&adapter);
        let mut carried = on.close();
        let event = format!("frame {frame}: {error}; the map is made again on another device");
        carried.figures.events.push(event);
        let on = On::open((&self.args, self.world), self.place, &self.lost, carried).map_err(
            |other| format!("frame {frame}: {error}, and no other device goes on: {other}"),
        )?;
        self.on = Some(on);
        Ok(())
    }
}

impl Program for Session {
    fn size(&self) -> [u32; 2] {
        self.on.as_ref().map_or([0; 2], |on| on.stream.size())
    }

    fn wanted_size(&self) -> Option<[u32; 2]> {
        None
    }

    fn resize(&mut self, size: [u32; 2]) -> Result<()> {
        self.attempt(|stream| stream.resize(size))
    }

    fn next(&mut self) -> Result<()> {
        self.attempt(Stream::next)
    }

    fn is_over(&self) -> bool {
        let frame = self.on.as_ref().map(|on| on.stream.frame);
        self.args.frames.is_some_and(|frames| frame.is_none_or(|frame| frame >= frames))
    }

    fn key(&mut self, key: Key) -> Result<()> {
        let Some(On { stream, .. }) = &mut self.on else { return Ok(()) };
        let mut camera = stream.place();
        let step = 48.0 * camera.scale;
        match key {
            Key::Left => camera.at[0] -= step,
            Key::Right => camera.at[0] += step,
            Key::Up => camera.at[1] -= step,
            Key::Down => camera.at[1] += step,
            Key::Letter('I') => camera.scale /= 1.25,
            Key::Letter('O') => camera.scale *= 1.25,
            Key::Letter('T') => {
                stream.camera = None;
                return Ok(());
            }
            Key::Letter(_) => return Ok(()),
        }
        camera.scale = camera.scale.clamp(0.05, 1e4);
        stream.camera = Some(camera);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self { on, args, .. } = *self;
        // What was lost was said.
        let Some(mut on) = on else { return Ok(()) };
        let said = say(&mut on.stream, &args);
        on.close();
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
    let ([budget, all], tile, frames) = (stream.memory(), stream.tile_cost(), stream.frame);
    let device = stream.device().name().to_owned();
    let (checked, wrong) = stream.finish()?;
    if args.json {
        let all = json!({
            "device": device, "frames": frames, "budget": budget, "map": all,
            "tile": tile,
            "median_ms": share(500), "p99_ms": share(990), "max_ms": share(1000),
            "tiles": figures.tiles, "bytes": figures.bytes, "wanted": figures.wanted,
            "complete": figures.complete, "full": figures.full, "events": figures.events,
            "checked": checked, "wrong": wrong,
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
            "  a map that takes {:.1} MiB, in {:.1} MiB; the largest frame would need {:.1} MiB",
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
        for event in &figures.events {
            println!("  {event}");
        }
        if args.verify {
            println!("  {checked} tiles on the screen checked, {} wrong", wrong.len());
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

impl std::fmt::Debug for On {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("On").field("adapter", &self.adapter).finish_non_exhaustive()
    }
}
