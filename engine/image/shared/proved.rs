//! Which devices of an image use its bytes directly: those whose images over rows have been proved with one another.

use std::sync::Arc;

use super::brings::Way;
use super::participants::Participant;
use super::places::Places;
use super::shared_image::SharedImage;
use crate::device::{DeviceId, DeviceInner};
use crate::error::Result;
use crate::image::known_rows::Rows;
use crate::image::rows::prove_rows;

impl SharedImage {
    /// A device of an attachment; `None` if it is lost, or has left.
    pub(super) fn present_device(&self, id: DeviceId) -> Option<Arc<DeviceInner>> {
        let found = self.buffer().services().find(id).ok();
        found.filter(|device| !device.is_lost())
    }

    /// Proves images over rows, and over tiles, between the home device and those that may use such images, and among
    /// these.
    pub(super) fn prove(&self, listed: &[Participant]) -> Result<Proved> {
        let mut devices = vec![self.home().0];
        for one in listed.iter().filter(|one| one.brings.has_way()) {
            if devices.iter().all(|known| known.id() != one.seen.device) {
                devices.extend(self.present_device(one.seen.device));
            }
        }
        let mut proved = Proved { pairs: vec![], is_complete: true };
        for (position, a) in devices.iter().enumerate() {
            for b in devices.iter().skip(position + 1) {
                match self.prove_pair([a, b])? {
                    Some(rows) => proved.pairs.push(([a.id(), b.id()], rows)),
                    None => proved.is_complete = false,
                }
            }
        }
        Ok(proved)
    }

    pub(super) fn prove_pair(&self, pair: [&Arc<DeviceInner>; 2]) -> Result<Option<Rows>> {
        let proofs = &self.0.services.proofs;
        prove_rows(self.buffer().services(), proofs, pair, self.fourcc())
    }

    /// Which images over rows a device may use of a layout: those that are proved with the home device, and with each
    /// device that was attached earlier and uses them. `None` if that could not be tried now.
    ///
    /// The home device of an imported image stands for its exporter, which cannot be asked.
    ///
    /// # Errors
    ///
    /// [`Error::FdLimit`].
    ///
    /// Locks: none may be held; the first call for a format and a pair of devices waits for devices.
    pub(super) fn proved_rows(
        &self,
        device: &Arc<DeviceInner>,
        places: &Places,
    ) -> Result<Option<Rows>> {
        // In a statement of its own, so that the lock is not held while devices are asked.
        let ahead = self.0.participants().ahead_of(device.id(), places);
        let home = std::iter::once((self.home().id(), None));
        let mut all = Rows::ALL;
        for (other, way) in home.chain(ahead.into_iter().map(|(id, way)| (id, Some(way)))) {
            let Some(other) = self.present_device(other) else { continue };
            let Some(rows) = self.prove_pair([&other, device])? else { return Ok(None) };
            all = all.and(beside(rows, way));
        }
        Ok(Some(all))
    }
}

/// What is known of images over rows between the devices of an image.
pub(super) struct Proved {
    pairs: Vec<([DeviceId; 2], Rows)>,
    /// Whether all pairs could be tried.
    pub(super) is_complete: bool,
}

impl Proved {
    fn rows(&self, a: DeviceId, b: DeviceId) -> Rows {
        if a == b {
            return Rows::ALL;
        }
        let mut pairs = self.pairs.iter().filter(|(pair, _)| [[a, b], [b, a]].contains(pair));
        pairs.next().map_or(Rows::NONE, |(_, rows)| *rows)
    }

    /// Whether a device may use stated planes, wherever they are, or takes none: they are proved with the home device and
    /// with all others that use the shared bytes.
    pub(super) fn allows_stated(
        &self,
        home: DeviceId,
        listed: &[Participant],
        one: &Participant,
    ) -> bool {
        let others = listed.iter().filter(|other| other.brings.has_way());
        let mut all = std::iter::once(home).chain(others.map(|other| other.seen.device));
        !one.brings.takes_stated() || all.all(|other| self.rows(other, one.seen.device).stated)
    }

    /// How many attachments use the shared bytes directly if rows are at these places, as mappings decide it
    /// ([`SharedImage::proved_rows`]).
    pub(super) fn count(&self, home: DeviceId, listed: &[Participant], places: &Places) -> usize {
        let uses = listed.iter().filter(|one| {
            let Some(way) = one.brings.way(places) else { return false };
            let device = one.seen.device;
            let earlier = listed.iter().take_while(|other| other.seen.device != device);
            let ahead = earlier
                .filter_map(|other| Some((other.seen.device, Some(other.brings.way(places)?))));
            let mut all = std::iter::once((home, None)).chain(ahead);
            all.all(|(other, their_way)| allows(beside(self.rows(other, device), their_way), way))
        });
        uses.count()
    }
}

/// The images over rows that a device may use beside another one that uses them in that way.
pub(super) fn beside(rows: Rows, way: Option<Way>) -> Rows {
    let Rows { linear, stated } = rows;
    match way {
        None => rows,
        Some(Way::Linear) => Rows { linear, stated: linear && stated },
        Some(Way::Stated) => Rows { linear: linear && stated, stated },
        Some(Way::Tiles) => Rows::NONE,
    }
}

/// Whether they are those of a way.
pub(super) fn allows(rows: Rows, way: Way) -> bool {
    match way {
        Way::Linear => rows.linear,
        Way::Stated => rows.stated,
        Way::Tiles => false,
    }
}
