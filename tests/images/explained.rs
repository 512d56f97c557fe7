//! What an image says of itself: where it is, in which layout, and why devices have images of their own.

use ash::vk;
use peerbuf::device::Call;
use peerbuf::image::{ImageUsage, OwnImageReason};
use peerbuf::{Access, Device, DomainId, ImageAttachment, SharedImage};

use crate::common::Rig;
use crate::texels::{image, takes_stated_planes};

/// Why the only attachment of a device has an image of its own; `None` if it uses the shared bytes.
fn why(image: &SharedImage, attachment: &ImageAttachment) -> Option<OwnImageReason> {
    let explained = image.explain();
    let mut of = explained.attachments.iter().filter(|one| one.attachment == attachment.id());
    let one = of.next().expect("it is listed");
    assert_eq!((one.device, one.usage), (attachment.device().id(), attachment.usage()));
    assert_eq!(one.has_own, one.own_because.is_some());
    let text = explained.to_string();
    let what = if one.has_own { "an image of its own, since" } else { "uses the shared bytes" };
    assert!(text.contains(&format!("attachment {}", attachment.id())), "{text}");
    assert!(text.contains(what) && text.contains(&image.layout().to_string()), "{text}");
    one.own_because
}

/// Maps, and asserts that it is as explained.
fn explained(image: &SharedImage, attachment: &ImageAttachment) -> Option<OwnImageReason> {
    let mapping = attachment.map(Access::Read).expect("it maps");
    let is_own = mapping.view().expect("it is current").is_own;
    let why = why(image, attachment);
    assert_eq!(why.is_some(), is_own, "{}", image.explain());
    why
}

#[test]
fn an_explanation_says_why_each_attachment_has_an_image_of_its_own() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let both = |image: &SharedImage, other: &Device| {
        let ends = [&image.home(), other].map(|device| image.attach(device).expect("it attaches"));
        ends.each_ref().map(|end| explained(image, end))
    };
    for (home, other) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let alike = rig.engine().create_image(home, image("AR24", (64, 16), 1)).expect("an image");
        assert_eq!(both(&alike, other), [None, None]);
        let differs =
            rig.engine().create_image(home, image("AR24", (62, 18), 1)).expect("an image");
        let pitch = |device: &Device| if device == &lavapipe { 256 } else { 248 };
        let [at_home, away] = both(&differs, other);
        assert_eq!(at_home, None);
        if takes_stated_planes(other) {
            let beside =
                matches!(away, Some(OwnImageReason::NotCarried { with, .. }) if with == home.id());
            assert!(beside, "rows that it is told are not proved beside the home device: {away:?}");
            continue;
        }
        let Some(OwnImageReason::OtherPlace { own_pitch, pitch: theirs, .. }) = away else {
            panic!("{away:?}")
        };
        assert_eq!((own_pitch, theirs), (pitch(other), pitch(home)));
    }
    let drawn = image("AR24", (64, 16), 1).usage(ImageUsage::DRAWN | ImageUsage::SAMPLED);
    let drawn = rig.engine().create_image(&lavapipe, drawn).expect("an image");
    let [at_home, away] = both(&drawn, &swiftshader);
    assert_eq!(at_home, None);
    let Some(OwnImageReason::Usage { missing, .. }) = away else { panic!("{away:?}") };
    assert_eq!(missing, ImageUsage::DRAWN, "SwiftShader draws into no linear image");
}

#[test]
fn an_explanation_says_what_is_not_proved_and_what_a_driver_refused() {
    let rig = Rig::new();
    let [home, other] = rig.two_of_one_adapter();
    let new = || rig.engine().create_image(&home, image("AR24", (64, 16), 1)).expect("an image");
    let image = new();
    let attachment = image.attach(&other).expect("it attaches");
    let unproved = why(&image, &attachment);
    let with_home =
        matches!(unproved, Some(OwnImageReason::NotProved { with, .. }) if with == home.id());
    assert!(with_home, "no mapping was made yet: {unproved:?}");
    assert_eq!(explained(&image, &attachment), None, "the mapping has proved it");

    let image = new();
    let attachment = image.attach(&home).expect("it attaches");
    let code = vk::Result::ERROR_FORMAT_NOT_SUPPORTED;
    rig.engine().calls().fail_nth(Call::CreateImage, 1, code);
    drop(attachment.map(Access::Read).expect("it has another image"));
    assert!(!rig.engine().calls().clear_faults(), "it was asked");
    assert_eq!(explained(&image, &attachment), Some(OwnImageReason::Refused));
}

#[test]
fn an_explanation_follows_the_image_and_its_attachments() {
    let rig = Rig::new();
    let [home, other] = rig.two_of_one_adapter();
    let image = rig.engine().create_image(&home, image("AR24", (64, 16), 1)).expect("an image");
    assert!(image.explain().attachments.is_empty());
    let first = image.attach(&home).expect("it attaches");
    let second = image.attach(&other).expect("it attaches");
    assert_ne!(first.id(), second.id());
    image.evict().expect("nothing keeps it");
    let explained = image.explain();
    assert_eq!((explained.buffer.domain, explained.layout), (DomainId::System, image.layout()));
    let ids = explained.attachments.iter().map(|one| one.attachment);
    assert_eq!(ids.collect::<Vec<_>>(), [first.id(), second.id()]);
    drop(first);
    let again = image.attach(&home).expect("it attaches again");
    let ids = image.explain().attachments.into_iter().map(|one| one.attachment);
    assert_eq!(ids.collect::<Vec<_>>(), [second.id(), again.id()], "numbers are not reused");
}
