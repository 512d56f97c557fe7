//! Offers of real drivers, and what users complained about with them: each case has the answer that would have helped.

use std::collections::BTreeSet;

use super::negotiate::{attach, common, draws, fourcc, refusal, request, samples, settle};
use super::offers;
use crate::device::DeviceId;
use crate::image::negotiate::{
    AgreedLayout, Agreement, Candidate, Evidence, ImageRequest, ObjectionReason, Participation,
    Rung, Trial, negotiate,
};
use crate::image::{Fourcc, ImageUsage, Modifier, Offer, Shape};

/// What is agreed if every probe succeeds and all devices have memory in common.
fn agreed(of: &[(ImageUsage, &Offer)]) -> Agreement {
    let attachments = attach(of);
    // CAST: a few devices.
    let mut evidence = common(of.len() as u16);
    let settled = settle(&request(&attachments), &mut evidence, |_| Ok(()));
    settled.expect("an agreement").0.agreement
}

fn how(agreement: &Agreement) -> Vec<Participation> {
    agreement.parts.iter().map(|part| part.how).collect()
}

/// The reason that the attachment of a device has against a candidate.
fn reason(agreement: &Agreement, candidate: Candidate, device: u16) -> ObjectionReason {
    let mut passed = agreement.passed_over.iter().filter(|passed| passed.candidate == candidate);
    let passed =
        passed.next().unwrap_or_else(|| panic!("{candidate} was not passed over: {agreement}"));
    let mut objections = passed.objections.iter();
    let found = objections.find(|objection| objection.device == DeviceId(device));
    found.unwrap_or_else(|| panic!("{device} has no objection: {passed}")).reason.clone()
}

const LINEAR: Candidate = Candidate::linear(256);

fn modifier(raw: u64) -> Candidate {
    Candidate::tiled(Modifier::from_raw(raw))
}

/// Shell components draw on the integrated GPU with CCS modifiers that NVIDIA's driver does not import, and every
/// frame is copied.
#[test]
fn cosmic_comp_2664_ccs_of_an_integrated_gpu_becomes_linear() {
    let agreement = agreed(&[(samples(), &offers::nvidia_545()), (draws(), &offers::anv_gen9())]);
    assert_eq!(agreement.candidate, LINEAR);
    assert_eq!(how(&agreement), [Participation::Direct, Participation::Direct], "no copy at all");
    let ccs = modifier(0x0100_0000_0000_0004);
    assert_eq!(reason(&agreement, ccs, 0), ObjectionReason::NotOffered);
    let text = agreement.to_string();
    assert!(
        text.contains(
            "not INTEL Y_TILED_CCS modifier: attachment 10 (device 0): not offered by its driver"
        ),
        "{text}"
    );
    let AgreedLayout::Linear(layout) = agreement.layout else { panic!("{agreement}") };
    assert_eq!(layout.image_layout().planes()[0].pitch, 1920 * 4);
}

/// A driver that lists no `LINEAR` at all: the same pair falls to a shared buffer, and says why. No format list is
/// taken for granted (moreland#9, obs#12498).
#[test]
fn obs_12498_linear_is_asked_for_like_any_other_modifier() {
    let agreement = agreed(&[(samples(), &offers::nvidia_610()), (draws(), &offers::anv_gen9())]);
    assert_eq!(agreement.candidate.rung(), Rung::SharedBuffer);
    assert_eq!(reason(&agreement, LINEAR, 0), ObjectionReason::NotOffered);
}

/// NVIDIA samples `LINEAR` and does not draw into it.
#[test]
fn xdg_desktop_portal_cosmic_76_nvidia_draws_beside_linear() {
    let agreement = agreed(&[(draws(), &offers::nvidia_545()), (samples(), &offers::anv_gen12())]);
    assert_eq!(agreement.candidate, LINEAR);
    assert!(matches!(how(&agreement)[..], [Participation::OwnImage(copies), Participation::Direct]
        if copies.after && !copies.before));
    let text = agreement.to_string();
    assert!(
        text.contains("attachment 10 (device 0) draws into an image of its own, one copy"),
        "{text}"
    );
}

/// The V3D of a Pi 5 draws into `LINEAR`, and does not sample it.
#[test]
fn ivi_homescreen_597_v3d_samples_a_copy_of_linear() {
    let agreement = agreed(&[(samples(), &offers::v3dv()), (draws(), &offers::panvk())]);
    assert_eq!(agreement.candidate, LINEAR);
    assert!(matches!(how(&agreement)[..], [Participation::OwnImage(copies), Participation::Direct]
        if copies.before && !copies.after));
    let uif = modifier(0x0700_0000_0000_0006);
    assert_eq!(reason(&agreement, uif, 1), ObjectionReason::NotOffered);
}

/// Two RTX 3090 are one driver and two devices, and one modifier that no table knows.
#[test]
fn cosmic_comp_2768_equal_cards_share_tiled_and_are_two_devices() {
    let nvidia = offers::nvidia_610();
    let attachments = attach(&[(draws(), &nvidia), (samples(), &nvidia)]);
    let first = negotiate(&request(&attachments), &common(2)).expect("an agreement");
    assert!(!first.to_probe.is_empty(), "equal vendors prove nothing");
    let agreement = agreed(&[(draws(), &nvidia), (samples(), &nvidia)]);
    assert_eq!(agreement.candidate, modifier(0x0300_0000_0060_6015));
    let gfx11 = offers::radv_gfx11();
    let agreement = agreed(&[(draws(), &gfx11), (samples(), &gfx11)]);
    assert_eq!(
        agreement.candidate,
        modifier(0x0200_0000_186a_bb04),
        "cosmic-comp#2782: a number like any other"
    );
}

/// An RDNA and a Vega GPU of one vendor have no tiled modifier in common.
#[test]
fn cosmic_epoch_3487_generations_of_one_vendor_share_linear() {
    let agreement =
        agreed(&[(draws(), &offers::radv_gfx11()), (samples(), &offers::radv_renoir())]);
    assert_eq!(agreement.candidate, LINEAR);
    let retiled = modifier(0x0200_0000_1040_1b04);
    assert_eq!(reason(&agreement, retiled, 1), ObjectionReason::NotOffered);
}

/// AMD sends three memory planes for one RGB image (xdph#427, gamescope#161, libplacebo#101, #103).
#[test]
fn xdph_427_memory_planes_come_from_the_modifier() {
    let mut renoir = offers::radv_renoir();
    renoir.modifiers.retain(|offered| offered.planes == 3 || offered.modifier.is_linear());
    let agreement = agreed(&[(draws(), &renoir), (samples(), &renoir)]);
    assert!(matches!(agreement.layout, AgreedLayout::Tiled { planes: 3, .. }), "{agreement}");
}

/// Both sides list a modifier for ten bits, and something in the middle does not (niri#4374, Smithay#2122).
#[test]
fn niri_4374_a_step_that_fails_falls_to_the_next_and_not_to_the_end() {
    let renoir = offers::radv_renoir();
    let attachments = attach(&[(draws(), &renoir), (samples(), &renoir)]);
    let broken = [0x0200_0004_4051_ba01, 0x0200_0004_4051_b901].map(modifier);
    let oracle =
        |trial: Trial| if broken.contains(&trial.candidate) { Err(refusal()) } else { Ok(()) };
    let settled = settle(&request(&attachments), &mut common(2), oracle);
    let agreement = settled.expect("an agreement").0.agreement;
    assert_eq!(agreement.candidate, modifier(0x0200_0004_4051_7901));
    for candidate in broken {
        assert!(matches!(reason(&agreement, candidate, 1), ObjectionReason::Refused { .. }));
    }
}

/// The importer wants pitches of 32 texels (Hyprland#16092); this one wants 1024 bytes and only says so by refusing.
#[test]
fn hyprland_16092_a_refused_pitch_is_followed_by_the_next_and_then_by_a_copy() {
    let panvk = offers::panvk();
    let attachments = attach(&[(draws(), &panvk), (samples(), &panvk)]);
    let request = ImageRequest { shape: Shape::new(1000, 500), ..request(&attachments) };
    let narrow = |trial: Trial| if trial.candidate == LINEAR { Err(refusal()) } else { Ok(()) };
    let settled = settle(&request, &mut common(2), narrow);
    let agreement = settled.expect("an agreement").0.agreement;
    assert_eq!(agreement.candidate, Candidate::linear(1024));
    let AgreedLayout::Linear(layout) = agreement.layout else { panic!("{agreement}") };
    assert_eq!(layout.image_layout().planes()[0].pitch, 4096);
    let settled = settle(&request, &mut common(2), |_| Err(refusal()));
    let agreement = settled.expect("an agreement").0.agreement;
    assert_eq!(agreement.candidate.rung(), Rung::SharedBuffer);
}

/// `INVALID` was taken for linear (wlroots#3033, libplacebo#92, Smithay#1767).
#[test]
fn smithay_1767_invalid_never_crosses_a_device() {
    let mut offer = offers::panvk();
    let invalid = crate::image::ModifierOffer { modifier: Modifier::INVALID, ..offer.modifiers[0] };
    offer.modifiers.insert(0, invalid);
    let agreement = agreed(&[(draws(), &offer), (samples(), &offer)]);
    assert_eq!(agreement.candidate, LINEAR);
    let candidate = Candidate::tiled(Modifier::INVALID);
    assert_eq!(reason(&agreement, candidate, 0), ObjectionReason::Implicit);
    assert_eq!(reason(&agreement, candidate, 1), ObjectionReason::Implicit);
}

/// Renegotiation had no end (xdph#379, obs#7985, Sunshine#5023).
#[test]
fn xdph_379_tries_are_bounded_and_failures_remembered() {
    let nvidia = offers::nvidia_545();
    let attachments = attach(&[(draws(), &nvidia), (samples(), &nvidia)]);
    for tries in 0..9 {
        let request = ImageRequest { tries, ..request(&attachments) };
        let mut evidence = common(2);
        let (answer, probed) =
            settle(&request, &mut evidence, |_| Err(refusal())).expect("an agreement");
        assert!(probed <= tries, "{probed} of {tries}");
        assert_eq!(answer.agreement.candidate.rung(), Rung::SharedBuffer);
        let again = negotiate(&request, &evidence).expect("an agreement");
        assert_eq!(again, answer, "what was refused is not asked for again");
    }
}

/// A device that comes late must fit or fails elsewhere. Here the others move, and move back.
#[test]
fn a_device_that_attaches_late_changes_the_layout_and_gives_it_back() {
    let (renoir, anv) = (offers::radv_renoir(), offers::anv_gen12());
    let two = agreed(&[(draws(), &renoir), (samples(), &renoir)]);
    let three = agreed(&[(draws(), &renoir), (samples(), &renoir), (samples(), &anv)]);
    assert_eq!(two.candidate, modifier(0x0200_0004_4051_ba01));
    assert_eq!(three.candidate, LINEAR);
    assert_eq!(reason(&three, two.candidate, 2), ObjectionReason::NotOffered);
    assert_eq!(agreed(&[(draws(), &renoir), (samples(), &renoir)]), two);
}

/// lavapipe pads rows to 64 bytes, SwiftShader packs (measured): at some widths they share linear tiling, at others
/// not.
#[test]
fn lavapipe_and_swiftshader_share_linear_tiling_where_their_pitches_agree() {
    let pair = |fourcc: Fourcc, width, height| {
        let shape = Shape::new(width, height);
        let (a, b) = (offers::lavapipe(fourcc, shape), offers::swiftshader(fourcc, shape));
        let attachments = attach(&[(samples(), &a), (draws(), &b)]);
        let request = ImageRequest { fourcc, shape, ..request(&attachments) };
        settle(&request, &mut common(2), |_| Ok(())).expect("an agreement").0.agreement
    };
    let agreement = pair(fourcc(), 64, 16);
    assert_eq!(agreement.candidate.rung(), Rung::LinearTiling);
    assert!(
        matches!(how(&agreement)[..], [Participation::Direct, Participation::OwnImage(_)]),
        "SwiftShader does not draw into linear tiling: {agreement}"
    );
    let agreement = pair(fourcc(), 62, 18);
    assert_eq!(agreement.candidate.rung(), Rung::SharedBuffer);
    let mut passed = agreement.passed_over.iter();
    let tiling =
        passed.find(|passed| passed.candidate.rung() == Rung::LinearTiling).expect("tiling");
    let text = tiling.to_string();
    assert!(text.contains("plane 0 has pitch 248 at 0, agreed is 256 at 0"), "{text}");
    let nv12 = pair(Fourcc::new(*b"NV12"), 64, 18);
    assert_eq!(nv12.candidate.rung(), Rung::SharedBuffer, "1152 is not 1280: {nv12}");
    assert_eq!(pair(Fourcc::new(*b"NV12"), 64, 16).candidate.rung(), Rung::LinearTiling);
}

/// lavapipe lists NV12 with `LINEAR`, and its image query says no (measured).
#[test]
fn what_is_listed_and_refused_by_the_query_is_not_used() {
    let nv12 = Fourcc::new(*b"NV12");
    let offer = offers::lavapipe_dma_buf(nv12);
    let attachments = attach(&[(samples(), &offer), (ImageUsage::COPIED_TO, &offer)]);
    let request = ImageRequest { fourcc: nv12, ..request(&attachments) };
    let settled = settle(&request, &mut common(2), |_| Ok(()));
    let agreement = settled.expect("an agreement").0.agreement;
    assert_eq!(reason(&agreement, LINEAR, 0), ObjectionReason::ListedOnly);
}

#[test]
fn compressed_layouts_are_preferred_where_both_devices_have_them() {
    let (dg2, afbc) = (offers::anv_dg2(), offers::panvk_afbc());
    let agreement = agreed(&[(draws(), &dg2), (samples(), &dg2)]);
    assert_eq!(agreement.candidate, modifier(0x0100_0000_0000_000c));
    assert!(
        matches!(agreement.layout, AgreedLayout::Tiled { planes: 2, .. }),
        "a clear colour: {agreement}"
    );
    let agreement = agreed(&[(draws(), &afbc), (samples(), &offers::panvk())]);
    assert_eq!(agreement.candidate, LINEAR);
    let agreement = agreed(&[(draws(), &offers::turnip()), (samples(), &offers::turnip())]);
    assert_eq!(agreement.candidate, modifier(0x0500_0000_0000_0001));
}

/// Every ordered pair of drivers, drawn on one and sampled on the other.
#[test]
fn every_pair_of_drivers_agrees_and_every_better_way_has_its_reason() {
    let all = offers::all();
    let mut rungs = BTreeSet::new();
    for (writer, a) in &all {
        for (reader, b) in &all {
            let agreement = agreed(&[(draws(), a), (samples(), b)]);
            rungs.insert(agreement.candidate.rung());
            for passed in &agreement.passed_over {
                assert!(!passed.objections.is_empty(), "{writer} to {reader}: {agreement}");
                assert!(passed.candidate.rung() <= agreement.candidate.rung());
            }
            if writer == reader && *writer != "lavapipe" && *writer != "panvk" {
                assert_eq!(agreement.candidate.rung(), Rung::SharedTiled, "{writer}: {agreement}");
            }
            let has_linear = |offer: &Offer| offer.modifier(Modifier::LINEAR).is_some();
            if has_linear(a) && has_linear(b) {
                assert!(
                    agreement.candidate.rung() <= Rung::SharedLinear,
                    "{writer} to {reader}: {agreement}"
                );
            }
            let staged =
                negotiate(&request(&attach(&[(draws(), a), (samples(), b)])), &Evidence::default());
            let staged = staged.expect("an agreement").agreement;
            assert_eq!(
                staged.candidate.rung(),
                Rung::Staged,
                "nothing is proved: {writer} to {reader}"
            );
        }
    }
    assert!(rungs.contains(&Rung::SharedBuffer), "NVIDIA without LINEAR: {rungs:?}");
}
