//! `peerbuf demo --images`.
//!
//! One image, into which each device draws, and which every other one samples: where it was created, in the memory of
//! another device, after an eviction and its return, in another layout, and while it moves. If no two devices reach each
//! other's memory, a second image is shared by two devices of one adapter, so that it is evicted from such memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use peerbuf::image::{Extent, ImageLayout, ImageUsage};
use peerbuf::{
    Access, AdapterSelector, Device, DomainId, DomainKind, Engine, Error, ImageAttachment,
    ImageDescriptor, ImageMapping, ImagePart, Migration, Refault, SharedImage,
};

use crate::demo::{fresh_seed, progress};
use crate::failure::{Failure, Result, reasons};
use crate::frames::{FOURCC, Found, Painter, texels};
use crate::image_demo_report::{
    CheckFacts, ImageDemoReport, MemberFacts, PartFacts, StepFacts, place,
};
use crate::lineup::Lineup;
use crate::moving::{MOVES, Moved, ROUNDS, keep_moving};
use crate::outcome::Outcome;
use crate::report::{DeviceFacts, RefusedFacts, UnusableFacts};
use crate::{output, show};

/// How often a use is tried again because the image moved just before it.
const MAX_TRIES: u32 = 10_000;

/// The arguments of the command.
#[derive(Debug)]
pub(crate) struct ImageDemo {
    pub(crate) devices: Vec<AdapterSelector>,
    pub(crate) extent: Extent,
    pub(crate) json: bool,
    pub(crate) verbose: bool,
    /// The longest that one wait may take.
    pub(crate) timeout: Duration,
}

impl ImageDemo {
    /// Runs the command.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let lineup = Lineup::open(&self.devices, self.timeout, None)?;
        let start = Instant::now();
        let bar = progress(0, self.json);
        let (first, is_in_vram) = self.part(&lineup, &lineup.devices, None, &bar)?;
        let mut parts = vec![first];
        if !is_in_vram {
            let home = &lineup.devices[0];
            let again = lineup.engine.open_device(home.adapter())?;
            let members = [home.clone(), again];
            parts.push(self.part(&lineup, &members, Some(home.id().index()), &bar)?.0);
        }
        bar.finish_and_clear();
        let report = ImageDemoReport::new(
            (FOURCC.to_string(), self.extent.width, self.extent.height),
            parts,
            (DeviceFacts::of_all(&lineup.devices), UnusableFacts::of_all(&lineup.unusable)),
            start.elapsed().as_secs_f64(),
        );
        if self.json {
            output::print_json(&report)?;
        } else {
            output::print(&show::image_demo(&report, self.verbose))?;
        }
        Ok(Outcome::of(report.is_proved()))
    }

    /// One image and the devices that share it. Also returns whether it was in a device's own memory.
    fn part(
        &self,
        lineup: &Lineup,
        members: &[Device],
        again: Option<usize>,
        bar: &ProgressBar,
    ) -> Result<(PartFacts, bool)> {
        let Extent { width, height } = self.extent;
        let usage = ImageUsage::DRAWN | ImageUsage::SAMPLED;
        let descriptor = ImageDescriptor::new(FOURCC, width, height).usage(usage).name("frame");
        let image = lineup.engine.create_image(&members[0], descriptor)?;
        // All devices attach before any maps: the image moves to where all of them reach it.
        let side = |device| Side::new(&lineup.engine, &image, device, self.timeout);
        let sides = members.iter().map(side).collect::<Result<Vec<_>>>()?;
        if !sides.iter().any(|side| side.drawn.is_some()) {
            return Err(Failure::NothingDraws);
        }
        let mut journey = Journey {
            image: &image,
            members,
            sides,
            seed: fresh_seed(),
            kept: None,
            layout: image.layout(),
            steps: vec![],
            moved: Moved::default(),
            bar,
        };
        let (notified, generation) = (journey.notifications(), image.generation());
        let is_in_vram = image.domain().kind() == DomainKind::Vram;
        journey.run()?;
        let moves = u64::from(image.generation() - generation);
        let attachments = journey.sides.iter().map(|side| side.attachments().count() as u64);
        let facts = PartFacts {
            members: journey.members(again),
            moves,
            callbacks: journey.notifications() - notified,
            callbacks_expected: moves * attachments.sum::<u64>(),
            steps: journey.steps,
            places: journey.moved.places,
            refused: journey.moved.refused,
        };
        Ok((facts, is_in_vram))
    }
}

/// A device, with what it draws and samples by.
struct Side {
    number: usize,
    painter: Painter,
    /// `None` if the device does not draw.
    drawn: Option<Use>,
    sampled: Use,
}

/// An attachment for one use, with its mapping.
struct Use {
    importer: Arc<Refault>,
    attachment: ImageAttachment,
    access: Access,
    mapping: Option<ImageMapping>,
}

impl Side {
    fn new(
        engine: &Engine,
        image: &SharedImage,
        device: &Device,
        timeout: Duration,
    ) -> Result<Self> {
        let painter = Painter::new(engine, device, timeout)?;
        // Two attachments: a device that cannot draw into the shared bytes may sample them.
        let drawn = match painter.draws() {
            true => Some(Use::new(image, device, ImageUsage::DRAWN, Access::Write)?),
            false => None,
        };
        let sampled = Use::new(image, device, ImageUsage::SAMPLED, Access::Read)?;
        Ok(Self { number: device.id().index(), painter, drawn, sampled })
    }

    fn attachments(&self) -> impl Iterator<Item = &Use> {
        self.drawn.iter().chain([&self.sampled])
    }
}

impl Use {
    fn new(
        image: &SharedImage,
        device: &Device,
        usage: ImageUsage,
        access: Access,
    ) -> Result<Self> {
        let importer = Arc::new(Refault::new());
        let attachment = image.attach_dynamic(device, usage, Arc::clone(&importer) as _)?;
        Ok(Self { importer, attachment, access, mapping: None })
    }

    /// Uses a current mapping: maps again if the image has moved, as an importer does that was notified.
    fn current<R>(&mut self, work: impl Fn(&ImageMapping) -> Result<R>) -> Result<R> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mapping = match &mut self.mapping {
                Some(mapping) => mapping,
                none => none.insert(self.attachment.map(self.access)?),
            };
            match work(mapping) {
                Err(Failure::Engine(Error::Stale { .. })) if tries < MAX_TRIES => {
                    self.importer.take_stale();
                    self.attachment.remap(mapping)?;
                }
                other => return other,
            }
        }
    }

    /// Whether the device uses the shared bytes.
    fn is_in_place(&self) -> bool {
        let seen = self.mapping.as_ref().and_then(|mapping| mapping.view().ok());
        seen.is_some_and(|seen| !seen.is_own)
    }
}

/// What happens to one image.
struct Journey<'a> {
    image: &'a SharedImage,
    members: &'a [Device],
    sides: Vec<Side>,
    seed: u32,
    /// The frame in the image, and the device that drew it.
    kept: Option<(u32, usize)>,
    /// The layout at the end of the last step.
    layout: ImageLayout,
    steps: Vec<StepFacts>,
    moved: Moved,
    bar: &'a ProgressBar,
}

impl Journey<'_> {
    fn run(&mut self) -> Result<()> {
        self.step("shared")?;
        if self.move_elsewhere()? {
            self.step("moved")?;
        }
        if let Migration::Done { .. } = self.image.evict()? {
            let found = self.check_by_host()?;
            self.end_step("evicted", found);
            self.image.buffer().request_residency()?;
            self.step("returned")?;
        }
        match self.image.relayout() {
            Ok(Migration::Done { .. }) => self.step("laid_out_anew")?,
            Ok(_) => {}
            Err(error) => self.moved.refused.push(RefusedFacts {
                place: "another layout".into(),
                reason: error.with_causes(),
                summary: error.with_causes(),
                details: reasons(&error),
            }),
        }
        self.use_while_moving()
    }

    /// Moves the image to another device's memory, or else to other memory of the same domain.
    fn move_elsewhere(&self) -> Result<bool> {
        let here = self.image.domain();
        let there = self.members.iter().map(|device| DomainId::Vram(device.id()));
        for domain in there.filter(|domain| *domain != here) {
            match self.image.migrate(domain) {
                Ok(Migration::Done { .. }) => return Ok(true),
                Ok(_) | Err(Error::Unreachable { .. } | Error::Unsupported { .. }) => {}
                Err(error) if error.is_out_of_memory() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(matches!(self.image.buffer().relocate()?, Migration::Done { .. }))
    }

    /// Each device samples what the image had before, and then each one draws and the others sample.
    fn step(&mut self, step: &'static str) -> Result<()> {
        let mut checks = vec![];
        if let Some((seed, from)) = self.kept {
            for to in 0..self.sides.len() {
                checks.push(self.check((from, to), seed, true)?);
            }
        }
        self.draw_and_check(&mut checks)?;
        self.end_step(step, checks);
        Ok(())
    }

    fn draw_and_check(&mut self, checks: &mut Vec<CheckFacts>) -> Result<()> {
        for from in 0..self.sides.len() {
            self.seed = self.seed.wrapping_add(1);
            let (seed, side) = (self.seed, &mut self.sides[from]);
            let Some(drawn) = &mut side.drawn else { continue };
            self.bar.set_message(format!("{} draws", side.number));
            drawn.current(|mapping| side.painter.draw(mapping, seed))?;
            self.kept = Some((seed, side.number));
            let number = side.number;
            for to in (0..self.sides.len()).filter(|to| *to != from) {
                checks.push(self.check((number, to), seed, false)?);
            }
        }
        Ok(())
    }

    /// A device, by its place in the list, samples the frame that device number `from` drew.
    fn check(&mut self, (from, to): (usize, usize), seed: u32, kept: bool) -> Result<CheckFacts> {
        let Side { number, painter, sampled, .. } = &mut self.sides[to];
        self.bar.set_message(format!("{from} → {number}"));
        let start = Instant::now();
        let found = sampled.current(|mapping| painter.check(mapping, seed))?;
        let seconds = start.elapsed().as_secs_f64();
        self.bar.inc_length(found.texels * 4);
        self.bar.inc(found.texels * 4);
        Ok(CheckFacts::new((from, Some(*number)), kept, found, seconds))
    }

    /// The host compares the rows, without bringing the image back.
    fn check_by_host(&self) -> Result<Vec<CheckFacts>> {
        let Some((seed, from)) = self.kept else { return Ok(vec![]) };
        let start = Instant::now();
        let read = self.image.read_texels(ImagePart::default())?;
        let mut found = Found::default();
        let Extent { width, .. } = self.image.shape().extent;
        let texels = texels(self.image.shape().extent, seed);
        for (at, (expected, texel)) in (0..).zip(texels.zip(read.as_chunks().0)) {
            found.texels += 1;
            if expected != *texel {
                found.wrong += 1;
                found.first.get_or_insert([at % width, at / width]);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(vec![CheckFacts::new((from, None), true, found, seconds)])
    }

    fn end_step(&mut self, step: &'static str, checks: Vec<CheckFacts>) {
        let numbers = |is: fn(&Side) -> bool| {
            let sides = self.sides.iter().filter(|side| is(side));
            sides.map(|side| side.number).collect()
        };
        let (domain, device) = place(self.image.domain());
        let layout = self.image.layout();
        let before = std::mem::replace(&mut self.layout, layout);
        self.steps.push(StepFacts {
            step,
            domain,
            device,
            pitch: layout.planes().first().map_or(0, |plane| plane.pitch),
            laid_out_anew: layout != before,
            generation: self.image.generation(),
            draws_in_place: numbers(|side| side.drawn.as_ref().is_some_and(Use::is_in_place)),
            samples_in_place: numbers(|side| side.sampled.is_in_place()),
            checks,
        });
    }

    /// Every device draws, and every other one samples, while a thread moves the image.
    fn use_while_moving(&mut self) -> Result<()> {
        let (done, moves) = (AtomicBool::new(false), AtomicU64::new(0));
        let (buffer, members) = (self.image.buffer(), self.members);
        let mut checks = vec![];
        let (moved, used) = std::thread::scope(|scope| {
            let moving = scope.spawn(|| keep_moving((buffer, members), &done, &moves));
            let mut used = Ok(());
            for round in 0..ROUNDS {
                if used.is_err() || round > 0 && moves.load(Ordering::Relaxed) >= MOVES {
                    break;
                }
                used = self.draw_and_check(&mut checks);
            }
            done.store(true, Ordering::Release);
            // A panic of the moving thread is a panic of the demo.
            (moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), used)
        });
        used?;
        let Moved { places, refused } = moved?;
        self.moved.places = places;
        self.moved.refused.extend(refused);
        // Where it came to rest.
        self.draw_and_check(&mut checks)?;
        self.end_step("moving", checks);
        Ok(())
    }

    fn notifications(&self) -> u64 {
        let attachments = self.sides.iter().flat_map(Side::attachments);
        attachments.map(|of| of.importer.notifications()).sum()
    }

    fn members(&self, again: Option<usize>) -> Vec<MemberFacts> {
        let facts = |(device, side): (&Device, &Side)| MemberFacts {
            device: side.number,
            name: device.adapter().name().to_owned(),
            again: again.filter(|first| *first != side.number),
            draws: side.drawn.is_some(),
        };
        self.members.iter().zip(&self.sides).map(facts).collect()
    }
}
