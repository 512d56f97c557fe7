//! What a mapping of an image costs when the same was mapped before, and what it may be used for.

use ash::vk;
use peerbuf::device::Call;
use peerbuf::image::{Fourcc, ImageUsage, Shape};
use peerbuf::{Access, Device, DomainId, Error, ImageAttachment, RawImage};

use crate::common::Rig;
use crate::common::recorder::Recorder;
use crate::texels::{Passage, assert_host_reads, image, takes_stated_planes, write_by_host};

/// What probes do, and looks for an image that a driver does not have.
const ASKED: [Call; 3] = [Call::CreateDevice, Call::QueueSubmit, Call::CreateImage];

fn asked(rig: &Rig) -> [u64; 3] {
    ASKED.map(|call| rig.engine().calls().made(call))
}

fn view(attachment: &ImageAttachment) -> RawImage {
    attachment.map(Access::Read).expect("it maps").view().expect("it is current")
}

#[test]
fn what_probes_said_or_could_not_say_is_not_asked_for_again_by_later_mappings() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    // One lists no images of the last format, so that there is nothing to probe.
    for (name, size) in
        [("AR24", (64, 16)), ("AR24", (62, 18)), ("NV12", (62, 18)), ("YUYV", (62, 18))]
    {
        for (home, other) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
            let Ok(image) = rig.engine().create_image(home, image(name, size, 1)) else {
                continue;
            };
            let attachment = image.attach(other).expect("it attaches");
            let first = attachment.map(Access::Read).map_err(|error| error.to_string());
            let before = asked(&rig);
            for _ in 0..5 {
                let again = attachment.map(Access::Read).map_err(|error| error.to_string());
                assert_eq!(again.as_ref().err(), first.as_ref().err(), "{name}");
            }
            assert_eq!(asked(&rig), before, "{name} of {size:?} on {}", other.name());
        }
    }
}

#[test]
fn a_mapping_proves_both_directions_and_every_pair_that_shares_bytes() {
    let rig = Rig::new();
    let [home, first] = rig.two_of_one_adapter();
    let second = rig.open(&home.adapter().clone());
    let code = Fourcc::new(*b"AR24");
    let image = rig.engine().create_image(&home, image("AR24", (64, 16), 1)).expect("an image");
    let attachments = [&first, &second].map(|device| image.attach(device).expect("it attaches"));
    for attachment in &attachments {
        assert!(!view(attachment).is_own);
    }
    let asked = |from: &Device, to: &Device| {
        let before = rig.engine().calls().made(Call::QueueSubmit);
        let said = rig.engine().image_verdict(from, to, code, Shape::new(512, 64));
        said.expect("a verdict");
        rig.engine().calls().made(Call::QueueSubmit) - before
    };
    let all = [&home, &first, &second];
    let pairs = all.into_iter().flat_map(|from| all.into_iter().map(move |to| (from, to)));
    for (from, to) in pairs.filter(|(from, to)| from.id() != to.id()) {
        let [first, again] = [(); 2].map(|()| asked(from, to));
        assert_eq!(first, again, "{} to {} was not known yet", from.id(), to.id());
    }
}

#[test]
fn two_threads_that_map_at_once_get_the_same_image() {
    let rig = Rig::new();
    for device in rig.all() {
        let image =
            rig.engine().create_image(&device, image("AR24", (64, 16), 1)).expect("an image");
        let attachment = image.attach(&device).expect("it attaches");
        let held = rig.engine().calls().hold_next(Call::CreateImage);
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| attachment.map(Access::Read).expect("it maps"));
            held.wait();
            let second = attachment.map(Access::Read).expect("it maps");
            held.wait();
            (first.join().expect("no panic"), second)
        });
        let [first, second] = [&first, &second].map(|one| one.view().expect("it is current"));
        assert_eq!(first, second);
        assert!(!first.is_own);
    }
}

#[test]
fn a_driver_that_refuses_to_create_an_image_over_the_bytes_uses_one_of_its_own() {
    let rig = Rig::new();
    for device in rig.all() {
        for code in [
            vk::Result::ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT,
            vk::Result::ERROR_FORMAT_NOT_SUPPORTED,
        ] {
            let image =
                rig.engine().create_image(&device, image("AR24", (62, 18), 1)).expect("an image");
            write_by_host(&image, 4);
            let attachment = image.attach(&device).expect("it attaches");
            let passage = Passage::new(rig.engine(), &device, 1 << 16);
            // A driver that can be told where the rows are is told, and may refuse that, too.
            let ways = if takes_stated_planes(&device) { 2 } else { 1 };
            for refused in 1..=ways {
                rig.engine().calls().fail_nth(Call::CreateImage, 1, code);
                let mapping = attachment.map(Access::ReadWrite).expect("it has another image");
                assert!(!rig.engine().calls().clear_faults(), "it was asked");
                let is_own = refused == ways;
                assert_eq!(mapping.view().expect("it is current").is_own, is_own, "{code}");
                let before = rig.engine().calls().made(Call::CreateImage);
                assert_eq!(view(&attachment).is_own, is_own, "it is not asked again");
                assert_eq!(rig.engine().calls().made(Call::CreateImage), before);
                let what = format!("{}, refused {refused} of {ways}", device.name());
                passage.assert_copied(&mapping, 4, &what);
                passage.upload(&mapping, 5);
                assert_host_reads(&image, 5, &what);
                write_by_host(&image, 4);
            }
        }
        // Refused when it attaches: it takes part by copies.
        let image = rig.engine().create_image(&device, image("R8  ", (8, 8), 1)).expect("an image");
        let code = vk::Result::ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT;
        rig.engine().calls().fail_nth(Call::CreateImage, 1, code);
        let attachment = image.attach(&device).expect("it attaches");
        assert!(!rig.engine().calls().clear_faults(), "it was asked");
        view(&attachment);
    }
}

#[test]
fn an_image_of_a_devices_own_is_charged_to_the_group_and_goes_with_its_last_mapping() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let group = rig.engine().client_group("frames").expect("a group");
    let descriptor = image("AR24", (62, 18), 1).client(&group);
    let image = rig.engine().create_image(&lavapipe, descriptor).expect("an image");
    let attachment = image.attach(&swiftshader).expect("it attaches");
    let domains =
        [DomainId::System, DomainId::Vram(lavapipe.id()), DomainId::Vram(swiftshader.id())];
    let used = || {
        let used = domains.iter().map(|domain| group.usage(*domain).expect("of this engine").used);
        used.sum::<u64>()
    };
    let before = used();
    let mapping = attachment.map(Access::Read).expect("it maps");
    let same = attachment.map(Access::Read).expect("it maps");
    let own = mapping.view().expect("it is current");
    assert!(own.is_own && same.view().expect("it is current") == own);
    assert!(used() >= before + 62 * 18 * 4, "{} beside {before}", used());
    drop(mapping);
    assert!(used() > before, "another mapping has it");
    drop(same);
    assert_eq!(used(), before);
}

#[test]
fn a_mapping_for_other_uses_is_not_remapped() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let descriptor = image("AR24", (64, 16), 1).usage(ImageUsage::DRAWN | ImageUsage::SAMPLED);
    let image = rig.engine().create_image(&device, descriptor).expect("an image");
    let importer = Recorder::new(true);
    let sampled = image.attach_for(&device, ImageUsage::SAMPLED).expect("it attaches");
    let drawn = image.attach_dynamic(&device, ImageUsage::DRAWN, importer).expect("it attaches");
    let mut mapping = drawn.map(Access::Read).expect("it maps");
    let error = sampled.remap(&mut mapping).expect_err("for other uses");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    drawn.remap(&mut mapping).expect("for the same uses");
}

#[test]
fn a_mapping_that_is_current_brings_an_evicted_image_back_when_it_is_remapped() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let image = rig.engine().create_image(&device, image("AR24", (64, 16), 1)).expect("an image");
    write_by_host(&image, 6);
    let importer = Recorder::new(true);
    let attachment = image.attach_dynamic(&device, image.usage(), importer).expect("it attaches");
    let mut mapping = attachment.map(Access::Read).expect("it maps");
    let preferred = image.domain();
    image.evict().expect("nothing keeps it");
    // As if the first use had not brought it back: the mapping is current, and the image is not where it should be.
    rig.engine().calls().fail_nth(Call::AllocateMemory, 1, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY);
    attachment.remap(&mut mapping).expect("it works in system memory, too");
    rig.engine().calls().clear_faults();
    const ROUNDS: u32 = 64;
    for round in 0..ROUNDS {
        attachment.remap(&mut mapping).expect("it maps");
        mapping.view().expect("it is current");
        if image.domain() == preferred {
            assert_host_reads(&image, 6, "back");
            return;
        }
        assert_eq!(image.domain(), DomainId::System, "round {round}");
    }
    panic!("{:?} after {ROUNDS} rounds: {}", image.domain(), image.explain());
}
