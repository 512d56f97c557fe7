//! One frame of the map after the other.
#![expect(unsafe_code, reason = "raw commands in submissions")]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::canvas::Colour;
use crate::overlay::{Facts, KEPT, Overlay};
use crate::picture::Shot;
use crate::swapchain::{Acquired, State, Swapchain};
use crate::{Result, TIMEOUT};
use ash::vk;
use peerbuf::{Access, Device, DomainId, Engine, Error, Fence, Scope};

use super::args::Args;
use super::checks::{Checks, Shown};
use super::record::Commands;
use super::tiles::{Brought, Tiles};
use super::view::{Camera, Part, tour};
use super::world::{TileId, World};

/// How often a submission is tried again because a tile has moved meanwhile.
const ATTEMPTS: usize = 100;
/// Frames that are presented and not shown yet, at most.
const IN_FLIGHT: usize = 3;
/// Frames of the tour, if the command line does not say.
const TOUR: u32 = 1800;
/// Frames between two pictures of the overlay.
const OVERLAY_EVERY: u32 = 8;

/// The map, between two frames.
pub(crate) struct Stream {
    // Dropped in this order: what uses tiles, then tiles.
    overlay: Overlay,
    checks: Checks,
    swapchain: Swapchain,
    tiles: Tiles,
    engine: Engine,
    device: Device,
    args: Args,
    world: World,
    /// `None` on the tour.
    pub(crate) camera: Option<Camera>,
    pub(crate) frame: u32,
    in_flight: VecDeque<Fence>,
    asked: Vec<TileId>,
    pub(crate) figures: Figures,
}

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) times: Vec<Duration>,
    /// Brought in, in all.
    pub(crate) tiles: u64,
    pub(crate) bytes: u64,
    /// The largest number of bytes of tiles that were wanted for one frame.
    pub(crate) wanted: u64,
    /// Frames that showed every tile on the level that suits the screen, and frames for which the memory did not suffice.
    pub(crate) complete: u32,
    pub(crate) full: u32,
    /// What happened, for the person who looks.
    pub(crate) events: Vec<String>,
}

/// What goes on when the device is lost.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    camera: Option<Camera>,
    frame: u32,
    pub(crate) figures: Figures,
    checked: u64,
    wrong: Vec<String>,
}

impl Stream {
    /// Makes the map.
    pub(crate) fn new(
        engine: &Engine,
        device: &Device,
        swapchain: Swapchain,
        (args, world): (&Args, World),
        carried: Carried,
    ) -> Result<Self> {
        let Carried { camera, frame, figures, checked, wrong } = carried;
        let budget = args.budget.map(|mib| u64::from(mib) << 20);
        let fourcc = swapchain.fourcc();
        let tiles = Tiles::new(engine, device, (world, fourcc), budget)?;
        let is_rgba = fourcc.to_string().starts_with("XB");
        Ok(Self {
            overlay: Overlay::new(device)?,
            checks: Checks::new(world, is_rgba, (checked, wrong)),
            swapchain,
            tiles,
            engine: engine.clone(),
            device: device.clone(),
            args: args.clone(),
            world,
            camera,
            frame,
            in_flight: VecDeque::new(),
            asked: vec![],
            figures,
        })
    }

    pub(crate) fn size(&self) -> [u32; 2] {
        self.swapchain.size()
    }

    /// Makes the swapchain again.
    pub(crate) fn resize(&mut self, size: [u32; 2]) -> Result<()> {
        self.swapchain.resize(size)
    }

    /// Ends it, with what goes on on another device.
    pub(crate) fn carry(mut self) -> Carried {
        let failed = self.checks.give_up();
        if failed > 0 {
            self.figures.events.push(format!("{failed} frames were lost with the device"));
        }
        let Checks { checked, wrong, .. } = &mut self.checks;
        Carried {
            camera: self.camera,
            frame: self.frame,
            checked: *checked,
            wrong: std::mem::take(wrong),
            figures: std::mem::take(&mut self.figures),
        }
    }

    /// Whether the device is lost, as far as is known by an error.
    pub(crate) fn is_lost(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let code = error.downcast_ref::<vk::Result>();
        self.device.is_lost() || code == Some(&vk::Result::ERROR_DEVICE_LOST)
    }

    /// Waits until the last frame was copied into its image of the swapchain.
    pub(crate) fn wait(&self) -> Result<()> {
        self.in_flight.back().map_or(Ok(()), |last| Ok(last.wait(TIMEOUT)?))
    }

    /// Where the screen is.
    pub(crate) fn place(&self) -> Camera {
        let frames = self.args.frames.unwrap_or(TOUR);
        self.camera.unwrap_or_else(|| tour(self.world, self.frame, frames, self.size()))
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> Result<()> {
        let begun = Instant::now();
        // Without a display nothing else paces the program.
        while self.in_flight.len() >= IN_FLIGHT {
            self.in_flight.pop_front().map_or(Ok(()), |oldest| oldest.wait(TIMEOUT))?;
        }
        let (camera, size) = (self.place(), self.size());
        let ideal = camera.level(self.world);
        let (visible, wanted) = self.wanted(camera, ideal);
        let brought = self.tiles.bring(&wanted, u64::from(self.args.per_frame) << 10)?;
        self.asked = wanted;
        let parts: Vec<_> = visible
            .iter()
            .filter_map(|tile| camera.part(*tile, self.tiles.source(*tile), size))
            .collect();
        self.note(&parts, ideal, brought);
        if self.frame.is_multiple_of(OVERLAY_EVERY) && !self.args.plain {
            let facts = self.facts(ideal, &parts)?;
            self.overlay.draw(&facts);
        }
        match self.swapchain.acquire()? {
            State::Done(acquired) => self.show(parts, &acquired)?,
            State::OutOfDate => self.resize(size)?,
        }
        self.figures.times.push(begun.elapsed());
        self.frame += 1;
        Ok(())
    }

    /// The tiles of a frame: those that it shows, and all that are wanted for it in the order of their urgency. Coarser ones
    /// come first, which stand in for finer ones.
    ///
    /// Tiles have the level that suits the screen best, or else the finest of which all fit into the memory.
    fn wanted(&mut self, camera: Camera, ideal: u32) -> (Vec<TileId>, Vec<TileId>) {
        let last = self.world.levels() - 1;
        for level in ideal..=last {
            let visible = camera.visible(self.world, level, self.size());
            let coarser = (level + 2).min(last);
            let mut wanted = camera.visible(self.world, coarser, self.size());
            wanted.extend(visible.iter().filter(|tile| tile.level != coarser));
            let bytes = wanted.len() as u64 * self.tiles.cost();
            if level == ideal {
                self.figures.wanted = self.figures.wanted.max(bytes);
            }
            // Besides the one that shows the whole map, one is on its way out.
            if bytes + 2 * self.tiles.cost() <= self.tiles.memory()[0] || level == last {
                self.figures.full += u32::from(level != ideal);
                return (visible, wanted);
            }
        }
        (vec![], vec![])
    }

    fn note(&mut self, parts: &[Part], level: u32, brought: Brought) {
        let figures = &mut self.figures;
        figures.tiles += brought.tiles;
        figures.bytes += brought.bytes;
        figures.complete += u32::from(parts.iter().all(|part| part.tile.level == level));
    }

    /// Blits the parts into an image of the swapchain, and presents it.
    fn show(&mut self, parts: Vec<Part>, acquired: &Acquired) -> Result<()> {
        let size = self.size();
        let check =
            if self.args.verify { Some(self.checks.take(&self.device, size)?) } else { None };
        let is_last = self.args.frames.is_some_and(|frames| self.frame + 1 == frames);
        let mut shot = match &self.args.screenshot {
            Some(_) if is_last => Some(Shot::new(&self.device, size)?),
            _ => None,
        };
        let mut commands = Commands {
            blits: vec![],
            target: acquired.image,
            size,
            overlay: self.overlay.picture().filter(|_| !self.args.plain),
            bare: check.as_ref().map(Shot::raw),
            picture: shot.as_ref().map(Shot::raw),
        };
        let fence = self.submit(&parts, &mut commands, acquired)?;
        self.swapchain.submitted(acquired, &fence);
        self.overlay.submitted(&fence);
        self.in_flight.push_back(fence.clone());
        if let Some(check) = check {
            self.checks.submitted(check, &fence, Shown { parts, size, frame: self.frame });
        }
        shot.iter_mut().for_each(|shot| shot.submitted(&fence));
        let presented = self.swapchain.present(acquired)?;
        if let (Some(shot), Some(path)) = (shot, &self.args.screenshot) {
            shot.write(path, self.swapchain.fourcc().to_string().starts_with("XB"))?;
        }
        match presented {
            State::Done(()) => Ok(()),
            State::OutOfDate => self.resize(size),
        }
    }

    fn submit(
        &mut self,
        parts: &[Part],
        commands: &mut Commands,
        acquired: &Acquired,
    ) -> Result<Fence> {
        let used: BTreeSet<TileId> = parts.iter().map(|part| part.tile).collect();
        for _ in 0..ATTEMPTS {
            for id in &used {
                if let Some(tile) = self.tiles.get_mut(*id) {
                    tile.remap()?;
                }
            }
            let (tiles, device) = (&self.tiles, &self.device);
            let submitted = self.engine.submit(device, |submission| {
                let mut images: HashMap<TileId, vk::Image> = HashMap::new();
                for id in &used {
                    if let Some(mapping) = tiles.get(*id).and_then(|tile| tile.mapping()) {
                        let image = mapping.uses(submission, Access::Read, Scope::TRANSFER)?;
                        images.insert(*id, image.image);
                    }
                }
                let blit = |part: &Part| Some((*images.get(&part.tile)?, part.source, part.target));
                commands.blits = parts.iter().filter_map(blit).collect();
                // SAFETY: the acquisition has submitted its signal; nothing else waits for it.
                unsafe { submission.wait_semaphore(acquired.acquired, 0) };
                // SAFETY: the last present that waited for it is over, since its image was acquired again.
                unsafe { submission.signal_semaphore(acquired.rendered, 0) };
                let commands = commands.clone();
                // SAFETY: tiles are declared, the target is acquired, and parts are within them.
                let record = move |raw| unsafe { commands.record(device, raw) };
                // SAFETY: as above; buffers are kept until the fence has signalled.
                unsafe { submission.record(record) };
                Ok(())
            });
            match submitted {
                Err(Error::Stale { .. }) => {}
                other => return Ok(other?),
            }
        }
        Err("tiles move again and again while they are shown".into())
    }

    /// Waits for the checks of all frames.
    pub(crate) fn finish(&mut self) -> Result<(u64, &[String])> {
        self.checks.finish()?;
        Ok((self.checks.checked, &self.checks.wrong))
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The memory for tiles, and what all tiles would take, in bytes.
    pub(crate) fn memory(&self) -> [u64; 2] {
        self.tiles.memory()
    }

    /// The tiles that the last frame asked for.
    pub(crate) fn asked(&self) -> &[TileId] {
        &self.asked
    }

    /// The memory that one tile takes.
    pub(crate) fn tile_cost(&self) -> u64 {
        self.tiles.cost()
    }

    fn facts(&self, level: u32, parts: &[Part]) -> Result<Facts> {
        let usage = self.engine.usage(DomainId::Vram(self.device.id()))?;
        let [resident, all] = self.tiles.resident();
        let on_level = parts.iter().filter(|part| part.tile.level == level).count();
        let Figures { times, tiles, bytes, wanted, complete, full, .. } = &self.figures;
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        let last = times.last().copied().unwrap_or_default();
        let lines = vec![
            format!(
                "frame {}, {:.2} ms, on {}",
                self.frame,
                last.as_secs_f64() * 1e3,
                self.device.name()
            ),
            format!(
                "level {level} of {}: {on_level} of {} tiles there",
                self.world.levels(),
                parts.len()
            ),
            format!("{resident} of {all} tiles in the device's memory"),
            format!("{:.1} MiB of {:.1} used", mib(usage.used), mib(usage.budget)),
            format!("this flight would need {:.1} MiB for its largest frame", mib(*wanted)),
            format!("brought in: {tiles} tiles, {:.1} MiB", mib(*bytes)),
            format!("{complete} frames complete, {full} without room"),
            "arrows move, I O zoom, T tour, Q end".to_owned(),
        ];
        let recent = &times[times.len().saturating_sub(KEPT)..];
        let mut sorted = recent.to_vec();
        sorted.sort_unstable();
        let half = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let colour = |time: &Duration| if *time > half * 2 { Colour::Amber } else { Colour::Green };
        let graph = recent.iter().map(|time| (colour(time), *time)).collect();
        Ok(Facts { lines, bar: [usage.used, usage.budget], graph, half })
    }
}
