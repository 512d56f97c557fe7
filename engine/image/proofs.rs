//! Asks drivers, negotiates, and probes what the negotiation asks for; remembers what probes said, by format.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::extent::{Limits, Shape};
use super::format::Format;
use super::fourcc::Fourcc;
use super::known_rows::KnownRows;
use super::layout::{MemoryPlane, check_shape};
use super::negotiate::{
    AttachmentOffer, Candidate, Evidence, ImageRequest, Negotiation, NegotiationError, Objection,
    ObjectionReason, PassedOver, ProbeRefusal, Rung, Trial, negotiate,
};
use super::offer::Offer;
use super::probes::{self, OwnedProbe};
use super::usage::ImageUsage;
use super::verdict::{
    ImageProof, ImageUntried, ImageVerdict, ImageVerdictError, LayoutResult, LayoutVerdict,
};
use crate::core::Core;
use crate::device::DeviceInner;
use crate::error::Error;
use crate::memory::PlaneStart;
use crate::transfer::{Ended, ImageFault, ImageMemory, ImageOutcome, Need, Route};

/// How the first attachment uses the image.
const WRITES: ImageUsage = ImageUsage::COPIED_TO;
/// How the second one does.
const READS: ImageUsage = ImageUsage::SAMPLED.union(ImageUsage::COPIED_FROM);
/// The uses that a probe needs of both sides, as far as a layout allows them.
const COPIES: ImageUsage = ImageUsage::COPIED_TO.union(ImageUsage::COPIED_FROM);

/// What probes of images have found in one engine. Devices are named by numbers, which no two devices of an engine have.
#[derive(Debug, Default)]
pub(crate) struct ImageProofs {
    known: Mutex<BTreeMap<Fourcc, Known>>,
    /// What it means for images over rows.
    pub(super) rows: KnownRows,
}

/// What is known of a format.
#[derive(Clone, Debug, Default)]
struct Known {
    evidence: Evidence,
    proofs: BTreeMap<Trial, ImageProof>,
}

impl ImageProofs {
    /// What probes of a format said. Which memory devices have in common is not in it.
    pub(crate) fn evidence(&self, fourcc: Fourcc) -> Evidence {
        self.known().get(&fourcc).map_or_else(Evidence::default, |known| known.evidence.clone())
    }

    /// Forgets what probes said.
    pub(crate) fn forget(&self) {
        self.known().clear();
        self.rows.forget();
    }

    fn note(&self, fourcc: Fourcc, trial: Trial, result: Result<ImageProof, ProbeRefusal>) {
        let mut all = self.known();
        let known = all.entry(fourcc).or_default();
        if let Ok(proof) = result {
            known.proofs.insert(trial, proof);
        }
        known.evidence.note(trial, result.map(|_| ()));
        self.rows.changed();
    }

    fn proof(&self, fourcc: Fourcc, trial: Trial) -> Option<ImageProof> {
        self.known().get(&fourcc)?.proofs.get(&trial).copied()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Fourcc, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds out how two devices share images of a format and size. Ways that are not known yet are proved; each probe ends
/// within about the engine timeout.
///
/// # Errors
///
/// [`ImageVerdictError`]; of the engine's errors [`Error::FdLimit`], and [`Error::RoutesUnproved`] if no route between the
/// devices could be tried.
///
/// Locks: none may be held; this waits for devices.
pub(crate) fn verdict(
    core: &Core,
    known: &ImageProofs,
    (from, to): (&Arc<DeviceInner>, &Arc<DeviceInner>),
    fourcc: Fourcc,
    shape: Shape,
) -> Result<ImageVerdict, ImageVerdictError> {
    let format = Format::of(fourcc)?;
    check_shape(format, shape, Limits::SANE)?;
    let _held = core.routes.hold_probes();
    let there = shared_routes(core, from, to)?;
    let back = shared_routes(core, to, from)?;
    let (devices, routes) = ([from, to], [there, back]);
    let (places, unplaced) = match places(core, format, devices, &routes[0], shape)? {
        Places::At(places) => (places.map(Some), None),
        Places::Nowhere => ([None, None], None),
        Places::Unknown(result) => ([None, None], Some(result)),
    };
    let [near, far] = places;
    let offers = [
        Arc::new(Offer::of_device(from, format, WRITES, near)),
        Arc::new(Offer::of_device(to, format, READS, far)),
    ];
    let attachments = [(from, WRITES), (to, READS)].into_iter().zip(offers.clone()).zip(0..);
    let attachments: Vec<_> = attachments
        .map(|(((device, usage), offer), id)| AttachmentOffer {
            id,
            device: device.id(),
            usage,
            offer,
        })
        .collect();
    let system = [Route::DmaHeap, Route::Udmabuf];
    let request = ImageRequest {
        fourcc,
        shape,
        home: from.id(),
        system_dma_bufs: routes[0].iter().any(|route| system.contains(route)),
        tries: usize::MAX,
        attachments: &attachments,
    };
    let pair = Pair { core, format, devices, routes, offers };
    pair.negotiate(known, &request, unplaced)
}

/// The routes from one device to another on which they share memory, best first.
fn shared_routes(
    core: &Core,
    from: &Arc<DeviceInner>,
    to: &Arc<DeviceInner>,
) -> Result<Vec<Route>, Error> {
    let verdict = core.verdict(from, to, Need::EachKind)?;
    verdict.check_proved(to)?;
    let routes = verdict.working.iter().map(|working| working.route);
    Ok(routes.filter(|route| route.is_shared()).collect())
}

/// Two devices and a format.
struct Pair<'a> {
    core: &'a Core,
    format: &'static Format,
    devices: [&'a Arc<DeviceInner>; 2],
    /// From the first device to the second one, and back.
    routes: [Vec<Route>; 2],
    offers: [Arc<Offer>; 2],
}

/// Where both devices put the planes of an image with linear tiling.
enum Places {
    At([Vec<MemoryPlane>; 2]),
    /// A device has no such images.
    Nowhere,
    /// No image could be asked.
    Unknown(Result<ProbeRefusal, ImageUntried>),
}

/// Asks both drivers for the places of planes, with images over memory that both use.
fn places(
    core: &Core,
    format: &'static Format,
    devices: [&Arc<DeviceInner>; 2],
    routes: &[Route],
    shape: Shape,
) -> Result<Places, Error> {
    let linear = devices.map(|device| {
        let linear = Offer::of_device(device, format, READS, Some(vec![])).linear_tiling;
        linear.map(|linear| linear.image.allows)
    });
    let [Some(near), Some(far)] = linear else { return Ok(Places::Nowhere) };
    let wanted = [near, far].map(|allows| allowed(allows, COPIES | ImageUsage::SAMPLED));
    let extent = match probes::asked_extent(format, shape) {
        Ok(extent) => extent,
        Err(why) => return Ok(Places::Unknown(Err(why))),
    };
    let asked = OwnedProbe::new(format, extent, None, wanted);
    let memory = ImageMemory { routes, dma_bufs: false };
    let [from, to] = devices;
    Ok(match core.routes.linear_places((from, to), &asked.probe(), memory, core.timeout) {
        Ok(places) => Places::At(places.map(|planes| planes.iter().map(plane).collect())),
        Err(Ended::Refused(ImageFault::NoMemory)) => Places::Nowhere,
        Err(Ended::Refused(fault)) => Places::Unknown(Ok(probes::refusal(fault))),
        Err(Ended::Untried(why)) => Places::Unknown(Err(why.into())),
        Err(Ended::Stop(error)) => return Err(error),
    })
}

fn plane(start: &PlaneStart) -> MemoryPlane {
    // A pitch beyond 32 bits is no other device's.
    MemoryPlane { offset: start.offset, pitch: u32::try_from(start.pitch).unwrap_or(0), fd: 0 }
}

/// Those of the wanted uses that are allowed.
fn allowed(allows: ImageUsage, wanted: ImageUsage) -> ImageUsage {
    wanted.without(wanted.without(allows))
}

/// How often a negotiation may ask for further probes. It asks again only for a wider pitch.
const ROUNDS: usize = 4;

/// What a round of a negotiation said.
#[derive(Default)]
struct Said {
    passed_over: Vec<PassedOver>,
    to_probe: Vec<Trial>,
}

impl Said {
    fn of(answer: Result<Negotiation, NegotiationError>) -> Self {
        match answer {
            Ok(Negotiation { agreement, to_probe }) => {
                Self { passed_over: agreement.passed_over, to_probe }
            }
            Err(NegotiationError::NoAgreement { passed_over }) => {
                Self { passed_over, to_probe: vec![] }
            }
            Err(_) => Self::default(),
        }
    }
}

impl Pair<'_> {
    /// Negotiates without what probes said, so that each way is asked for; probes; and negotiates with it.
    fn negotiate(
        &self,
        known: &ImageProofs,
        request: &ImageRequest<'_>,
        unplaced: Option<Result<ProbeRefusal, ImageUntried>>,
    ) -> Result<ImageVerdict, ImageVerdictError> {
        let fourcc = request.fourcc;
        let mut said = Said::of(negotiate(request, &self.with_memory(Evidence::default())));
        let mut untried = BTreeMap::new();
        let mut asked = BTreeSet::new();
        for _ in 0..ROUNDS {
            for trial in said.to_probe.iter().filter(|trial| asked.insert(**trial)) {
                if known.evidence(fourcc).said(*trial).is_some() {
                    continue;
                }
                match self.probe(*trial)? {
                    Ok(result) => known.note(fourcc, *trial, result),
                    Err(why) => drop(untried.insert(*trial, why)),
                }
            }
            let evidence = self.with_memory(known.evidence(fourcc));
            let again = Said::of(negotiate(request, &evidence));
            let is_new = |trial: &Trial| !asked.contains(trial);
            said.to_probe = again.to_probe.into_iter().filter(is_new).collect();
            if said.to_probe.is_empty() {
                break;
            }
            let more = said.to_probe.iter().map(|trial| trial.candidate);
            let more: BTreeSet<_> = more.collect();
            let more =
                more.into_iter().map(|candidate| PassedOver { candidate, objections: vec![] });
            said.passed_over.extend(more);
        }
        let evidence = self.with_memory(known.evidence(fourcc));
        let shared = said.passed_over.into_iter().filter(|of| of.candidate.rung().is_shared());
        let layouts = shared.map(|PassedOver { candidate, objections }| {
            let trials: Vec<_> =
                asked.iter().copied().filter(|trial| trial.candidate == candidate).collect();
            let result = match &unplaced {
                Some(why) if candidate.rung() == Rung::LinearTiling => self.unplaced(why.clone()),
                _ if trials.is_empty() => LayoutResult::Refused(objections),
                _ => self.result(known, fourcc, (&trials, &untried)),
            };
            LayoutVerdict { candidate, result }
        });
        Ok(ImageVerdict {
            fourcc,
            shape: request.shape,
            layouts: layouts.collect(),
            agreement: negotiate(request, &evidence).map(|negotiation| negotiation.agreement),
        })
    }

    /// Evidence that also says whether the devices have memory in common.
    fn with_memory(&self, mut evidence: Evidence) -> Evidence {
        if self.routes.iter().any(|routes| !routes.is_empty()) {
            let [from, to] = self.devices;
            evidence.note_common_memory(from.id(), to.id());
        }
        evidence
    }

    /// What probes of a way said together.
    fn result(
        &self,
        known: &ImageProofs,
        fourcc: Fourcc,
        (trials, untried): (&[Trial], &BTreeMap<Trial, ImageUntried>),
    ) -> LayoutResult {
        if let Some(why) = trials.iter().find_map(|trial| untried.get(trial)) {
            return LayoutResult::Untried(why.clone());
        }
        let evidence = known.evidence(fourcc);
        let refused = trials.iter().filter_map(|trial| {
            let why = evidence.said(*trial)?.as_ref().err()?;
            Some(self.objection(*trial, why.clone()))
        });
        let refused: Vec<_> = refused.collect();
        let forward = |trial: &&Trial| trial.from == self.devices[0].id();
        let proved = trials.iter().find(forward).or(trials.first());
        match proved.and_then(|trial| known.proof(fourcc, *trial)) {
            Some(proof) if refused.is_empty() => LayoutResult::Proved(proof),
            _ => LayoutResult::Refused(refused),
        }
    }

    fn unplaced(&self, why: Result<ProbeRefusal, ImageUntried>) -> LayoutResult {
        let [from, to] = self.devices.map(|device| device.id());
        let trial = Trial::new(Candidate::linear_tiling(), from, to);
        match why {
            Ok(why) => LayoutResult::Refused(vec![self.objection(trial, why)]),
            Err(why) => LayoutResult::Untried(why),
        }
    }

    fn objection(&self, Trial { from, to, .. }: Trial, why: ProbeRefusal) -> Objection {
        let attachment = u64::from(to != self.devices[0].id());
        Objection { attachment, device: to, reason: ObjectionReason::Refused { from, to, why } }
    }

    /// Makes a probe.
    ///
    /// # Errors
    ///
    /// [`Error::FdLimit`].
    fn probe(
        &self,
        trial: Trial,
    ) -> Result<Result<Result<ImageProof, ProbeRefusal>, ImageUntried>, Error> {
        let Trial { candidate, from, .. } = trial;
        let sides = if from == self.devices[0].id() { [0, 1] } else { [1, 0] };
        let [near, far] = sides.map(|side| &self.offers[side]);
        let [near_device, far_device] = sides.map(|side| self.devices[side]);
        let mut usages = [
            allowed(of_layout(near, candidate), COPIES),
            allowed(of_layout(far, candidate), COPIES | ImageUsage::SAMPLED),
        ];
        // What a shader must see is read from an image of the device's own.
        let compared = ImageUsage::SAMPLED | ImageUsage::COPIED_TO;
        if !far.own_image.is_some_and(|own| own.allows.contains(compared)) {
            usages[1] = usages[1].without(ImageUsage::SAMPLED);
        }
        let needs = [ImageUsage::COPIED_TO, ImageUsage::COPIED_FROM];
        for ((device, usage), need) in [near_device, far_device].into_iter().zip(usages).zip(needs)
        {
            let missing = need.without(usage);
            if !missing.is_empty() {
                let device = device.id();
                return Ok(Ok(Err(ProbeRefusal::NoCopies { device, missing })));
            }
        }
        let planes = near.modifier(candidate.modifier()).map_or(1, |offered| offered.planes);
        let probes = probes::of_candidate(candidate, planes, self.format, usages);
        let memory = ImageMemory {
            routes: &self.routes[sides[0]],
            dma_bufs: candidate.rung() == Rung::SharedLinear,
        };
        let tried: Vec<_> = probes.iter().map(OwnedProbe::probe).collect();
        let pair = (near_device, far_device);
        match self.core.routes.prove_image(pair, &tried, memory, self.core.timeout) {
            ImageOutcome::Works(passes) => Ok(Ok(Ok(probes::proof(passes, &probes)))),
            ImageOutcome::Refused(fault) => {
                tracing::debug!(%candidate, fourcc = %self.format.fourcc(), "images refused");
                Ok(Ok(Err(probes::refusal(fault))))
            }
            ImageOutcome::Untried(why) => Ok(Err(why.into())),
            ImageOutcome::Stop(error) => Err(error),
        }
    }
}

/// The uses that a layout allows.
fn of_layout(offer: &Offer, candidate: Candidate) -> ImageUsage {
    match candidate.rung() {
        Rung::SharedTiled | Rung::SharedLinear => {
            offer.modifier(candidate.modifier()).map_or(ImageUsage::NONE, |offered| offered.allows)
        }
        Rung::LinearTiling => {
            offer.linear_tiling.as_ref().map_or(ImageUsage::NONE, |linear| linear.image.allows)
        }
        _ => ImageUsage::NONE,
    }
}
