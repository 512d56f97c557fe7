//! Which image is in tiles, and for whom: all its attachments see the same tiles, in the memory of its home device. For
//! any other device, for the host and for other memory the image has rows.

use std::sync::Arc;

use super::layout_choice::Target;
use super::participants::Participant;
use super::shared_image::{ImageInner, Layout, SharedImage};
use crate::access::Access;
use crate::buffer::{HostAccess, TiledBytes};
use crate::device::{DeviceId, DeviceInner, HandleType, Waits};
use crate::error::{Error, Result};
use crate::image::modifier::Modifier;
use crate::image::negotiate::{Agreement, Candidate, Evidence, Participation, Rung, Trial};
use crate::image::usage::ImageUsage;
use crate::memory::{DomainId, Provider};
use crate::sync::Fence;
use crate::transfer::Span;

/// How often rows are asked for again because the image got tiles meanwhile.
const ATTEMPTS: u32 = 100;

impl SharedImage {
    /// The tiled modifier that the attachments agree on. A single device agrees with itself on the one that it ranks best.
    pub(super) fn agreed_tiles(
        &self,
        agreed: &Agreement,
        listed: &[Participant],
    ) -> Option<Modifier> {
        // What its creator has asked for is rows.
        if self.0.is_padded() {
            return None;
        }
        // An image of a device's own is copied from rows.
        if agreed.parts.iter().any(|part| part.how != Participation::Direct) {
            return None;
        }
        let candidates = match agreed.candidate.rung() {
            Rung::SharedTiled => vec![agreed.candidate.modifier()],
            Rung::Private => listed.first()?.brings.tiled.clone(),
            _ => return None,
        };
        let evidence = self.0.services.proofs.evidence(self.fourcc());
        // Of two devices the first one is the home device, which lays the image out, or it comes earlier.
        let devices: Vec<_> = std::iter::once(self.home().id())
            .chain(listed.iter().map(|one| one.seen.device))
            .collect();
        let is_seen = |modifier: &Modifier| {
            let pairs = devices.iter().enumerate();
            let mut pairs =
                pairs.flat_map(|(at, a)| devices.iter().skip(at + 1).map(move |b| (*a, *b)));
            listed.iter().all(|one| one.brings.tiled.contains(modifier))
                && pairs.all(|(a, b)| is_proved(&evidence, *modifier, a, b))
        };
        candidates.into_iter().find(is_seen)
    }

    /// Whether the texels are in the memory of the home device. Tiles are for that alone.
    pub(super) fn is_at_home(&self) -> bool {
        self.domain() == DomainId::Vram(self.home().id())
    }

    /// The types of handle by which the memory is shared; `None` for memory of the home device alone.
    pub(super) fn handle(&self) -> Option<HandleType> {
        match self.buffer().provider() {
            Provider::Device { handle, .. } | Provider::Foreign(handle) => Some(handle),
            _ => None,
        }
    }

    /// Whether a device may use an image over the tiles of a layout, if it is one of tiles: its attachment has seen them
    /// offered, and they are proved with the home device and all other attached ones.
    ///
    /// # Errors
    ///
    /// [`Error::FdLimit`].
    ///
    /// Locks: none may be held; the first call for a format and a pair of devices waits for devices.
    pub(super) fn may_see_tiles(
        &self,
        device: &Arc<DeviceInner>,
        (id, usage): (u64, ImageUsage),
        (generation, layout): (u32, &Layout),
    ) -> Result<bool> {
        let Some(tiles) = &layout.tiles else { return Ok(true) };
        if self.0.has_image((device.id(), usage), generation) {
            return Ok(true);
        }
        // In a statement of its own, so that the lock is not held while devices are asked.
        let listed = self.0.participants().list();
        let own = listed.iter().find(|one| one.seen.id == id);
        if !own.is_some_and(|own| own.brings.tiled.contains(&tiles.modifier())) {
            return Ok(false);
        }
        let others = listed.iter().map(|one| one.seen.device);
        for other in std::iter::once(self.home().id()).chain(others) {
            if let Some(other) = self.present_device(other) {
                self.prove_pair([&other, device])?;
                let evidence = self.0.services.proofs.evidence(self.fourcc());
                if !is_proved(&evidence, tiles.modifier(), other.id(), device.id()) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Brings the texels from the tiles of a layout into rows, where the image has them otherwise. The image gets a better
    /// layout again later, if its attachments agree on one.
    ///
    /// # Errors
    ///
    /// As [`SharedImage::relayout`].
    ///
    /// Locks: as [`SharedImage::relayout`].
    pub(super) fn leave_tiles(&self, layout: &Arc<Layout>) -> Result<()> {
        let rows = Target::Rows(Arc::new(layout.places.clone()));
        self.move_into(layout, rows, true)?;
        let now = self.0.now();
        self.0.participants().left_tiles(now);
        Ok(())
    }

    /// Begins an access of the host to rows.
    pub(super) fn access_rows(&self, access: Access) -> Result<HostAccess> {
        for _ in 0..ATTEMPTS {
            let layout = self.0.layout();
            if layout.tiles.is_some() {
                self.leave_tiles(&layout)?;
            }
            let begun = self.buffer().host_access(access)?;
            // While it is open, the image keeps its layout.
            if self.0.layout().tiles.is_none() {
                return Ok(begun);
            }
        }
        Err(Error::Busy { buffer: self.name(), mapped: 0, host: 0, pinned: 0 })
    }
}

/// Whether probes have read all texels of a modifier right on both devices, each from the other one.
fn is_proved(evidence: &Evidence, modifier: Modifier, a: DeviceId, b: DeviceId) -> bool {
    let proved = |from, to| {
        matches!(evidence.said(Trial::new(Candidate::tiled(modifier), from, to)), Some(Ok(())))
    };
    a == b || (proved(a, b) && proved(b, a))
}

impl TiledBytes for ImageInner {
    fn copy_to_rows(
        &self,
        device: &Arc<DeviceInner>,
        waits: Waits,
        spans: [Span<'_>; 2],
        zero: bool,
    ) -> Result<Fence> {
        let layout = self.layout();
        let Some(tiles) = &layout.tiles else {
            return Err(Error::Unsupported {
                device: device.name().to_owned(),
                missing: "tiles of an image in rows".into(),
            });
        };
        let image = (&self.whole_kind(), &self.buffer, &layout.places);
        tiles.copy(image, (device, waits), spans, (false, zero))
    }

    fn are_rows(&self) {
        let layout = self.layout();
        // The same places had rows before, so others can be told them.
        if let Ok(rows) = Layout::new(layout.places.clone()) {
            self.set_layout(&Arc::new(rows));
        }
        let now = self.now();
        self.participants().left_tiles(now);
    }
}
