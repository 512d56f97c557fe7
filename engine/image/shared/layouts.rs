//! The layouts that the images of an engine have, each once, however many images have it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::brings::{Brings, Present, Way};
use super::device_image::{ImageKind, MemoryKind};
use super::places::Places;
use super::tiles::Tiles;
use crate::buffer::Mapping;
use crate::device::DeviceId;
use crate::error::Result;
use crate::image::extent::Shape;
use crate::image::fourcc::Fourcc;
use crate::image::layout::{ImageLayout, LayoutError, MemoryPlane};
use crate::image::usage::ImageUsage;
use crate::memory::PlaneStart;

/// The layout of an image.
#[derive(Debug)]
pub(super) struct Layout {
    /// The rows; of an image in tiles, where they are when it leaves the tiles.
    pub(super) places: Places,
    /// The tiles, if the texels are in tiles.
    pub(super) tiles: Option<Box<Tiles>>,
    /// The same, as others are told it.
    pub(super) told: ImageLayout,
    /// What cannot see it: a device, its uses, the kind of memory, and the way. Protected by its mutex, within which no
    /// other lock is taken.
    pub(super) refused: Mutex<Vec<(DeviceId, ImageUsage, MemoryKind, Way)>>,
    /// What devices bring for some uses, oldest first. Protected by its mutex, within which no other lock is taken.
    brings: Mutex<Vec<((DeviceId, ImageUsage), Brings)>>,
}

/// The most that a layout keeps of what devices bring.
const MOST_BRINGS: usize = 64;

impl Layout {
    pub(super) fn new(places: Places) -> Result<Self, LayoutError> {
        let told = places.image_layout()?;
        Ok(Self::with(places, None, told))
    }

    /// The layout of an image in tiles, which has rows at these places otherwise.
    pub(super) fn in_tiles(places: Places, tiles: Tiles) -> Result<Self, LayoutError> {
        let told = tiles.told(&places)?;
        Ok(Self::with(places, Some(Box::new(tiles)), told))
    }

    fn with(places: Places, tiles: Option<Box<Tiles>>, told: ImageLayout) -> Self {
        Self { places, tiles, told, refused: Mutex::default(), brings: Mutex::default() }
    }

    /// As attachments see it.
    pub(super) fn present(&self) -> Present<'_> {
        Present { places: &self.places, tiles: self.tiles.as_deref().map(Tiles::modifier) }
    }

    /// The rows as the planes of `LINEAR` are stated; none if a modifier cannot tell all of the layout.
    pub(super) fn stated_planes(&self) -> Vec<PlaneStart> {
        let Ok(rows) = self.places.image_layout() else { return vec![] };
        let shape = rows.shape();
        if (shape.mips, shape.layers) != (1, 1) {
            return vec![];
        }
        let start =
            |plane: &MemoryPlane| PlaneStart { offset: plane.offset, pitch: plane.pitch.into() };
        rows.planes().iter().map(start).collect()
    }

    /// What the device of a mapping brings to images of a kind, which have this layout: as another such image has found in
    /// memory of that kind, or as the driver says.
    ///
    /// # Errors
    ///
    /// As [`Brings::read`].
    pub(super) fn brings_of(&self, kind: &ImageKind, mapping: &Mapping) -> Result<Brings> {
        let by = (mapping.device_inner().id(), kind.usage);
        let memory = Some(MemoryKind::of(mapping));
        let is_same =
            |(of, brings): &&((DeviceId, ImageUsage), Brings)| *of == by && brings.is_of(memory);
        // In a statement of its own, so that the lock is not held while a driver is asked.
        let known = self.brings().iter().find(is_same).map(|(_, brings)| brings.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let brings = Brings::read(kind, mapping, &self.stated_planes())?;
        let mut all = self.brings();
        if all.len() == MOST_BRINGS {
            all.remove(0);
        }
        all.push((by, brings.clone()));
        Ok(brings)
    }

    /// A device refuses stated planes for some uses.
    pub(super) fn refuses_stated(&self, by: (DeviceId, ImageUsage)) {
        let mut all = self.brings();
        let same = all.iter_mut().filter(|(of, _)| *of == by);
        same.for_each(|(_, brings)| brings.refuse_stated());
    }

    fn brings(&self) -> MutexGuard<'_, Vec<((DeviceId, ImageUsage), Brings)>> {
        self.brings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layouts of one engine.
#[derive(Debug, Default)]
pub(crate) struct Layouts(Mutex<HashMap<Key, Weak<Layout>>>);

/// A format and size, and the bytes of the buffer: what drivers refuse may depend on these.
type Key = (Fourcc, Shape, u64);

impl Layouts {
    /// The layout of rows at these places, of an image over so many bytes. Images have one in common.
    ///
    /// Locks: its own, within which no other lock is taken.
    pub(super) fn of(&self, places: Places, bytes: u64) -> Result<Arc<Layout>, LayoutError> {
        let made = Layout::new(places)?;
        let key = (made.told.fourcc(), made.told.shape(), bytes);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&key).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.places == made.places) {
            return Ok(known);
        }
        if all.len() == all.capacity() {
            all.retain(|_, layout| layout.strong_count() > 0);
        }
        let made = Arc::new(made);
        all.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}
