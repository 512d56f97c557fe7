//! Negotiations of random devices, against a second opinion: plain loops over the definitions, without the order of
//! work, the seeds and the groups of the function under test.

use std::sync::Arc;

use super::Random;
use super::negotiate::{every_use, fourcc, offered, refusal, settle};
use crate::device::DeviceId;
use crate::image::negotiate::{
    AgreedLayout, Agreement, AttachmentOffer, Candidate, Evidence, ImageRequest, NegotiationError,
    Participation, ProbeRefusal, Rung, Trial, negotiate,
};
use crate::image::{
    ForeignImage, ImageOffer, ImageUsage, Limits, LinearLayout, Modifier, Offer, Padding, Shape,
    TilingOffer,
};

const USAGES: [ImageUsage; 5] = [
    ImageUsage::SAMPLED,
    ImageUsage::DRAWN,
    ImageUsage::COPIED_FROM,
    ImageUsage::COPIED_TO,
    ImageUsage::STORAGE,
];

const SHAPES: [Shape; 4] =
    [Shape::new(64, 16), Shape::new(62, 18), Shape::new(1, 1), Shape::new(256, 256).with_mips(4)];

fn some_usage(random: &mut Random) -> ImageUsage {
    let mut usage = *random.pick(&USAGES);
    while random.one_in(3) {
        usage = usage | *random.pick(&USAGES);
    }
    usage
}

fn some_allowed(random: &mut Random) -> ImageUsage {
    let all = every_use() | ImageUsage::STORAGE;
    if random.one_in(3) { all.without(some_usage(random)) } else { all }
}

fn some_limits(random: &mut Random) -> Limits {
    *random.pick(&[Limits::SANE, Limits::SANE, Limits::flat(128), Limits::flat(63)])
}

fn some_offer(random: &mut Random, shape: Shape) -> Offer {
    let mut modifiers = vec![];
    for value in [0, 9 << 56 | 1, 9 << 56 | 2, 9 << 56 | 3, Modifier::INVALID.raw()] {
        if random.one_in(3) {
            continue;
        }
        // CAST: below 4.
        let mut row = offered(value, random.below(4) as u16, some_allowed(random));
        row.limits = if random.one_in(8) { None } else { Some(some_limits(random)) };
        row.planes = if random.one_in(8) { 2 } else { 1 };
        row.importable = !random.one_in(6);
        row.exportable = !random.one_in(4);
        modifiers.push(row);
    }
    let padding = *random.pick(&[Padding::NONE, Padding { pitch: 64, rows: 4, offset: 1 }]);
    let places = LinearLayout::new(fourcc(), shape, padding).expect("a layout");
    let linear_tiling = TilingOffer {
        image: ImageOffer { allows: some_allowed(random), limits: some_limits(random) },
        planes: places.image_layout().planes().to_vec(),
        takes_any: random.one_in(4),
    };
    let own = ImageOffer { allows: some_allowed(random), limits: Limits::SANE };
    Offer {
        modifiers,
        linear_tiling: (!random.one_in(3)).then_some(linear_tiling),
        own_image: (!random.one_in(12)).then_some(own),
        needs: *random.pick(&[Padding::NONE, Padding { pitch: 512, rows: 1, offset: 1 }]),
    }
}

/// A random world: attachments of a few devices, and what probes would say.
struct World {
    shape: Shape,
    attachments: Vec<AttachmentOffer>,
    system_dma_bufs: bool,
    evidence: Evidence,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let shape = *random.pick(&SHAPES);
        let devices = 1 + random.below(4);
        let offers: Vec<_> =
            (0..devices).map(|_| Arc::new(some_offer(&mut random, shape))).collect();
        let count = devices + random.below(4);
        let attachments = (0..count).map(|id| {
            // CAST: at most four.
            let device = if id < devices { id } else { random.below(devices) } as u16;
            let offer = offers[usize::from(device)].clone();
            AttachmentOffer { id, device: DeviceId(device), usage: some_usage(&mut random), offer }
        });
        let attachments = attachments.collect();
        let mut evidence = Evidence::default();
        for a in 0..devices {
            for b in 0..a {
                if !random.one_in(3) {
                    // CAST: at most four.
                    evidence.note_common_memory(DeviceId(a as u16), DeviceId(b as u16));
                }
            }
        }
        Self { shape, attachments, system_dma_bufs: !random.one_in(3), evidence, seed }
    }

    fn request<'a>(&self, attachments: &'a [AttachmentOffer]) -> ImageRequest<'a> {
        ImageRequest {
            fourcc: fourcc(),
            shape: self.shape,
            home: DeviceId(0),
            system_dma_bufs: self.system_dma_bufs,
            tries: 100,
            attachments,
        }
    }

    /// What the hardware does: the same for a trial however often it is made.
    fn probe(&self, trial: Trial) -> Result<(), ProbeRefusal> {
        let Trial { candidate, from, to, .. } = trial;
        let mixed = candidate.modifier().raw() ^ (u64::from(from.0) << 8 | u64::from(to.0) << 16);
        let mut random = Random(self.seed ^ mixed ^ candidate.rung() as u64);
        if random.one_in(5) { Err(refusal()) } else { Ok(()) }
    }

    fn devices(&self) -> usize {
        let mut devices: Vec<_> = self.attachments.iter().map(|one| one.device).collect();
        devices.sort_unstable();
        devices.dedup();
        devices.len()
    }

    /// Second opinion: whether every attachment uses the image of a shared rung directly, with `first` as exporter.
    fn all_direct(&self, candidate: Candidate, first: DeviceId, evidence: &Evidence) -> bool {
        let planes_of =
            |one: &AttachmentOffer| one.offer.modifier(candidate.modifier()).map(|row| row.planes);
        let exporter = self.attachments.iter().find(|one| one.device == first);
        let exported = exporter.and_then(|one| one.offer.modifier(candidate.modifier()));
        let needs_exporter = candidate.rung() == Rung::SharedTiled || !self.system_dma_bufs;
        let alone = self.devices() == 1;
        let mut all = true;
        for one in &self.attachments {
            let Some(row) = one.offer.modifier(candidate.modifier()) else { return false };
            let Some(limits) = row.limits else { return false };
            all &= !row.modifier.is_invalid() && self.shape.check(limits).is_ok();
            all &= row.allows.contains(one.usage);
            all &= !row.modifier.is_linear() || row.planes == 1;
            all &= planes_of(one) == exported.map(|row| row.planes);
            let exports = needs_exporter && one.device == first;
            all &= if exports { alone || row.exportable } else { row.importable };
        }
        for a in &self.attachments {
            for b in &self.attachments {
                let hands_over = a.device == first || (a.usage.writes() && b.usage.reads());
                if a.device != b.device && hands_over {
                    let trial = Trial::new(candidate, a.device, b.device);
                    all &= evidence.said(trial) == Some(&Ok(()));
                }
            }
        }
        all
    }

    /// The candidates of a modifier that all attachments use directly.
    fn direct_modifiers(&self, evidence: &Evidence) -> Vec<Candidate> {
        let tiled = (1..4).map(|value| Candidate::tiled(Modifier::from_raw(9 << 56 | value)));
        let all = tiled.chain([Candidate::linear(256)]);
        let is_direct = |candidate: &Candidate| {
            self.attachments.iter().any(|one| self.all_direct(*candidate, one.device, evidence))
        };
        all.filter(is_direct).collect()
    }
}

/// Checks an answer against what can be said without knowing how it was found.
fn check(world: &World, agreement: &Agreement, evidence: &Evidence) {
    let seed = world.seed;
    let chosen = agreement.candidate;
    let ids: Vec<_> = agreement.parts.iter().map(|part| part.attachment).collect();
    let expected: Vec<_> = (0..world.attachments.len() as u64).collect();
    assert_eq!(ids, expected, "seed {seed}: every attachment takes part once");
    for passed in &agreement.passed_over {
        assert!(!passed.objections.is_empty(), "seed {seed}: {agreement}");
        assert_ne!(passed.candidate, chosen, "seed {seed}");
    }
    for (part, one) in agreement.parts.iter().zip(&world.attachments) {
        let row = one.offer.modifier(chosen.modifier());
        match part.how {
            Participation::Direct
                if matches!(chosen.rung(), Rung::SharedTiled | Rung::SharedLinear) =>
            {
                let row = row.expect("an offer");
                assert!(row.allows.contains(one.usage), "seed {seed}: {agreement}");
                assert!(world.shape.check(row.limits.expect("limits")).is_ok(), "seed {seed}");
            }
            Participation::Direct => {}
            Participation::OwnImage(copies) => {
                assert!(chosen.rung().is_shared(), "seed {seed}: {agreement}");
                assert!(!(one.usage.writes() && !copies.after && !copies.before), "seed {seed}");
                assert!(one.offer.own_image.is_some(), "seed {seed}: {agreement}");
            }
            Participation::FromBuffer(_) => {
                assert_eq!(chosen.rung(), Rung::SharedBuffer, "seed {seed}");
            }
            Participation::Staged(_) => {
                assert!(one.offer.own_image.is_some(), "seed {seed}: {agreement}");
            }
        }
    }
    // Every pair that hands over texels through the shared image was proved.
    let shares = |part: &&crate::image::negotiate::Part| {
        matches!(part.how, Participation::Direct | Participation::OwnImage(_))
    };
    if chosen.rung().is_shared() {
        for a in agreement.parts.iter().filter(shares) {
            for b in agreement.parts.iter().filter(shares) {
                let usage = |part: &crate::image::negotiate::Part| {
                    world.attachments[part.attachment as usize].usage
                };
                if a.device != b.device && usage(a).writes() && usage(b).reads() {
                    let trial = Trial::new(chosen, a.device, b.device);
                    assert_eq!(evidence.said(trial), Some(&Ok(())), "seed {seed}: {agreement}");
                }
            }
        }
    }
    if let AgreedLayout::Linear(linear) = agreement.layout {
        let layout = linear.image_layout();
        assert_eq!((layout.fourcc(), layout.shape()), (fourcc(), world.shape));
        // Each device would also accept the image if another program described it.
        let is_described = chosen.rung() == Rung::SharedLinear && world.shape.mips == 1;
        for (part, one) in agreement.parts.iter().zip(&world.attachments) {
            let row = one.offer.modifier(Modifier::LINEAR);
            if is_described && shares(&part) && row.is_some_and(|row| row.importable) {
                let image = ForeignImage { fds: vec![linear.bytes()], ..layout.into() };
                assert_eq!(image.check(&one.offer), Ok(layout), "seed {seed}: {agreement}");
            }
        }
    }
}

#[test]
fn no_better_way_is_accepted_by_all_and_the_order_of_attachments_is_irrelevant() {
    let (mut failed, mut rungs) = (0, std::collections::BTreeMap::<Rung, u32>::new());
    for seed in 0..6_000 {
        let world = World::new(seed);
        let mut evidence = world.evidence.clone();
        let request = world.request(&world.attachments);
        let settled = settle(&request, &mut evidence, |trial| world.probe(trial));
        let mut random = Random(seed);
        let mut shuffled = world.attachments.clone();
        random.shuffle(&mut shuffled);
        let again = negotiate(&world.request(&shuffled), &evidence);
        match settled {
            Ok((answer, _)) => {
                assert_eq!(again.as_ref(), Ok(&answer), "seed {seed}: order");
                check(&world, &answer.agreement, &evidence);
                *rungs.entry(answer.agreement.candidate.rung()).or_default() += 1;
                let direct = world.direct_modifiers(&evidence);
                if !direct.is_empty() && world.devices() > 1 {
                    let chosen = answer.agreement.candidate;
                    assert!(
                        direct.contains(&chosen),
                        "seed {seed}: {direct:?}, {}",
                        answer.agreement
                    );
                    let best = direct.iter().map(|candidate| candidate.rung()).min();
                    assert_eq!(Some(chosen.rung()), best, "seed {seed}: {}", answer.agreement);
                }
            }
            Err(NegotiationError::NoAgreement { passed_over }) => {
                failed += 1;
                let same = NegotiationError::NoAgreement { passed_over: passed_over.clone() };
                assert_eq!(again, Err(same), "seed {seed}: order");
                assert!(
                    passed_over.iter().all(|passed| !passed.objections.is_empty()),
                    "seed {seed}"
                );
                let lacks = |one: &AttachmentOffer| {
                    let own = one.offer.own_image.map_or(ImageUsage::NONE, |own| own.allows);
                    !own.contains(one.usage | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO)
                };
                assert!(world.attachments.iter().any(lacks), "seed {seed}: staging always works");
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!((100..3_000).contains(&failed), "{failed} failed");
    for rung in [
        Rung::Private,
        Rung::SharedTiled,
        Rung::SharedLinear,
        Rung::LinearTiling,
        Rung::SharedBuffer,
        Rung::Staged,
    ] {
        assert!(rungs.get(&rung).is_some_and(|count| *count > 20), "{rung:?}: {rungs:?}");
    }
}

#[test]
fn an_attachment_that_equals_another_one_changes_nothing() {
    for seed in 0..1_000 {
        let world = World::new(seed);
        let mut evidence = world.evidence.clone();
        let settled =
            settle(&world.request(&world.attachments), &mut evidence, |trial| world.probe(trial));
        let Ok((answer, _)) = settled else { continue };
        // Only readers: a second writer makes own images copy in what the first one wrote.
        let Some(reader) = world.attachments.iter().find(|one| !one.usage.writes()) else {
            continue;
        };
        let mut more = world.attachments.clone();
        more.push(AttachmentOffer { id: 99, ..reader.clone() });
        let is_direct = answer.agreement.parts.iter().all(|part| part.how == Participation::Direct);
        let with = negotiate(&world.request(&more), &evidence).expect("an agreement");
        if is_direct {
            assert_eq!(with.agreement.candidate, answer.agreement.candidate, "seed {seed}");
        }
    }
}
