//! What is on the screen: which tiles are wanted, and which part of a tile goes where.

use super::world::{TILE, TileId, World};

/// A place over the map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// The middle of the screen, in texels of the finest level.
    pub at: [f64; 2],
    /// Texels of the finest level for one of the screen.
    pub scale: f64,
}

/// A rectangle: left, top, right, bottom.
pub type Rect = [i32; 4];

/// A part of a tile, and where it is on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The tile.
    pub tile: TileId,
    /// In texels of the tile.
    pub source: Rect,
    /// In texels of the screen.
    pub target: Rect,
}

impl Camera {
    /// The level of which a texel is about as large as one of the screen.
    pub fn level(self, world: World) -> u32 {
        // CAST: between 0 and the number of levels.
        self.scale.log2().floor().clamp(0.0, f64::from(world.levels() - 1)) as u32
    }

    /// The tiles of a level that are on the screen, the ones in its middle first.
    pub fn visible(self, world: World, level: u32, size: [u32; 2]) -> Vec<TileId> {
        let side = world.side(level);
        let tile_size = f64::from(TILE << level);
        let range = |axis: usize| {
            let half = f64::from(size[axis]) * self.scale / 2.0;
            let at = |edge: f64| (edge / tile_size).floor().clamp(0.0, f64::from(side - 1));
            // CAST: between 0 and the number of tiles.
            at(self.at[axis] - half) as u32..=at(self.at[axis] + half) as u32
        };
        let mut tiles: Vec<_> = range(1)
            .flat_map(|y| range(0).map(move |x| TileId { level, x, y }))
            .filter(|tile| self.target(*tile, size).is_some())
            .collect();
        let distance = |tile: &TileId| {
            let middle = |at: u32, axis: usize| (f64::from(at) + 0.5) * tile_size - self.at[axis];
            middle(tile.x, 0).powi(2) + middle(tile.y, 1).powi(2)
        };
        tiles.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        tiles
    }

    /// Where a tile is on the screen; `None` if it is not.
    fn target(self, tile: TileId, size: [u32; 2]) -> Option<Rect> {
        let edge = |at: u32, axis: usize| {
            let world = f64::from(at) * f64::from(TILE << tile.level);
            let on_screen = (world - self.at[axis]) / self.scale + f64::from(size[axis]) / 2.0;
            // CAST: clamped.
            on_screen.round().clamp(-1e6, 1e6) as i32
        };
        let rect = [edge(tile.x, 0), edge(tile.y, 1), edge(tile.x + 1, 0), edge(tile.y + 1, 1)];
        // CAST: sizes are far below 2^31.
        let [width, height] = size.map(|texels| texels as i32);
        let is_seen = rect[0] < rect[2].min(width)
            && rect[1] < rect[3].min(height)
            && rect[2] > 0
            && rect[3] > 0;
        is_seen.then_some(rect)
    }

    /// The part of `source`, which is the tile or one above it, that goes where the tile is, cut at the edges of the screen.
    pub fn part(self, tile: TileId, source: TileId, size: [u32; 2]) -> Option<Part> {
        let whole = self.target(tile, size)?;
        let by = source.level - tile.level;
        // The tile's ground in texels of the source.
        let (inside, width) = (TILE >> by, (1 << by) - 1);
        let first = [(tile.x & width) * inside, (tile.y & width) * inside];
        let (mut cut, mut from) = (whole, [0; 4]);
        for axis in [0, 1] {
            // CAST: as above.
            let most = size[axis] as i32;
            cut[axis] = whole[axis].max(0);
            cut[axis + 2] = whole[axis + 2].min(most);
            let length = f64::from(whole[axis + 2] - whole[axis]);
            let at = |edge: i32| {
                let part = f64::from(edge - whole[axis]) / length * f64::from(inside);
                // CAST: between 0 and the size of a tile.
                first[axis] as i32 + part.round() as i32
            };
            let last = (first[axis] + inside) as i32;
            from[axis] = at(cut[axis]).min(last - 1);
            from[axis + 2] = at(cut[axis + 2]).max(from[axis] + 1).min(last);
        }
        Some(Part { tile: source, source: from, target: cut })
    }
}

impl Part {
    /// The texel of the tile that a blit with the nearest filter shows at a place of the screen within the target.
    pub fn texel_at(self, [x, y]: [i32; 2]) -> [u32; 2] {
        let along = |at: i32, axis: usize| {
            let (from, to) = (self.source[axis], self.source[axis + 2]);
            let length = f64::from(self.target[axis + 2] - self.target[axis]);
            let part = (f64::from(at - self.target[axis]) + 0.5) / length;
            // CAST: within the source.
            (from + (part * f64::from(to - from)).floor() as i32).clamp(from, to - 1) as u32
        };
        [along(x, 0), along(y, 1)]
    }
}

/// A flight over the map: around it twice, while it comes down to the finest level and rises again three times.
pub fn tour(world: World, frame: u32, frames: u32, size: [u32; 2]) -> Camera {
    let part = f64::from(frame) / f64::from(frames.max(1)) * std::f64::consts::TAU;
    let width = world.width();
    let highest = width / f64::from(size[0].max(size[1]).max(1));
    let lowest = 0.75_f64.min(highest);
    // From the highest to the lowest in equal steps of size.
    let fall = 0.5 - 0.5 * (3.0 * part).cos();
    let scale = highest * (lowest / highest).powf(fall);
    let free = (width - f64::from(size[0]) * scale).max(0.0) / 2.0;
    let at = [
        width / 2.0 + free * 0.9 * (2.0 * part).sin(),
        width / 2.0 + free * 0.9 * (2.0 * part).cos(),
    ];
    Camera { at, scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: [u32; 2] = [640, 400];

    /// Every texel of the screen that shows the map is in exactly one part.
    #[test]
    fn parts_cover_the_map_without_gaps_or_overlaps() {
        let world = World::new(5);
        for frame in 0..60 {
            let camera = tour(world, frame, 60, SIZE);
            let level = camera.level(world);
            let mut covered = vec![0_u8; (SIZE[0] * SIZE[1]) as usize];
            for tile in camera.visible(world, level, SIZE) {
                let part = camera.part(tile, tile, SIZE).expect("it is visible");
                for y in part.target[1]..part.target[3] {
                    for x in part.target[0]..part.target[2] {
                        covered[(y * SIZE[0] as i32 + x) as usize] += 1;
                    }
                }
            }
            assert!(covered.iter().all(|times| *times <= 1), "frame {frame}");
            let middle = covered[(SIZE[1] / 2 * SIZE[0] + SIZE[0] / 2) as usize];
            assert_eq!(middle, 1, "frame {frame}");
        }
    }

    #[test]
    fn a_part_of_a_coarser_tile_is_within_it_and_never_empty() {
        let world = World::new(5);
        for frame in 0..60 {
            let camera = tour(world, frame, 60, SIZE);
            let level = camera.level(world);
            for tile in camera.visible(world, level, SIZE) {
                for above in level..world.levels() {
                    let part = camera.part(tile, tile.above(above), SIZE).expect("it is visible");
                    let [left, top, right, bottom] = part.source;
                    assert!(0 <= left && left < right && right <= TILE as i32, "{part:?}");
                    assert!(0 <= top && top < bottom && bottom <= TILE as i32, "{part:?}");
                }
            }
        }
    }
}
