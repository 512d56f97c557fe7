//! Images that get another layout while devices are attached: when, and with which texels.

use std::sync::Arc;
use std::time::Duration;

use ash::vk;
use peerbuf::device::Call;
use peerbuf::image::negotiate::{Participation, Rung};
use peerbuf::observe::StallCause;
use peerbuf::transfer::{CopySpeed, CopySpeeds};
use peerbuf::{
    Access, Device, DomainId, Error, ImageAttachment, ImageError, Migration, SharedImage,
};

use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::{LONG, Rig, in_vm};
use crate::texels::{Passage, assert_host_reads, image, write_by_host};

/// SwiftShader, and two devices of lavapipe, with the clock stopped: an image gets a better layout by itself when its
/// attachments have been the same for a second, which may be before a test asks for it. In the virtual machine lavapipe
/// could be told where SwiftShader's rows are, which is not proved beside SwiftShader.
pub(crate) fn three(rig: &Rig) -> Option<[Device; 3]> {
    let [lavapipe, swiftshader] = rig.two_drivers()?;
    let second = rig.open(&lavapipe.adapter().clone());
    rig.engine().calls().set_clock(Some(Duration::ZERO));
    Some([swiftshader, lavapipe, second])
}

/// An image at home on the first device that all have attached.
pub(crate) fn shared(
    rig: &Rig,
    devices: &[Device],
    name: &str,
) -> (SharedImage, Vec<ImageAttachment>) {
    let image = rig.engine().create_image(&devices[0], image(name, (62, 18), 1)).expect("an image");
    let attach = |device| image.attach(device).expect("it attaches");
    let attachments = devices.iter().map(attach).collect();
    (image, attachments)
}

pub(crate) fn is_own(attachment: &ImageAttachment) -> bool {
    attachment.map(Access::Read).expect("it maps").view().expect("it is current").is_own
}

#[test]
fn the_layout_becomes_that_of_most_attachments_and_every_texel_stays() {
    let rig = Rig::new();
    let Some(devices) = three(&rig) else { return };
    // No layout comes by itself, however long the machine takes.
    rig.engine().calls().set_clock(Some(Duration::from_secs(1)));
    let passages: Vec<_> =
        devices.iter().map(|device| Passage::new(rig.engine(), device, 1 << 16)).collect();
    for name in ["R8  ", "GR88", "AR24", "AB4H", "NV12", "P010", "YU12"] {
        let (image, attachments) = shared(&rig, &devices, name);
        let before = image.layout();
        assert_eq!(attachments.iter().map(is_own).collect::<Vec<_>>(), [false, true, true]);
        passages[0].upload(&attachments[0].map(Access::Write).expect("it maps"), 1);
        let generation = image.generation();
        let moved = image.relayout().expect("nothing keeps it");
        assert_eq!(moved, Migration::Done { generation: generation + 1 }, "{name}");
        assert_ne!(image.layout(), before, "{name}");
        assert_eq!(attachments.iter().map(is_own).collect::<Vec<_>>(), [true, false, false]);
        assert_host_reads(&image, 1, name);
        for (passage, attachment) in passages.iter().zip(&attachments) {
            let mapping = attachment.map(Access::Read).expect("it maps");
            passage.assert_copied(&mapping, 1, name);
        }
        assert_eq!(image.relayout().expect("it is the best"), Migration::Unchanged);
        for (seed, (passage, attachment)) in passages.iter().zip(&attachments).enumerate() {
            let seed = seed as u64 + 2;
            passage.upload(&attachment.map(Access::Write).expect("it maps"), seed);
            image.buffer().relocate().expect("nothing keeps it");
            for (passage, attachment) in passages.iter().zip(&attachments) {
                let mapping = attachment.map(Access::Read).expect("it maps");
                passage.assert_copied(&mapping, seed, name);
            }
        }
    }
}

#[test]
fn an_image_keeps_its_layout_where_its_attachments_agree_and_when_it_is_evicted() {
    let rig = Rig::new();
    for device in rig.all() {
        let other = rig.open(&device.adapter().clone());
        let devices = [device, other];
        let (image, attachments) = shared(&rig, &devices, "AR24");
        write_by_host(&image, 7);
        assert_eq!(image.relayout().expect("all are content"), Migration::Unchanged);
        image.evict().expect("nothing keeps it");
        assert_eq!(image.domain(), DomainId::System);
        assert_host_reads(&image, 7, "evicted");
        assert_eq!(attachments.iter().map(is_own).collect::<Vec<_>>(), [false, false]);
        assert_host_reads(&image, 7, "back");
    }
}

#[test]
fn importers_are_notified_once_and_what_keeps_the_image_keeps_its_layout() {
    let rig = Rig::new();
    let Some(devices) = three(&rig) else { return };
    let descriptor = image("AR24", (62, 18), 1);
    let image = rig.engine().create_image(&devices[0], descriptor).expect("an image");
    write_by_host(&image, 1);
    let importers: Vec<_> = devices.iter().map(|_| Recorder::new(true)).collect();
    let attach = |(device, importer): (&Device, &Arc<Recorder>)| {
        image.attach_dynamic(device, image.usage(), importer.clone()).expect("it attaches")
    };
    let attachments: Vec<_> = devices.iter().zip(&importers).map(attach).collect();
    let seen: Vec<_> = importers.iter().map(|importer| importer.invalidated().len()).collect();
    let before = image.layout();
    let fixed = image.attach(&devices[1]).expect("it attaches");
    let mapping = fixed.map(Access::Read).expect("it maps");
    let error = image.relayout().expect_err("it is mapped statically");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert_eq!(image.layout(), before);
    mapping.view().expect("nothing has changed");
    drop((mapping, fixed));
    let mut mapping = attachments[1].map(Access::Read).expect("it maps");
    image.relayout().expect("nothing keeps it");
    for (importer, seen) in importers.iter().zip(seen) {
        assert_eq!(importer.invalidated().len(), seen + 1);
    }
    let error = mapping.view().expect_err("it has moved");
    assert!(matches!(error, Error::Stale { .. }), "{error}");
    assert_eq!(mapping.layout(), before, "a mapping names its own");
    attachments[1].remap(&mut mapping).expect("it maps again");
    assert_eq!(mapping.layout(), image.layout());
    assert_host_reads(&image, 1, "laid out anew");
}

#[test]
fn an_image_gets_a_better_layout_when_its_attachments_have_been_the_same_for_a_while() {
    let rig = Rig::new();
    let Some(devices) = three(&rig) else { return };
    let at = |seconds| rig.engine().calls().set_clock(Some(Duration::from_secs(seconds)));
    at(10);
    let (image, attachments) = shared(&rig, &devices, "AR24");
    write_by_host(&image, 3);
    let before = image.layout();
    assert!(is_own(&attachments[1]), "not at once");
    at(12);
    assert!(!is_own(&attachments[1]), "it is laid out anew before it is mapped");
    assert_ne!(image.layout(), before);
    assert_host_reads(&image, 3, "laid out anew");
    // Without the two, the first layout would be the better one again, and not yet.
    let mut attachments = attachments;
    attachments.truncate(1);
    at(13);
    assert!(is_own(&attachments[0]), "a change is not followed by another one at once");
    at(20);
    assert!(!is_own(&attachments[0]), "its home has its own layout again");
    assert_eq!(image.layout(), before);
    assert_host_reads(&image, 3, "back in the first layout");
    rig.engine().calls().set_clock(None);
}

#[test]
fn a_better_layout_waits_until_nothing_keeps_the_image_and_then_comes_by_itself() {
    let rig = Rig::new();
    let Some(devices) = three(&rig) else { return };
    let at = |seconds| rig.engine().calls().set_clock(Some(Duration::from_secs(seconds)));
    at(10);
    let (image, attachments) = shared(&rig, &devices, "AR24");
    write_by_host(&image, 3);
    let before = image.layout();
    let fixed = attachments[0].map(Access::Read).expect("it maps");
    at(12);
    assert!(is_own(&attachments[1]), "a static mapping keeps the layout");
    assert_eq!(image.layout(), before);
    fixed.view().expect("nothing has changed");
    drop(fixed);
    assert!(is_own(&attachments[1]), "it is not tried at every mapping");
    at(14);
    assert!(!is_own(&attachments[1]), "the wish is not forgotten");
    assert_ne!(image.layout(), before);
    assert_host_reads(&image, 3, "laid out anew");
    rig.engine().calls().set_clock(None);
}

#[test]
fn a_mapping_waits_for_no_earlier_move_to_get_a_better_layout() {
    let rig = Rig::new();
    let Some(devices) = three(&rig) else { return };
    let at = |seconds| rig.engine().calls().set_clock(Some(Duration::from_secs(seconds)));
    at(10);
    let (image, attachments) = shared(&rig, &devices, "AR24");
    let passage = Passage::new(rig.engine(), &devices[0], 1 << 16);
    let before = image.layout();
    assert!(is_own(&attachments[1]));
    let gate = Gate::close(&devices[0]);
    passage.upload(&attachments[0].map(Access::Write).expect("it maps"), 5);
    image.buffer().relocate().expect("the copy is queued behind the write");
    at(12);
    let waits = || rig.engine().stalls(StallCause::Move).waits;
    let stalled = waits();
    drop(attachments[1].map(Access::Read).expect("it maps"));
    assert_eq!(image.layout(), before, "a move is in progress");
    assert_eq!(waits(), stalled);
    gate.open();
    image.buffer().wait(Access::ReadWrite, LONG).expect("it ends");
    at(14);
    assert!(!is_own(&attachments[1]));
    assert_ne!(image.layout(), before);
    assert_host_reads(&image, 5, "laid out anew");
    rig.engine().calls().set_clock(None);
}

#[test]
fn a_layout_changes_behind_unfinished_work_and_ahead_of_later_work() {
    let rig = Rig::new();
    let Some(devices) = three(&rig) else { return };
    let (image, attachments) = shared(&rig, &devices, "AR24");
    let passages: Vec<_> =
        devices.iter().map(|device| Passage::new(rig.engine(), device, 1 << 16)).collect();
    let gate = Gate::close(&devices[0]);
    passages[0].upload(&attachments[0].map(Access::Write).expect("it maps"), 5);
    image.relayout().expect("the copy is queued behind the write");
    let mapping = attachments[1].map(Access::Read).expect("it maps");
    let fence = rig
        .engine()
        .submit(&devices[1], |submission| mapping.read(submission).map(drop))
        .expect("it is submitted behind the copy");
    assert!(!fence.is_signalled().expect("no error"), "the write has not ended");
    gate.open();
    fence.wait(LONG).expect("it ends");
    passages[1].assert_copied(&mapping, 5, "behind the write");
}

#[test]
fn the_host_copies_the_rows_where_no_device_does() {
    let rig = Rig::new();
    let Some(devices) = three(&rig) else { return };
    for name in ["R8  ", "AR24", "NV12"] {
        let (image, attachments) = shared(&rig, &devices, name);
        write_by_host(&image, 1);
        // All pairs are proved, so that the only submission is that of the copy.
        image.negotiate().expect("they agree");
        let (before, generation) = (image.layout(), image.generation());
        let code = vk::Result::ERROR_INITIALIZATION_FAILED;
        rig.engine().calls().fail_nth(Call::QueueSubmit, 1, code);
        let moved = image.relayout();
        assert!(!rig.engine().calls().clear_faults(), "the device was asked first");
        assert_eq!(moved.expect("the host copies"), Migration::Done { generation: generation + 1 });
        assert_ne!(image.layout(), before, "{name}");
        assert_host_reads(&image, 1, name);
        assert_eq!(attachments.iter().map(is_own).collect::<Vec<_>>(), [true, false, false]);
        assert_host_reads(&image, 1, &format!("{name}, mapped"));
    }
}

#[test]
fn the_host_copies_some_of_many_rows_while_the_device_copies_the_others() {
    // The host may copy for a millisecond: 1 MiB.
    let row = |bytes, host, device| CopySpeed {
        bytes,
        host: Duration::from_micros(host),
        device: Duration::from_micros(device),
    };
    let speeds = CopySpeeds::new(&[row(64 << 10, 60, 80), row(64 << 20, 64_000, 64_000)], true);
    let rig = Rig::with(|descriptor| descriptor.copy_speeds(speeds));
    let Some(devices) = three(&rig) else { return };
    for (name, size) in [("AR24", (62, 18)), ("AR24", (1030, 1100)), ("NV12", (1030, 3000))] {
        let image = rig.engine().create_image(&devices[0], image(name, size, 1)).expect("an image");
        let attach = |device| image.attach(device).expect("it attaches");
        let attachments: Vec<_> = devices.iter().map(attach).collect();
        write_by_host(&image, 1);
        image.negotiate().expect("they agree");
        let calls = rig.engine().calls();
        let before = (calls.made(Call::QueueSubmit), calls.host_copied_bytes());
        image.relayout().expect("nothing keeps it");
        let (copied, all) = (calls.host_copied_bytes() - before.1, image.buffer().size());
        assert_eq!(calls.made(Call::QueueSubmit) - before.0, 1, "{name}");
        // The kernel tracks accesses to all of a dma-buf, so the device copies all of it.
        let host_copies = all > 4 << 20 && !in_vm();
        assert_eq!(copied > 0, host_copies, "{name}: {copied} of {all}");
        assert!(copied < all / 2, "{name}: {copied} of {all}");
        assert_host_reads(&image, 1, name);
        assert_eq!(attachments.iter().map(is_own).collect::<Vec<_>>(), [true, false, false]);
        for (device, attachment) in devices.iter().zip(&attachments) {
            let passage = Passage::new(rig.engine(), device, 2 * all);
            passage.assert_copied(&attachment.map(Access::Read).expect("it maps"), 1, name);
        }
    }
}

#[test]
fn an_answer_is_kept_until_an_attachment_changes() {
    let rig = Rig::new();
    let Some([swiftshader, lavapipe, second]) = three(&rig) else { return };
    let image = rig.engine().create_image(&lavapipe, image("AR24", (62, 18), 1)).expect("an image");
    let _first = [&lavapipe, &second].map(|device| image.attach(device).expect("it attaches"));
    let agreed = image.negotiate().expect("an agreement");
    assert!(Arc::ptr_eq(&agreed, &image.negotiate().expect("the same")));
    let third = image.attach(&swiftshader).expect("it attaches");
    let other = image.negotiate().expect("an agreement");
    assert_eq!((agreed.parts.len(), other.parts.len()), (2, 3), "{other}");
    drop(third);
    let again = image.negotiate().expect("an agreement");
    assert_eq!(*again, *agreed, "{again}");
    rig.engine().forget_routes();
    let proved_anew = image.negotiate().expect("an agreement");
    assert!(!Arc::ptr_eq(&again, &proved_anew));
    assert_eq!(*proved_anew, *agreed, "{proved_anew}");
}

#[test]
fn an_agreement_says_who_takes_part_how_and_why_not_better() {
    let rig = Rig::new();
    let Some([swiftshader, lavapipe, _]) = three(&rig) else { return };
    for (size, rung) in [((64, 16), Rung::LinearTiling), ((62, 18), Rung::SharedBuffer)] {
        let image = rig.engine().create_image(&lavapipe, image("AR24", size, 1)).expect("an image");
        let none = image.negotiate().expect_err("no attachments");
        assert!(matches!(none, ImageError::NoAgreement(_)), "{none}");
        let _attachments =
            [&lavapipe, &swiftshader].map(|device| image.attach(device).expect("it attaches"));
        let agreement = image.negotiate().expect("an agreement");
        assert_eq!(agreement.candidate.rung(), rung, "{agreement}");
        let direct = agreement.parts.iter().filter(|part| part.how == Participation::Direct);
        assert_eq!(direct.count(), if rung == Rung::LinearTiling { 2 } else { 0 }, "{agreement}");
        if rung == Rung::SharedBuffer {
            let text = agreement.to_string();
            assert!(text.contains("agreed is 256 at 0"), "{text}");
        }
    }
}
