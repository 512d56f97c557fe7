//! The tiles as shared images: which are in the device's memory, and which are to be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::Result;
use peerbuf::image::{Fourcc, ImageUsage};
use peerbuf::{
    Access, Device, DomainId, Engine, ImageAttachment, ImageDescriptor, ImageMapping, ImagePart,
    Pin, Priority, Refault, SharedImage,
};

use super::world::{TILE, TILE_BYTES, TileId, World};

/// One tile.
pub(crate) struct Tile {
    // Dropped in this order.
    /// While it is wanted: on a device that sees tiles by copies, a mapping has an image of the device's own.
    mapping: Option<ImageMapping>,
    attachment: ImageAttachment,
    image: SharedImage,
}

impl Tile {
    fn new(
        engine: &Engine,
        device: &Device,
        (world, fourcc): (World, Fourcc),
        id: TileId,
    ) -> Result<Self> {
        let descriptor = ImageDescriptor::new(fourcc, TILE, TILE)
            .usage(ImageUsage::BLITTED_FROM)
            .priority(Priority::Low)
            .name(&format!("tile {}/{}/{}", id.level, id.x, id.y));
        let image = engine.create_image(device, descriptor)?;
        image.write_texels(ImagePart::default(), &world.texels(id))?;
        let attachment =
            image.attach_dynamic(device, ImageUsage::BLITTED_FROM, Arc::new(Refault::new()))?;
        Ok(Self { mapping: None, attachment, image })
    }

    /// The memory that a tile takes while it is mapped, as the budget counts it: more than its texels where memory of its
    /// own is rounded up, and where the device sees it by an image of its own. It is the only tile.
    fn measure(&mut self, engine: &Engine, device: &Device) -> Result<u64> {
        self.remap()?;
        Ok(engine.usage(DomainId::Vram(device.id()))?.used.max(TILE_BYTES))
    }

    /// Makes the mapping a current one.
    pub(crate) fn remap(&mut self) -> Result<()> {
        match &mut self.mapping {
            Some(mapping) => self.attachment.remap(mapping)?,
            None => self.mapping = Some(self.attachment.map(Access::Read)?),
        }
        Ok(())
    }

    pub(crate) fn mapping(&self) -> Option<&ImageMapping> {
        self.mapping.as_ref()
    }

    /// Whether it is in the device's own memory.
    fn is_resident(&self) -> bool {
        matches!(self.image.domain(), DomainId::Vram(_))
    }
}

/// All tiles of a map.
pub(crate) struct Tiles {
    all: HashMap<TileId, Tile>,
    wanted: HashSet<TileId>,
    /// Keeps the tile that shows the whole map.
    _root: Pin,
    world: World,
    cost: u64,
    budget: u64,
}

/// What was done for one frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Brought {
    /// Tiles that were brought in, and bytes.
    pub(crate) tiles: u64,
    pub(crate) bytes: u64,
}

impl Tiles {
    /// Makes all tiles, the one that shows the whole map first, in a memory of `budget` bytes, or of a third of what all
    /// tiles take.
    pub(crate) fn new(
        engine: &Engine,
        device: &Device,
        (world, fourcc): (World, Fourcc),
        budget: Option<u64>,
    ) -> Result<Self> {
        let root = TileId { level: world.levels() - 1, x: 0, y: 0 };
        let kind = (world, fourcc);
        let mut first = Tile::new(engine, device, kind, root)?;
        first.image.buffer().request_residency()?;
        let pin = first.attachment.pin("it stands in for all others")?;
        let cost = first.measure(engine, device)?;
        // The one that shows the whole map, one to look at, and one that leaves.
        let (least, third) = (3 * cost, (world.tiles().count() as u64 * cost).div_ceil(3));
        let budget = budget.unwrap_or(third.max(least));
        if budget < least {
            let kib = least >> 10;
            return Err(format!(
                "a budget of {budget} bytes holds no tiles: at least {kib} KiB are needed"
            )
            .into());
        }
        engine.model_heap(device, budget)?;
        let mut all = HashMap::from([(root, first)]);
        for id in world.tiles().filter(|id| *id != root) {
            all.insert(id, Tile::new(engine, device, kind, id)?);
        }
        Ok(Self { all, wanted: HashSet::new(), _root: pin, world, cost, budget })
    }

    /// The memory that one tile takes while it is shown, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    /// The memory for tiles, and what all of them would take, in bytes.
    pub(crate) fn memory(&self) -> [u64; 2] {
        [self.budget, self.all.len() as u64 * self.cost]
    }

    pub(crate) fn get_mut(&mut self, id: TileId) -> Option<&mut Tile> {
        self.all.get_mut(&id)
    }

    pub(crate) fn get(&self, id: TileId) -> Option<&Tile> {
        self.all.get(&id)
    }

    /// Brings in what is wanted, in this order, up to so many bytes. What is wanted no more leaves first when room is
    /// needed.
    pub(crate) fn bring(&mut self, wanted: &[TileId], most: u64) -> Result<Brought> {
        let now: HashSet<_> = wanted.iter().copied().collect();
        for id in self.wanted.difference(&now) {
            if let Some(tile) = self.all.get_mut(id) {
                tile.image.buffer().set_priority(Priority::Low);
                tile.mapping = None;
            }
        }
        for tile in now.difference(&self.wanted).filter_map(|id| self.all.get(id)) {
            tile.image.buffer().set_priority(Priority::High);
        }
        self.wanted = now;
        let mut brought = Brought::default();
        let missing =
            wanted.iter().filter_map(|id| self.all.get(id)).filter(|tile| !tile.is_resident());
        for tile in missing {
            if brought.bytes + TILE_BYTES > most {
                break;
            }
            match tile.image.buffer().request_residency() {
                Ok(_) => {
                    brought.tiles += 1;
                    brought.bytes += TILE_BYTES;
                }
                // Tiles that leave are still read by earlier frames; a coarser one stands in.
                Err(error) if error.is_out_of_memory() => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(brought)
    }

    /// The finest tile in the device's memory that shows a tile's ground.
    pub(crate) fn source(&self, id: TileId) -> TileId {
        let above = (id.level..self.world.levels()).map(|level| id.above(level));
        let mut resident = above.filter(|id| self.all.get(id).is_some_and(Tile::is_resident));
        resident.next().unwrap_or_else(|| id.above(self.world.levels() - 1))
    }

    /// Tiles in the device's memory, and all.
    pub(crate) fn resident(&self) -> [usize; 2] {
        [self.all.values().filter(|tile| tile.is_resident()).count(), self.all.len()]
    }
}
