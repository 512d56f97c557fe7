//! Each call of an image's journey fails once: its operation reports that or goes on without it, changes nothing if it
//! reports, and succeeds when it is repeated.

use ash::vk;
use peerbuf::device::Call;
use peerbuf::image::ImageLayout;
use peerbuf::observe::Object;
use peerbuf::{
    Access, Device, Engine, Error, ImageAttachment, ImageError, ImageExport, ImageMapping,
    Provider, SharedImage,
};

use crate::common::Rig;
use crate::foreign::{described, import};
use crate::texels::{Passage, assert_host_reads, image, parts, texels};

const HOST: vk::Result = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
const DEVICE: vk::Result = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
const OTHER: vk::Result = vk::Result::ERROR_UNKNOWN;

/// The calls, each with the codes by which it fails.
const CALLS: [(Call, &[vk::Result]); 18] = [
    (
        Call::CreateImage,
        &[
            HOST,
            DEVICE,
            vk::Result::ERROR_FORMAT_NOT_SUPPORTED,
            vk::Result::ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT,
            OTHER,
        ],
    ),
    (Call::BindImageMemory, &[HOST, DEVICE, OTHER]),
    (Call::CreateBuffer, &[HOST, DEVICE]),
    (Call::BindBufferMemory, &[HOST, OTHER]),
    (Call::AllocateMemory, &[HOST, DEVICE, vk::Result::ERROR_TOO_MANY_OBJECTS]),
    (Call::ImportMemory, &[HOST, vk::Result::ERROR_INVALID_EXTERNAL_HANDLE]),
    (Call::GetMemoryFd, &[HOST, vk::Result::ERROR_TOO_MANY_OBJECTS]),
    (Call::GetHandleProperties, &[HOST, vk::Result::ERROR_INVALID_EXTERNAL_HANDLE]),
    (Call::MapMemory, &[HOST, vk::Result::ERROR_MEMORY_MAP_FAILED]),
    (Call::QueueSubmit, &[HOST, DEVICE]),
    (Call::WaitSemaphores, &[HOST]),
    (Call::CreateSemaphore, &[HOST]),
    (Call::GetSemaphoreFd, &[HOST]),
    (Call::ImportSemaphoreFd, &[HOST]),
    (Call::MemfdCreate, &[HOST]),
    (Call::Mmap, &[HOST]),
    (Call::DuplicateFd, &[HOST]),
    (Call::BeginCommandBuffer, &[HOST, DEVICE]),
];

/// What a journey needs, and journeys have in common.
struct Ground<'a> {
    rig: &'a Rig,
    /// The home device first.
    devices: [Device; 3],
    passages: [Passage; 3],
    /// Another engine, and its device of the home device's adapter.
    far: Option<(&'a Engine, Device)>,
}

/// An image on its way.
struct Journey<'a> {
    ground: &'a Ground<'a>,
    image: Option<SharedImage>,
    attachments: Vec<ImageAttachment>,
    mappings: Vec<ImageMapping>,
    export: Option<ImageExport>,
    imported: Option<SharedImage>,
    seed: u64,
}

type Step<'a> = fn(&mut Journey<'a>) -> Result<(), ImageError>;

/// Generation and layout of the image, if there is one, and how many objects of each kind live.
type State = (Option<(u32, ImageLayout)>, Vec<(Object, u64)>);

impl<'a> Journey<'a> {
    const STEPS: [(&'static str, Step<'a>); 20] = [
        ("create", Self::create),
        ("write by the host", Self::write),
        ("attach the home device", Self::attach),
        ("attach the second one", Self::attach),
        ("attach the third one", Self::attach),
        ("map on the home device", Self::map),
        ("map on the second one", Self::map),
        ("map on the third one", Self::map),
        ("upload on the second one", |journey| journey.upload(1)),
        ("copy on all", Self::copy),
        ("lay out anew", Self::lay_out),
        ("map on the home device again", Self::map),
        ("upload on the home device", |journey| journey.upload(0)),
        ("read by the host", Self::read),
        ("evict", |journey| journey.let_go().evict().map(drop).map_err(Into::into)),
        ("return", |journey| {
            journey.let_go().buffer().request_residency().map(drop).map_err(Into::into)
        }),
        ("move within the domain", |journey| {
            journey.let_go().buffer().relocate().map(drop).map_err(Into::into)
        }),
        ("export", Self::export),
        ("import", Self::import),
        ("end the export", Self::end),
    ];

    fn image(&self) -> &SharedImage {
        self.image.as_ref().expect("it was created")
    }

    fn create(&mut self) -> Result<(), ImageError> {
        let descriptor = image("AR24", (62, 18), 1);
        let engine = self.ground.rig.engine();
        self.image = Some(engine.create_image(&self.ground.devices[0], descriptor)?);
        Ok(())
    }

    fn write(&mut self) -> Result<(), ImageError> {
        for part in parts(self.image()) {
            self.image().write_texels(part, &texels(self.image(), part, 1))?;
        }
        self.seed = 1;
        Ok(())
    }

    fn attach(&mut self) -> Result<(), ImageError> {
        let device = &self.ground.devices[self.attachments.len()];
        self.attachments.push(self.image().attach(device)?);
        Ok(())
    }

    fn map(&mut self) -> Result<(), ImageError> {
        let mapping = self.attachments[self.mappings.len()].map(Access::ReadWrite)?;
        mapping.view()?;
        self.mappings.push(mapping);
        Ok(())
    }

    fn upload(&mut self, at: usize) -> Result<(), ImageError> {
        self.ground.passages[at].try_upload(&self.mappings[at], self.seed + 1)?;
        self.seed += 1;
        Ok(())
    }

    fn copy(&mut self) -> Result<(), ImageError> {
        for (passage, mapping) in self.ground.passages.iter().zip(&self.mappings) {
            passage.try_copied(mapping, self.seed, "on its way")?;
        }
        Ok(())
    }

    fn lay_out(&mut self) -> Result<(), ImageError> {
        Ok(self.let_go().relayout().map(drop)?)
    }

    fn read(&mut self) -> Result<(), ImageError> {
        for part in parts(self.image()) {
            let expected = texels(self.image(), part, self.seed);
            assert_eq!(self.image().read_texels(part)?, expected);
        }
        Ok(())
    }

    /// Drops all mappings, which keep the image where it is.
    fn let_go(&mut self) -> &SharedImage {
        self.mappings.clear();
        self.image()
    }

    fn export(&mut self) -> Result<(), ImageError> {
        // Where the drivers share no memory that has an fd, nothing is exported.
        let has_fd = self.image().buffer().provider() != Provider::Anonymous;
        match self.image().export() {
            Err(Error::Unsupported { .. }) if !has_fd => {}
            export => self.export = Some(export?),
        }
        Ok(())
    }

    fn import(&mut self) -> Result<(), ImageError> {
        let (Some((engine, device)), Some(export)) = (&self.ground.far, &self.export) else {
            return Ok(());
        };
        let imported = import(engine, device, export, (&described(export), export.info()))?;
        let attachment = imported.attach(device)?;
        attachment.map(Access::ReadWrite)?.view()?;
        let passage = Passage::new(engine, device, 1 << 16);
        passage.try_copied(&attachment.map(Access::Read)?, self.seed, "imported")?;
        self.imported = Some(imported);
        Ok(())
    }

    fn end(&mut self) -> Result<(), ImageError> {
        (self.imported, self.export) = (None, None);
        Ok(())
    }

    /// What no operation that fails changes.
    fn state(&self) -> State {
        let image = self.image.as_ref().map(|image| (image.generation(), image.layout()));
        // Memory and views are kept for later, and images until their device has ended.
        let kept = [Object::Allocation, Object::View, Object::Image];
        let all = Object::ALL.iter().filter(|object| !kept.contains(object));
        let live = self.ground.rig.engine().live();
        (image, all.map(|object| (*object, live.count(*object))).collect())
    }

    /// Asserts that the texels are there, by the host and on a device that has attached it.
    fn assert_texels(&self, what: &str) {
        if self.seed > 0 {
            assert_host_reads(self.image(), self.seed, what);
        }
    }
}

impl Ground<'_> {
    /// Takes all steps. Returns whether the call has failed, which is to fail in `engine`.
    fn travel(&self, engine: &Engine, (call, nth, code): (Call, u64, vk::Result)) -> bool {
        let mut journey = Journey {
            ground: self,
            image: None,
            attachments: vec![],
            mappings: vec![],
            export: None,
            imported: None,
            seed: 0,
        };
        engine.calls().fail_nth(call, nth, code);
        let mut has_failed = false;
        for (name, step) in Journey::STEPS {
            let what = format!("{name}, {call:?} {nth} with {code}");
            let before = journey.state();
            let mapped = journey.mappings.len();
            if let Err(error) = step(&mut journey) {
                has_failed = !engine.calls().clear_faults();
                assert!(has_failed, "{what}: {error}");
                let is_stale = matches!(error, ImageError::Engine(Error::Stale { .. }));
                assert!(!is_stale, "{what}: {error}");
                let (image, live) = journey.state();
                let layout = |state: Option<(u32, ImageLayout)>| state.map(|(_, layout)| layout);
                assert_eq!(layout(image), layout(before.0), "{what}: {error}");
                // An attach first moves the image to where the device reaches it.
                assert!(image == before.0 || name.starts_with("attach"), "{what}: {error}");
                // A step that moves the image drops its mappings first.
                let gone = |object: &Object| match object {
                    Object::Mapping => (mapped - journey.mappings.len()) as u64,
                    _ => 0,
                };
                for ((object, now), (_, then)) in live.iter().zip(&before.1) {
                    assert!(now + gone(object) <= *then, "{what}: {object:?}: {now}, was {then}");
                }
                journey.assert_texels(&what);
                step(&mut journey)
                    .unwrap_or_else(|again| panic!("{what}: {error}; again: {again}"));
            }
        }
        let pending = !has_failed && engine.calls().clear_faults();
        journey.assert_texels(&format!("{call:?} {nth} with {code}, at the end"));
        !pending
    }

    fn all_faults(&self, engine: &Engine) {
        for (call, codes) in CALLS {
            const MOST: u64 = 100;
            for &code in codes {
                let reached = (1..=MOST).take_while(|nth| self.travel(engine, (call, *nth, code)));
                assert!(reached.count() < MOST as usize, "{call:?}: more than the test looks at");
            }
        }
    }
}

/// Nothing fails: routes and images over rows are proved.
fn warm_up(ground: &Ground<'_>, engines: &[&Engine]) {
    for engine in engines {
        assert!(!ground.travel(engine, (Call::QueueSubmit, 1 << 32, HOST)));
    }
}

#[test]
fn a_call_that_fails_on_the_way_of_an_image_of_two_drivers_changes_nothing() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let second = rig.open(&lavapipe.adapter().clone());
    let devices = [swiftshader, lavapipe, second];
    let passages = devices.each_ref().map(|device| Passage::new(rig.engine(), device, 1 << 16));
    let ground = Ground { rig: &rig, devices, passages, far: None };
    warm_up(&ground, &[rig.engine()]);
    ground.all_faults(rig.engine());
}

#[test]
fn a_call_that_fails_on_the_way_of_an_image_in_the_memory_of_one_driver_changes_nothing() {
    let rig = Rig::new();
    let other = rig.external_engine();
    for home in rig.all() {
        let [second, third] = [(); 2].map(|()| rig.open(&home.adapter().clone()));
        let far = rig.open_on(&other, &home);
        let devices = [home, second, third];
        let passages = devices.each_ref().map(|device| Passage::new(rig.engine(), device, 1 << 16));
        let ground = Ground { rig: &rig, devices, passages, far: Some((&other, far)) };
        warm_up(&ground, &[rig.engine(), &other]);
        ground.all_faults(rig.engine());
        ground.all_faults(&other);
    }
}
