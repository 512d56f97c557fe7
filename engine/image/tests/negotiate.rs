//! Negotiations of small, made-up devices: one rule of the ladder each.

use std::sync::Arc;

use crate::device::DeviceId;
use crate::image::negotiate::{
    AgreedLayout, AttachmentOffer, Candidate, Copies, Evidence, ImageRequest, Negotiation,
    NegotiationError, ObjectionReason, Participation, ProbeRefusal, Rung, Trial, negotiate,
};
use crate::image::{
    Extent, Fourcc, ImageOffer, ImageUsage, Limits, Modifier, ModifierOffer, Offer, Padding, Shape,
};

pub(super) const SHAPE: Shape = Shape::new(1920, 1080);

pub(super) fn fourcc() -> Fourcc {
    Fourcc::new(*b"AR24")
}

pub(super) fn draws() -> ImageUsage {
    ImageUsage::DRAWN | ImageUsage::BLENDED
}

pub(super) fn samples() -> ImageUsage {
    ImageUsage::SAMPLED
}

pub(super) fn every_use() -> ImageUsage {
    draws() | ImageUsage::FILTERED | samples() | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO
}

/// Attachments of devices 0, 1, …, one each.
pub(super) fn attach(of: &[(ImageUsage, &Offer)]) -> Vec<AttachmentOffer> {
    let attachment = |(index, (usage, offer)): (usize, &(ImageUsage, &Offer))| AttachmentOffer {
        id: 10 + index as u64,
        device: DeviceId(index as u16),
        usage: *usage,
        offer: Arc::new((*offer).clone()),
    };
    of.iter().enumerate().map(attachment).collect()
}

pub(super) fn request(attachments: &[AttachmentOffer]) -> ImageRequest<'_> {
    ImageRequest {
        fourcc: fourcc(),
        shape: SHAPE,
        home: DeviceId(0),
        system_dma_bufs: true,
        tries: 8,
        attachments,
    }
}

/// Memory in common for all of so many devices.
pub(super) fn common(devices: u16) -> Evidence {
    let mut evidence = Evidence::default();
    for a in 0..devices {
        for b in 0..a {
            evidence.note_common_memory(DeviceId(a), DeviceId(b));
        }
    }
    evidence
}

/// Probes what is asked for until nothing is, with `oracle` as the hardware. The number of candidates that were
/// probed comes with the answer.
pub(super) fn settle(
    request: &ImageRequest<'_>,
    evidence: &mut Evidence,
    oracle: impl Fn(Trial) -> Result<(), ProbeRefusal>,
) -> Result<(Negotiation, usize), NegotiationError> {
    let mut probed = std::collections::BTreeSet::new();
    for _round in 0..200 {
        let answer = negotiate(request, evidence)?;
        if answer.to_probe.is_empty() {
            return Ok((answer, probed.len()));
        }
        for trial in answer.to_probe {
            assert_eq!(evidence.said(trial), None, "{trial:?} is asked for once");
            probed.insert(trial.candidate);
            evidence.note(trial, oracle(trial));
        }
    }
    panic!("the negotiation does not come to an end: {probed:?}");
}

pub(super) fn refusal() -> ProbeRefusal {
    ProbeRefusal::WrongTexels { wrong: 3, texels: 4, x: 1, y: 0 }
}

pub(super) fn offered(modifier: u64, rank: u16, allows: ImageUsage) -> ModifierOffer {
    ModifierOffer {
        modifier: Modifier::from_raw(modifier),
        planes: 1,
        rank,
        allows,
        limits: Some(Limits::flat(8192)),
        importable: true,
        exportable: true,
        dedicated: false,
    }
}

/// A device with modifiers 1, 2, … of vendor 9 and `LINEAR`, and own images for everything.
pub(super) fn device(tiled: &[u64]) -> Offer {
    let rows = tiled.iter().map(|value| 9 << 56 | value).chain([0]);
    let modifiers = rows.zip(0..).map(|(modifier, rank)| offered(modifier, rank, every_use()));
    let own = ImageOffer { allows: every_use(), limits: Limits::SANE };
    Offer { modifiers: modifiers.collect(), own_image: Some(own), ..Offer::default() }
}

fn tiled(value: u64) -> Candidate {
    Candidate::tiled(Modifier::from_raw(9 << 56 | value))
}

/// What is agreed once all is proved.
fn agreed(request: &ImageRequest<'_>, evidence: &mut Evidence) -> Negotiation {
    settle(request, evidence, |_| Ok(())).expect("an agreement").0
}

const COPY_OUT: Copies = Copies { before: false, after: true };
const COPY_IN: Copies = Copies { before: true, after: false };

#[test]
fn one_device_has_its_own_tiling() {
    let attachments = attach(&[(draws() | samples(), &device(&[1]))]);
    let answer = negotiate(&request(&attachments), &Evidence::default()).expect("an agreement");
    assert_eq!(answer.agreement.candidate.rung(), Rung::Private);
    assert_eq!(answer.agreement.layout, AgreedLayout::Private(DeviceId(0)));
    assert!(answer.to_probe.is_empty() && answer.agreement.passed_over.is_empty());
}

#[test]
fn the_best_modifier_of_all_is_chosen_once_it_is_proved() {
    let (a, b) = (device(&[1, 2, 3]), device(&[3, 2]));
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let request = request(&attachments);
    let first = negotiate(&request, &common(2)).expect("an agreement");
    assert_eq!(first.agreement.candidate.rung(), Rung::SharedBuffer, "nothing is proved yet");
    let order: Vec<_> = first.to_probe.iter().map(|trial| trial.candidate).collect();
    assert_eq!(order, [tiled(2), tiled(3), Candidate::linear(256)], "ranks 1 + 1, 2 + 0");
    let answer = agreed(&request, &mut common(2));
    assert_eq!(answer.agreement.candidate, tiled(2));
    let expected = AgreedLayout::Tiled { modifier: Modifier::from_raw(9 << 56 | 2), planes: 1 };
    assert_eq!(answer.agreement.layout, expected);
    assert_eq!(answer.agreement.exporter, Some(DeviceId(0)));
    assert!(answer.agreement.passed_over.is_empty(), "{:?}", answer.agreement.passed_over);
}

#[test]
fn a_probe_that_refuses_leads_to_the_next_candidate_and_stays_known() {
    let (a, b) = (device(&[1, 2]), device(&[1, 2]));
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let mut evidence = common(2);
    let oracle = |trial: Trial| if trial.candidate == tiled(1) { Err(refusal()) } else { Ok(()) };
    let (answer, _) = settle(&request(&attachments), &mut evidence, oracle).expect("an agreement");
    assert_eq!(answer.agreement.candidate, tiled(2));
    let text = answer.agreement.to_string();
    let expected = "attachment 11 (device 1): refused by a probe, written on device 0 and read on device 1: 3 of 4 \
                    texels were wrong, the first at 1, 0";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn linear_is_padded_as_all_devices_need_it() {
    let mut b = device(&[]);
    b.needs = Padding { pitch: 96, rows: 24, offset: 1 };
    let a = device(&[1]);
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    assert_eq!(answer.agreement.candidate, Candidate::linear(256));
    let AgreedLayout::Linear(layout) = answer.agreement.layout else { panic!("{answer:?}") };
    assert_eq!(layout.image_layout().planes()[0].pitch % 768, 0, "{layout:?}");
    assert!(answer.agreement.passed_over.iter().any(|passed| passed.candidate == tiled(1)));
}

#[test]
fn a_device_that_cannot_draw_into_the_layout_draws_into_an_image_of_its_own() {
    let mut b = device(&[]);
    b.modifiers[0].allows = samples() | ImageUsage::COPIED_TO;
    let a = device(&[]);
    let attachments = attach(&[(samples(), &a), (draws(), &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    assert_eq!(answer.agreement.candidate, Candidate::linear(256));
    let parts: Vec<_> = answer.agreement.parts.iter().map(|part| part.how).collect();
    assert_eq!(parts, [Participation::Direct, Participation::OwnImage(COPY_OUT)]);
    let text = answer.agreement.to_string();
    assert!(
        text.contains("attachment 11 (device 1) draws into an image of its own, one copy"),
        "{text}"
    );
}

#[test]
fn a_device_that_cannot_sample_the_layout_reads_an_image_of_its_own() {
    let mut b = device(&[]);
    b.modifiers[0].allows = draws() | ImageUsage::COPIED_FROM;
    let a = device(&[]);
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    assert_eq!(answer.agreement.parts[1].how, Participation::OwnImage(COPY_IN));
}

#[test]
fn an_own_image_has_what_others_wrote_before_it_is_drawn_into() {
    let mut b = device(&[]);
    b.modifiers[0].allows = samples() | ImageUsage::COPIED_TO | ImageUsage::COPIED_FROM;
    let a = device(&[]);
    let attachments = attach(&[(draws(), &a), (ImageUsage::DRAWN, &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    let both = Copies { before: true, after: true };
    assert_eq!(answer.agreement.parts[1].how, Participation::OwnImage(both));
}

#[test]
fn linear_without_copies_goes_before_a_tiled_layout_with_one() {
    let (a, mut b) = (device(&[1]), device(&[1]));
    b.modifiers[0].allows = samples() | ImageUsage::COPIED_TO;
    let attachments = attach(&[(samples(), &a), (draws(), &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    assert_eq!(answer.agreement.candidate, Candidate::linear(256));
    let passed = &answer.agreement.passed_over[0];
    assert_eq!(passed.candidate, tiled(1));
    let reason = &passed.objections[0].reason;
    assert_eq!(reason, &ObjectionReason::Usage { missing: draws() });
}

#[test]
fn devices_that_share_only_memory_fill_their_own_images_from_a_buffer() {
    let mut a = device(&[1]);
    a.modifiers.clear();
    let b = device(&[2]);
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    assert_eq!(answer.agreement.candidate.rung(), Rung::SharedBuffer);
    let parts: Vec<_> = answer.agreement.parts.iter().map(|part| part.how).collect();
    assert_eq!(parts, [Participation::FromBuffer(COPY_OUT), Participation::FromBuffer(COPY_IN)]);
    let rungs: Vec<_> =
        answer.agreement.passed_over.iter().map(|passed| passed.candidate.rung()).collect();
    assert_eq!(rungs, [Rung::SharedTiled, Rung::SharedLinear, Rung::LinearTiling]);
}

#[test]
fn devices_that_share_nothing_are_staged() {
    let mut a = device(&[1]);
    a.modifiers.clear();
    let b = device(&[2]);
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let answer = agreed(&request(&attachments), &mut Evidence::default());
    assert_eq!(answer.agreement.candidate.rung(), Rung::Staged);
    assert!(answer.agreement.parts.iter().all(|part| part.how.is_staged()));
    let last = answer.agreement.passed_over.last().expect("the buffer");
    assert_eq!(last.candidate.rung(), Rung::SharedBuffer);
    let apart = |objection: &crate::image::negotiate::Objection| {
        matches!(objection.reason, ObjectionReason::NoCommonMemory { with: DeviceId(0) })
    };
    assert!(last.objections.iter().any(apart), "{last}");
}

#[test]
fn a_device_that_shares_nothing_does_not_spoil_what_the_others_share() {
    let (a, b, mut c) = (device(&[1]), device(&[1]), device(&[]));
    c.modifiers.clear();
    let attachments = attach(&[(draws(), &a), (samples(), &b), (samples(), &c)]);
    let answer = agreed(&request(&attachments), &mut Evidence::default());
    assert_eq!(answer.agreement.candidate, tiled(1));
    let staged: Vec<_> = answer.agreement.parts.iter().map(|part| part.how.is_staged()).collect();
    assert_eq!(staged, [false, false, true]);
    // If it shares memory, it costs the others their image, and the host nothing.
    let answer = agreed(&request(&attachments), &mut common(3));
    assert_eq!(answer.agreement.candidate.rung(), Rung::SharedBuffer);
}

#[test]
fn an_image_is_shared_only_if_a_device_exports_it() {
    let (mut a, mut b) = (device(&[1]), device(&[1]));
    for offer in [&mut a, &mut b] {
        offer.modifiers.iter_mut().for_each(|offered| offered.exportable = false);
    }
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let with_heap = request(&attachments);
    assert_eq!(agreed(&with_heap, &mut common(2)).agreement.candidate, Candidate::linear(256));
    let without = ImageRequest { system_dma_bufs: false, ..with_heap };
    let answer = agreed(&without, &mut common(2));
    assert_eq!(answer.agreement.candidate.rung(), Rung::SharedBuffer);
    let reasons = answer.agreement.passed_over.iter().flat_map(|passed| &passed.objections);
    assert!(reasons.clone().any(|objection| objection.reason == ObjectionReason::NoExporter));
    // The other device exports, if it can and the home device cannot.
    b.modifiers.iter_mut().for_each(|offered| offered.exportable = true);
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    assert_eq!(answer.agreement.candidate, tiled(1));
    assert_eq!(answer.agreement.exporter, Some(DeviceId(1)));
}

#[test]
fn limits_planes_and_queries_are_objected_to_by_name() {
    let a = device(&[1, 2, 3]);
    let mut b = device(&[1, 2, 3]);
    b.modifiers[0].limits = Some(Limits::flat(1024));
    b.modifiers[1].planes = 2;
    b.modifiers[2].limits = None;
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    assert_eq!(answer.agreement.candidate, Candidate::linear(256));
    let of_b = |passed: &crate::image::negotiate::PassedOver| {
        let mut objections = passed.objections.iter();
        let found = objections.find(|objection| objection.device == DeviceId(1));
        found.expect("an objection").reason.to_string()
    };
    let reasons: Vec<_> = answer.agreement.passed_over.iter().map(of_b).collect();
    assert_eq!(
        reasons,
        [
            "width is 1920, accepted: 1 to 1024",
            "2 memory planes, accepted: 1",
            "listed by its driver, and refused by the driver's image query",
        ]
    );
}

#[test]
fn a_negotiation_that_fails_names_an_objection_on_every_rung() {
    let (a, mut b) = (device(&[1]), device(&[2]));
    b.own_image = None;
    b.modifiers.pop();
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let error = negotiate(&request(&attachments), &common(2)).expect_err("no agreement");
    let NegotiationError::NoAgreement { passed_over } = &error else { panic!("{error}") };
    assert_eq!(passed_over.len(), 6);
    assert!(passed_over.iter().all(|passed| !passed.objections.is_empty()), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("attachment 11 (device 1): the device has no image of its own"),
        "{text}"
    );
}

#[test]
fn requests_that_no_image_can_have_are_errors() {
    let attachments = attach(&[(draws(), &device(&[]))]);
    let evidence = Evidence::default();
    let good = request(&attachments);
    let bad = [
        ImageRequest { fourcc: Fourcc::new(*b"RG24"), ..good },
        ImageRequest { shape: Shape::new(0, 1), ..good },
        ImageRequest { fourcc: Fourcc::new(*b"NV12"), shape: Shape::new(3, 4), ..good },
        ImageRequest { shape: Shape { extent: Extent::new(4, 4), mips: 9, layers: 1 }, ..good },
    ];
    for request in bad {
        assert!(matches!(negotiate(&request, &evidence), Err(NegotiationError::Layout(_))));
    }
    let nothing = ImageRequest { attachments: &[], ..good };
    assert_eq!(negotiate(&nothing, &evidence), Err(NegotiationError::NoAttachments));
}

#[test]
fn attachments_of_one_device_need_no_probe_among_themselves() {
    let offer = Arc::new(device(&[1]));
    let on = |id, device, usage| AttachmentOffer {
        id,
        device: DeviceId(device),
        usage,
        offer: offer.clone(),
    };
    let attachments: Vec<_> = (0..64)
        .map(|id| on(id, (id % 2) as u16, if id < 32 { draws() } else { samples() }))
        .collect();
    let answer = negotiate(&request(&attachments), &common(2)).expect("an agreement");
    let pairs = answer.to_probe.iter().filter(|trial| trial.candidate == tiled(1));
    let pairs: Vec<_> = pairs.map(|trial| (trial.from.0, trial.to.0)).collect();
    assert_eq!(pairs, [(0, 1), (1, 0)]);
    assert_eq!(answer.agreement.parts.len(), 64);
}

#[test]
fn a_device_that_is_forgotten_is_asked_anew() {
    let offer = device(&[1]);
    let attachments = attach(&[(draws(), &offer), (samples(), &offer)]);
    let mut evidence = common(2);
    let refuse = |_: Trial| Err(refusal());
    let settled = settle(&request(&attachments), &mut evidence, refuse).expect("an agreement").0;
    assert_eq!(settled.agreement.candidate.rung(), Rung::SharedBuffer);
    evidence.forget(DeviceId(1));
    let anew = negotiate(&request(&attachments), &evidence).expect("an agreement");
    assert_eq!(anew.agreement.candidate.rung(), Rung::Staged, "no memory is known to be common");
    assert!(!anew.to_probe.is_empty());
}

#[test]
fn a_driver_that_counts_planes_of_linear_otherwise_does_not_share_it() {
    let (a, mut b) = (device(&[]), device(&[]));
    b.modifiers[0].planes = 2;
    let attachments = attach(&[(draws(), &a), (samples(), &b)]);
    let answer = agreed(&request(&attachments), &mut common(2));
    assert_eq!(answer.agreement.candidate.rung(), Rung::SharedBuffer);
}

#[test]
fn a_candidate_that_was_begun_is_probed_to_its_end_and_no_other_one() {
    let offer = device(&[1, 2]);
    let attachments = attach(&[(draws(), &offer), (samples(), &offer), (samples(), &offer)]);
    let request = ImageRequest { tries: 1, ..request(&attachments) };
    let mut evidence = common(3);
    let first = negotiate(&request, &evidence).expect("an agreement").to_probe;
    assert_eq!(first, [1, 2].map(|to| Trial::new(tiled(1), DeviceId(0), DeviceId(to))));
    evidence.note(first[0], Ok(()));
    let rest = negotiate(&request, &evidence).expect("an agreement").to_probe;
    assert_eq!(rest, first[1..], "the one try is used up, and not wasted");
    evidence.note(first[1], Err(refusal()));
    let answer = negotiate(&request, &evidence).expect("an agreement");
    assert_eq!(answer.to_probe, []);
    assert_eq!(answer.agreement.candidate.rung(), Rung::SharedBuffer);
}

#[test]
fn what_shares_an_image_must_be_able_to_copy_for_those_that_are_staged() {
    let mut a = device(&[1]);
    a.modifiers.pop();
    a.modifiers[0].allows = draws() | samples();
    let mut c = device(&[]);
    c.modifiers.clear();
    let attachments = attach(&[(draws(), &a), (samples(), &a), (samples(), &c)]);
    let answer = agreed(&request(&attachments), &mut Evidence::default());
    assert_eq!(answer.agreement.candidate.rung(), Rung::Staged);
    let passed = &answer.agreement.passed_over[0];
    let of_c = passed.objections.iter().filter(|objection| objection.device == DeviceId(2));
    let reasons: Vec<_> = of_c.map(|objection| &objection.reason).collect();
    assert_eq!(reasons, [&ObjectionReason::NotOffered, &ObjectionReason::NoCopier]);
    a.modifiers[0].allows = draws() | samples() | ImageUsage::COPIED_FROM;
    let attachments = attach(&[(draws(), &a), (samples(), &a), (samples(), &c)]);
    let answer = agreed(&request(&attachments), &mut Evidence::default());
    assert_eq!(answer.agreement.candidate, tiled(1));
}
