//! One frame after the other: drawn on one device, presented on the other.
#![expect(unsafe_code, reason = "raw commands in submissions")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::overlay::{Facts, Overlay};
use crate::picture::Shot;
use crate::swapchain::{Acquired, State, Swapchain};
use crate::{Result, TIMEOUT, stamp};
use peerbuf::ash::vk;
use peerbuf::{
    Access, Device, DomainId, Engine, Error, Fence, ImageMapping, RawImage, Scope, Submission,
    WaitRoute,
};

use super::args::Args;
use super::checks::Checks;
use super::copies::{Copies, Source, read_back};
use super::loss::Carried;
use super::rest::Held;
use super::ring::{Notified, Ring};
use super::scene::Scene;
use super::staged::Staged;
use super::stats::{Stats, Way};
use super::steady::Steady;

/// The stages and accesses of a drawn image.
const DRAWN: Scope = Scope {
    stages: vk::PipelineStageFlags::COLOR_ATTACHMENT_OUTPUT,
    access: vk::AccessFlags::from_raw(
        vk::AccessFlags::COLOR_ATTACHMENT_READ.as_raw()
            | vk::AccessFlags::COLOR_ATTACHMENT_WRITE.as_raw(),
    ),
};
/// How often a submission is tried again because its image has moved meanwhile.
const ATTEMPTS: usize = 100;
/// Frames that are presented and not shown yet, at most. Most surfaces lend fewer images.
const IN_FLIGHT: usize = 4;
/// Frames between two pictures of the overlay.
const OVERLAY_EVERY: u32 = 8;

/// What `prime` is asked to do beside the next frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// The other way.
    Switch,
    /// Move an image.
    Move,
    /// Evict all images.
    Evict,
    /// Half of the memory that is used, or no limit.
    Budget,
}

/// The program, between two frames.
pub(crate) struct Prime {
    pub(super) engine: Engine,
    pub(super) render: Device,
    pub(super) present: Device,
    pub(super) args: Args,
    // Dropped in this order: what uses images, then images.
    pub(super) scene: Scene,
    staged: Staged,
    pub(super) ring: Ring,
    overlay: Overlay,
    pub(super) checks: Checks,
    swapchain: Swapchain,
    notified: Arc<Notified>,
    way: Way,
    pub(crate) stats: Stats,
    pub(crate) frame: u32,
    pub(crate) moves: u64,
    is_capped: bool,
    /// The last work of the last frames.
    pub(super) in_flight: VecDeque<Fence>,
    /// What happened, for the person who looks.
    pub(crate) events: Vec<String>,
    pub(crate) steady: Steady,
    /// What is held after the second third of the run, and after the last one.
    pub(crate) held: [Held; 2],
    /// Since the last frame all work has ended, and what was kept is given back.
    pub(super) has_rested: bool,
    /// Images of a device's own that the present frame has used.
    own_images: u64,
}

impl Prime {
    /// Everything that the first frame needs.
    pub(crate) fn new(
        engine: &Engine,
        [render, present]: [&Device; 2],
        swapchain: Swapchain,
        args: &Args,
        carried: Carried,
    ) -> Result<Self> {
        let Carried { stats, frame, moves, events, checked, wrong } = carried;
        let (notified, size) = (Arc::<Notified>::default(), swapchain.size());
        let count = usize::from(args.ring);
        let devices = [render, present];
        let mut ring = Ring::new(engine, devices, (swapchain.fourcc(), size), count, &notified)?;
        let format = drawn_format(&mut ring)?;
        let mut this = Self {
            engine: engine.clone(),
            render: render.clone(),
            present: present.clone(),
            args: args.clone(),
            scene: Scene::new(render, format, args.bare)?,
            staged: Staged::new(devices, size)?,
            ring,
            overlay: Overlay::new(present)?,
            checks: Checks::new(present, checked, wrong),
            swapchain,
            notified,
            way: if args.staged { Way::Staged } else { Way::Shared },
            stats,
            frame,
            moves,
            is_capped: false,
            in_flight: VecDeque::new(),
            events,
            steady: Steady::default(),
            held: [Held::default(); 2],
            has_rested: false,
            own_images: 0,
        };
        this.check_way();
        Ok(this)
    }

    /// Goes on through the host where the presenting device does not see the images.
    fn check_way(&mut self) {
        if let (Some(refused), Way::Shared) = (&self.ring.refused, self.way) {
            let event = format!("staged, since {refused}");
            self.way = Way::Staged;
            self.note(event);
        }
    }

    /// The size of the pictures.
    pub(crate) fn size(&self) -> [u32; 2] {
        self.swapchain.size()
    }

    /// Makes what depends on the size again, if it differs. It waits for the devices.
    pub(crate) fn resize(&mut self, size: [u32; 2]) -> Result<()> {
        match self.resize_to(size) {
            Ok(()) => Ok(()),
            Err(error) => self.after(error),
        }
    }

    pub(super) fn resize_to(&mut self, size: [u32; 2]) -> Result<()> {
        self.swapchain.resize(size)?;
        self.rebuild()
    }

    /// Makes the images again, for the present size and devices.
    fn rebuild(&mut self) -> Result<()> {
        let (devices, size) = ([&self.render, &self.present], self.swapchain.size());
        let count = self.ring.slots.len();
        for slot in &self.ring.slots {
            if let Some(drawn) = slot.drawn {
                self.scene.forget(drawn);
            }
        }
        let kind = (self.swapchain.fourcc(), size);
        self.ring = Ring::new(&self.engine, devices, kind, count, &self.notified)?;
        self.staged = Staged::new(devices, size)?;
        self.check_way();
        Ok(())
    }

    /// Does what is asked for, before the next frame.
    pub(crate) fn wish(&mut self, wish: Wish) -> Result<()> {
        match wish {
            Wish::Switch => {
                self.way = self.way.other();
                self.check_way();
            }
            Wish::Move => match self.ring.migrate(self.frame as usize)? {
                None => self.moves += 1,
                Some(refused) => self.note(refused),
            },
            Wish::Evict => {
                self.engine.evict_all(&self.render)?;
            }
            Wish::Budget => {
                let domain = DomainId::Vram(self.render.id());
                let used = self.engine.usage(domain)?.used;
                self.is_capped = !self.is_capped;
                self.engine.set_cap(domain, self.is_capped.then_some(used / 2))?;
            }
        }
        Ok(())
    }

    /// The next frame. Its time ends when it is presented.
    pub(crate) fn next(&mut self) -> Result<()> {
        let mut begun = Instant::now();
        let shown = self.by_plan().and_then(|has_event| {
            begun = Instant::now();
            self.draw_and_show(has_event)
        });
        let shown = shown.and_then(|()| {
            self.stats.add(self.way, begun.elapsed());
            self.note_held()
        });
        match shown {
            Ok(()) => {
                self.frame += 1;
                Ok(())
            }
            Err(error) => self.after(error),
        }
    }

    /// Waits until the last frame was copied into its image of the swapchain.
    pub(crate) fn wait(&self) -> Result<()> {
        self.in_flight.back().map_or(Ok(()), |last| Ok(last.wait(TIMEOUT)?))
    }

    /// What the command line asks for at this frame. Returns whether there was something.
    fn by_plan(&mut self) -> Result<bool> {
        let frame = self.frame;
        let is_due = |every: Option<u32>| {
            every.is_some_and(|every| every > 0 && frame > 0 && frame.is_multiple_of(every))
        };
        let (moves, switches) = (is_due(self.args.move_every), is_due(self.args.switch_every));
        if moves {
            self.wish(Wish::Move)?;
        }
        if switches {
            self.wish(Wish::Switch)?;
        }
        if self.args.unplug_at == Some(frame) && self.render != self.present {
            self.engine.unplug(&self.render)?;
        }
        let has_rested = std::mem::take(&mut self.has_rested);
        Ok(moves || switches || has_rested || is_due(self.args.resize_every))
    }

    /// Adds an event, once.
    fn note(&mut self, event: String) {
        if !self.events.contains(&event) {
            self.events.push(event);
        }
    }

    fn draw_and_show(&mut self, has_event: bool) -> Result<()> {
        // Without a display nothing else paces the program.
        while self.in_flight.len() >= IN_FLIGHT {
            self.in_flight.pop_front().map_or(Ok(()), |oldest| oldest.wait(TIMEOUT))?;
        }
        self.own_images = 0;
        self.steady.begin(&self.engine, self.frame, has_event);
        let at = self.ring.take();
        let drawn = self.draw(at)?;
        if self.is_bridged() {
            self.steady.shows(&drawn);
        }
        let carried = match self.way {
            Way::Shared => None,
            Way::Staged => Some(self.staged.carry(&drawn)?),
        };
        if self.frame.is_multiple_of(OVERLAY_EVERY) && !self.args.plain {
            let facts = self.facts(at)?;
            self.overlay.draw(&facts);
        }
        match self.swapchain.acquire()? {
            State::Done(acquired) => self.show(at, carried, &acquired),
            // The frame that was drawn has another size; the next one fits.
            State::OutOfDate => self.resize_to(self.size()),
        }
    }

    /// Whether a host thread passes on the signal that an image is drawn.
    fn is_bridged(&self) -> bool {
        let route = self.engine.wait_route(&self.render, &self.present);
        self.way == Way::Shared && matches!(route, Ok(WaitRoute::Bridge))
    }

    /// Draws the frame into an image of the ring, and copies it out for the way through the host.
    fn draw(&mut self, at: usize) -> Result<Fence> {
        let (frame, size, way) = (self.frame, self.ring.size, self.way);
        let slot = &mut self.ring.slots[at];
        for _ in 0..ATTEMPTS {
            slot.draw.attachment.remap(&mut slot.draw.mapping)?;
            let (scene, down, device) = (&mut self.scene, self.staged.down(), &self.render);
            let mut used: Option<RawImage> = None;
            let mut failed = None;
            let submitted = self.engine.submit(device, |submission| {
                let image = slot.draw.mapping.overwrites(submission, scope(way))?;
                if slot.drawn.is_some_and(|drawn| drawn != image.image) {
                    slot.drawn.take().into_iter().for_each(|drawn| scene.forget(drawn));
                }
                used = Some(image);
                let target = match scene.target(image.image, image.format, size) {
                    Ok(target) => target,
                    Err(error) => {
                        failed = Some(error);
                        return Ok(());
                    }
                };
                let scene = &*scene;
                let record = move |commands| {
                    // SAFETY: the commands are for this device, and the scene keeps the target until they end.
                    unsafe { scene.record(commands, &target, frame) };
                    if way == Way::Staged {
                        // SAFETY: the image was declared, and the buffer is as large.
                        unsafe { read_back(device, commands, image.image, down, size) };
                    }
                };
                // SAFETY: it uses the image as declared; what else it uses is kept until the fence has signalled.
                unsafe { submission.record(record) };
                Ok(())
            });
            let fence = match submitted {
                Err(Error::Stale { .. }) => continue,
                other => other?,
            };
            if let Some(error) = failed {
                return Err(error);
            }
            if let Some(image) = used {
                self.own_images += u64::from(image.is_own);
                slot.drawn = Some(image.image);
                self.scene.submitted(image.image, &fence);
            }
            return Ok(fence);
        }
        Err("an image moves again and again while it is drawn".into())
    }

    /// Copies the frame into an image of the swapchain, and presents it.
    fn show(&mut self, at: usize, carried: Option<vk::Buffer>, acquired: &Acquired) -> Result<()> {
        let size = self.ring.size;
        let lines =
            if self.args.verify && stamp::fits(size) { Some(self.checks.take()?) } else { None };
        let mut shot = match &self.args.screenshot {
            Some(_) if self.is_last() => Some(Shot::new(&self.present, size)?),
            _ => None,
        };
        let mut copies = Copies {
            source: Source::Buffer(carried.unwrap_or_default()),
            target: acquired.image,
            size,
            overlay: self.overlay.picture().filter(|_| !self.args.plain),
            lines: lines.as_ref().map(|lines| lines.raw()),
            picture: shot.as_ref().map(Shot::raw),
        };
        let fence = self.submit_copies(at, carried.is_some(), &mut copies, acquired)?;
        self.in_flight.push_back(fence.clone());
        self.swapchain.submitted(acquired, &fence);
        self.overlay.submitted(&fence);
        if carried.is_some() {
            self.staged.shown(&fence);
        }
        if let Some(lines) = lines {
            self.checks.submitted(lines, &fence, self.frame);
        }
        shot.iter_mut().for_each(|shot| shot.submitted(&fence));
        let presented = self.swapchain.present(acquired)?;
        if let (Some(shot), Some(path)) = (shot, &self.args.screenshot) {
            let is_rgba = self.swapchain.fourcc().to_string().starts_with("XB");
            shot.write(path, is_rgba)?;
        }
        self.steady.end(&self.engine, self.own_images);
        match presented {
            State::Done(()) => Ok(()),
            State::OutOfDate => self.resize_to(self.size()),
        }
    }

    fn submit_copies(
        &mut self,
        at: usize,
        is_carried: bool,
        copies: &mut Copies,
        acquired: &Acquired,
    ) -> Result<Fence> {
        let device = &self.present;
        let slot = &mut self.ring.slots[at];
        for _ in 0..ATTEMPTS {
            let mut shown: Option<&ImageMapping> = None;
            if let (Some(show), false) = (&mut slot.show, is_carried) {
                show.attachment.remap(&mut show.mapping)?;
                shown = Some(&show.mapping);
            }
            let mut own = 0;
            let submitted = self.engine.submit(device, |submission| {
                if let Some(mapping) = shown {
                    let image = mapping.uses(submission, Access::Read, Scope::TRANSFER)?;
                    copies.source = Source::Image(image.image);
                    own = u64::from(image.is_own);
                }
                declare(submission, device, *copies, acquired);
                Ok(())
            });
            match submitted {
                Err(Error::Stale { .. }) => {}
                other => {
                    self.own_images += own;
                    return Ok(other?);
                }
            }
        }
        Err("an image moves again and again while it is shown".into())
    }

    fn is_last(&self) -> bool {
        self.args.frames.is_some_and(|frames| self.frame + 1 == frames)
    }

    /// Waits for the checks of all frames.
    pub(crate) fn finish(&mut self) -> Result<(u64, &[String])> {
        self.checks.finish()?;
        Ok((self.checks.checked, &self.checks.wrong))
    }

    /// How often images have moved away from under their mappings.
    pub(crate) fn notified(&self) -> u64 {
        self.notified.count()
    }

    /// The devices: the one that draws, and the one that presents.
    pub(crate) fn devices(&self) -> [&Device; 2] {
        [&self.render, &self.present]
    }

    /// How the presenting device's queue waits for the drawing one's.
    pub(crate) fn waits_by(&self) -> String {
        let route = self.engine.wait_route(&self.render, &self.present);
        route.map_or_else(|error| error.to_string(), |route| route.to_string())
    }

    fn facts(&self, at: usize) -> Result<Facts> {
        let slot = &self.ring.slots[at];
        let own = |mapping: &ImageMapping| match mapping.view() {
            Ok(image) if image.is_own => "by a copy",
            Ok(_) => "directly",
            Err(_) => "moving",
        };
        let shows = slot.show.as_ref().map_or("through the host", |show| own(&show.mapping));
        let usage = self.engine.usage(DomainId::Vram(self.render.id()))?;
        let milliseconds = |way| {
            let time = self.stats.recent(way).map(|time: Duration| time.as_secs_f64() * 1e3);
            time.map_or("-".to_owned(), |time| format!("{time:.2} ms"))
        };
        let waits = self.engine.wait_route(&self.render, &self.present)?;
        let lines = vec![
            format!("frame {}, {}", self.frame, self.way.name()),
            format!("{} draws {}", self.render.name(), own(&slot.draw.mapping)),
            format!("{} presents {shows}", self.present.name()),
            slot.image.layout().to_string().replace('×', "x"),
            format!("waits by {waits:?}; in {}", slot.image.domain()),
            format!("shared {}, staged {}", milliseconds(Way::Shared), milliseconds(Way::Staged)),
            format!("{} moves, {} callbacks; keys S M E B Q", self.moves, self.notified()),
            format!("VRAM {} of {} KiB", usage.used >> 10, usage.budget >> 10),
        ];
        let medians =
            [Way::Shared, Way::Staged].map(|way| self.stats.recent(way).unwrap_or_default());
        let half = medians.into_iter().max().unwrap_or_default();
        Ok(Facts { lines, bar: [usage.used, usage.budget], graph: self.stats.graph(), half })
    }
}

/// What a frame's drawing uses an image for.
fn scope(way: Way) -> Scope {
    match way {
        Way::Shared => DRAWN,
        Way::Staged => Scope {
            stages: DRAWN.stages | Scope::TRANSFER.stages,
            access: DRAWN.access | Scope::TRANSFER.access,
        },
    }
}

/// The format of the images of a ring, as the drawing device sees them.
pub(super) fn drawn_format(ring: &mut Ring) -> Result<vk::Format> {
    let slot = ring.slots.first_mut().ok_or("a ring without images")?;
    // It may have moved into a layout that suits the other device since it was mapped.
    slot.draw.attachment.remap(&mut slot.draw.mapping)?;
    Ok(slot.draw.mapping.view()?.format)
}

fn declare<'a>(
    submission: &mut Submission<'a>,
    device: &'a Device,
    copies: Copies,
    acquired: &Acquired,
) {
    // SAFETY: a live binary semaphore whose signal the acquisition has submitted; nothing else waits for it.
    unsafe { submission.wait_semaphore(acquired.acquired, 0) };
    // SAFETY: a live binary semaphore; the last present that waited for it is over, since its image was acquired again.
    unsafe { submission.signal_semaphore(acquired.rendered, 0) };
    let record = move |commands| {
        // SAFETY: the image of the ring is declared, that of the swapchain is acquired, and all are of these sizes.
        unsafe { copies.record(device, commands) };
    };
    // SAFETY: as above; buffers are kept until the fence has signalled.
    unsafe { submission.record(record) };
}
