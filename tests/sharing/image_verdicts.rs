//! Layouts of images, proved with texels between two devices; every other one has its reason.

use ash::vk;
use ash::vk::Result as Code;
use peerbuf::device::{Call, StoppedQueues};
use peerbuf::image::negotiate::{ObjectionReason, Rung};
use peerbuf::image::{
    Extent, Format, FormatGap, Fourcc, ImageProof, ImageUntried, ImageVerdict, ImageVerdictError,
    LayoutResult, Shape,
};
use peerbuf::{Device, Error, HandleType, Route};

use crate::common::Rig;
use crate::common::bound::{besides, too_short, with_bound};

/// No row of it is a multiple of 64 bytes. Even, for formats whose chroma is subsampled.
const ODD: Shape = Shape::new(62, 18);
/// Rows that drivers pad to 64 or 256 bytes need no padding.
const REGULAR: Shape = Shape::new(192, 24);

/// Formats of each kind: of one to eight bytes, packed, with two and three planes, and with two texels in a block.
const KINDS: [[u8; 4]; 9] =
    [*b"R8  ", *b"RG16", *b"AR24", *b"AB30", *b"AB4H", *b"NV12", *b"P010", *b"YU12", *b"YUYV"];

/// So many of them every driver that is known has; not every one has the last.
const EVERYWHERE: usize = KINDS.len() - 1;

fn verdict(rig: &Rig, pair: [&Device; 2], fourcc: [u8; 4], shape: Shape) -> ImageVerdict {
    let said = rig.engine().image_verdict(pair[0], pair[1], Fourcc::new(fourcc), shape);
    said.unwrap_or_else(|error| panic!("{}: {error:?}", Fourcc::new(fourcc)))
}

fn result(verdict: &ImageVerdict, rung: Rung) -> &LayoutResult {
    let mut of_rung = verdict.layouts.iter().filter(|layout| layout.candidate.rung() == rung);
    &of_rung.next().unwrap_or_else(|| panic!("no {rung:?} in {verdict:#?}")).result
}

fn proof(verdict: &ImageVerdict, rung: Rung) -> ImageProof {
    match result(verdict, rung) {
        LayoutResult::Proved(proof) => *proof,
        other => panic!("{}: {rung:?}: {other:?}", verdict.fourcc),
    }
}

/// The texels of all planes: blocks, of two texels for some formats.
fn texels(fourcc: [u8; 4], extent: Extent) -> u64 {
    let format = Format::of(Fourcc::new(fourcc)).expect("in the table");
    let blocks = |plane: &peerbuf::image::FormatPlane| {
        plane.row_bytes(extent) / u64::from(plane.block_bytes) * plane.rows(extent)
    };
    format.planes().iter().map(blocks).sum()
}

/// Whether the driver has linear images of a format.
fn has_linear(device: &Device, fourcc: [u8; 4]) -> bool {
    let format = Format::of(Fourcc::new(fourcc)).expect("in the table").vulkan().format;
    let usage = vk::ImageUsageFlags::TRANSFER_SRC;
    device.adapter().image_formats(format, usage, &[]).linear.limits.is_ok()
}

#[test]
fn two_devices_of_one_driver_share_every_kind_of_format_that_it_has() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    for [first, second] in devices.as_chunks().0 {
        for fourcc in KINDS {
            let said = verdict(&rig, [first, second], fourcc, ODD);
            if !has_linear(first, fourcc) {
                let found = result(&said, Rung::LinearTiling);
                assert!(matches!(found, LayoutResult::Refused(_)), "{found:?}");
                continue;
            }
            let proof = proof(&said, Rung::LinearTiling);
            assert_eq!(proof.texels, texels(fourcc, proof.extent), "{}", said.fourcc);
            assert!(!proof.extent.width.is_power_of_two(), "{proof:?}");
            // Two texels in a block are read through a conversion, which mixes them.
            assert_eq!(proof.sampled.is_some(), fourcc != *b"YUYV", "{}: {proof:?}", said.fourcc);
            let agreement = said.agreement.as_ref().expect("an agreement");
            assert!(agreement.candidate.rung().is_shared(), "{agreement}");
        }
    }
}

#[test]
fn two_drivers_share_images_at_sizes_at_which_both_place_rows_alike() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for pair in [[&lavapipe, &swiftshader], [&swiftshader, &lavapipe]] {
        for fourcc in [*b"AR24", *b"R8  ", *b"NV12"] {
            let regular = verdict(&rig, pair, fourcc, REGULAR);
            let proved = proof(&regular, Rung::LinearTiling);
            assert_eq!(proved.extent, REGULAR.extent, "an odd one is placed differently");
            assert!(proved.sampled.is_some(), "{proved:?}");
            let agreement = regular.agreement.as_ref().expect("an agreement");
            assert_eq!(agreement.candidate.rung(), Rung::LinearTiling, "{agreement}");

            let odd = verdict(&rig, pair, fourcc, ODD);
            let LayoutResult::Refused(objections) = result(&odd, Rung::LinearTiling) else {
                panic!("{odd:?}")
            };
            let differs = objections.iter().find_map(|objection| match objection.reason {
                ObjectionReason::OtherPlace { own_pitch, pitch, .. } => Some([own_pitch, pitch]),
                _ => None,
            });
            // Luma of NV12 is placed alike, or its chroma is at another offset: the first difference is told.
            let [own, agreed] = differs.unwrap_or_else(|| panic!("{objections:?}"));
            assert!(own != agreed, "{objections:?}");
            let agreement = odd.agreement.as_ref().expect("an agreement");
            assert_eq!(agreement.candidate.rung(), Rung::SharedBuffer, "{agreement}");
        }
        // SwiftShader has no modifiers.
        let said = verdict(&rig, pair, *b"AR24", REGULAR);
        let LayoutResult::Refused(objections) = result(&said, Rung::SharedLinear) else {
            panic!("{said:?}")
        };
        let not_offered = |device: &Device| {
            let mut of = objections.iter().filter(|objection| objection.device == device.id());
            of.any(|objection| objection.reason == ObjectionReason::NotOffered)
        };
        assert!(not_offered(&swiftshader), "{objections:?}");
    }
}

#[test]
fn what_was_proved_is_remembered_until_routes_are_forgotten() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let said = verdict(&rig, [&first, &second], *b"AR24", ODD);
    // Times are those of the first call.
    assert_eq!(verdict(&rig, [&first, &second], *b"AR24", ODD), said);
    let other_size = verdict(&rig, [&first, &second], *b"AR24", REGULAR);
    assert_eq!(other_size.layouts, said.layouts);
    let submissions = || rig.engine().calls().made(Call::QueueSubmit);
    let before = submissions();
    verdict(&rig, [&first, &second], *b"AR24", ODD);
    let remembered = submissions() - before;
    rig.engine().forget_routes();
    rig.engine().prove_routes(&[first.clone(), second.clone()]).expect("fds are left");
    let before = submissions();
    proof(&verdict(&rig, [&first, &second], *b"AR24", ODD), Rung::LinearTiling);
    assert!(submissions() - before > remembered, "proved anew");
}

#[test]
fn memory_through_which_no_texels_come_is_passed_over() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let routes = rig.engine().route(&first, &second).expect("a verdict");
    assert!(routes.working.iter().any(|working| working.route == Route::OpaqueFd));
    let before = proof(&verdict(&rig, [&first, &second], *b"R8  ", ODD), Rung::LinearTiling);
    assert!(before.route != Route::Memfd && before.route != Route::Anonymous, "{before:?}");
    // Now imports of fds yield other memory: an image over it shows nothing of what was written.
    rig.engine().calls().set_lying_imports(true);
    let after = proof(&verdict(&rig, [&first, &second], *b"AR24", ODD), Rung::LinearTiling);
    rig.engine().calls().set_lying_imports(false);
    assert!(matches!(after.route, Route::Memfd | Route::Anonymous | Route::Udmabuf), "{after:?}");
}

#[test]
fn memory_whose_work_hangs_with_it_is_passed_over() {
    with_bound(|rig, _| {
        let [first, second] = rig.two_of_one_adapter();
        let routes = besides(|| rig.engine().route(&first, &second).expect("a verdict"));
        if !routes.untried.is_empty() {
            too_short();
        }
        let calls = rig.engine().calls();
        calls.stop_queues(Some(StoppedQueues::WithImport(HandleType::OpaqueFd)));
        let said = besides(|| verdict(rig, [&first, &second], *b"AR24", ODD));
        calls.stop_queues(None);
        match result(&said, Rung::LinearTiling) {
            LayoutResult::Proved(proof) => assert_ne!(proof.route, Route::OpaqueFd),
            _ => too_short(),
        }
        assert!(!first.is_lost() && !second.is_lost());
        // What hung is freed by the next proof.
        rig.engine().forget_routes();
        let verdict = besides(|| rig.engine().route(&first, &second).expect("a verdict"));
        if !verdict.untried.is_empty() {
            too_short();
        }
    });
}

#[test]
fn a_busy_device_leaves_layouts_untried_and_they_are_tried_again() {
    with_bound(|rig, _| {
        let [first, second] = rig.two_of_one_adapter();
        let routes = besides(|| rig.engine().route(&first, &second).expect("a verdict"));
        if !routes.untried.is_empty() {
            too_short();
        }
        let calls = rig.engine().calls();
        calls.stop_queues(Some(StoppedQueues::OfProbes));
        let said = verdict(rig, [&first, &second], *b"AR24", ODD);
        let LayoutResult::Untried(why) = result(&said, Rung::LinearTiling) else {
            panic!("{said:?}")
        };
        assert!(why.to_string().contains("busy"), "{why}");
        calls.stop_queues(None);
        let said = besides(|| verdict(rig, [&first, &second], *b"AR24", ODD));
        if matches!(result(&said, Rung::LinearTiling), LayoutResult::Untried(_)) {
            too_short();
        }
        proof(&said, Rung::LinearTiling);
    });
}

#[test]
fn a_call_that_fails_costs_no_device_and_leaves_nothing_behind() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let calls = [
        Call::CreateImage,
        Call::BindImageMemory,
        Call::CreateBuffer,
        Call::AllocateMemory,
        Call::ImportMemory,
        Call::GetMemoryFd,
        Call::CreateDevice,
        Call::QueueSubmit,
    ];
    rig.provokes("ERROR_OUT_OF_DEVICE_MEMORY");
    let cases = calls.into_iter().flat_map(|call| (1..=4).map(move |nth| (call, nth)));
    let prove = || {
        rig.engine().forget_routes();
        rig.engine().prove_routes(&[first.clone(), second.clone()]).expect("fds are left");
    };
    for (at, (call, nth)) in cases.enumerate() {
        // A format of its own each time, since what was found is remembered.
        let at = at % EVERYWHERE;
        if at == 0 {
            prove();
        }
        let fourcc = Fourcc::new(KINDS[at]);
        rig.engine().calls().fail_nth(call, nth, Code::ERROR_OUT_OF_DEVICE_MEMORY);
        let said = rig.engine().image_verdict(&first, &second, fourcc, ODD);
        let happened = !rig.engine().calls().clear_faults();
        let said = said.unwrap_or_else(|error| panic!("{call:?} no. {nth}: {error:?}"));
        let shown = result(&said, Rung::LinearTiling);
        assert!(happened || matches!(shown, LayoutResult::Proved(_)), "{call:?}: {shown:?}");
        assert!(!first.is_lost() && !second.is_lost());
    }
    prove();
    proof(&verdict(&rig, [&first, &second], *b"AR24", ODD), Rung::LinearTiling);
}

#[test]
fn bad_input_is_refused_before_a_driver_is_called() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let before = rig.made();
    let refused = |fourcc: [u8; 4], shape: Shape| {
        let said = rig.engine().image_verdict(&first, &second, Fourcc::new(fourcc), shape);
        said.expect_err("bad input")
    };
    let error = refused(*b"XYZW", ODD);
    let ImageVerdictError::Format(FormatGap::Unknown(code)) = error else { panic!("{error:?}") };
    assert_eq!(code, Fourcc::new(*b"XYZW"));
    for (fourcc, shape, part) in [
        (*b"AR24", Shape::new(0, 19), "width is 0, accepted: 1 to"),
        (*b"AR24", Shape::new(61, u32::MAX), "height is 4294967295, accepted: 1 to"),
        (*b"AR24", Shape::new(4, 4).with_mips(9), "mip levels is 9, accepted: 1 to 3"),
        (*b"NV12", Shape::new(61, 18), "extent is 61×18, accepted: multiples of 2×2"),
        (*b"NV12", Shape::new(62, 18).with_layers(2), "array layers is 2, accepted: 1 to 1"),
    ] {
        let error = refused(fourcc, shape);
        assert!(matches!(error, ImageVerdictError::Shape(_)), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let other = rig.external_engine();
    let foreign = rig.open_on(&other, &first);
    let error = rig.engine().image_verdict(&first, &foreign, Fourcc::new(*b"AR24"), ODD);
    let error = error.expect_err("of another engine");
    assert!(matches!(error, ImageVerdictError::Engine(Error::ForeignEngine { .. })), "{error:?}");
    assert_eq!(rig.made().since(before), []);
}

#[test]
fn a_verdict_allocates_no_memory_for_an_image_of_the_size() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    // Of one plane, few rows say where all are: 2 GiB of texels are not needed.
    let large = verdict(&rig, [&first, &second], *b"AB4H", Shape::new(16_384, 16_384));
    proof(&large, Rung::LinearTiling);
    // Of two planes, memory is, and 384 MiB of it are too much.
    let large = verdict(&rig, [&first, &second], *b"NV12", Shape::new(16_384, 16_384));
    let found = result(&large, Rung::LinearTiling);
    let is_it =
        |why: &ImageUntried| matches!(why, ImageUntried::TooLarge { bytes: 402_653_184, .. });
    assert!(matches!(found, LayoutResult::Untried(why) if is_it(why)), "{found:?}");
}
