//! Layouts of images on drivers that behave as those of GPUs.

use peerbuf::Device;
use peerbuf::image::negotiate::{ObjectionReason, Rung};
use peerbuf::image::{Fourcc, ImageVerdict, LayoutResult, Shape};

use crate::common::Rig;
use crate::under;

fn verdict(rig: &Rig, pair: [&Device; 2], fourcc: [u8; 4]) -> ImageVerdict {
    let shape = Shape::new(192, 24);
    let said = rig.engine().image_verdict(pair[0], pair[1], Fourcc::new(fourcc), shape);
    said.unwrap_or_else(|error| panic!("{}: {error:?}", Fourcc::new(fourcc)))
}

#[test]
fn without_common_memory_no_image_is_shared_and_texels_are_staged() {
    under("+refuse_host_pointer=all", || {
        let rig = Rig::new();
        let Some([first, second]) = rig.two_drivers() else { return };
        let said = verdict(&rig, [&first, &second], *b"AR24");
        for layout in &said.layouts {
            let LayoutResult::Refused(why) = &layout.result else { panic!("{layout:?}") };
            assert!(!why.is_empty(), "{layout:?}");
        }
        let agreement = said.agreement.as_ref().expect("texels are staged");
        assert_eq!(agreement.candidate.rung(), Rung::Staged, "{agreement}");
        let apart = |why: &ObjectionReason| matches!(why, ObjectionReason::NoCommonMemory { .. });
        let mut all = agreement.passed_over.iter().flat_map(|passed| &passed.objections);
        assert!(all.any(|objection| apart(&objection.reason)), "{agreement}");
    });
}

#[test]
fn each_layout_is_proved_or_refused_with_a_reason() {
    under("llvmpipe=nvidia swiftshader=radv", || {
        let rig = Rig::new();
        let Some([first, second]) = rig.two_drivers() else { return };
        let again = rig.open(&first.adapter().clone());
        for pair in [[&first, &second], [&second, &first], [&first, &again]] {
            for fourcc in [*b"AR24", *b"NV12"] {
                let said = verdict(&rig, pair, fourcc);
                assert!(said.agreement.is_ok(), "{said:?}");
                for layout in &said.layouts {
                    match &layout.result {
                        LayoutResult::Proved(proof) => assert!(proof.texels > 0, "{proof:?}"),
                        LayoutResult::Refused(why) => assert!(!why.is_empty(), "{layout:?}"),
                        other => panic!("nothing is busy: {other:?}"),
                    }
                }
                assert!(pair.iter().all(|device| !device.is_lost()));
            }
        }
    });
}
