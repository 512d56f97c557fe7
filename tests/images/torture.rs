//! Images that are moved, evicted, returned and laid out anew by one thread, while others write, sample and copy them on
//! four devices, and by the host. Every texel is verified.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use peerbuf::{
    Access, Device, DeviceId, DomainId, Engine, Error, ImageAttachment, ImageMapping, Migration,
    Result, SharedImage,
};

use crate::common::note::Note;
use crate::common::random::Random;
use crate::common::recorder::Recorder;
use crate::common::until::rounds;
use crate::common::{Rig, say, soak};
use crate::sampler::Sampler;
use crate::texels::{Passage, assert_host_reads, image, write_by_host};

/// Formats, sizes, levels and layers.
const IMAGES: [(&str, (u32, u32), u32, u32); 6] = [
    ("AR24", (62, 18), 1, 1),
    ("R8  ", (64, 16), 1, 1),
    ("NV12", (62, 18), 1, 1),
    ("AB24", (33, 7), 3, 2),
    ("GR88", (16, 16), 2, 1),
    ("RG16", (31, 9), 1, 3),
];

const WRITERS: u64 = 2;
const READERS: u64 = 3;

/// An image that several threads write, read and move.
struct Subject {
    id: usize,
    image: SharedImage,
    attachments: Vec<ImageAttachment>,
    recorders: Vec<Arc<Recorder>>,
    /// The seed of the texels. The lock orders writers, and readers verify while no writer runs. Moves do not take it.
    seed: RwLock<u64>,
}

/// What a thread reads and writes by, on each device.
struct Tools(BTreeMap<DeviceId, (Passage, Sampler)>);

impl Tools {
    fn new(engine: &Engine, devices: &[Device]) -> Self {
        let of = |device: &Device| {
            let tools =
                (Passage::new(engine, device, 1 << 16), Sampler::new(engine, device, 1 << 12));
            (device.id(), tools)
        };
        Self(devices.iter().map(of).collect())
    }

    fn of(&self, attachment: &ImageAttachment) -> &(Passage, Sampler) {
        &self.0[&attachment.device().id()]
    }
}

impl Subject {
    /// An image that the devices of one driver have attached, which may be in their memory; or all devices.
    fn new(engine: &Engine, devices: &[Device], id: usize) -> Self {
        let home = &devices[id % devices.len()];
        let (name, size, mips, layers) = IMAGES[id % IMAGES.len()];
        let descriptor = image(name, size, mips).layers(layers);
        let image = engine.create_image(home, descriptor).expect("an image");
        let alike = |device: &&Device| device.adapter().driver_id() == home.adapter().driver_id();
        let attached: Vec<_> = match id < IMAGES.len() {
            true => devices.iter().collect(),
            false => devices.iter().filter(alike).collect(),
        };
        let recorders: Vec<_> = attached.iter().map(|_| Recorder::new(true)).collect();
        let attach = |(device, recorder): (&&Device, &Arc<Recorder>)| {
            image.attach_dynamic(device, image.usage(), recorder.clone()).expect("it attaches")
        };
        let attachments = attached.iter().zip(&recorders).map(attach).collect();
        write_by_host(&image, 0);
        Self { id, image, attachments, recorders, seed: RwLock::new(0) }
    }

    fn what(&self) -> String {
        format!("image {} ({})", self.id, self.image.fourcc())
    }

    /// Remaps until no move interrupts `work`.
    fn use_at(
        &self,
        attachment: &ImageAttachment,
        access: Access,
        mut work: impl FnMut(&mut ImageMapping) -> Result<()>,
    ) {
        let mut mapping = retry_while_busy(|| attachment.map(access));
        for _ in rounds() {
            match work(&mut mapping) {
                Err(Error::Stale { .. }) => retry_while_busy(|| attachment.remap(&mut mapping)),
                other => return other.unwrap_or_else(|error| panic!("{}: {error}", self.what())),
            }
        }
        panic!("{}: every mapping was stale: {}", self.what(), self.image.explain());
    }

    fn write(&self, tools: &Tools, random: &mut Random, seed: u64) {
        let mut content = self.seed.write().unwrap_or_else(PoisonError::into_inner);
        if random.one_in(4) {
            write_by_host(&self.image, seed);
        } else {
            let attachment = random.pick(&self.attachments);
            let (passage, _) = tools.of(attachment);
            self.use_at(attachment, Access::Write, |mapping| passage.try_upload(mapping, seed));
        }
        *content = seed;
    }

    fn read(&self, tools: &Tools, random: &mut Random) {
        let seed = self.seed.read().unwrap_or_else(PoisonError::into_inner);
        let attachment = random.pick(&self.attachments);
        let (passage, sampler) = tools.of(attachment);
        let what = format!("{} on {}", self.what(), attachment.device().name());
        match random.below(4) {
            0 => assert_host_reads(&self.image, *seed, &what),
            1 => self.use_at(attachment, Access::Read, |mapping| {
                sampler.try_sampled(mapping, *seed, &what)
            }),
            2 => self.use_at(attachment, Access::Read, |mapping| {
                passage.remapped_copied((attachment, mapping), *seed, &what)
            }),
            _ => self.use_at(attachment, Access::Read, |mapping| {
                passage.try_copied(mapping, *seed, &what)
            }),
        }
    }

    fn r#move(&self, random: &mut Random) -> Result<Migration> {
        let image = &self.image;
        match random.below(6) {
            0 => image.evict(),
            1 => image.relayout(),
            2 => image.buffer().relocate(),
            3 => image.buffer().request_residency(),
            4 => image.migrate(DomainId::System),
            _ => image.migrate(DomainId::Vram(random.pick(&self.attachments).device().id())),
        }
    }

    /// Verifies the texels on all devices, and that each importer was notified of each move.
    fn check(&self, tools: &Tools) {
        let seed = *self.seed.read().unwrap_or_else(PoisonError::into_inner);
        for attachment in &self.attachments {
            let (passage, sampler) = tools.of(attachment);
            let what = format!("{} at the end on {}", self.what(), attachment.device().name());
            self.use_at(attachment, Access::Read, |mapping| {
                passage.try_copied(mapping, seed, &what)?;
                sampler.try_sampled(mapping, seed, &what)
            });
        }
        assert_host_reads(&self.image, seed, &self.what());
        let now = self.image.generation();
        for recorder in &self.recorders {
            let mut notified = recorder.invalidated();
            // A move that was given up is notified of again.
            notified.dedup();
            // Each was attached before the image was shared, and after it had moved for earlier ones.
            let first = notified.first().copied().unwrap_or(now);
            assert!(first <= 4, "{}: notified from {first} of {now}", self.what());
            assert!(notified.into_iter().eq(first..now), "{}: of each generation", self.what());
        }
    }
}

/// Repeats `work` while the image is busy. All other threads release it in bounded time.
fn retry_while_busy<R>(mut work: impl FnMut() -> Result<R>) -> R {
    let mut busy = None;
    for _ in rounds() {
        match work() {
            Ok(result) => return result,
            Err(error @ Error::Busy { .. }) => busy = Some(error),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it was busy each time: {busy:?}");
}

/// Moves images until the other threads are done.
fn keep_moving(subjects: &[Subject], done: &AtomicBool, random: &mut Random) -> u64 {
    let (mut asked, mut moved) = (0, 0);
    while asked < 10 * subjects.len() || !done.load(Ordering::Acquire) {
        asked += 1;
        let subject = random.pick(subjects);
        match subject.r#move(random) {
            Ok(Migration::Done { .. }) => moved += 1,
            Ok(_) => {}
            // A thread uses the image, or an attached device cannot reach the target.
            Err(Error::Busy { .. } | Error::Unreachable { .. }) => {}
            Err(error) => panic!("{}: {error}", subject.what()),
        }
    }
    moved
}

#[test]
fn no_texel_tears_while_images_move_and_are_laid_out_anew() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    let subjects: Vec<_> =
        (0..2 * IMAGES.len()).map(|id| Subject::new(engine, &devices, id)).collect();
    let (seeds, done) = (AtomicU64::new(1), AtomicBool::new(false));
    let operations = soak::times(150, 8);
    let moved = std::thread::scope(|scope| {
        let (subjects, devices, seeds, done) = (&subjects, &devices, &seeds, &done);
        let mover = scope.spawn(move || keep_moving(subjects, done, &mut Random::new(0)));
        let workers = (1..=WRITERS + READERS).map(|thread| {
            scope.spawn(move || {
                let mut random = Random::new(thread);
                let tools = Tools::new(engine, devices);
                for operation in 0..operations {
                    let subject = random.pick(subjects);
                    let _note = Note(format!("thread {thread}, {operation}, {}", subject.what()));
                    if thread <= WRITERS {
                        let seed = seeds.fetch_add(1, Ordering::Relaxed);
                        subject.write(&tools, &mut random, seed);
                    } else {
                        subject.read(&tools, &mut random);
                    }
                }
            })
        });
        let ends: Vec<_> = workers.collect::<Vec<_>>().into_iter().map(|w| w.join()).collect();
        done.store(true, Ordering::Release);
        let moved = mover.join();
        ends.into_iter().for_each(|end| end.expect("no thread fails"));
        moved.expect("no thread fails")
    });
    let tools = Tools::new(engine, &devices);
    subjects.iter().for_each(|subject| subject.check(&tools));
    assert!(moved > 0, "nothing moved");
    say(&format!("torture of images: {moved} moves"));
}
