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
}

/// What was done for one frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Brought {
    /// Tiles that were brought in, and bytes.
    pub(crate) tiles: u64,
    pub(crate) bytes: u64,
}

impl Tiles {
    /// Makes all tiles, the coarsest last, in a memory of `budget` bytes.
    pub(crate) fn new(
        engine: &Engine,
        device: &Device,
        (world, fourcc): (World, Fourcc),
        budget: u64,
    ) -> Result<Self> {
        // The one that shows the whole map, and one to look at; with what a driver adds to a tile.
        let least = 3 * TILE_BYTES;
        if budget < least {
            let kib = least >> 10;
            return Err(format!(
                "a budget of {budget} bytes holds no tiles: at least {kib} KiB are needed"
            )
            .into());
        }
        engine.model_heap(device, budget)?;
        let mut all = HashMap::new();
        let mut root = None;
        for id in world.tiles() {
            let descriptor = ImageDescriptor::new(fourcc, TILE, TILE)
                .usage(ImageUsage::BLITTED_FROM)
                .priority(Priority::Low)
                .name(&format!("tile {}/{}/{}", id.level, id.x, id.y));
            let image = engine.create_image(device, descriptor)?;
            image.write_texels(ImagePart::default(), &world.texels(id))?;
            let attachment =
                image.attach_dynamic(device, ImageUsage::BLITTED_FROM, Arc::new(Refault::new()))?;
            if id.level + 1 == world.levels() {
                image.buffer().request_residency()?;
                root = Some(attachment.pin("it stands in for all others")?);
            }
            all.insert(id, Tile { mapping: None, attachment, image });
        }
        let root = root.ok_or("a map without levels")?;
        let mut this = Self { all, wanted: HashSet::new(), _root: root, world, cost: TILE_BYTES };
        this.cost = this.measure(engine, device)?;
        Ok(this)
    }

    /// The memory that one mapped tile takes: more than its texels where the device sees it by an image of its own.
    fn measure(&mut self, engine: &Engine, device: &Device) -> Result<u64> {
        let domain = DomainId::Vram(device.id());
        let root = TileId { level: self.world.levels() - 1, x: 0, y: 0 };
        let Some(tile) = self.all.get_mut(&root) else { return Ok(TILE_BYTES) };
        engine.evict_all(device)?;
        let before = engine.usage(domain)?.used;
        tile.remap()?;
        let after = engine.usage(domain)?.used;
        Ok(TILE_BYTES + after.saturating_sub(before))
    }

    /// The memory that one tile takes while it is shown, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
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
