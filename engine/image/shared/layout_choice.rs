//! Which layout an image should have, and the move into that layout.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::error::ImageError;
use super::participants::Participant;
use super::places::Places;
use super::proved::Proved;
use super::row_copies::{MOST_COPIES, rearranged};
use super::shared_image::{ImageInner, Layout, SharedImage};
use super::tiles::Tiles;
use crate::buffer::{Migration, Rearranged, Rearrangement, TiledBytes};
use crate::device::{DeviceInner, Waits};
use crate::error::{Error, Result};
use crate::image::modifier::Modifier;
use crate::image::negotiate::{
    self, AgreedLayout, Agreement, AttachmentOffer, Evidence, ImageRequest, Rung,
};
use crate::transfer::Span;

impl SharedImage {
    /// What the attachments of the image agree on now, with what each has against better ways to share it. It prints as
    /// an explanation. Images over rows of devices that were not proved yet are proved first. The answer is kept until an
    /// attachment, the home device, or what is proved of the format changes.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoAgreement`] if there are no attachments, or one that cannot use the image in any way;
    /// [`Error::FdLimit`].
    ///
    /// Locks: none may be held; the first call for a format and devices waits for devices.
    pub fn negotiate(&self) -> Result<Arc<Agreement>, ImageError> {
        let home = self.home().id();
        // Each lock in a statement of its own, so that it is not held meanwhile.
        let known = self.0.participants().agreed((home, self.0.services.proofs.rows.changes()));
        if let Some(known) = known.filter(|known| self.are_present(known)) {
            return Ok(known);
        }
        let before = self.0.participants().changes();
        let listed = self.present_participants();
        let proved = self.prove(&listed)?;
        let asked = (home, self.0.services.proofs.rows.changes());
        let agreement = Arc::new(self.agree(&listed, &proved)?);
        if proved.is_complete {
            self.0.participants().note_agreed(before, asked, &agreement);
        }
        Ok(agreement)
    }

    /// Whether all devices of an agreement are there.
    fn are_present(&self, agreement: &Agreement) -> bool {
        let mut last = None;
        agreement.parts.iter().all(|part| {
            let is_known = last.replace(part.device) == Some(part.device);
            is_known || self.present_device(part.device).is_some()
        })
    }

    /// Moves the image into the layout in which most attachments use the shared bytes directly: into tiles if all see the
    /// same, and the image is in the memory of its home device. It stays in the present layout if that is as good. Importers are notified, and mappings become stale, as for any move. The texels stay.
    ///
    /// Only devices count whose images over rows, or over tiles, have been proved with those of the home device and of each other; pairs
    /// that are not known yet are proved first.
    ///
    /// It also happens by itself: when the image is mapped, and its attachments have changed, and then have stayed the
    /// same for a while ([`negotiate::Renegotiation`]). That neither evicts other buffers nor waits for work on the image:
    /// where it would have to, or something keeps the image, the image is mapped in the present layout, and a later
    /// mapping tries again.
    ///
    /// # Errors
    ///
    /// As [`crate::SharedBuffer::migrate`]: [`Error::Busy`] while a static mapping, a pin or an export keeps the image.
    /// [`Error::Unsupported`] also where neither a device nor the host sees both the old and the new memory, or if more than
    /// 262,144 rows are to be copied.
    /// [`Error::FdLimit`]. It is then tried again by itself.
    ///
    /// Locks: as [`crate::SharedBuffer::migrate`].
    pub fn relayout(&self) -> Result<Migration> {
        self.relayout_as(true)
    }

    /// Moves the image into a better layout if that is due, and can be done at once.
    pub(super) fn relayout_if_due(&self) {
        // Mostly there is none, and no clock is read. Each lock in a statement of its own, so that it is not held meanwhile.
        let has_wish = self.0.participants().has_wish();
        if !has_wish {
            return;
        }
        let now = self.0.now();
        let is_due = self.0.participants().is_due(now);
        if is_due && let Err(error) = self.relayout_as(false) {
            tracing::debug!(%error, image = self.name(), "keeps its layout");
        }
    }

    fn relayout_as(&self, required: bool) -> Result<Migration> {
        let mut proved = None;
        let moved = self.relayout_once(required, &mut proved);
        let now = self.0.now();
        let mut participants = self.0.participants();
        match (&moved, &proved) {
            (Ok(Migration::Done { .. }), _) => participants.negotiated(now, true),
            (Ok(_), Some(proved)) if proved.is_complete => participants.negotiated(now, false),
            _ => participants.put_off(now),
        }
        moved
    }

    fn relayout_once(&self, required: bool, proved: &mut Option<Proved>) -> Result<Migration> {
        let listed = self.present_participants();
        let proved = proved.insert(self.prove(&listed)?);
        let old = self.0.layout();
        match self.choose(&listed, proved, &old) {
            Some(target) => self.move_into(&old, target, required),
            None => Ok(Migration::Unchanged),
        }
    }

    /// The layout that suits most attachments; `None` if the present one is as good. If a better one has to wait, what is
    /// proved is marked as not complete, so that it is looked for again.
    fn choose(
        &self,
        listed: &[Participant],
        proved: &mut Proved,
        present: &Layout,
    ) -> Option<Target> {
        let agreed = self.agree(listed, proved).ok();
        let tiles = agreed.as_ref().and_then(|agreed| self.agreed_tiles(agreed, listed));
        let in_tiles = present.tiles.as_deref().map(Tiles::modifier);
        if let Some(modifier) = tiles {
            if in_tiles == tiles {
                return None;
            }
            if in_tiles.is_none() && self.is_at_home() {
                return Some(Target::Tiles(modifier));
            }
            // Once the image is back, or in rows.
            proved.is_complete = false;
        }
        let rows = self.choose_rows(agreed, listed, proved, &present.places);
        match in_tiles {
            Some(_) => Some(Target::Rows(rows.unwrap_or_else(|| Arc::new(present.places.clone())))),
            None => rows.filter(|rows| **rows != present.places).map(Target::Rows),
        }
    }

    /// The attachments whose devices are there.
    fn present_participants(&self) -> Vec<Participant> {
        // In a statement of its own, so that the lock is not held meanwhile.
        let mut listed = self.0.participants().list();
        listed.retain(|one| self.present_device(one.seen.device).is_some());
        listed
    }

    fn agree(
        &self,
        listed: &[Participant],
        proved: &Proved,
    ) -> Result<Agreement, negotiate::NegotiationError> {
        let home = self.home().id();
        let offered = |one: &Participant| match proved.allows_stated(home, listed, one) {
            true => one.seen.clone(),
            false => AttachmentOffer { offer: one.brings.without_stated(), ..one.seen.clone() },
        };
        let attachments: Vec<_> = listed.iter().map(offered).collect();
        let request = ImageRequest {
            fourcc: self.fourcc(),
            shape: self.shape(),
            home,
            system_dma_bufs: false,
            tries: 0,
            attachments: &attachments,
        };
        let proofs = &self.0.services.proofs;
        let evidence = evidence(proofs.evidence(self.fourcc()), &attachments);
        negotiate::negotiate(&request, &evidence).map(|answer| answer.agreement)
    }

    /// The places of rows that suit most attachments; `None` if the present ones are as good, or are to stay.
    fn choose_rows(
        &self,
        agreed: Option<Agreement>,
        listed: &[Participant],
        proved: &Proved,
        present: &Places,
    ) -> Option<Arc<Places>> {
        if self.0.is_padded() {
            return None;
        }
        let agreed = agreed.and_then(|agreed| match agreed.layout {
            AgreedLayout::Linear(linear) if agreed.candidate.rung() == Rung::LinearTiling => {
                Places::of_layout(self.format(), &linear).map(Arc::new)
            }
            _ => None,
        });
        let home = self.home().id();
        let directly = |places: &Places| proved.count(home, listed, places);
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

    /// Moves the image from a layout into another one, which is none of tiles if the old one is.
    pub(super) fn move_into(
        &self,
        old: &Arc<Layout>,
        target: Target,
        required: bool,
    ) -> Result<Migration> {
        let refuse =
            |missing| Error::Unsupported { device: self.home().name().to_owned(), missing };
        let kind = self.0.whole_kind();
        let image = (&kind, self.buffer(), &old.places);
        let (places, tiles) = match target {
            Target::Rows(places) => (Arc::unwrap_or_clone(places), None),
            Target::Tiles(modifier) => {
                let tiles = (modifier, self.handle());
                let tiles = Tiles::of_driver(&kind, &self.home().0, tiles, self.buffer().size())?;
                (old.places.clone(), Some(tiles))
            }
        };
        let (parts, out, into);
        let copy = match (old.tiles.as_deref(), &tiles) {
            (None, None) => {
                parts = rearranged(&old.places, &places).ok_or_else(|| {
                    refuse(format!(
                        "moves into another layout by more than {MOST_COPIES} copies of rows"
                    ))
                })?;
                Rearranged::Parts(&parts)
            }
            (Some(tiles), _) => {
                let image = (&kind, self.buffer(), &places);
                out = move |device: &Arc<DeviceInner>, waits: Waits, spans: [Span<'_>; 2], zero| {
                    tiles.copy(image, (device, waits), spans, (false, zero))
                };
                Rearranged::Submitted(&out)
            }
            (None, Some(tiles)) => {
                into =
                    move |device: &Arc<DeviceInner>, waits: Waits, spans: [Span<'_>; 2], zero| {
                        tiles.copy(image, (device, waits), spans, (true, zero))
                    };
                Rearranged::Submitted(&into)
            }
        };
        let tiled: Option<Weak<dyn TiledBytes>> =
            tiles.as_ref().map(|_| Arc::downgrade(&self.0) as Weak<dyn TiledBytes>);
        let layout = match tiles.clone() {
            None => self.0.services.layouts.of(places.clone(), self.buffer().size()),
            Some(tiles) => Layout::in_tiles(places.clone(), tiles).map(Arc::new),
        };
        let layout = layout.map_err(|error| refuse(error.to_string()))?;
        self.buffer().rearrange(Rearrangement {
            copy,
            tiled: tiled.as_ref(),
            is_current: &|| Arc::ptr_eq(&self.0.layout(), old),
            done: &|| self.0.set_layout(&layout),
            required,
        })
    }
}

/// Where an image moves to in its memory.
pub(super) enum Target {
    /// Into rows.
    Rows(Arc<Places>),
    /// Into tiles of a modifier.
    Tiles(Modifier),
}

#[cfg(all(test, peerbuf_shuttle))]
impl SharedImage {
    /// Moves the image into the computed layout with a padding, as [`SharedImage::relayout`] does into a better one.
    pub(crate) fn lay_out(&self, padding: crate::image::Padding) -> Result<Migration> {
        let layout = crate::image::LinearLayout::new(self.fourcc(), self.shape(), padding);
        let places = Places::of_layout(self.format(), &layout.expect("it was created"));
        let (old, new) = (self.0.layout(), Arc::new(places.expect("all parts have places")));
        if old.places == *new {
            return Ok(Migration::Unchanged);
        }
        self.move_into(&old, Target::Rows(new), true)
    }
}

impl ImageInner {
    /// The time by the engine's clock.
    pub(super) fn now(&self) -> Duration {
        self.buffer.services().age()
    }
}

/// What is known of the devices of an image: what probes said, and that all reach its memory, by routes that were
/// proved.
fn evidence(mut evidence: Evidence, attachments: &[AttachmentOffer]) -> Evidence {
    for from in attachments {
        for to in attachments {
            evidence.note_common_memory(from.device, to.device);
        }
    }
    evidence
}
