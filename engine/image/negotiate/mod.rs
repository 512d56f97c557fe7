//! Which layout an image has: a pure function of what all attachments offer and of what probes said.
//!
//! Comparable: Fuchsia's sysmem, which aggregates constraints with a cost per format; the tranches of linux-dmabuf
//! feedback. Both fix a layout before memory is allocated. Here the function is called again when a device attaches
//! or detaches, and the image moves into the new layout.
//!
//! A *candidate* is one way of sharing. Candidates are ordered by the ladder ([`Rung`]). Each is judged: every
//! attachment uses the image directly, or by copies from or to an image of its own, or cannot take part. Of those in
//! which all take part the best has the fewest attachments that are staged, then the fewest that use an image of
//! their own, and then the best place on the ladder. An attachment that shares nothing does not spoil it for the
//! others: it is staged, and they keep what they share.
//!
//! May be known here: formats, layouts and offers, and the numbers of devices. Nothing here knows Vulkan.

mod agreement;
mod candidate;
mod entry;
mod evidence;
mod judge;
mod objection;
mod renegotiation;
mod scene;

pub use agreement::{
    AgreedLayout, Agreement, Copies, Negotiation, NegotiationError, Part, Participation, PassedOver,
};
pub use candidate::{Candidate, Rung};
pub use evidence::{Evidence, ProbeRefusal, Trial};
pub use objection::{Objection, ObjectionReason};
pub use renegotiation::{Renegotiation, When};
pub use scene::{AttachmentOffer, ImageRequest};

use self::judge::{Judged, judge};
use self::scene::Scene;
use std::collections::BTreeSet;

/// Finds the layout for an image and all its attachments.
///
/// The answer is the same in whatever order the attachments are given. A candidate that all devices share is chosen
/// only if probes have proved it for every pair that hands over texels; better ones that are not proved are returned
/// as probes to make. After [`ImageRequest::tries`] candidates no more are asked for, so a caller that probes and
/// negotiates again comes to an end.
///
/// # Errors
///
/// [`NegotiationError`]: the format or size is wrong, or some attachment can take part on no rung; then with all
/// objections.
pub fn negotiate(
    request: &ImageRequest<'_>,
    evidence: &Evidence,
) -> Result<Negotiation, NegotiationError> {
    let scene = Scene::new(request, evidence)?;
    let judged: Vec<_> =
        scene.ladder().into_iter().map(|candidate| judge(candidate, &scene)).collect();
    let keys: Vec<_> =
        judged.iter().enumerate().map(|(place, judged)| (judged.cost(&scene), place)).collect();
    let accepted = || judged.iter().zip(&keys).filter(|(judged, _)| judged.is_accepted());
    let best =
        accepted().filter(|(judged, _)| judged.untried.is_empty()).min_by_key(|(_, key)| **key);
    let Some((chosen, best_key)) = best else {
        let passed_over = judged.iter().map(|judged| passed_over(judged, &scene)).collect();
        return Err(NegotiationError::NoAgreement { passed_over });
    };
    let Some(layout) = chosen.layout else {
        return Err(NegotiationError::NoAttachments);
    };

    let mut unproved: Vec<_> = accepted().filter(|(_, key)| *key < best_key).collect();
    unproved.sort_by_key(|(_, key)| **key);
    let to_probe = probes(unproved.iter().map(|(judged, _)| *judged), request.tries, evidence);

    let is_better = |(_, key): &(&Judged, &((usize, usize), usize))| key.1 < best_key.1;
    let unproved = unproved.into_iter().filter(|(_, key)| key.1 > best_key.1);
    let better = judged.iter().zip(&keys).filter(is_better).chain(unproved);
    let passed_over = better.map(|(judged, _)| passed_over(judged, &scene)).collect();
    let agreement = Agreement {
        candidate: chosen.candidate,
        layout,
        exporter: chosen.exporter,
        dedicated: chosen.dedicated,
        parts: parts(chosen, &scene),
        passed_over,
    };
    Ok(Negotiation { agreement, to_probe })
}

/// The probes of candidates, in their order, as far as tries are left.
fn probes<'a>(
    unproved: impl Iterator<Item = &'a Judged>,
    tries: usize,
    evidence: &Evidence,
) -> Vec<Trial> {
    let tried = evidence.tried();
    let mut left = tries.saturating_sub(tried.len());
    let mut trials = BTreeSet::new();
    let mut list = vec![];
    for judged in unproved {
        if !tried.contains(&judged.candidate) {
            let Some(less) = left.checked_sub(1) else { continue };
            left = less;
        }
        let new = judged.untried.iter().filter(|trial| trials.insert(**trial));
        list.extend(new.copied());
    }
    list
}

/// How each attachment takes part, by number.
fn parts(chosen: &Judged, scene: &Scene<'_>) -> Vec<Part> {
    let mut parts = vec![];
    for (group, how) in scene.groups.iter().zip(&chosen.parts) {
        let Some(how) = *how else { continue };
        let device = group.device;
        parts.extend(group.ids.iter().map(|id| Part { attachment: *id, device, how }));
    }
    parts.sort_by_key(|part| part.attachment);
    parts
}

/// A candidate with all that was said against it. Attachments with the same device, usage and offer object once, by
/// their lowest number.
fn passed_over(judged: &Judged, scene: &Scene<'_>) -> PassedOver {
    let object = |index: usize, reason: ObjectionReason| {
        let group = scene.groups.get(index)?;
        Some(Objection { attachment: *group.ids.first()?, device: group.device, reason })
    };
    let said =
        judged.objections.iter().filter_map(|(group, reason)| object(*group, reason.clone()));
    let unproved = judged.untried.iter().filter_map(|trial| {
        let group = scene.groups.iter().position(|group| group.device == trial.to)?;
        object(group, ObjectionReason::NotProved { from: trial.from, to: trial.to })
    });
    let mut objections: Vec<_> = said.chain(unproved).collect();
    objections.sort_by_key(|objection| objection.attachment);
    PassedOver { candidate: judged.candidate, objections }
}
