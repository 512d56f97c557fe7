//! Compositors and editors.

use super::super::recorder::{KIB, MIB, Maker, Recorder};

pub(super) const MAKERS: &[Maker] = &[
    ("compositor: a desk of windows", 0.7, windows),
    ("compositor: a wall of videos", 0.85, video_wall),
    ("compositor: recent applications", 0.5, recents),
    ("editor: painting on tiles", 0.6, painting),
    ("editor: scrubbing a timeline", 0.75, timeline),
    ("editor: parts of a machine", 0.8, parts),
];

/// Windows with three images each, used in turn (`wl_buffer.release`, Wayland's protocol). The one in front
/// draws every frame, others now and then; small cursors and decorations are used always.
fn windows(r: &mut Recorder) {
    let always = r.mixed(12, 4 * KIB, 512 * KIB);
    let windows: Vec<_> = (0..40)
        .map(|_| {
            let bytes = r.size(MIB, 32 * MIB);
            r.buffers(3, bytes)
        })
        .collect();
    let mut order: Vec<usize> = (0..windows.len()).collect();
    let mut frame = 0;
    while !r.full() {
        if r.chance(0.01) {
            let raised = r.popular(order.len(), 1.2);
            order[..=raised].rotate_right(1);
        }
        r.all(always.clone());
        r.touch(windows[order[0]].start + frame % 3);
        for (depth, &window) in order.iter().enumerate().skip(1).take(8) {
            // CAST: a small number.
            let image = if r.chance(0.2 / depth as f64) { frame % 3 } else { 0 };
            r.touch(windows[window].start + image);
        }
        frame += 1;
    }
}

/// Nine videos with rings of decoded frames (a decoder keeps up to 16 references), under overlays.
fn video_wall(r: &mut Recorder) {
    let overlays = r.mixed(10, 64 * KIB, 2 * MIB);
    let videos: Vec<_> =
        (0..9).map(|n| r.buffers(12 + n % 3, [3 * MIB, 12 * MIB][n % 2])).collect();
    let mut frame = 0;
    while !r.full() {
        for (number, ring) in videos.iter().enumerate() {
            // Some have half the rate. A frame is predicted from the one before it and from a key frame.
            let at = frame / (1 + number % 2);
            let ring_of = |n: usize| ring.start + n % ring.len();
            r.all([ring_of(at / 8 * 8), ring_of(at + ring.len() - 1), ring_of(at)]);
        }
        r.all(overlays.clone());
        frame += 1;
    }
}

/// Applications as on a phone: one in front, whose surfaces and caches are used each frame; the next one is one of
/// those used recently, seldom a new one. A switch shows small pictures of the last eight.
fn recents(r: &mut Recorder) {
    let applications: Vec<_> = (0..30)
        .map(|_| {
            let most = [4 * MIB, 16 * MIB, 64 * MIB][r.below(3)];
            (r.mixed(25, 16 * KIB, most), r.buffer(512 * KIB))
        })
        .collect();
    let system = r.mixed(20, 16 * KIB, 4 * MIB);
    let mut order: Vec<usize> = (0..applications.len()).collect();
    while !r.full() {
        let next = 1 + r.popular(order.len() - 1, 1.4);
        r.all(order.iter().take(8).map(|&n| applications[n].1));
        order[..=next].rotate_right(1);
        for _ in 0..8 {
            r.all(applications[order[0]].0.clone());
            r.all(system.clone());
        }
    }
}

/// A picture of layers of tiles (as GEGL's buffers). A stroke walks over tiles of one layer; each step composes
/// all layers of the tile, and the first change of a tile in a stroke keeps its old content for undo.
fn painting(r: &mut Recorder) {
    const SIDE: usize = 32;
    let layers: Vec<_> = (0..6).map(|_| r.buffers(SIDE * SIDE, MIB)).collect();
    let shown = r.buffers(SIDE * SIDE, 256 * KIB);
    let brushes = r.mixed(8, 16 * KIB, 4 * MIB);
    let mut undo: Vec<usize> = Vec::new();
    let (mut x, mut y) = (SIDE / 2, SIDE / 2);
    while !r.full() {
        let layer = r.popular(layers.len(), 0.7);
        let brush = brushes.start + r.popular(brushes.len(), 1.3);
        if r.chance(0.1) {
            (x, y) = (r.below(SIDE), r.below(SIDE));
        }
        let mut kept = Vec::new();
        for _ in 0..30 {
            r.walk(&mut x, 1, SIDE);
            r.walk(&mut y, 1, SIDE);
            let tile = y * SIDE + x;
            if !kept.contains(&tile) {
                kept.push(tile);
                let old = r.buffer(MIB);
                r.touch(old);
                undo.push(old);
            }
            r.touch(brush);
            r.all(layers[layer..].iter().map(|layer| layer.start + tile));
            r.touch(shown.start + tile);
        }
        if r.chance(0.15) {
            let last = undo.len() - kept.len();
            r.all(undo.drain(last..).rev());
        }
    }
}

/// A clip of decoded frames: played for some seconds, scrubbed to and fro around a cut, jumped elsewhere.
fn timeline(r: &mut Recorder) {
    let frames = r.buffers(1200, 8 * MIB);
    let strips = r.buffers(300, 64 * KIB);
    let tables = r.mixed(6, 16 * KIB, 2 * MIB);
    let mut at = 0;
    while !r.full() {
        let played = 60 + r.below(200);
        for _ in 0..played {
            at = (at + 1) % frames.len();
            r.touch(frames.start + at);
            r.touch(strips.start + at / 4);
            r.all(tables.clone());
        }
        for _ in 0..r.below(6) {
            let length = 20 + r.below(60);
            let there = at.saturating_sub(length)..at;
            r.all(there.clone().rev().map(|n| frames.start + n));
            r.all(there.map(|n| frames.start + n));
        }
        if r.chance(0.3) {
            at = r.popular(12, 0.9) * 100;
        }
    }
}

/// A machine of parts by size: turning it uses all parts front to back, which changes slowly; measuring uses a
/// neighbourhood many times.
fn parts(r: &mut Recorder) {
    let parts = r.mixed(700, 4 * KIB, 32 * MIB);
    let mut order: Vec<usize> = parts.collect();
    r.shuffle(&mut order);
    while !r.full() {
        for _ in 0..8 {
            for _ in 0..70 {
                let at = r.below(order.len() - 1);
                order.swap(at, at + 1);
            }
            r.all(order.iter().copied());
        }
        let at = r.below(order.len() - 40);
        for _ in 0..50 {
            r.all(order[at..at + 40].iter().copied());
        }
    }
}
