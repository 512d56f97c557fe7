//! Images with a mip tail: what leaves first, what a mapping has, who is notified, and that no texel is ever wrong.
#![expect(unsafe_code, reason = "raw commands of the test")]

use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;
use peerbuf::device::Call;
use peerbuf::image::{ImageUsage, TailedExplanation};
use peerbuf::observe::MoveCause;
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Engine, Error, ImageDescriptor, ImageError,
    ImagePart, Importer, Invalidation, InvalidationCause, Placement, Priority, ResidencyOptions,
    Scope, SharedImage, TailedAttachment, TailedImage, TailedMapping,
};

use crate::common::random::Random;
use crate::common::{LONG, Rig, soak, wait_idle};
use crate::sampler::Sampler;
use crate::texels::{Passage, assert_host_reads, footprint, image, parts, texels, write_by_host};

/// Five levels, of which the last three are the tail.
const LEVELS: u32 = 5;
const TAIL: u32 = 2;
const SIZE: (u32, u32) = (126, 66);

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

fn described(name: &str) -> ImageDescriptor {
    image(name, SIZE, LEVELS)
}

fn create(engine: &Engine, home: &Device, descriptor: ImageDescriptor) -> TailedImage {
    engine.create_tailed_image(home, descriptor, TAIL).expect("an image")
}

/// The host writes all texels of a seed.
fn write(image: &TailedImage, seed: u64) {
    write_by_host(image.large(), seed);
    write_by_host(image.tail(), seed);
}

/// The host reads the texels of a seed in all levels, wherever they are.
fn assert_reads(image: &TailedImage, seed: u64, what: &str) {
    assert_host_reads(image.large(), seed, what);
    assert_host_reads(image.tail(), seed, what);
}

/// A device reads the texels of a seed in all levels that a mapping has.
fn assert_copied(passage: &Passage, mapping: &TailedMapping, seed: u64, what: &str) {
    if let Some(large) = mapping.large() {
        passage.assert_copied(large, seed, &format!("{what}, large levels"));
    }
    passage.assert_copied(mapping.tail(), seed, &format!("{what}, tail"));
}

/// Records of what it is notified.
#[derive(Default)]
struct Notified(Mutex<Vec<(u64, InvalidationCause)>>);

impl Notified {
    fn take(&self) -> Vec<(u64, InvalidationCause)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Importer for Notified {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((invalidation.buffer_id(), invalidation.cause()));
    }
}

fn attach(image: &TailedImage, device: &Device) -> (TailedAttachment, Arc<Notified>) {
    let notified = Arc::new(Notified::default());
    let importer: Arc<dyn Importer> = notified.clone();
    let attached = image.attach_dynamic(device, image.usage(), &importer);
    (attached.expect("it attaches"), notified)
}

/// Caps a domain at what is in it beside an image, so that it has no room for that.
fn leave_no_room(engine: &Engine, device: &Device, image: &SharedImage) {
    wait_idle(&[device]);
    let report = engine.report();
    let others = report
        .buffers
        .iter()
        .filter(|one| one.domain == vram(device) && one.id != image.id())
        .map(|one| one.footprint);
    engine.set_cap(vram(device), Some(others.sum())).expect("of this engine");
}

/// Evicted buffers return as far as there is room, whatever their rate.
fn rig() -> Rig {
    let options = ResidencyOptions::new().bytes_per_ms(1 << 40).auto_migration(false);
    Rig::with(|descriptor| descriptor.residency(options))
}

#[test]
fn under_pressure_all_large_levels_leave_before_any_tail() {
    let rig = rig();
    let engine = rig.engine();
    for device in rig.all() {
        let domain = vram(&device);
        for priority in Priority::ALL {
            let make = |seed| {
                let made = create(engine, &device, described("AR24").priority(*priority));
                write(&made, seed);
                made
            };
            let images: Vec<_> = (0..6).map(make).collect();
            let inside = |tail: bool| {
                let part = |image: &TailedImage| match tail {
                    true => image.tail().domain(),
                    false => image.large().domain(),
                };
                images.iter().filter(|image| part(image) == domain).count()
            };
            assert_eq!([inside(false), inside(true)], [6, 6], "{priority}");
            // The large levels were used last.
            for image in images.iter().map(TailedImage::large) {
                let attachment = image.attach(&device).expect("it attaches");
                Passage::new(engine, &device, 1 << 16)
                    .upload(&attachment.map(Access::Write).expect("it maps"), 9);
                image.buffer().wait(Access::ReadWrite, LONG).expect("it ends");
            }
            let large = footprint(engine, images[0].large());
            let tail = footprint(engine, images[0].tail());
            for left in (0..6).rev() {
                engine.set_cap(domain, Some(6 * tail + left * large)).expect("of this engine");
                assert_eq!([inside(false) as u64, inside(true) as u64], [left, 6], "{priority}");
            }
            engine.set_cap(domain, Some(2 * tail)).expect("of this engine");
            assert_eq!([inside(false), inside(true)], [0, 2], "{priority}");
            for (seed, image) in (0..).zip(&images) {
                assert_host_reads(image.large(), 9, "evicted");
                assert_host_reads(image.tail(), seed, "evicted");
            }
            engine.set_cap(domain, None).expect("of this engine");
        }
    }
}

#[test]
fn a_mapping_has_the_tail_alone_until_there_is_room_for_the_large_levels() {
    let rig = rig();
    let engine = rig.engine();
    for device in rig.all() {
        let domain = vram(&device);
        let image = create(engine, &device, described("AR24").layers(2).placement(Placement::Vram));
        write(&image, 1);
        let passage = Passage::new(engine, &device, 1 << 17);
        let (attachment, notified) = attach(&image, &device);
        let mut mapping = attachment.map(Access::ReadWrite).expect("it maps");
        assert_eq!((mapping.min_level(), image.min_level()), (0, 0));
        assert_copied(&passage, &mapping, 1, "as created");
        notified.take();

        leave_no_room(engine, &device, image.large());
        assert_eq!(notified.take(), [(image.large().id(), InvalidationCause::Evict)]);
        assert_eq!(image.min_level(), TAIL);
        let stale = mapping.view().expect_err("the large levels have left");
        assert!(matches!(stale, Error::Stale { .. }), "{stale}");
        for at in 0..3 {
            let replaced = attachment.remap(&mut mapping).expect("the tail is there");
            assert_eq!(replaced, at == 0);
            // An image of the device's own has gone with the large levels.
            leave_no_room(engine, &device, image.large());
            let view = mapping.view().expect("the tail is current");
            assert_eq!((view.min_level, view.tail_level, view.large), (TAIL, TAIL, None));
            assert_eq!(view.of_level(TAIL - 1), None);
            assert_eq!(view.of_level(TAIL), Some((view.tail, 0)));
            assert_copied(&passage, &mapping, 1, "without room");
        }
        let first = attachment.map(Access::Read).expect("the tail is there");
        assert_eq!(first.min_level(), TAIL);
        drop(first);
        let TailedExplanation { large, tail, min_level, .. } = image.explain();
        assert_eq!((large.buffer.domain, tail.buffer.domain), (DomainId::System, domain));
        assert_eq!(min_level, TAIL);
        let text = image.explain().to_string();
        for line in ["use levels 2 … 4", "levels 0 … 1: ", "levels 2 … 4: ", "layout "] {
            assert!(text.contains(line), "{text}");
        }
        passage.upload(mapping.tail(), 2);
        assert_host_reads(image.large(), 1, "evicted");
        write_by_host(image.large(), 2);
        assert!(notified.take().is_empty());

        engine.set_cap(domain, None).expect("of this engine");
        assert!(attachment.remap(&mut mapping).expect("there is room"), "the large levels return");
        assert_eq!((mapping.min_level(), image.large().domain()), (0, domain));
        assert_eq!(notified.take(), [(image.large().id(), InvalidationCause::Move)]);
        let view = mapping.view().expect("all is current");
        let large = view.large.expect("they are there");
        assert_eq!([0, 1].map(|level| view.of_level(level)), [0, 1].map(|at| Some((large, at))));
        assert_eq!(
            [2, 4].map(|level| view.of_level(level)),
            [0, 2].map(|at| Some((view.tail, at)))
        );
        assert_copied(&passage, &mapping, 2, "with room");
        assert!(!attachment.remap(&mut mapping).expect("it is there"), "nothing was stale");
    }
}

#[test]
fn the_parts_move_apart_and_every_device_sees_every_texel() {
    let rig = rig();
    let engine = rig.engine();
    let devices = rig.twice_each();
    let tools: Vec<_> = devices
        .iter()
        .map(|at| (Passage::new(engine, at, 1 << 17), Sampler::new(engine, at, 1 << 14)))
        .collect();
    for name in ["AR24", "R8  ", "AB4H"] {
        for home in &devices {
            let image = create(engine, home, described(name));
            write(&image, 1);
            let attached: Vec<_> = devices.iter().map(|device| attach(&image, device).0).collect();
            let mut seed = 1;
            let places = devices.iter().map(vram).chain([DomainId::System]);
            for (at, place) in places.enumerate() {
                // Both orders.
                let parts = [image.large(), image.tail()];
                for part in [parts[at % 2], parts[(at + 1) % 2]] {
                    let what = format!("{name} of {}, {} in {place:?}", home.name(), part.name());
                    match part.migrate(place) {
                        Ok(_) => {}
                        // The drivers share no memory of one device's.
                        Err(Error::Unreachable { .. }) => continue,
                        Err(error) => panic!("{what}: {error}"),
                    }
                    let by = at % devices.len();
                    let (writer, by) = (&tools[by].0, &attached[by]);
                    seed += 1;
                    let mapping = by.map(Access::ReadWrite).expect("it maps");
                    assert_eq!(mapping.min_level(), 0, "{what}: it is where it was moved to");
                    writer.upload(mapping.large().expect("it has all levels"), seed);
                    writer.upload(mapping.tail(), seed);
                    for ((reader, sampler), attachment) in tools.iter().zip(&attached) {
                        let mapping = attachment.map(Access::Read).expect("it maps");
                        assert_copied(reader, &mapping, seed, &what);
                        for part in [mapping.large().expect("it has all levels"), mapping.tail()] {
                            sampler.assert_sampled(part, seed, &what);
                        }
                    }
                    assert_reads(&image, seed, &what);
                }
            }
        }
    }
}

#[test]
fn a_submission_uses_all_levels_of_a_mapping_or_fails_once_one_has_moved() {
    let rig = rig();
    let engine = rig.engine();
    for device in rig.all() {
        let image = create(engine, &device, described("R8  "));
        write(&image, 1);
        let descriptor = BufferDescriptor::new(1 << 17).placement(Placement::System);
        let buffer = engine.create_buffer(&device, descriptor).expect("a buffer");
        let buffer = buffer.attach(&device).expect("it attaches");
        let target = buffer.map(Access::Write).expect("it maps");
        let (attachment, _) = attach(&image, &device);
        let mapping = attachment.map(Access::Read).expect("it maps");
        let extent = |level| image.shape().extent.at_level(level);
        let offset = |level| u64::from(level) << 14;
        let copied = engine.submit(&device, |submission| {
            let levels = mapping.uses(submission, Access::Read, Scope::TRANSFER)?;
            let view = submission.uses(&target, Access::Write, Scope::TRANSFER)?;
            for level in 0..LEVELS {
                let (from, at) = levels.of_level(level).expect("all are there");
                let extent = extent(level);
                let region = [vk::BufferImageCopy::default()
                    .buffer_offset(view.offset + offset(level))
                    .image_subresource(vk::ImageSubresourceLayers {
                        aspect_mask: vk::ImageAspectFlags::COLOR,
                        mip_level: at,
                        base_array_layer: 0,
                        layer_count: 1,
                    })
                    .image_extent(vk::Extent3D {
                        width: extent.width,
                        height: extent.height,
                        depth: 1,
                    })];
                let raw = device.raw();
                let record = move |commands| {
                    let (image, layout) = (from.image, from.layout);
                    // SAFETY: live objects of the device, in the layout that the declaration says; the region is in both.
                    unsafe {
                        raw.cmd_copy_image_to_buffer(commands, image, layout, view.buffer, &region);
                    }
                };
                // SAFETY: it records a valid command on what was declared.
                unsafe { submission.record(record) };
            }
            Ok(())
        });
        copied.expect("it is current").wait(LONG).expect("it ends");
        for level in 0..LEVELS {
            let part = ImagePart::of_level(level);
            let expected = image.read_texels(part).expect("the host reads");
            let (owner, its_part) = image.part(part);
            assert_eq!(expected, texels(owner, its_part, 1), "level {level} by the host");
            let mut seen = vec![0; expected.len()];
            let access = buffer.buffer().host_access(Access::Read).expect("it is readable");
            access.read(offset(level), &mut seen).expect("it is within");
            assert_eq!(seen, expected, "level {level} by the device");
        }
        for part in [image.large(), image.tail()] {
            let mapping = attachment.map(Access::Read).expect("it maps");
            part.evict().expect("nothing keeps it");
            let used = engine.submit(&device, |submission| {
                mapping.uses(submission, Access::Read, Scope::ALL).map(drop)
            });
            let error = used.map_or_else(|error| error, |_| panic!("{} has moved", part.name()));
            assert!(matches!(error, Error::Stale { .. }), "{error}");
        }
    }
}

#[test]
fn what_is_discarded_is_the_large_levels_alone() {
    let rig = rig();
    let engine = rig.engine();
    for device in rig.all() {
        let image = create(engine, &device, described("AR24").discardable());
        write(&image, 1);
        let passage = Passage::new(engine, &device, 1 << 16);
        let (attachment, notified) = attach(&image, &device);
        let mut mapping = attachment.map(Access::ReadWrite).expect("it maps");
        notified.take();
        engine.evict_all(&device).expect("of this engine");
        let mut causes = notified.take();
        causes.sort_by_key(|(id, _)| *id == image.tail().id());
        let of = |image: &SharedImage, cause| (image.id(), cause);
        let purged = of(image.large(), InvalidationCause::Purge);
        assert_eq!(causes, [purged, of(image.tail(), InvalidationCause::Evict)]);
        assert!(attachment.remap(&mut mapping).expect("the tail is there"));
        assert_eq!((mapping.min_level(), image.min_level()), (TAIL, TAIL));
        assert_copied(&passage, &mapping, 1, "discarded");
        let error = image.read_texels(ImagePart::default()).expect_err("discarded");
        assert!(matches!(error, ImageError::Engine(Error::Purged { .. })), "{error}");
        image.large().buffer().repopulate().expect("there is memory");
        assert!(attachment.remap(&mut mapping).expect("all is there"));
        assert_eq!(mapping.min_level(), 0);
        let texels = image.read_texels(ImagePart::default()).expect("the host reads");
        assert!(texels.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn static_mappings_and_pins_keep_the_part_that_they_have() {
    let rig = rig();
    let engine = rig.engine();
    for device in rig.all() {
        let domain = vram(&device);
        let image = create(engine, &device, described("AR24"));
        write(&image, 1);
        let usage = ImageUsage::SAMPLED | ImageUsage::COPIED_FROM;
        let attachment = image.attach(&device, usage).expect("it attaches");
        let mapping = attachment.map(Access::Read).expect("it maps");
        engine.set_cap(domain, Some(0)).expect("of this engine");
        assert_eq!([image.large().domain(), image.tail().domain()], [domain, domain]);
        drop(mapping);
        let pin = attachment.large().pin("close to the camera").expect("it is pinned");
        engine.set_cap(domain, Some(0)).expect("of this engine");
        assert_eq!([image.large().domain(), image.tail().domain()], [domain, DomainId::System]);
        let mapping = attachment.map(Access::Read).expect("it maps");
        assert_eq!(mapping.min_level(), 0);
        let passage = Passage::new(engine, &device, 1 << 16);
        assert_copied(&passage, &mapping, 1, "pinned");
        drop((pin, mapping));
        engine.set_cap(domain, None).expect("of this engine");
    }
}

#[test]
fn tails_that_no_image_has_are_refused_and_change_nothing() {
    let rig = rig();
    let engine = rig.engine();
    let device = rig.all().remove(0);
    let before = engine.report().buffers.len();
    for (mips, tail) in [(1, 0), (1, 1), (LEVELS, 0), (LEVELS, LEVELS), (LEVELS, u32::MAX)] {
        let made = engine.create_tailed_image(&device, image("AR24", SIZE, mips), tail);
        let error = made.expect_err("no such tail");
        let ImageError::TailLevel { tail_level, mips: of, .. } = error else { panic!("{error}") };
        assert_eq!((tail_level, of), (tail, mips));
    }
    let made = engine.create_tailed_image(&device, image("AR24", SIZE, 9), 2);
    assert!(matches!(made, Err(ImageError::Layout(_))), "{made:?}");
    let made =
        engine.create_tailed_image(&device, described("AR24").usage(ImageUsage::default()), 2);
    assert!(matches!(made, Err(ImageError::NoUsage)), "{made:?}");
    assert_eq!(engine.report().buffers.len(), before);

    let [one, other] = [(); 2].map(|()| create(engine, &device, described("AR24")));
    let shape = one.shape();
    for level in [LEVELS, u32::MAX] {
        let part = ImagePart::of_level(level);
        let error = one.read_texels(part).expect_err("no such level");
        let ImageError::NoSuchPart { part: named, shape: of, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((named, of), (part, shape));
        assert!(one.write_texels(part, &[]).is_err());
    }
    let (attachment, _) = attach(&one, &device);
    let mut mapping = attach(&other, &device).0.map(Access::Read).expect("it maps");
    let error = attachment.remap(&mut mapping).expect_err("of another image");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    mapping.view().expect("it is as before");
}

#[test]
fn random_moves_evictions_and_caps_show_no_wrong_texel() {
    let rig = rig();
    for home in rig.all() {
        let second = rig.open(&home.adapter().clone());
        random_operations(rig.engine(), &[home, second]);
    }
}

/// Operations on images of two devices that reach each other's memory.
fn random_operations(engine: &Engine, devices: &[Device; 2]) {
    let passages: Vec<_> = devices.iter().map(|at| Passage::new(engine, at, 1 << 17)).collect();
    let images: Vec<_> = (0..4)
        .map(|at| {
            let descriptor = described(["AR24", "R8  "][at % 2]).layers(1 + at as u32 / 2);
            create(engine, &devices[at % devices.len()], descriptor)
        })
        .collect();
    // By image, the seeds of the large levels and of the tail.
    let mut seeds = [[0, 1]; 4];
    for (at, image) in images.iter().enumerate() {
        seeds[at] = [2 * at as u64, 2 * at as u64 + 1];
        write_by_host(image.large(), seeds[at][0]);
        write_by_host(image.tail(), seeds[at][1]);
    }
    let mut attached = vec![];
    for image in &images {
        attached.push(devices.iter().map(|device| attach(image, device).0).collect::<Vec<_>>());
    }
    let mut random = Random::new(13);
    let (mut with_all, mut with_tail, mut next) = (0, 0, 100);
    for step in 0..soak::times(150, 30) {
        let at = random.below(4) as usize;
        let by = random.below(devices.len() as u64) as usize;
        let (image, attachment) = (&images[at], &attached[at][by]);
        let part = if random.below(3) == 0 { image.tail() } else { image.large() };
        let what = format!("step {step}, {} by {}", part.name(), devices[by].name());
        match random.below(8) {
            0 => {
                part.evict().expect("nothing keeps it");
            }
            1 => match part.buffer().request_residency() {
                Ok(_) => {}
                Err(error) => assert!(error.is_out_of_memory(), "{what}: {error}"),
            },
            2 => {
                let one = footprint(engine, images[0].large());
                let cap = [None, Some(0), Some(one), Some(3 * one)][random.below(4) as usize];
                engine.set_cap(vram(&devices[by]), cap).expect("of this engine");
            }
            3 => match part.relayout() {
                Ok(_) => {}
                Err(error) => assert!(error.is_out_of_memory(), "{what}: {error}"),
            },
            4 => {
                let of_tail = part == image.tail();
                next += 1;
                seeds[at][usize::from(of_tail)] = next;
                write_by_host(part, next);
            }
            _ => {
                let mapping = attachment.map(Access::ReadWrite).expect("it maps");
                // A part that is not where it should be returns behind a submission, if there is room by then.
                let is_current = |result: Result<(), Error>| match result {
                    Ok(()) => true,
                    Err(Error::Stale { .. }) => false,
                    Err(error) => panic!("{what}: {error}"),
                };
                match mapping.large() {
                    Some(_) => with_all += 1,
                    None => with_tail += 1,
                }
                for (of, part) in [mapping.large(), Some(mapping.tail())].iter().enumerate() {
                    let Some(part) = part else { continue };
                    is_current(passages[by].try_copied(part, seeds[at][of], &what));
                    if is_current(passages[by].try_upload(part, next + 1)) {
                        next += 1;
                        seeds[at][of] = next;
                    }
                }
            }
        }
    }
    assert!(with_all > 5 && with_tail > 5, "{with_all} mappings had all levels, {with_tail} not");
    assert!(engine.moved(MoveCause::Restored).moves > 0);
    for (image, [large, tail]) in images.iter().zip(seeds) {
        assert_host_reads(image.large(), large, "at the end");
        assert_host_reads(image.tail(), tail, "at the end");
    }
}

#[test]
fn a_call_that_fails_leaves_nothing_behind_and_no_texel_is_lost() {
    let rig = rig();
    let engine = rig.engine();
    for home in rig.all() {
        let second = rig.open(&home.adapter().clone());
        let passage = Passage::new(engine, &second, 1 << 16);
        let journey = || -> Result<(), ImageError> {
            let image = engine.create_tailed_image(&home, described("AR24"), TAIL)?;
            for part in [image.large(), image.tail()] {
                for level in parts(part) {
                    part.write_texels(level, &texels(part, level, 1))?;
                }
            }
            let importer: Arc<dyn Importer> = Arc::new(Notified::default());
            let attachment = image.attach_dynamic(&second, image.usage(), &importer)?;
            let mut mapping = attachment.map(Access::ReadWrite)?;
            passage.try_copied(mapping.tail(), 1, "tail")?;
            image.large().evict()?;
            for _ in 0..3 {
                attachment.remap(&mut mapping)?;
                mapping.view()?;
                if let Some(large) = mapping.large() {
                    passage.try_copied(large, 1, "large levels")?;
                }
                passage.try_copied(mapping.tail(), 1, "tail")?;
            }
            assert_reads(&image, 1, "at the end");
            Ok(())
        };
        journey().expect("nothing fails");
        let alive = engine.report().buffers.len();
        let [host, device] =
            [vk::Result::ERROR_OUT_OF_HOST_MEMORY, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY];
        for (call, code) in [
            (Call::CreateImage, host),
            (Call::BindImageMemory, device),
            (Call::CreateBuffer, host),
            (Call::AllocateMemory, device),
            (Call::ImportMemory, host),
            (Call::QueueSubmit, host),
        ] {
            const MOST: u64 = 100;
            let fails = |nth: &u64| {
                engine.calls().fail_nth(call, *nth, code);
                let result = journey();
                let has_failed = !engine.calls().clear_faults();
                if let Err(error) = result {
                    assert!(has_failed, "{call:?} {nth}: {error}");
                    journey().unwrap_or_else(|again| panic!("{call:?} {nth}: {error}; {again}"));
                }
                assert_eq!(engine.report().buffers.len(), alive, "{call:?} {nth}");
                has_failed
            };
            let reached = (1..=MOST).take_while(fails).count();
            assert!(reached < MOST as usize, "{call:?}: more than the test looks at");
        }
    }
}
