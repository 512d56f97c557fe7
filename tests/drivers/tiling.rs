//! Images in tiles, which drivers of GPUs have and software drivers have not.

use std::time::Duration;

use ash::vk;
use peerbuf::device::Call;
use peerbuf::image::negotiate::{ObjectionReason, ProbeRefusal, Rung};
use peerbuf::image::{LayoutResult, Modifier, Shape};
use peerbuf::{
    Access, Device, DomainId, DomainKind, Engine, Error, ImageAttachment, Migration, Result,
    SharedImage,
};

use crate::common::{LONG, Rig};
use crate::texels::{Passage, assert_host_reads, code, image, texels, write_by_host};
use crate::under;

const TILED: Modifier = Modifier::of_vendor(0x7e, 1);
const ON_LAVAPIPE: &str = "llvmpipe=+tiled_modifier=0x7e00000000000001";
const FORMATS: [&str; 5] = ["R8  ", "RG16", "AR24", "AB30", "AB4H"];

/// Twice llvmpipe with equal UUIDs, so that both have the same memory. The second one has other switches as well.
fn twins(second: &str) -> String {
    format!(
        "
        [[duplicate]]
        driver = \"llvmpipe\"
        [[device]]
        driver = \"llvmpipe\"
        switches.identity = {{ device_uuid = 0x86 }}
        switches.tiled_modifier = 0x7e00000000000001
        [[device]]
        index = 2
        switches.{second}
        "
    )
}

/// Lavapipe, with `copies` of the first one's adapter behind it, and then the second one's.
fn lavapipes(rig: &Rig, copies: usize) -> Vec<Device> {
    let mut found =
        rig.engine().adapters().iter().filter(|adapter| adapter.name().contains("llvmpipe"));
    let first = found.next().expect("lavapipe");
    let all = std::iter::repeat_n(first, 1 + copies).chain(found);
    all.map(|adapter| rig.open(adapter)).collect()
}

/// A device of a test, with an image that it has attached.
struct Side {
    device: Device,
    passage: Passage,
    attachment: ImageAttachment,
}

impl Side {
    fn new(rig: &Rig, device: &Device, image: &SharedImage) -> Self {
        Self {
            passage: Passage::new(rig.engine(), device, 1 << 16),
            attachment: image.attach(device).expect("it attaches"),
            device: device.clone(),
        }
    }

    fn write(&self, seed: u64) {
        self.passage.upload(&self.attachment.map(Access::Write).expect("it maps"), seed);
    }

    fn assert_reads(&self, seed: u64, what: &str) {
        let mapping = self.attachment.map(Access::Read).expect("it maps");
        let what = format!("{what}, {}", self.device.name());
        self.passage.assert_copied(&mapping, seed, &what);
    }

    fn is_own(&self) -> bool {
        self.attachment.map(Access::Read).expect("it maps").view().expect("it is current").is_own
    }
}

/// The engine's clock, in seconds.
fn at(rig: &Rig, seconds: u64) {
    rig.engine().calls().set_clock(Some(Duration::from_secs(seconds)));
}

/// Every device writes in turn, and all read what it wrote.
fn pass_around(sides: &[&Side], seed: u64, what: &str) {
    for (seed, writer) in (seed..).zip(sides) {
        writer.write(seed);
        sides.iter().for_each(|reader| reader.assert_reads(seed, what));
    }
}

/// An image on the first device that all have attached, in tiles, which all see; with the texels of seed 1.
fn in_tiles(rig: &Rig, devices: &[Device], name: &str) -> (SharedImage, Vec<Side>) {
    let descriptor = image(name, (62, 18), 1);
    let image = rig.engine().create_image(&devices[0], descriptor).expect("an image");
    write_by_host(&image, 1);
    assert_eq!(image.layout().modifier(), Modifier::LINEAR, "{name}");
    let sides: Vec<_> = devices.iter().map(|device| Side::new(rig, device, &image)).collect();
    let agreement = image.negotiate().expect("an agreement");
    let rung = if devices.len() == 1 { Rung::Private } else { Rung::SharedTiled };
    assert_eq!(agreement.candidate.rung(), rung, "{agreement}");
    image.relayout().expect("nothing keeps it");
    assert_eq!(image.layout().modifier(), TILED, "{name}: {agreement}");
    assert!(sides.iter().all(|side| !side.is_own()), "{name}");
    sides.iter().for_each(|side| side.assert_reads(1, name));
    (image, sides)
}

#[test]
fn devices_with_one_modifier_share_its_tiles_and_every_texel_is_right() {
    under(ON_LAVAPIPE, || {
        let rig = Rig::new();
        let devices = lavapipes(&rig, 1);
        for name in FORMATS {
            let (image, sides) = in_tiles(&rig, &devices, name);
            pass_around(&[&sides[0], &sides[1]], 2, name);
            image.buffer().relocate().expect("nothing keeps it");
            sides.iter().for_each(|side| side.assert_reads(3, "moved in tiles"));
            assert_eq!(image.layout().modifier(), TILED, "{name}");
            // The host sees rows, and the bytes in tiles were others.
            let layout = image.layout();
            let [plane] = layout.planes() else { panic!("{layout}") };
            let row = texels(&image, Default::default(), 3);
            let row = &row[row.len() / 18 * 4..][..row.len() / 18];
            let mut bytes = vec![0; row.len()];
            let access = image.buffer().host_access(Access::Read).expect("host access");
            access.read(plane.offset + 4 * u64::from(plane.pitch), &mut bytes).expect("inside");
            access.end().expect("the access ends");
            assert_ne!(bytes, row, "{name}: in tiles");
            assert_host_reads(&image, 3, name);
            assert_eq!(image.layout().modifier(), Modifier::LINEAR, "{name}");
            sides.iter().for_each(|side| side.assert_reads(3, "after the host"));
        }
    });
}

#[test]
fn an_image_with_padding_has_rows_where_its_devices_have_tiles() {
    under(ON_LAVAPIPE, || {
        let rig = Rig::new();
        let devices = lavapipes(&rig, 1);
        let descriptor = image("AR24", (62, 18), 1).padded();
        let image = rig.engine().create_image(&devices[0], descriptor).expect("an image");
        let sides: Vec<_> = devices.iter().map(|device| Side::new(&rig, device, &image)).collect();
        pass_around(&[&sides[0], &sides[1]], 1, "padded");
        assert_eq!(image.relayout().expect("nothing keeps it"), Migration::Unchanged);
        let layout = image.layout();
        assert_eq!((layout.modifier(), layout.planes()[0].pitch), (Modifier::LINEAR, 256));
        pass_around(&[&sides[0], &sides[1]], 3, "padded, asked for a better layout");
    });
}

#[test]
fn a_device_alone_has_its_tiles_and_formats_without_them_have_rows() {
    under(ON_LAVAPIPE, || {
        let rig = Rig::new();
        let devices = lavapipes(&rig, 0);
        let (_image, sides) = in_tiles(&rig, &devices, "AR24");
        pass_around(&[&sides[0]], 2, "alone");
        for (name, mips) in [("NV12", 1), ("AR24", 3)] {
            let descriptor = image(name, (62, 18), mips);
            let image = rig.engine().create_image(&devices[0], descriptor).expect("an image");
            let side = Side::new(&rig, &devices[0], &image);
            side.write(5);
            image.relayout().expect("nothing keeps it");
            assert_eq!(image.layout().modifier(), Modifier::LINEAR, "{name}");
            side.assert_reads(5, name);
        }
    });
}

#[test]
fn a_late_device_without_the_modifier_brings_rows_and_tiles_return_when_it_has_left() {
    let hidden = "hide_extensions = [\"VK_EXT_image_drm_format_modifier\"]";
    under(&twins(hidden), || {
        let rig = Rig::new();
        let devices = lavapipes(&rig, 1);
        let [first, second, late] = &devices[..] else { panic!("{} devices", devices.len()) };
        at(&rig, 10);
        let both = [first.clone(), second.clone()];
        let (image, sides) = in_tiles(&rig, &both, "AR24");
        pass_around(&[&sides[0], &sides[1]], 2, "in tiles");

        let joined = Side::new(&rig, late, &image);
        joined.assert_reads(3, "the late one");
        assert_eq!(image.layout().modifier(), Modifier::LINEAR, "{}", image.layout());
        assert!(image.domain().kind() == DomainKind::Vram, "all have this memory");
        let agreement = image.negotiate().expect("an agreement");
        let tiled = agreement.passed_over.iter().find(|one| one.candidate.modifier() == TILED);
        let objections = &tiled.unwrap_or_else(|| panic!("{agreement}")).objections;
        let not_offered = |reason: &ObjectionReason| matches!(reason, ObjectionReason::NotOffered);
        assert!(
            objections.iter().any(|one| one.device == late.id() && not_offered(&one.reason)),
            "{agreement}"
        );
        pass_around(&[&sides[0], &sides[1], &joined], 4, "in rows");

        drop(joined);
        sides[0].assert_reads(6, "it has left");
        assert_eq!(image.layout().modifier(), Modifier::LINEAR, "not at once");
        at(&rig, 100);
        sides[0].assert_reads(6, "after a while");
        assert_eq!(image.layout().modifier(), TILED, "{}", image.layout());
        pass_around(&[&sides[0], &sides[1]], 7, "in tiles again");
        rig.engine().calls().set_clock(None);
    });
}

#[test]
fn what_keeps_an_image_in_tiles_keeps_a_late_device_out_until_it_ends() {
    let hidden = "hide_extensions = [\"VK_EXT_image_drm_format_modifier\"]";
    under(&twins(hidden), || {
        let rig = Rig::new();
        let devices = lavapipes(&rig, 0);
        let [first, late] = &devices[..] else { panic!("{} devices", devices.len()) };
        let (image, sides) = in_tiles(&rig, std::slice::from_ref(first), "AR24");
        let fixed = sides[0].attachment.map(Access::Read).expect("it maps");
        let joined = Side::new(&rig, late, &image);
        let error = joined.attachment.map(Access::Read).expect_err("it would see tiles");
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert_eq!(image.layout().modifier(), TILED);
        fixed.view().expect("nothing has changed");
        drop(fixed);
        joined.assert_reads(1, "nothing keeps it");
        pass_around(&[&sides[0], &joined], 2, "in rows");
    });
}

#[test]
fn an_image_in_system_memory_has_rows_and_gets_its_tiles_again_at_home() {
    under(ON_LAVAPIPE, || {
        let rig = Rig::new();
        let devices = lavapipes(&rig, 1);
        at(&rig, 10);
        let (image, sides) = in_tiles(&rig, &devices, "AR24");
        pass_around(&[&sides[0], &sides[1]], 2, "in tiles");
        let home = image.domain();
        let by_cap = || {
            rig.engine().set_cap(home, Some(0)).expect("it is of this engine");
            rig.engine().set_cap(home, None).expect("it is of this engine");
        };
        let on_request = || {
            image.evict().expect("nothing keeps it");
        };
        let ways: [(&str, u64, &dyn Fn()); 2] =
            [("on request", 100, &on_request), ("for the cap", 1000, &by_cap)];
        for (what, later, evict) in ways {
            evict();
            assert_eq!(image.domain(), DomainId::System, "{what}");
            assert_eq!(image.layout().modifier(), Modifier::LINEAR, "{what}");
            assert_host_reads(&image, 3, what);
            image.buffer().request_residency().expect("there is room");
            assert_eq!(image.domain(), home, "{what}");
            sides.iter().for_each(|side| side.assert_reads(3, what));
            at(&rig, later);
            sides.iter().for_each(|side| side.assert_reads(3, what));
            assert_eq!(image.layout().modifier(), TILED, "{what}: {}", image.layout());
            pass_around(&[&sides[0], &sides[1]], 2, what);
        }
        rig.engine().calls().set_clock(None);
    });
}

#[test]
fn a_device_of_another_driver_gets_rows_in_memory_that_both_have() {
    under(ON_LAVAPIPE, || {
        let rig = Rig::new();
        let Some(other) = rig.swiftshader() else { return };
        let devices = lavapipes(&rig, 0);
        let (image, sides) = in_tiles(&rig, &devices, "AR24");
        let joined = Side::new(&rig, &other, &image);
        joined.assert_reads(1, "the other driver");
        assert_eq!(image.domain(), DomainId::System);
        assert_eq!(image.layout().modifier(), Modifier::LINEAR, "{}", image.layout());
        pass_around(&[&sides[0], &joined], 2, "in rows");
        assert_host_reads(&image, 3, "in rows");
    });
}

#[test]
fn tiles_that_a_probe_finds_different_are_not_used_and_the_objection_says_so() {
    under(&twins("tiles_in_other_order = true"), || {
        let rig = Rig::new();
        let devices = lavapipes(&rig, 0);
        let [first, second] = &devices[..] else { panic!("{} devices", devices.len()) };
        let shape = Shape::new(192, 24);
        let said = rig.engine().image_verdict(first, second, code("AR24"), shape);
        let said = said.expect("a verdict");
        let tiled = said.layouts.iter().find(|one| one.candidate.modifier() == TILED);
        let LayoutResult::Refused(why) = &tiled.expect("both list it").result else {
            panic!("{said:?}")
        };
        let wrong = |reason: &ObjectionReason| {
            matches!(reason, ObjectionReason::Refused { why: ProbeRefusal::WrongTexels { .. }, .. })
        };
        assert!(why.iter().any(|objection| wrong(&objection.reason)), "{why:?}");

        let descriptor = image("AR24", (62, 18), 1);
        let image = rig.engine().create_image(first, descriptor).expect("an image");
        let sides = [first, second].map(|device| Side::new(&rig, device, &image));
        image.relayout().expect("nothing keeps it");
        let agreement = image.negotiate().expect("an agreement");
        assert_eq!(agreement.candidate.rung(), Rung::LinearTiling, "{agreement}");
        assert!(agreement.to_string().contains("refused by a probe"), "{agreement}");
        assert_eq!(image.layout().modifier(), Modifier::LINEAR);
        pass_around(&[&sides[0], &sides[1]], 2, "in rows");
    });
}

/// All devices use the image in rows, in tiles, and after it was evicted from there.
fn journey(engine: &Engine, image: &SharedImage, devices: &[Device]) -> Result<()> {
    let attach = |device| image.attach(device);
    let attachments = devices.iter().map(attach).collect::<Result<Vec<_>>>()?;
    for round in 0..3 {
        for (device, attachment) in devices.iter().zip(&attachments) {
            let mapping = attachment.map(Access::ReadWrite)?;
            mapping.view()?;
            let used = engine.submit(device, |submission| mapping.write(submission).map(drop))?;
            used.wait(LONG)?;
        }
        if round == 0 {
            image.relayout()?;
            assert_eq!(image.layout().modifier(), TILED);
        } else if round == 1 {
            image.evict()?;
            assert_eq!(image.layout().modifier(), Modifier::LINEAR);
        }
    }
    Ok(())
}

#[test]
fn a_call_that_fails_on_the_way_into_tiles_or_out_of_them_leaves_every_texel_where_it_was() {
    under(ON_LAVAPIPE, || {
        let rig = Rig::new();
        let devices = lavapipes(&rig, 1);
        let make = || {
            let made = rig.engine().create_image(&devices[0], image("AR24", (62, 18), 1));
            let made = made.expect("an image");
            write_by_host(&made, 1);
            made
        };
        // Routes and tiles are proved.
        journey(rig.engine(), &make(), &devices).expect("nothing fails");
        let calls = [
            Call::CreateImage,
            Call::BindImageMemory,
            Call::AllocateMemory,
            Call::BeginCommandBuffer,
            Call::QueueSubmit,
        ];
        for call in calls {
            const MOST: u64 = 40;
            let mut reached = 0;
            for nth in 1..=MOST {
                let image = make();
                let code = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
                rig.engine().calls().fail_nth(call, nth, code);
                let ended = journey(rig.engine(), &image, &devices);
                let pending = rig.engine().calls().clear_faults();
                assert_host_reads(&image, 1, &format!("{call:?} {nth}: {ended:?}"));
                if pending {
                    ended.unwrap_or_else(|error| panic!("{call:?} {nth}: {error}"));
                    break;
                }
                journey(rig.engine(), &image, &devices)
                    .unwrap_or_else(|error| panic!("{call:?} {nth}, again: {error}"));
                assert_host_reads(&image, 1, &format!("{call:?} {nth}, again"));
                reached = nth;
            }
            assert!(reached < MOST, "{call:?}: more calls than the test looks at");
        }
    });
}
