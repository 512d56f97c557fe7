//! How devices share images, as plain data: a part of the result of `peerbuf devices --images`.

use peerbuf::image::negotiate::{AgreedLayout, Agreement, Objection, ObjectionReason, Rung};
use peerbuf::image::{
    Fourcc, ImageProof, ImageVerdict, LayoutResult, LayoutVerdict, MemoryPlane, Shape,
};
use serde::Serialize;

/// How the first of two devices hands images of a format and size to the second one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ImageFacts {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) fourcc: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// The ways to share one image, best first.
    pub(crate) layouts: Vec<LayoutFacts>,
    /// How an image of this size is shared; null if in no way.
    pub(crate) agreed: Option<&'static str>,
    /// The same in detail.
    pub(crate) agreement: Option<AgreementFacts>,
    /// Why no layout could be tried, or why there is no agreement.
    pub(crate) error: Option<String>,
}

/// What is known of one way to share images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LayoutFacts {
    /// The kind: `shared_tiled`, `shared_linear` or `linear_tiling`.
    pub(crate) layout: &'static str,
    /// The same as text, with the modifier.
    pub(crate) name: String,
    pub(crate) modifier: u64,
    pub(crate) proof: Option<ProofFacts>,
    /// Why it does not work.
    pub(crate) reasons: Vec<String>,
    /// Why it was not tried.
    pub(crate) untried: Option<String>,
}

/// What proved a layout: every texel was right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct ProofFacts {
    /// The route of the memory.
    pub(crate) route: &'static str,
    /// The size of the image that was written and read.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Texels of all planes, compared in each pass.
    pub(crate) texels: u64,
    /// How long the second device took to copy them.
    pub(crate) copied_seconds: f64,
    /// The same for a shader; null if none read them.
    pub(crate) sampled_seconds: Option<f64>,
}

impl ImageFacts {
    pub(crate) fn of(pair: (usize, usize), verdict: &ImageVerdict) -> Self {
        let agreement = verdict.agreement.as_ref();
        Self {
            layouts: verdict.layouts.iter().map(|layout| LayoutFacts::of(pair, layout)).collect(),
            agreed: agreement.ok().map(|agreement| agreement.candidate.rung().name()),
            agreement: agreement.ok().map(|agreement| AgreementFacts::of(pair, agreement)),
            error: agreement.err().map(ToString::to_string),
            ..Self::failed(pair, verdict.fourcc, verdict.shape, String::new())
        }
    }

    pub(crate) fn failed(
        (from, to): (usize, usize),
        fourcc: Fourcc,
        shape: Shape,
        error: String,
    ) -> Self {
        let fourcc = fourcc.to_string();
        let (width, height) = (shape.extent.width, shape.extent.height);
        Self {
            from,
            to,
            fourcc,
            width,
            height,
            layouts: vec![],
            agreed: None,
            agreement: None,
            error: Some(error),
        }
    }
}

impl LayoutFacts {
    fn of(pair: (usize, usize), LayoutVerdict { candidate, result, .. }: &LayoutVerdict) -> Self {
        let mut facts = Self {
            layout: candidate.rung().name(),
            name: candidate.to_string(),
            modifier: candidate.modifier().raw(),
            proof: None,
            reasons: vec![],
            untried: None,
        };
        match result {
            LayoutResult::Proved(proof) => facts.proof = Some(proof.into()),
            LayoutResult::Refused(objections) => facts.reasons = reasons(pair, objections),
            LayoutResult::Untried(why) => facts.untried = Some(why.to_string()),
            _ => {}
        }
        facts
    }
}

/// Each reason, with the device that it is about. It names devices by their numbers, so that a pair has the same reason
/// in both directions.
fn reasons((from, to): (usize, usize), objections: &[Objection]) -> Vec<String> {
    let reason = |objection: &Objection| {
        let (own, other) = if objection.attachment == 0 { (from, to) } else { (to, from) };
        match &objection.reason {
            ObjectionReason::Refused { why, .. } => Some(why.to_string()),
            // It follows from what the other device objects to.
            ObjectionReason::Alone => None,
            ObjectionReason::NotOffered => Some(format!("the driver of device {own} has none")),
            ObjectionReason::OtherPlace { plane, own_pitch, own_offset, pitch, offset, .. } => {
                let mut places = [(own, own_pitch, own_offset), (other, pitch, offset)];
                places.sort_unstable();
                let place = |(device, pitch, offset): (usize, &u32, &u64)| match offset {
                    0 => format!("{pitch} on device {device}"),
                    _ => format!("{pitch} from byte {offset} on device {device}"),
                };
                Some(format!("pitch of plane {plane}: {}, {}", place(places[0]), place(places[1])))
            }
            reason => Some(format!("device {own}: {reason}")),
        }
    };
    let mut reasons: Vec<String> = vec![];
    for reason in objections.iter().filter_map(reason) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if reasons.is_empty() {
        reasons.push(ObjectionReason::Alone.to_string());
    }
    // In the order of devices, whichever of them is the first one of the pair.
    reasons.sort();
    reasons
}

/// How an image of that size is shared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct AgreementFacts {
    /// As text: the modifier, the size, the places of rows.
    pub(crate) layout: String,
    /// The memory planes, where they are known before the image is made.
    pub(crate) planes: Vec<PlaneFacts>,
    /// The device that makes and exports the image; null if none does.
    pub(crate) exporter: Option<usize>,
    /// How the first and the second device take part.
    pub(crate) parts: Vec<String>,
    /// The better ways that were passed over, best first.
    pub(crate) passed_over: Vec<PassedOverFacts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PlaneFacts {
    pub(crate) offset: u64,
    pub(crate) pitch: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PassedOverFacts {
    pub(crate) layout: &'static str,
    pub(crate) name: String,
    pub(crate) reasons: Vec<String>,
}

impl AgreementFacts {
    fn of(pair: (usize, usize), agreement: &Agreement) -> Self {
        let planes = match &agreement.layout {
            AgreedLayout::Linear(linear) => linear.image_layout().planes().to_vec(),
            AgreedLayout::Placed(layout) => layout.planes().to_vec(),
            _ => vec![],
        };
        let plane = |plane: &MemoryPlane| PlaneFacts { offset: plane.offset, pitch: plane.pitch };
        let passed_over = agreement.passed_over.iter().map(|passed| PassedOverFacts {
            layout: passed.candidate.rung().name(),
            name: passed.candidate.to_string(),
            reasons: reasons(pair, &passed.objections),
        });
        Self {
            layout: agreement.layout.to_string(),
            planes: planes.iter().map(plane).collect(),
            exporter: agreement.exporter.map(|device| device.index()),
            parts: agreement.parts.iter().map(|part| part.how.to_string()).collect(),
            passed_over: passed_over.collect(),
        }
    }
}

impl From<&ImageProof> for ProofFacts {
    fn from(proof: &ImageProof) -> Self {
        Self {
            route: proof.route.name(),
            width: proof.extent.width,
            height: proof.extent.height,
            texels: proof.texels,
            copied_seconds: proof.copied.as_secs_f64(),
            sampled_seconds: proof.sampled.map(|took| took.as_secs_f64()),
        }
    }
}

/// What the names of layouts mean.
pub(crate) const LAYOUTS: [(Rung, &str); 3] = [
    (Rung::SharedTiled, "one image with a tiled modifier, exported as a dma-buf"),
    (Rung::SharedLinear, "one image in rows, with the modifier LINEAR at an agreed pitch"),
    (
        Rung::LinearTiling,
        "both lay an image in rows over the same memory, if they place rows alike",
    ),
];
