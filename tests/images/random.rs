//! Random operations on images against a model of plain texels and rules: what holds an image in place, which mappings
//! are stale, who is notified, and that nothing but a relayout changes the layout.

use std::collections::BTreeMap;
use std::sync::Arc;

use peerbuf::{
    Access, Device, DeviceId, DomainId, Error, ImageAttachment, ImageExport, ImageMapping,
    Migration, Pin, Placement, Provider, Result, SharedImage,
};

use crate::common::note::Note;
use crate::common::random::Random;
use crate::common::recorder::Recorder;
use crate::common::{LONG, Rig, say, soak};
use crate::sampler::Sampler;
use crate::texels::{Passage, assert_host_reads, image, parts, texels};

const IMAGES: usize = 5;
const KINDS: [(&str, (u32, u32), u32, u32); 6] = [
    ("AR24", (62, 18), 1, 1),
    ("R8  ", (64, 16), 1, 2),
    ("NV12", (62, 18), 1, 1),
    ("AB24", (33, 7), 3, 1),
    ("AB4H", (8, 8), 1, 1),
    ("GR88", (1, 1), 1, 1),
];

struct World<'a> {
    rig: &'a Rig,
    devices: Vec<Device>,
    tools: BTreeMap<DeviceId, (Passage, Sampler)>,
    random: Random,
    images: Vec<Model>,
    number: u64,
    /// How often each thing has happened.
    met: BTreeMap<&'static str, u32>,
}

/// An image, and what is known of it.
struct Model {
    image: SharedImage,
    attached: Vec<Attached>,
    mappings: Vec<Mapped>,
    pins: Vec<Pin>,
    exports: Vec<ImageExport>,
    seed: u64,
}

struct Attached {
    attachment: ImageAttachment,
    /// The importer, and the generation at which it was attached.
    recorder: Option<(Arc<Recorder>, u32)>,
}

struct Mapped {
    mapping: ImageMapping,
    attachment: u64,
    is_static: bool,
}

impl Model {
    fn what(&self) -> String {
        format!("{} {}", self.image.name(), self.image.shape())
    }

    /// Whether something keeps the image in its backing.
    fn is_held(&self) -> bool {
        let now = self.image.generation();
        let fixed = |one: &Mapped| one.is_static && one.mapping.generation() == now;
        !self.pins.is_empty() || !self.exports.is_empty() || self.mappings.iter().any(fixed)
    }

    /// Moves by `work`, and checks what became of the image.
    fn moves(&self, work: impl FnOnce() -> Result<Migration>, relays: bool) -> &'static str {
        let (before, layout) = (self.image.generation(), self.image.layout());
        let (held, result) = (self.is_held(), work());
        let (after, layout_now) = (self.image.generation(), self.image.layout());
        let what = self.what();
        let met = match result {
            Ok(Migration::Done { generation }) => {
                assert!(!held, "{what} was held, and has moved");
                assert_eq!((generation, after), (before + 1, before + 1), "{what}");
                assert_eq!(layout_now != layout, relays, "{what}");
                return if relays { "laid out anew" } else { "moved" };
            }
            Ok(_) => "stayed",
            Err(Error::Busy { .. }) => {
                assert!(held, "{what} was not held: {}", self.image.explain());
                "busy"
            }
            Err(Error::Unreachable { .. }) => "unreachable",
            Err(error) => panic!("{what}: {error}"),
        };
        assert_eq!((after, layout_now), (before, layout), "{what} has not moved");
        met
    }

    /// What the image says of itself agrees with what is known.
    fn check(&self) {
        let now = self.image.generation();
        let explained = self.image.explain();
        assert_eq!(explained.layout, self.image.layout());
        let ids = explained.attachments.iter().map(|one| one.attachment);
        assert!(ids.eq(self.attached.iter().map(|one| one.attachment.id())), "{explained}");
        for Mapped { mapping, .. } in &self.mappings {
            match mapping.view() {
                Ok(_) => {
                    assert_eq!(mapping.generation(), now);
                    assert_eq!(mapping.layout(), self.image.layout());
                }
                Err(Error::Stale { .. }) => assert_ne!(mapping.generation(), now),
                Err(error) => panic!("{}: {error}", self.what()),
            }
        }
        for (recorder, since) in self.attached.iter().filter_map(|one| one.recorder.as_ref()) {
            let mut notified = recorder.invalidated();
            notified.dedup();
            assert_eq!(notified, Vec::from_iter(*since..now), "{}", self.what());
        }
    }
}

impl World<'_> {
    fn met(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    fn create(&mut self) {
        let (name, size, mips, layers) = *self.random.pick(&KINDS);
        let home = self.random.pick(&self.devices).clone();
        let places = [Placement::VramOrSystem, Placement::System];
        let placement = *self.random.pick(&places);
        self.number += 1;
        let descriptor = image(name, size, mips)
            .layers(layers)
            .placement(placement)
            .name(&format!("{name} {}", self.number));
        let image = self.rig.engine().create_image(&home, descriptor).expect("an image");
        let empty = (vec![], vec![], vec![], vec![]);
        let (attached, mappings, pins, exports) = empty;
        let mut model = Model { image, attached, mappings, pins, exports, seed: 0 };
        self.write_by_host(&mut model);
        self.images.push(model);
    }

    fn write_by_host(&mut self, model: &mut Model) {
        self.number += 1;
        model.seed = self.number;
        for part in parts(&model.image) {
            let texels = texels(&model.image, part, model.seed);
            model.image.write_texels(part, &texels).expect("the host writes");
        }
    }

    fn step(&mut self) {
        if self.images.len() < IMAGES {
            return self.create();
        }
        let at = self.random.index(self.images.len());
        let mut model = self.images.swap_remove(at);
        let _note = Note(format!("{}: {}", model.what(), model.image.explain()));
        let chosen = self.random.below(20);
        let met = self.one(&mut model, chosen);
        self.met(met);
        model.check();
        if self.random.one_in(4) {
            assert_host_reads(&model.image, model.seed, &model.what());
        }
        if met != "dropped" {
            self.images.push(model);
        }
    }

    /// Does one thing with an image. Returns what has happened.
    fn one(&mut self, model: &mut Model, chosen: u64) -> &'static str {
        match chosen {
            0 if self.random.one_in(4) => "dropped",
            0 | 1 => self.attach(model),
            2 if !model.attached.is_empty() => {
                let at = self.random.index(model.attached.len());
                drop(model.attached.remove(at));
                "detached"
            }
            3 | 4 => self.map(model),
            5 if !model.mappings.is_empty() => {
                let at = self.random.index(model.mappings.len());
                drop(model.mappings.swap_remove(at));
                "unmapped"
            }
            6 => self.remap(model),
            7 | 8 => self.write(model),
            9..=11 => self.read(model),
            12 => {
                self.write_by_host(model);
                "written by the host"
            }
            13 if !model.attached.is_empty() => {
                let one = self.random.pick(&model.attached);
                model.pins.push(one.attachment.pin("random").expect("it is pinned"));
                "pinned"
            }
            14 => {
                model.pins.pop();
                model.exports.pop();
                "let go"
            }
            15 => match model.image.export() {
                Ok(export) => {
                    assert_eq!(export.layout().planes().len(), model.image.format().planes().len());
                    model.exports.push(export);
                    "exported"
                }
                Err(Error::Unsupported { .. }) => {
                    let shape = model.image.shape();
                    let has_fd = model.image.buffer().provider() != Provider::Anonymous;
                    assert!((shape.mips, shape.layers) != (1, 1) || !has_fd);
                    if has_fd { "not exported" } else { "without an fd" }
                }
                // It is in memory without an fd, and cannot leave it.
                Err(Error::Busy { .. }) => "busy",
                Err(error) => panic!("{error}"),
            },
            16 => model.moves(|| model.image.relayout(), true),
            17 => model.moves(|| model.image.evict(), false),
            18 => model.moves(|| model.image.buffer().request_residency(), false),
            _ => {
                let to = self.random.pick(&self.devices).id();
                match self.random.below(3) {
                    0 => model.moves(|| model.image.migrate(DomainId::System), false),
                    1 => model.moves(|| model.image.migrate(DomainId::Vram(to)), false),
                    _ => model.moves(|| model.image.buffer().relocate(), false),
                }
            }
        }
    }

    fn attach(&mut self, model: &mut Model) -> &'static str {
        let device = self.random.pick(&self.devices).clone();
        let recorder = (!self.random.one_in(3)).then(|| Recorder::new(true));
        let (image, held) = (&model.image, model.is_held());
        let made = match &recorder {
            Some(recorder) => image.attach_dynamic(&device, image.usage(), recorder.clone()),
            None => image.attach(&device),
        };
        match made {
            Ok(attachment) => {
                // It may have moved for the device, or back when it was mapped for a moment.
                let first = recorder.as_ref().and_then(|one| one.invalidated().first().copied());
                let since = first.unwrap_or(model.image.generation());
                let recorder = recorder.map(|recorder| (recorder, since));
                model.attached.push(Attached { attachment, recorder });
                "attached"
            }
            Err(Error::AlreadyAttached { .. }) => "already attached",
            Err(Error::Busy { .. }) => {
                assert!(held);
                "busy"
            }
            Err(Error::Unreachable { .. }) => "unreachable",
            Err(error) => panic!("{error}"),
        }
    }

    fn map(&mut self, model: &mut Model) -> &'static str {
        if model.attached.is_empty() {
            return "nothing to map";
        }
        let one = self.random.pick(&model.attached);
        let access = *self.random.pick(&[Access::Read, Access::Write, Access::ReadWrite]);
        let mapping = one.attachment.map(access).expect("it maps");
        let (attachment, is_static) = (one.attachment.id(), one.recorder.is_none());
        let is_own = mapping.view().expect("it is current").is_own;
        let explained = model.image.explain();
        let mut of = explained.attachments.iter().filter(|one| one.attachment == attachment);
        assert_eq!(of.next().is_some_and(|one| one.has_own), is_own, "{explained}");
        model.mappings.push(Mapped { mapping, attachment, is_static });
        if is_own { "mapped, of its own" } else { "mapped" }
    }

    fn remap(&mut self, model: &mut Model) -> &'static str {
        if model.mappings.is_empty() {
            return "nothing to map";
        }
        let at = self.random.index(model.mappings.len());
        let Mapped { mapping, attachment, .. } = &mut model.mappings[at];
        let known = model.attached.iter().find(|one| one.attachment.id() == *attachment);
        let Some(one) = known else { return "detached before" };
        let (was, access) = (mapping.generation(), mapping.access());
        one.attachment.remap(mapping).expect("it maps again");
        assert_eq!(mapping.access(), access);
        mapping.view().expect("it is current");
        if mapping.generation() == was { "current" } else { "remapped" }
    }

    fn write(&mut self, model: &mut Model) -> &'static str {
        let writes = |one: &&Mapped| one.mapping.access().writes();
        let Some(Mapped { mapping, .. }) = model.mappings.iter().find(writes) else {
            return "nothing to write by";
        };
        let now = model.image.generation();
        self.number += 1;
        match self.tools[&mapping.device().id()].0.try_upload(mapping, self.number) {
            Ok(()) => {
                assert_eq!(mapping.generation(), now);
                model.seed = self.number;
                "written"
            }
            Err(Error::Stale { .. }) => {
                assert_ne!(mapping.generation(), now);
                "stale"
            }
            Err(error) => panic!("{}: {error}", model.what()),
        }
    }

    /// Copies or samples, with a mapping that is replaced if it is stale.
    fn read(&mut self, model: &mut Model) -> &'static str {
        let what = model.what();
        let reads = |one: &&mut Mapped| one.mapping.access() != Access::Write;
        let Some(Mapped { mapping, attachment, .. }) = model.mappings.iter_mut().find(reads) else {
            return "nothing to read by";
        };
        let (passage, sampler) = &self.tools[&mapping.device().id()];
        let seed = model.seed;
        let known = model.attached.iter().find(|one| one.attachment.id() == *attachment);
        let result = match (self.random.below(3), known) {
            (0, Some(one)) => {
                let used = (&one.attachment, mapping);
                passage.remapped_copied(used, seed, &what).expect("a mapping that is replaced");
                return "copied in a frame";
            }
            (1, _) => sampler.try_sampled(mapping, seed, &what),
            _ => passage.try_copied(mapping, seed, &what),
        };
        match result {
            Ok(()) => "read",
            Err(Error::Stale { .. }) => {
                // The submission for one part may have let the image follow the device that uses it.
                assert_ne!(mapping.generation(), model.image.generation());
                "stale"
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

fn run(seed: u64, steps: u32) -> BTreeMap<&'static str, u32> {
    let rig = Rig::new();
    let _note = Note(format!("seed {seed}"));
    let devices = rig.twice_each();
    let tools = devices.iter().map(|device| {
        let passage = Passage::new(rig.engine(), device, 1 << 16);
        (device.id(), (passage, Sampler::new(rig.engine(), device, 1 << 12)))
    });
    let tools = tools.collect();
    let (random, met) = (Random::new(seed), BTreeMap::new());
    let mut world = World {
        rig: &rig,
        devices: devices.clone(),
        tools,
        random,
        images: vec![],
        number: 0,
        met,
    };
    for step in 0..steps {
        let _note = Note(format!("step {step}"));
        world.step();
    }
    for model in &world.images {
        model.image.buffer().wait(Access::ReadWrite, LONG).expect("it ends");
        assert_host_reads(&model.image, model.seed, &model.what());
    }
    world.met
}

#[test]
fn random_operations_leave_each_image_as_a_model_of_plain_texels_says() {
    let mut met = BTreeMap::<&str, u32>::new();
    for seed in 0..u64::from(soak::times(3, 1)) {
        for (what, count) in run(seed, if crate::common::in_vm() { 60 } else { 400 }) {
            *met.entry(what).or_default() += count;
        }
    }
    say(&format!("random operations on images: {met:?}"));
    if !crate::common::in_vm() {
        for what in ["moved", "laid out anew", "busy", "stale", "mapped, of its own", "exported"] {
            assert!(met.contains_key(what), "{what} was not met: {met:?}");
        }
    }
}
