//! Maps.

use super::super::recorder::{KIB, MIB, Maker, Recorder};

pub(super) const MAKERS: &[Maker] = &[
    ("map: panning and zooming", 0.7, pan_and_zoom),
    ("map: flights over a globe", 0.6, globe),
    ("map: analysis by strips", 0.8, strips),
];

/// A pyramid of tiles, each level of twice the side ("Slippy map tilenames", OpenStreetMap's wiki). A view shows
/// six by four tiles of one level; styles and glyphs are used always.
fn pan_and_zoom(r: &mut Recorder) {
    const LEVELS: u32 = 7;
    let always = r.mixed(14, 16 * KIB, 4 * MIB);
    let levels: Vec<_> = (0..LEVELS).map(|n| r.mixed(4 << (2 * n), 32 * KIB, 2 * MIB)).collect();
    let (mut level, mut x, mut y) = (4_usize, 10, 10);
    while !r.full() {
        if r.chance(0.06) {
            let deeper = level == 0 || (level + 1 < levels.len() && r.chance(0.5));
            (level, x, y) =
                if deeper { (level + 1, 2 * x, 2 * y) } else { (level - 1, x / 2, y / 2) };
        }
        let side = 2 << level;
        r.walk(&mut x, 2, side);
        r.walk(&mut y, 1, side);
        for _ in 0..2 {
            r.all(always.clone());
            for row in y..(y + 4).min(side) {
                r.all(
                    (x..(x + 6).min(side)).map(|column| levels[level].start + row * side + column),
                );
            }
        }
    }
}

/// Flights between cities by popularity: coarse tiles are used always, fine ones along the way once, and around a
/// city for a while.
fn globe(r: &mut Recorder) {
    const SIDE: usize = 120;
    let coarse = r.buffers(40, 2 * MIB);
    let fine = r.mixed(SIDE * SIDE, 256 * KIB, 8 * MIB);
    let cities: Vec<_> = (0..15).map(|_| (r.below(SIDE - 6), r.below(SIDE - 6))).collect();
    let (mut x, mut y) = cities[0];
    while !r.full() {
        let (to_x, to_y) = cities[r.popular(cities.len(), 1.1)];
        while (x, y) != (to_x, to_y) {
            x = x + usize::from(x < to_x) - usize::from(x > to_x);
            y = y + usize::from(y < to_y) - usize::from(y > to_y);
            r.all(coarse.clone());
            r.all(
                (0..3)
                    .flat_map(|row| (0..3).map(move |n| (row, n)))
                    .map(|(row, n)| fine.start + (y + row) * SIDE + x + n),
            );
        }
        for _ in 0..15 {
            r.all(coarse.clone());
            r.all(
                (0..6)
                    .flat_map(|row| (0..6).map(move |n| (row, n)))
                    .map(|(row, n)| fine.start + (y + row) * SIDE + x + n),
            );
        }
    }
}

/// A raster is read in strips with their neighbours (a three by three kernel), over and over, beside an index whose
/// nodes are used by depth.
fn strips(r: &mut Recorder) {
    const STRIPS: usize = 500;
    let raster = r.buffers(STRIPS, 8 * MIB);
    let results = r.buffers(STRIPS / 10, 16 * MIB);
    let index = r.mixed(255, 16 * KIB, 256 * KIB);
    while !r.full() {
        for strip in 0..STRIPS {
            r.all(
                [strip.saturating_sub(1), strip, (strip + 1).min(STRIPS - 1)]
                    .map(|n| raster.start + n),
            );
            let mut node = 0;
            while node < index.len() {
                r.touch(index.start + node);
                node = 2 * node + 1 + r.below(2);
            }
            r.touch(results.start + strip / 10);
        }
    }
}
