//! What buffers have holds for images: client groups, priorities, pins, notifications, clean copies, purges, exports,
//! reports, traces; and where images of a device's own are when there is no room.

use std::sync::Arc;
use std::time::Duration;

use peerbuf::observe::MoveCause;
use peerbuf::residency::SkipReason;
use peerbuf::{
    Access, Device, DomainId, Engine, Error, ImageAttachment, ImageError, ImagePart, Migration,
    Placement, Priority, Provider, SharedImage,
};

use crate::common::recorder::Recorder;
use crate::common::turn::turn;
use crate::common::{LONG, Rig, say, wait_idle};
use crate::relayout::{is_own, shared, three};
use crate::texels::{Passage, assert_host_reads, footprint, image, write_by_host};

const SIZE: (u32, u32) = (256, 64);

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

fn inside(images: &[SharedImage], domain: DomainId) -> usize {
    images.iter().filter(|image| image.domain() == domain).count()
}

/// An image of a home device, which has attached it, and another device has.
fn attached(rig: &Rig, home: &Device) -> (SharedImage, [ImageAttachment; 2], [Arc<Recorder>; 2]) {
    let image = rig.engine().create_image(home, image("R8  ", SIZE, 1)).expect("an image");
    let other = rig.open(&home.adapter().clone());
    let importers = [(); 2].map(|()| Recorder::new(true));
    let attach = |(device, importer): (&Device, &Arc<Recorder>)| {
        image.attach_dynamic(device, image.usage(), importer.clone()).expect("it attaches")
    };
    let [first, second] = &importers;
    let attachments = [(home, first), (&other, second)].map(attach);
    (image, attachments, importers)
}

#[test]
fn a_group_at_its_cap_evicts_its_own_images_and_no_others() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let domain = vram(&device);
        let [ours, others] =
            ["ours", "others"].map(|name| engine.client_group(name).expect("a group"));
        let make = |group, seed| {
            let made = engine.create_image(&device, image("R8  ", SIZE, 1).client(group));
            let made = made.expect("an image");
            write_by_host(&made, seed);
            made
        };
        let neighbours: Vec<_> = (0..3).map(|seed| make(&others, seed)).collect();
        let used = || ours.usage(domain).expect("of this engine").used;
        let three = 3 * footprint(engine, &neighbours[0]);
        ours.set_cap(domain, Some(three)).expect("of this engine");
        let mine: Vec<_> = (0..7)
            .map(|seed| {
                let made = make(&ours, seed);
                assert!(used() <= three, "{} at {seed}", used());
                made
            })
            .collect();
        assert_eq!((inside(&mine, domain), inside(&neighbours, domain)), (3, 3));
        let attachments = mine.iter().map(|image| image.attach(&device).expect("it attaches"));
        let attachments: Vec<_> = attachments.collect();
        for round in 0..2 {
            for (seed, attachment) in (0..).zip(&attachments) {
                let mapping = attachment.map(Access::Read).expect("it maps");
                assert!(used() <= three, "round {round}");
                drop(mapping);
                assert_host_reads(attachment.image(), seed, "within the cap");
            }
        }
        assert_eq!(inside(&neighbours, domain), 3);
        drop(attachments);
        ours.set_cap(domain, Some(0)).expect("of this engine");
        assert_eq!(inside(&mine, domain), 0);
        for (seed, image) in (0..).zip(mine.iter().chain(&neighbours)) {
            assert_host_reads(image, if seed < 7 { seed } else { seed - 7 }, "evicted");
        }
    }
}

#[test]
fn an_image_of_lower_priority_leaves_first_and_a_pinned_one_stays() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let domain = vram(&device);
        let priorities = [Priority::High, Priority::Low, Priority::Normal, Priority::Low];
        let images: Vec<_> = (0..)
            .zip(priorities)
            .map(|(seed, priority)| {
                let descriptor = image("R8  ", SIZE, 1).priority(priority);
                let made = engine.create_image(&device, descriptor).expect("an image");
                write_by_host(&made, seed);
                made
            })
            .collect();
        let attachment = images[1].attach(&device).expect("it attaches");
        let pin = attachment.pin("scanout").expect("it is pinned");
        let one = footprint(engine, &images[0]);
        engine.set_cap(domain, Some(3 * one)).expect("of this engine");
        let there = |at: usize| images[at].domain() == domain;
        assert_eq!([0, 1, 2, 3].map(there), [true, true, true, false]);
        let cap = engine.set_cap(domain, Some(0)).expect("of this engine");
        assert_eq!([0, 1, 2, 3].map(there), [false, true, false, false]);
        assert_eq!(cap.stayed.bytes(SkipReason::Pinned), one);
        assert!(images[1].explain().to_string().contains("scanout"));
        for work in [SharedImage::evict, SharedImage::relayout, |image: &SharedImage| {
            image.migrate(DomainId::System)
        }] {
            match work(&images[1]) {
                // A layout that is the best is no reason to move.
                Ok(Migration::Unchanged) => {}
                other => assert!(matches!(other, Err(Error::Busy { .. })), "{other:?}"),
            }
        }
        drop(pin);
        engine.set_cap(domain, Some(0)).expect("of this engine");
        assert!(!there(1));
        engine.set_cap(domain, None).expect("of this engine");
        for (seed, image) in (0..).zip(&images) {
            assert_host_reads(image, seed, "evicted");
        }
    }
}

#[test]
fn importers_are_notified_once_of_each_move_and_of_each_new_layout() {
    let rig = Rig::new();
    for device in rig.all() {
        let (image, attachments, importers) = attached(&rig, &device);
        write_by_host(&image, 1);
        let moves: [(&str, &dyn Fn() -> peerbuf::Result<Migration>); 6] = [
            ("relocated", &|| image.buffer().relocate()),
            ("evicted", &|| image.evict()),
            ("requested", &|| image.buffer().request_residency()),
            ("migrated", &|| image.migrate(DomainId::System)),
            ("migrated to a device", &|| image.migrate(vram(&attachments[1].device()))),
            ("migrated to where it is", &|| image.migrate(vram(&attachments[1].device()))),
        ];
        for (what, work) in moves {
            let before = image.generation();
            let moved = work().expect("nothing keeps it");
            let expected = match moved {
                Migration::Done { generation } => generation,
                _ => before,
            };
            assert_eq!(image.generation(), expected, "{what}");
            assert!(expected - before <= 1, "{what}");
            for importer in &importers {
                assert_eq!(importer.invalidated(), Vec::from_iter(0..expected), "{what}");
            }
            assert_host_reads(&image, 1, what);
        }
    }
    let Some(devices) = three(&rig) else { return };
    // No better layout comes by itself, however slow the machine is.
    rig.engine().calls().set_clock(Some(Duration::from_secs(10)));
    let (image, attachments) = shared(&rig, &devices, "AR24");
    let importer = Recorder::new(true);
    let _noticed = image
        .attach_dynamic(&devices[1], image.usage(), importer.clone())
        .expect("it attaches again");
    let before = image.generation();
    image.relayout().expect("nothing keeps it");
    assert_eq!(importer.invalidated(), [before], "for one new layout");
    assert_eq!(image.relayout().expect("nothing keeps it"), Migration::Unchanged);
    assert_eq!(importer.invalidated(), [before], "for none");
    drop(attachments);
}

/// The domain of an image's clean copy.
fn clean_copy(engine: &Engine, image: &SharedImage) -> Option<DomainId> {
    let report = engine.report();
    let listed = report.buffers.iter().find(|buffer| buffer.id == image.id());
    listed.expect("it is alive").clean_copy.map(|(domain, _)| domain)
}

#[test]
fn an_image_keeps_its_clean_copy_until_a_device_writes_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let (image, attachments, _) = attached(&rig, &device);
        let passage = Passage::new(engine, &device, 1 << 16);
        let evicted = || engine.moved(MoveCause::Evicted);
        write_by_host(&image, 1);
        // Returns the bytes that were copied to evict it.
        let there_and_back = || {
            let before = evicted();
            image.evict().expect("nothing keeps it");
            assert_eq!((image.domain(), evicted().moves), (DomainId::System, before.moves + 1));
            image.buffer().request_residency().expect("there is room");
            wait_idle(&[&device]);
            assert_eq!(clean_copy(engine, &image), Some(DomainId::System));
            evicted().copied - before.copied
        };
        assert!(there_and_back() > 0);
        assert_host_reads(&image, 1, "with a clean copy");
        assert_eq!(there_and_back(), 0, "nothing was written");
        let mapping = attachments[0].map(Access::ReadWrite).expect("it maps");
        passage.assert_copied(&mapping, 1, "read");
        assert_eq!(there_and_back(), 0, "it was read alone");
        passage.upload(&attachments[0].map(Access::Write).expect("it maps"), 2);
        image.buffer().wait(Access::ReadWrite, LONG).expect("it ends");
        assert!(there_and_back() > 0, "a device has written it");
        assert_host_reads(&image, 2, "written");
    }
}

#[test]
fn a_purged_image_refuses_every_use_until_it_is_renewed_with_zero_texels() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some(devices) = three(&rig) else { return };
    // No better layout comes by itself, however slow the machine is.
    rig.engine().calls().set_clock(Some(Duration::from_secs(10)));
    let descriptor = image("AR24", (62, 18), 1).discardable();
    let image = engine.create_image(&devices[0], descriptor).expect("an image");
    write_by_host(&image, 1);
    let attach = |device| image.attach_dynamic(device, image.usage(), Recorder::new(true));
    let attachments = devices.each_ref().map(|device| attach(device).expect("it attaches"));
    let mapping = attachments[1].map(Access::ReadWrite).expect("it maps");
    assert!(mapping.view().expect("it is current").is_own);
    image.evict().expect("nothing keeps it");
    assert!(image.buffer().is_purged());
    let (layout, part) = (image.layout(), ImagePart::default());
    let purged = |error: &Error| matches!(error, Error::Purged { .. });
    let texels = vec![1; image.texel_bytes(part).expect("it has the part") as usize];
    for error in [
        image.read_texels(part).map(drop).expect_err("purged"),
        image.write_texels(part, &texels).expect_err("purged"),
    ] {
        assert!(matches!(&error, ImageError::Engine(error) if purged(error)), "{error}");
    }
    for (what, result) in [
        ("map", attachments[0].map(Access::Read).map(drop)),
        ("view", mapping.view().map(drop)),
        ("pin", attachments[2].pin("purged").map(drop)),
        ("relayout", image.relayout().map(drop)),
        ("export", image.export().map(drop)),
        ("submit", engine.submit(&devices[1], |work| mapping.write(work).map(drop)).map(drop)),
    ] {
        let error = result.map_or_else(|error| error, |()| panic!("{what} of a purged image"));
        assert!(purged(&error) || matches!(error, Error::Stale { .. }), "{what}: {error}");
    }
    assert!(image.explain().to_string().contains("is purged"), "{}", image.explain());
    image.buffer().repopulate().expect("there is memory");
    assert_eq!(image.layout(), layout);
    let zero = image.read_texels(part).expect("the host reads");
    assert!(zero.iter().all(|byte| *byte == 0));
    image.buffer().set_purgeable(false).expect("it is its own");
    write_by_host(&image, 2);
    for (device, attachment) in devices.iter().zip(&attachments) {
        let passage = Passage::new(engine, device, 1 << 16);
        passage.assert_copied(&attachment.map(Access::Read).expect("it maps"), 2, "renewed");
    }
}

#[test]
fn an_exported_image_keeps_its_place_and_its_layout_until_the_export_ends() {
    let rig = Rig::new();
    let Some(devices) = three(&rig) else { return };
    // No better layout comes by itself, however slow the machine is.
    rig.engine().calls().set_clock(Some(Duration::from_secs(10)));
    let (image, attachments) = shared(&rig, &devices, "AR24");
    write_by_host(&image, 1);
    let export = match image.export() {
        Err(Error::Unsupported { .. }) if image.buffer().provider() == Provider::Anonymous => {
            say("the drivers share no memory that has an fd, so nothing is exported");
            return;
        }
        export => export.expect("it is exported"),
    };
    let (layout, generation) = (image.layout(), image.generation());
    for result in [image.relayout(), image.buffer().relocate()] {
        assert!(matches!(result, Err(Error::Busy { .. })), "{result:?}");
    }
    assert_eq!((image.layout(), image.generation()), (layout, generation));
    assert_eq!(export.layout().planes()[0].pitch, layout.planes()[0].pitch);
    drop(export);
    image.relayout().expect("nothing keeps it");
    assert_ne!(image.layout(), layout);
    for (device, attachment) in devices.iter().zip(&attachments) {
        let passage = Passage::new(rig.engine(), device, 1 << 16);
        passage.assert_copied(&attachment.map(Access::Read).expect("it maps"), 1, "afterwards");
    }
}

#[test]
fn an_image_of_a_devices_own_is_made_where_there_is_room_or_the_mapping_says_that_there_is_none() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    // No better layout comes by itself, however slow the machine is.
    rig.engine().calls().set_clock(Some(Duration::from_secs(10)));
    for (home, other) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let image = engine.create_image(home, image("AR24", (62, 18), 1)).expect("an image");
        write_by_host(&image, 1);
        let attachment = image.attach(other).expect("it attaches");
        if !is_own(&attachment) {
            continue;
        }
        engine.set_cap(vram(other), Some(0)).expect("of this engine");
        match attachment.map(Access::ReadWrite) {
            Ok(mapping) => {
                let passage = Passage::new(engine, other, 1 << 16);
                passage.assert_copied(&mapping, 1, "in system memory");
                passage.upload(&mapping, 2);
                assert_host_reads(&image, 2, "in system memory");
                let name = format!("{} on {}", image.name(), other.name());
                let report = engine.report();
                let own = report.buffers.iter().find(|one| one.name.as_ref() == Some(&name));
                assert_eq!(own.map(|own| own.domain), Some(DomainId::System), "{report}");
            }
            Err(error) => {
                assert!(error.is_out_of_memory(), "{error}");
                assert_host_reads(&image, 1, "refused");
            }
        }
        engine.set_cap(vram(other), None).expect("of this engine");
        assert!(is_own(&attachment), "there is room again");
    }
}

#[test]
fn a_report_lists_an_image_and_those_of_a_devices_own() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let descriptor = image("AR24", (62, 18), 1).name("frame");
    let image = rig.engine().create_image(&swiftshader, descriptor).expect("an image");
    let attachment = image.attach(&lavapipe).expect("it attaches");
    let mapping = attachment.map(Access::Read).expect("it maps");
    let is_own = mapping.view().expect("it is current").is_own;
    let report = rig.engine().report();
    let named =
        |name: &str| report.buffers.iter().find(|buffer| buffer.name.as_deref() == Some(name));
    let listed = named("frame").expect("it is alive");
    assert_eq!((listed.id, listed.attachments.len()), (image.id(), 1));
    let own = named(&format!("frame on {}", lavapipe.name()));
    assert_eq!(own.is_some(), is_own, "{report}");
    assert!(own.is_none_or(|own| own.home == lavapipe.id()));
    drop(mapping);
    let buffers = rig.engine().report().buffers;
    assert_eq!(buffers.len(), 1, "the own image goes with its mapping");
}

#[test]
fn a_trace_has_the_moves_and_uses_of_images() {
    // The file is read after the rig's turn has ended.
    let _turn = turn();
    let file = std::env::temp_dir().join(format!("peerbuf-images-{}.json", std::process::id()));
    let moves = {
        let rig = Rig::with(|descriptor| descriptor.trace(&file));
        let [device, _] = rig.two_of_one_adapter();
        let (image, attachments, importers) = attached(&rig, &device);
        let placed = image.buffer().size();
        image.evict().expect("nothing keeps it");
        image.buffer().request_residency().expect("there is room");
        let passage = Passage::new(rig.engine(), &device, 1 << 16);
        passage.upload(&attachments[0].map(Access::Write).expect("it maps"), 1);
        wait_idle(&[&device]);
        (importers[0].invalidated().len(), placed)
    };
    let text = std::fs::read_to_string(&file).expect("the trace");
    std::fs::remove_file(&file).expect("a file of this test");
    let events: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let events = events.as_array().expect("a list");
    let slices =
        events.iter().filter(|event| event["ph"] == "X" && event["args"]["bytes"] == moves.1);
    assert_eq!(slices.count(), moves.0, "a slice per move: {text}");
    let accesses = peerbuf::observe::trace::read(text.as_bytes()).expect("a trace of this version");
    assert!(accesses.iter().any(|access| access.bytes == moves.1), "a use: {text}");
}

#[test]
fn placements_hold_for_images() {
    let rig = Rig::new();
    for device in rig.all() {
        for (placement, domain) in [
            (Placement::Vram, vram(&device)),
            (Placement::VramOrSystem, vram(&device)),
            (Placement::System, DomainId::System),
        ] {
            let descriptor = image("R8  ", SIZE, 1).placement(placement);
            let image = rig.engine().create_image(&device, descriptor).expect("an image");
            assert_eq!(image.domain(), domain, "{placement:?}");
            write_by_host(&image, 1);
            image.evict().expect("nothing keeps it");
            assert_eq!(image.domain(), DomainId::System);
            assert_host_reads(&image, 1, "the host reads it where it is kept");
            let attachment = image.attach(&device).expect("it attaches");
            drop(attachment.map(Access::Read).expect("it maps"));
            if placement == Placement::Vram {
                assert_eq!(image.domain(), domain, "a device uses it there alone");
            }
        }
    }
}
