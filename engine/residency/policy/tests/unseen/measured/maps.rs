//! Maps.

use super::super::recorder::{KIB, MIB, Maker, Recorder};

pub(super) const MAKERS: &[Maker] = &[
    ("map: guidance along a route", 0.8, route),
    ("map: terrain around an aircraft", 0.6, terrain),
    ("map: layers of many users", 0.5, layers),
];

/// A route is followed at a fine level, with a look at the whole of it now and then; traffic is a layer of small
/// tiles that are replaced every minute. On the way back the same tiles come in the opposite order.
fn route(r: &mut Recorder) {
    const LENGTH: usize = 900;
    let tiles = r.mixed(3 * LENGTH, 64 * KIB, 4 * MIB);
    let overview = r.mixed(60, 64 * KIB, 4 * MIB);
    let always = r.mixed(12, 4 * KIB, 8 * MIB);
    let (mut at, mut back) = (0_usize, false);
    let mut traffic = r.buffers(10, 256 * KIB);
    let mut step = 0;
    while !r.full() {
        if at == 0 || at + 12 >= LENGTH {
            back = at != 0;
        }
        at = if back { at - 1 } else { at + 1 };
        if step % 20 == 0 {
            traffic = r.buffers(10, 256 * KIB);
        }
        r.all(always.clone());
        r.all(tiles.start + 3 * at..tiles.start + 3 * (at + 8));
        r.all(traffic.clone());
        if r.chance(0.03) {
            (0..5).for_each(|_| r.all(overview.clone()));
        }
        step += 1;
    }
}

/// Nested grids around the camera, each level of twice the spacing (Losasso, Hoppe, "Geometry clipmaps", 2004), and
/// pictures over the finest ones. The aircraft circles, and goes on to the next field.
fn terrain(r: &mut Recorder) {
    const SIDE: usize = 128;
    let levels: Vec<_> = (0..5).map(|n| r.buffers((SIDE >> n) * (SIDE >> n), 512 * KIB)).collect();
    let pictures = r.mixed(SIDE * SIDE, MIB, 8 * MIB);
    let cockpit = r.mixed(25, 64 * KIB, 16 * MIB);
    let (mut x, mut y) = (64, 64);
    while !r.full() {
        let (field_x, field_y) = (10 + r.below(SIDE - 20), 10 + r.below(SIDE - 20));
        while x != field_x || y != field_y {
            x = x + usize::from(x < field_x) - usize::from(x > field_x);
            y = y + usize::from(y < field_y) - usize::from(y > field_y);
            view(r, &levels, pictures.start, x, y);
            r.all(cockpit.clone());
        }
        for _ in 0..1 + r.below(3) {
            for (east, south) in [(3, 0), (6, 3), (6, 6), (3, 8), (0, 6), (0, 3)] {
                for _ in 0..2 {
                    view(
                        r,
                        &levels,
                        pictures.start,
                        (field_x + east).min(SIDE - 8),
                        (field_y + south).min(SIDE - 8),
                    );
                    r.all(cockpit.clone());
                }
            }
        }
    }

    fn view(
        r: &mut Recorder,
        levels: &[std::ops::Range<usize>],
        pictures: usize,
        x: usize,
        y: usize,
    ) {
        for (level, tiles) in levels.iter().enumerate() {
            let side = SIDE >> level;
            for row in 0..3 {
                for column in 0..3 {
                    let at = |centre: usize, n: usize| {
                        ((centre >> level) + n).saturating_sub(1).min(side - 1)
                    };
                    let tile = at(y, row) * side + at(x, column);
                    r.touch(tiles.start + tile);
                    if level == 0 {
                        r.touch(pictures + tile);
                    }
                }
            }
        }
    }
}

/// A server draws maps for many: places by popularity, each with some of several layers; every night one layer is
/// drawn anew as a whole.
fn layers(r: &mut Recorder) {
    const PLACES: usize = 800;
    let layers: Vec<_> = (0..6).map(|n| r.mixed(PLACES, 64 * KIB, MIB << (n % 5))).collect();
    let styles = r.mixed(20, 4 * KIB, MIB);
    let mut day = 0;
    while !r.full() {
        for _ in 0..1200 {
            let place = r.popular(PLACES, 0.95) * 331 % PLACES;
            let wanted = r.below(64);
            for (number, layer) in layers.iter().enumerate() {
                if number == 0 || wanted >> number & 1 == 1 {
                    r.touch(layer.start + place);
                }
            }
            let style = r.popular(20, 0.9);
            r.touch(styles.start + style);
        }
        let drawn = &layers[day % layers.len()];
        r.all(drawn.clone());
        day += 1;
    }
}
