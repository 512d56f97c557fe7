//! Which layout an image should have, and the move into that layout.

use std::sync::Arc;
use std::time::Duration;

use super::error::ImageError;
use super::participants::Participant;
use super::places::Places;
use super::row_copies::{MOST_COPIES, rearranged};
use super::shared_image::{ImageInner, Layout, SharedImage};
use crate::buffer::{Migration, Rearrangement};
use crate::error::{Error, Result};
use crate::image::negotiate::{
    self, AgreedLayout, Agreement, Candidate, Evidence, ImageRequest, Rung, Trial,
};

impl SharedImage {
    /// What the attachments of the image agree on now, with what each has against better ways to share it. It prints as
    /// an explanation.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoAgreement`] if there are no attachments, or one that cannot use the image in any way.
    pub fn negotiate(&self) -> Result<Agreement, ImageError> {
        let listed = self.0.participants().list();
        Ok(self.agree(&listed)?)
    }

    /// Moves the image into the layout in which most attachments use the shared bytes directly; it stays in the present
    /// one if that is as good. Importers are notified, and mappings become stale, as for any move. The texels stay.
    ///
    /// It also happens by itself: when the image is mapped, and its attachments have changed, and then have stayed the
    /// same for a while ([`negotiate::Renegotiation`]).
    ///
    /// # Errors
    ///
    /// As [`crate::SharedBuffer::migrate`]: [`Error::Busy`] while a static mapping, a pin or an export keeps the image.
    /// [`Error::Unsupported`] also where no device copies between the old and the new memory, since the host does not copy
    /// instead, or if more than 262,144 rows are to be copied.
    ///
    /// Locks: as [`crate::SharedBuffer::migrate`].
    pub fn relayout(&self) -> Result<Migration> {
        let listed = self.0.participants().list();
        let old = self.0.layout();
        let new = match self.choose(&listed, &old.places) {
            Some(places) if *places != old.places => places,
            _ => {
                self.note_negotiated(false);
                return Ok(Migration::Unchanged);
            }
        };
        let moved = self.move_into(&old, &new);
        self.note_negotiated(matches!(moved, Ok(Migration::Done { .. })));
        moved
    }

    /// Moves the image into a better layout if that is due and nothing keeps it in place.
    pub(super) fn relayout_if_due(&self) {
        let now = self.0.now();
        // In a statement of its own, so that the lock is not held meanwhile.
        let is_due = self.0.participants().is_due(now);
        if is_due && let Err(error) = self.relayout() {
            tracing::debug!(%error, image = self.name(), "keeps its layout");
        }
    }

    fn note_negotiated(&self, changed: bool) {
        let now = self.0.now();
        self.0.participants().negotiated(now, changed);
    }

    fn agree(&self, listed: &[Participant]) -> Result<Agreement, negotiate::NegotiationError> {
        let attachments: Vec<_> = listed.iter().map(|one| one.seen.clone()).collect();
        let request = ImageRequest {
            fourcc: self.fourcc(),
            shape: self.shape(),
            home: self.home().id(),
            system_dma_bufs: false,
            tries: 0,
            attachments: &attachments,
        };
        let proofs = &self.0.services.proofs;
        let evidence = evidence(proofs.evidence(self.fourcc()), &attachments);
        negotiate::negotiate(&request, &evidence).map(|answer| answer.agreement)
    }

    /// The places of the layout that suits most attachments; `None` if the present one is as good.
    fn choose(&self, listed: &[Participant], present: &Places) -> Option<Arc<Places>> {
        let agreed = self.agree(listed).ok().and_then(|agreed| match agreed.layout {
            AgreedLayout::Linear(linear) if agreed.candidate.rung() == Rung::LinearTiling => {
                Places::of_layout(self.format(), &linear).map(Arc::new)
            }
            _ => None,
        });
        let directly =
            |places: &Places| listed.iter().filter(|one| one.brings.sees(places)).count();
        let offered = listed.iter().filter_map(|one| one.brings.direct.clone());
        let size = self.buffer().size();
        let fits = |places: &Arc<Places>| places.end().is_some_and(|end| end <= size);
        let candidates = agreed.into_iter().chain(offered).filter(fits);
        // Of equal ones the first, so that the order of attachments alone decides.
        let better = |best: Option<(usize, Arc<Places>)>, next: Arc<Places>| {
            let count = directly(&next);
            match best {
                Some((most, _)) if most >= count => best,
                None if directly(present) >= count => None,
                _ => Some((count, next)),
            }
        };
        candidates.fold(None, better).map(|(_, places)| places)
    }

    /// Moves the image from a layout into another one.
    fn move_into(&self, old: &Arc<Layout>, new: &Arc<Places>) -> Result<Migration> {
        let parts = rearranged(&old.places, new).ok_or_else(|| Error::Unsupported {
            device: self.home().name().to_owned(),
            missing: format!("moves into another layout by more than {MOST_COPIES} copies of rows"),
        })?;
        let layout = Layout::new(Places::clone(new)).map_err(|error| Error::Unsupported {
            device: self.home().name().to_owned(),
            missing: error.to_string(),
        })?;
        let layout = Arc::new(layout);
        self.buffer().rearrange(Rearrangement {
            parts: &parts,
            is_current: &|| Arc::ptr_eq(&self.0.layout(), old),
            done: &|| self.0.set_layout(&layout),
        })
    }
}

impl ImageInner {
    /// The time by the engine's clock.
    pub(super) fn now(&self) -> Duration {
        self.buffer.services().age()
    }
}

/// What is known of the devices of an image, beside what probes said: all reach its memory, by routes that were proved. Rows
/// that were not probed yet are probed before a device uses them.
fn evidence(mut evidence: Evidence, attachments: &[negotiate::AttachmentOffer]) -> Evidence {
    for from in attachments {
        for to in attachments {
            evidence.note_common_memory(from.device, to.device);
            let trial = Trial::new(Candidate::linear_tiling(), from.device, to.device);
            if evidence.said(trial).is_none() {
                evidence.note(trial, Ok(()));
            }
        }
    }
    evidence
}
