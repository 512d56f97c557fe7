//! The map: terrain that is computed, or a picture, cut into tiles, on levels of which each has half the texels of the one before.

use super::picture_file::Pyramid;

/// Texels of a tile in each direction.
pub const TILE: u32 = 256;
/// Bytes of a tile's texels.
pub const TILE_BYTES: u64 = (TILE * TILE * 4) as u64;

/// A tile: its level, 0 being the finest, and its place there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TileId {
    /// Its level.
    pub level: u32,
    /// Its column.
    pub x: u32,
    /// Its row.
    pub y: u32,
}

impl TileId {
    /// The tile of a coarser level that shows the same ground.
    pub fn above(self, level: u32) -> Self {
        let by = level - self.level;
        Self { level, x: self.x >> by, y: self.y >> by }
    }
}

/// The map.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Levels; the last one is one tile.
    levels: u32,
    /// `None` for terrain.
    picture: Option<&'static Pyramid>,
}

impl World {
    /// Terrain of `2^(levels - 1)` tiles in each direction.
    pub fn new(levels: u32) -> Self {
        Self { levels, picture: None }
    }

    /// A picture, which stays in memory to the end of the program.
    pub fn of_picture(picture: Pyramid) -> Self {
        let levels = picture.levels();
        Self { levels, picture: Some(Box::leak(Box::new(picture))) }
    }

    /// The number of levels.
    pub fn levels(self) -> u32 {
        self.levels
    }

    /// Tiles in each direction of a level.
    pub fn side(self, level: u32) -> u32 {
        1 << (self.levels - 1 - level)
    }

    /// Texels of the finest level in each direction.
    pub fn width(self) -> f64 {
        f64::from(self.side(0) * TILE)
    }

    /// All tiles, the finest first.
    pub fn tiles(self) -> impl Iterator<Item = TileId> {
        (0..self.levels).flat_map(move |level| {
            let side = self.side(level);
            (0..side * side).map(move |at| TileId { level, x: at % side, y: at / side })
        })
    }

    /// The texels of a tile: blue, green, red, unused.
    pub fn texels(self, tile: TileId) -> Vec<u8> {
        if self.picture.is_some() {
            let place = |at: u32| [at % TILE, at / TILE];
            return (0..TILE * TILE).flat_map(|at| self.texel(tile, place(at))).collect();
        }
        let side = TILE as usize + 1;
        let place = |at: usize| (at as u32 % (TILE + 1), at as u32 / (TILE + 1));
        let heights: Vec<f32> = (0..side * side).map(|at| self.height(tile, place(at))).collect();
        let mut texels = Vec::with_capacity(TILE_BYTES as usize);
        for v in 0..TILE as usize {
            for u in 0..TILE as usize {
                let at = v * side + u;
                let slope = heights[at + side + 1] - heights[at];
                texels.extend(self.colour(tile, [u as u32, v as u32], heights[at], slope));
            }
        }
        texels
    }

    /// One texel of [`World::texels`].
    pub fn texel(self, tile: TileId, [u, v]: [u32; 2]) -> [u8; 4] {
        if let Some(picture) = self.picture {
            return picture.texel(tile.level, [tile.x * TILE + u, tile.y * TILE + v]);
        }
        let height = self.height(tile, (u, v));
        let slope = self.height(tile, (u + 1, v + 1)) - height;
        self.colour(tile, [u, v], height, slope)
    }

    /// The height at a texel's upper left corner, about 0 to 1.
    fn height(self, tile: TileId, (u, v): (u32, u32)) -> f32 {
        let step = 1 << tile.level;
        let (x, y) = ((tile.x * TILE + u) * step, (tile.y * TILE + v) * step);
        // The largest hills are as wide as a quarter of the map. Details that a level cannot show are left out.
        let first = 2 * self.side(0) * TILE / 8;
        let (mut sum, mut part, mut size) = (0.0, 0.5, first);
        while size >= 2 * step && part > 0.004 {
            sum += part * noise(x, y, size);
            part *= 0.5;
            size /= 2;
        }
        sum
    }

    fn colour(self, tile: TileId, [u, v]: [u32; 2], height: f32, slope: f32) -> [u8; 4] {
        // A thin edge shows the level of what is on the screen.
        if u == 0 || v == 0 {
            let shade = 80 + 150 * tile.level / self.levels.max(1);
            // CAST: below 256.
            return [40, shade as u8, 255 - shade as u8, 0xff];
        }
        let step = (1 << tile.level) as f32;
        let light = (1.0 - slope * 220.0 / step).clamp(0.45, 1.5);
        let [blue, green, red] = match height {
            deep if deep < 0.40 => [150.0, 90.0, 30.0],
            sea if sea < 0.47 => [185.0, 130.0, 50.0],
            sand if sand < 0.49 => [130.0, 190.0, 205.0],
            grass if grass < 0.58 => [60.0, 140.0, 75.0],
            wood if wood < 0.66 => [45.0, 100.0, 50.0],
            rock if rock < 0.74 => [95.0, 105.0, 115.0],
            _ => [235.0, 235.0, 235.0],
        };
        // CAST: clamped to a byte.
        let lit = |colour: f32| (colour * light).clamp(0.0, 255.0) as u8;
        [lit(blue), lit(green), lit(red), 0xff]
    }
}

/// Smooth noise between 0 and 1 over squares of a size.
fn noise(x: u32, y: u32, size: u32) -> f32 {
    let (cell_x, cell_y) = (x / size, y / size);
    let smooth = |at: u32| {
        let part = (at % size) as f32 / size as f32;
        part * part * (3.0 - 2.0 * part)
    };
    let corner = |dx, dy| hash(cell_x + dx, cell_y + dy, size);
    let mix = |a: f32, b: f32, part: f32| a + (b - a) * part;
    let (across, down) = (smooth(x), smooth(y));
    mix(mix(corner(0, 0), corner(1, 0), across), mix(corner(0, 1), corner(1, 1), across), down)
}

/// A number between 0 and 1 for a place (a finaliser as in MurmurHash3).
fn hash(x: u32, y: u32, size: u32) -> f32 {
    let mut bits =
        x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77) ^ size.wrapping_mul(0xc2b2_ae3d);
    bits = (bits ^ bits >> 16).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
    ((bits ^ bits >> 16) & 0xffff) as f32 / 65535.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_texel_is_that_of_the_tile() {
        let world = World::new(4);
        for tile in [TileId { level: 0, x: 5, y: 2 }, TileId { level: 3, x: 0, y: 0 }] {
            let texels = world.texels(tile);
            for [u, v] in [[0, 0], [255, 255], [17, 200]] {
                let at = (v * TILE + u) as usize * 4;
                assert_eq!(texels[at..at + 4], world.texel(tile, [u, v]));
            }
        }
    }

    #[test]
    fn each_level_has_a_quarter_of_the_tiles() {
        let world = World::new(4);
        let count = |level| world.tiles().filter(|tile| tile.level == level).count();
        assert_eq!([0, 1, 2, 3].map(count), [64, 16, 4, 1]);
        assert_eq!(TileId { level: 0, x: 7, y: 4 }.above(2), TileId { level: 2, x: 1, y: 1 });
    }
}
