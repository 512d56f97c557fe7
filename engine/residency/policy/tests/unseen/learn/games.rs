//! Games.

use super::super::recorder::{KIB, MIB, Maker, Recorder};

pub(super) const MAKERS: &[Maker] = &[
    ("game: open world", 0.8, open_world),
    ("game: levels from a hub", 0.6, hub),
    ("game: arena, then a menu", 0.91, arena),
    ("game: rounds and cutscenes", 0.7, rounds),
    ("game: textures by distance", 0.75, mip_streaming),
];

/// A world of cells; a frame uses the render targets, small constants, and the meshes and textures of the cells
/// around the camera, which follows a heading. Cell streaming as in "World Partition" (Unreal Engine manual).
fn open_world(r: &mut Recorder) {
    const SIDE: usize = 48;
    let targets = r.buffers(6, 16 * MIB);
    let constants = r.buffers(3, 64 * KIB);
    let cells: Vec<_> = (0..SIDE * SIDE).map(|_| r.mixed(3, 64 * KIB, 16 * MIB)).collect();
    let (mut x, mut y) = (SIDE / 2, SIDE / 2);
    let (mut across, mut ahead) = (true, true);
    while !r.full() {
        if r.chance(0.1) {
            (across, ahead) = (r.chance(0.5), r.chance(0.5));
        }
        let at = if across { &mut x } else { &mut y };
        *at = (*at + if ahead { 1 } else { SIDE - 1 }) % SIDE;
        for frame in 0..6 {
            r.touch(constants.start + frame % 3);
            for row in 0..5 {
                for column in 0..5 {
                    let cell = (y + row) % SIDE * SIDE + (x + column) % SIDE;
                    r.all(cells[cell].clone());
                }
            }
            r.all(targets.clone());
        }
    }
}

/// Levels with content of their own, entered from a hub that is visited between two of them.
fn hub(r: &mut Recorder) {
    let shared = r.mixed(40, 16 * KIB, 8 * MIB);
    let home = r.mixed(120, 16 * KIB, 32 * MIB);
    let levels: Vec<_> = (0..8).map(|_| r.mixed(200, 16 * KIB, 32 * MIB)).collect();
    while !r.full() {
        let level = r.below(levels.len());
        for (content, frames) in [(&home, 4), (&levels[level], 10)] {
            for _ in 0..frames {
                r.all(shared.clone());
                r.all(content.clone());
            }
        }
    }
}

/// An arena that nearly fits, in an order that the frame graph fixes. After half of the time the player looks
/// through a shop of pictures, each of which is shown once over a part of the arena.
fn arena(r: &mut Recorder) {
    let arena = r.mixed(300, 16 * KIB, 32 * MIB);
    while r.progress() < 0.5 {
        r.all(arena.clone());
    }
    while !r.full() {
        r.all(arena.clone().take(100));
        for _ in 0..20 {
            let bytes = r.size(64 * KIB, 8 * MIB);
            r.once(bytes);
        }
    }
}

/// Fighters by popularity and stages; between two rounds a video streams through a ring of frames, and textures
/// of a cutscene are used for a moment.
fn rounds(r: &mut Recorder) {
    let common = r.mixed(30, 16 * KIB, 16 * MIB);
    let fighters: Vec<_> = (0..24).map(|_| r.mixed(12, 256 * KIB, 16 * MIB)).collect();
    let stages: Vec<_> = (0..10).map(|_| r.mixed(20, 256 * KIB, 64 * MIB)).collect();
    let ring = r.buffers(8, 8 * MIB);
    while !r.full() {
        let (one, two) = (r.popular(24, 0.8), r.popular(24, 0.8));
        let stage = r.below(stages.len());
        for _ in 0..12 {
            r.all(common.clone());
            r.all(stages[stage].clone());
            r.all(fighters[one].clone());
            r.all(fighters[two].clone());
        }
        for frame in 0..60 {
            r.touch(ring.start + frame % 8);
            if frame % 6 == 0 {
                r.once(4 * MIB);
            }
        }
    }
}

/// Texture streaming: an object near the camera needs all mip levels, a far one only the small ones; each level
/// has a quarter of the bytes of the one above it.
fn mip_streaming(r: &mut Recorder) {
    const OBJECTS: usize = 400;
    let mips: Vec<_> = (0..OBJECTS)
        .map(|_| {
            let top = r.size(4 * MIB, 64 * MIB);
            [top, top / 4, top / 16, top / 64].map(|bytes| r.buffer(bytes))
        })
        .collect();
    let targets = r.buffers(4, 32 * MIB);
    let mut at = 0;
    while !r.full() {
        r.walk(&mut at, 4, OBJECTS);
        for (number, object) in mips.iter().enumerate() {
            let level = match number.abs_diff(at) {
                0..4 => 0,
                4..16 => 1,
                16..48 => 2,
                48..100 => 3,
                _ => 4,
            };
            r.all(object[level..].iter().copied());
        }
        r.all(targets.clone());
    }
}
