//! Images whose home device, or another device, is lost, leaves, or is denied access.

use std::time::Duration;

use ash::vk;
use peerbuf::device::Call;
use peerbuf::{
    Access, Device, DomainId, Engine, Error, ImageError, ImagePart, Migration, SharedImage,
};

use crate::common::recorder::Recorder;
use crate::common::{Rig, wait_idle};
use crate::relayout::{is_own, shared, three};
use crate::texels::{Passage, assert_host_reads, image, write_by_host};

/// Makes a submission detect that the device is lost.
fn lose(engine: &Engine, device: &Device) {
    engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
    let lost = engine.submit(device, |_| Ok(())).expect_err("the injected error");
    assert!(lost.is_device_lost() && device.is_lost(), "{lost}");
}

fn texels_of(image: &SharedImage) -> Result<Vec<u8>, ImageError> {
    image.read_texels(ImagePart::default())
}

#[test]
fn an_image_whose_home_is_lost_is_its_clean_copy_or_says_that_its_texels_are_lost() {
    let rig = Rig::new();
    let engine = rig.engine();
    for home in rig.all() {
        let other = rig.open(&home.adapter().clone());
        let make = |seed| {
            let image = engine.create_image(&home, image("AR24", (62, 18), 1)).expect("an image");
            write_by_host(&image, seed);
            let importer = Recorder::new(true);
            let attachment =
                image.attach_dynamic(&other, image.usage(), importer.clone()).expect("it attaches");
            assert!(!is_own(&attachment));
            assert_eq!(image.domain(), DomainId::Vram(home.id()));
            (image, attachment, importer)
        };
        let (kept, kept_attachment, kept_importer) = make(1);
        let (gone, gone_attachment, _) = make(2);
        kept.evict().expect("nothing keeps it");
        kept.buffer().request_residency().expect("there is room");
        wait_idle(&[&home, &other]);
        let before = kept_importer.invalidated().len();
        lose(engine, &home);
        let report = engine.unplug(&home).expect("of this engine");
        assert_eq!((report.promoted, report.lost), (1, 1));

        assert_eq!(kept.domain(), DomainId::System);
        assert_eq!(kept_importer.invalidated().len(), before + 1, "notified once");
        assert_host_reads(&kept, 1, "the clean copy");
        let passage = Passage::new(engine, &other, 1 << 16);
        let mapping = kept_attachment.map(Access::ReadWrite).expect("it maps");
        passage.assert_copied(&mapping, 1, "the clean copy");
        passage.upload(&mapping, 3);
        assert_host_reads(&kept, 3, "it goes on");
        drop(mapping);
        let moved = kept.relayout().expect("nothing keeps it");
        assert_eq!(moved, Migration::Unchanged, "the other device is of the same driver");

        let error = gone_attachment.map(Access::Read).map(drop).expect_err("its texels are lost");
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        let error = texels_of(&gone).expect_err("its texels are lost");
        assert!(matches!(error, ImageError::Engine(Error::Poisoned { .. })), "{error}");
        gone.buffer().accept_content().expect("nothing uses it");
        gone.migrate(DomainId::System).expect("there is nothing to copy");
        assert!(texels_of(&gone).expect("zero texels").iter().all(|byte| *byte == 0));
        passage.upload(&gone_attachment.map(Access::Write).expect("it maps"), 4);
        assert_host_reads(&gone, 4, "it goes on");
        wait_idle(&[&other]);
    }
}

#[test]
fn a_lost_device_with_an_image_of_its_own_loses_no_texels_of_others_and_has_no_vote() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some(devices) = three(&rig) else { return };
    // No better layout comes by itself, however slow the machine is.
    rig.engine().calls().set_clock(Some(Duration::from_secs(10)));
    let (image, attachments) = shared(&rig, &devices, "AR24");
    write_by_host(&image, 1);
    let mapping = attachments[1].map(Access::ReadWrite).expect("it maps");
    assert!(mapping.view().expect("it is current").is_own);
    lose(engine, &devices[1]);
    engine.unplug(&devices[1]).expect("of this engine");
    let refused = engine.submit(&devices[1], |work| mapping.write(work).map(drop));
    let error = refused.expect_err("it is lost");
    let known = error.is_device_lost() || matches!(error, Error::Poisoned { .. });
    assert!(known, "{error:?}");
    drop(mapping);
    assert_host_reads(&image, 1, "another device is lost");

    // With it, two of three would have another layout.
    let layout = image.layout();
    assert_eq!(image.relayout().expect("nothing keeps it"), Migration::Unchanged);
    assert_eq!(image.layout(), layout);
    for at in [0, 2] {
        let passage = Passage::new(engine, &devices[at], 1 << 16);
        let mapping = attachments[at].map(Access::ReadWrite).expect("it maps");
        passage.assert_copied(&mapping, 1, "another device is lost");
        passage.upload(&mapping, 2);
        passage.assert_copied(&mapping, 2, "another device is lost");
        drop(mapping);
        write_by_host(&image, 1);
    }
    // What stays of it can be dropped in any order.
    let explained = image.explain();
    assert_eq!(explained.attachments.len(), 3, "{explained}");
    drop(attachments);
    wait_idle(&[&devices[0], &devices[2]]);
}

#[test]
fn an_image_goes_on_without_its_home_device_where_others_have_images_of_their_own() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some(devices) = three(&rig) else { return };
    // No better layout comes by itself, however slow the machine is.
    rig.engine().calls().set_clock(Some(Duration::from_secs(10)));
    let (image, attachments) = shared(&rig, &devices, "AR24");
    write_by_host(&image, 1);
    assert_eq!(image.domain(), DomainId::System, "the drivers share nothing else");
    let own = attachments[1].map(Access::ReadWrite).expect("it maps");
    assert!(own.view().expect("it is current").is_own);
    lose(engine, &devices[0]);
    engine.unplug(&devices[0]).expect("of this engine");
    assert_host_reads(&image, 1, "without its home device");
    let passages = [1, 2].map(|at| Passage::new(engine, &devices[at], 1 << 16));
    passages[0].assert_copied(&own, 1, "without its home device");
    passages[0].upload(&own, 2);
    drop(own);
    assert_host_reads(&image, 2, "written without its home device");
    // Those that are left agree on their own layout.
    image.relayout().expect("nothing keeps it");
    for (passage, attachment) in passages.iter().zip(&attachments[1..]) {
        let mapping = attachment.map(Access::Read).expect("it maps");
        assert!(!mapping.view().expect("it is current").is_own, "{}", image.explain());
        passage.assert_copied(&mapping, 2, "laid out anew without its home device");
    }
    wait_idle(&[&devices[1], &devices[2]]);
}

#[test]
fn a_device_that_leaves_takes_its_own_image_and_no_texels_with_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some(devices) = three(&rig) else { return };
    // No better layout comes by itself, however slow the machine is.
    rig.engine().calls().set_clock(Some(Duration::from_secs(10)));
    let (image, mut attachments) = shared(&rig, &devices, "AR24");
    let [home, leaving, stays] = devices;
    let passage = Passage::new(engine, &leaving, 1 << 16);
    let mapping = attachments[1].map(Access::ReadWrite).expect("it maps");
    assert!(mapping.view().expect("it is current").is_own);
    passage.upload(&mapping, 1);
    let error = engine.remove_device(leaving.clone()).expect_err("it is in use");
    assert!(matches!(error, Error::DeviceInUse(_)), "{error}");
    passage.assert_copied(&mapping, 1, "a refused removal changes nothing");
    drop((mapping, passage));
    drop(attachments.remove(1));
    image.buffer().wait(Access::ReadWrite, crate::common::LONG).expect("its work ends");
    let id = leaving.id();
    engine.remove_device(leaving).expect("nothing uses it");
    assert!(engine.devices().iter().all(|device| device.id() != id));
    assert_host_reads(&image, 1, "a device has left");
    for (device, attachment) in [&home, &stays].into_iter().zip(&attachments) {
        let passage = Passage::new(engine, device, 1 << 16);
        let mapping = attachment.map(Access::ReadWrite).expect("it maps");
        passage.assert_copied(&mapping, 1, "a device has left");
    }
}

#[test]
fn a_revoked_image_refuses_every_use_until_it_is_permitted_again() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some(devices) = three(&rig) else { return };
    // No better layout comes by itself, however slow the machine is.
    rig.engine().calls().set_clock(Some(Duration::from_secs(10)));
    let (image, attachments) = shared(&rig, &devices, "AR24");
    write_by_host(&image, 1);
    // A mapping of each kind, which end before: a revocation waits for them.
    assert_eq!(attachments.iter().map(is_own).collect::<Vec<_>>(), [false, true, true]);
    let layout = image.layout();
    image.buffer().revoke().expect("its work ends");
    let revoked = |error: &Error| matches!(error, Error::Revoked { .. });
    for result in [
        attachments[0].map(Access::Read).map(drop),
        attachments[1].map(Access::Read).map(drop),
        image.relayout().map(drop),
        image.evict().map(drop),
        image.export().map(drop),
    ] {
        assert!(revoked(&result.expect_err("it is revoked")));
    }
    let error = texels_of(&image).expect_err("it is revoked");
    assert!(matches!(&error, ImageError::Engine(error) if revoked(error)), "{error}");
    image.buffer().unrevoke().expect("it is permitted");
    assert_eq!(image.layout(), layout);
    assert_host_reads(&image, 1, "permitted again");
    for (device, attachment) in devices.iter().zip(&attachments) {
        let passage = Passage::new(engine, device, 1 << 16);
        passage.assert_copied(&attachment.map(Access::Read).expect("it maps"), 1, "again");
    }
}
