//! Compositors and editors.

use super::super::recorder::{KIB, MIB, Maker, Recorder};

pub(super) const MAKERS: &[Maker] = &[
    ("compositor: workspaces", 0.6, workspaces),
    ("compositor: tabs of a browser", 0.7, tabs),
    ("compositor: a headset", 0.9, headset),
    ("editor: a mesh, undone and redone", 0.65, undo),
    ("editor: developing photographs", 0.5, photographs),
    ("editor: a graph of effects", 0.75, graph),
    ("editor: grading a loop", 0.8, grading),
];

/// Tiled windows on nine workspaces; a switch goes back or elsewhere. A window has two images in turn, a recorder
/// writes through four, and the bar is small.
fn workspaces(r: &mut Recorder) {
    let bar = r.mixed(6, 4 * KIB, 256 * KIB);
    let workspaces: Vec<Vec<_>> = (0..9)
        .map(|_| {
            let windows = 2 + r.below(5);
            let bytes = 36 * MIB / windows as u64;
            (0..windows).map(|_| (r.buffers(2, bytes), r.mixed(8, 16 * KIB, 8 * MIB))).collect()
        })
        .collect();
    let recorder = r.buffers(4, 32 * MIB);
    let (mut at, mut before) = (0, 1);
    let mut frame = 0;
    while !r.full() {
        let next = if r.chance(0.6) { before } else { r.popular(9, 0.7) };
        (before, at) = (at, next);
        let recorded = r.chance(0.2);
        for _ in 0..20 + r.below(60) {
            for (number, (images, caches)) in workspaces[at].iter().enumerate() {
                if number == 0 || r.chance(0.3) {
                    r.all(caches.clone());
                    r.touch(images.start + frame % 2);
                } else {
                    r.touch(images.start);
                }
            }
            r.all(bar.clone());
            if recorded {
                r.touch(recorder.start + frame % 4);
            }
            frame += 1;
        }
    }
}

/// Pages as columns of raster tiles, scrolled down and sometimes up; decoded pictures are drawn into a tile and not
/// needed again. Tabs are changed by how recently they were used; some are closed and others opened.
fn tabs(r: &mut Recorder) {
    let page = |r: &mut Recorder| {
        let rows = 20 + r.below(150);
        (r.buffers(3 * rows, MIB), 0)
    };
    let chrome = r.mixed(10, 16 * KIB, 2 * MIB);
    let mut open: Vec<_> = (0..14).map(|_| page(r)).collect();
    while !r.full() {
        let next = r.popular(open.len(), 1.3);
        open[..=next].rotate_right(1);
        if r.chance(0.25) {
            open.pop();
            let new = page(r);
            open.insert(0, new);
        }
        for _ in 0..10 + r.below(50) {
            let (tiles, at) = &mut open[0];
            let rows = tiles.len() / 3;
            *at = if r.chance(0.75) { (*at + 1).min(rows - 1) } else { at.saturating_sub(1) };
            let shown = tiles.start + 3 * *at..tiles.start + 3 * (*at + 5).min(rows);
            r.all(shown);
            if r.chance(0.4) {
                let bytes = r.size(64 * KIB, 16 * MIB);
                r.once(bytes);
            }
            r.all(chrome.clone());
        }
    }
}

/// Images for two eyes from a ring of three, reprojected against the one before; layers by the application that is
/// shown; panels that come up now and then.
fn headset(r: &mut Recorder) {
    let eyes = r.buffers(6, 40 * MIB);
    let depth = r.buffers(6, 20 * MIB);
    let scene = r.mixed(90, 16 * KIB, 24 * MIB);
    let panels: Vec<_> = (0..8).map(|_| r.mixed(10, 64 * KIB, 8 * MIB)).collect();
    let cameras = r.buffers(10, 2 * MIB);
    let mut frame = 0;
    while !r.full() {
        let panel = r.chance(0.3).then(|| r.popular(panels.len(), 0.9));
        for _ in 0..25 {
            let (now, last) = (frame % 3 * 2, (frame + 2) % 3 * 2);
            r.touch(cameras.start + frame % 10);
            for eye in 0..2 {
                r.all(scene.clone());
                r.all([depth.start + now + eye, eyes.start + now + eye, eyes.start + last + eye]);
            }
            if let Some(panel) = panel {
                r.all(panels[panel].clone());
            }
            frame += 1;
        }
    }
}

/// Objects of a scene are drawn in each frame; an edit makes a new version of one; undo and redo walk through old
/// versions, last first, and draw them.
fn undo(r: &mut Recorder) {
    let mut objects: Vec<usize> = r.mixed(180, 16 * KIB, 32 * MIB).collect();
    let materials = r.mixed(40, 64 * KIB, 8 * MIB);
    let mut history: Vec<(usize, usize)> = Vec::new();
    while !r.full() {
        let object = r.popular(objects.len(), 0.8);
        for _ in 0..1 + r.below(8) {
            let bytes = r.size(256 * KIB, 16 * MIB);
            let new = r.buffer(bytes);
            history.push((object, objects[object]));
            objects[object] = new;
            // Only a part is drawn again at each step of an edit.
            r.all(objects.iter().copied().skip(object / 20 * 20).take(20));
            r.touch(new);
        }
        let steps = if r.chance(0.4) { r.below(history.len().min(12)) } else { 0 };
        for _ in 0..steps {
            let Some((object, old)) = history.pop() else { break };
            r.touch(objects[object]);
            r.touch(old);
            objects[object] = old;
        }
        r.all(objects.iter().copied());
        r.all(materials.clone());
    }
}

/// A strip of previews is paged through; some pictures are opened, which uses their full tiles for a while, beside
/// one to compare with. An export goes through all that were chosen, each once.
fn photographs(r: &mut Recorder) {
    const PICTURES: usize = 400;
    let previews = r.buffers(PICTURES, 512 * KIB);
    let full = r.mixed(PICTURES, 24 * MIB, 160 * MIB);
    let tools = r.mixed(20, 16 * KIB, 16 * MIB);
    let mut at = 0;
    let mut chosen = Vec::new();
    while !r.full() {
        let pages = 1 + r.below(4);
        for _ in 0..pages {
            r.all((at..(at + 24).min(PICTURES)).map(|n| previews.start + n));
            at = (at + 12) % PICTURES;
        }
        let opened = (at + r.below(24)) % PICTURES;
        let compared = chosen.last().copied().unwrap_or(opened);
        for _ in 0..6 + r.below(20) {
            r.touch(full.start + opened);
            if r.chance(0.3) {
                r.touch(full.start + compared);
            }
            r.all(tools.clone());
        }
        if r.chance(0.4) {
            chosen.push(opened);
        }
        if chosen.len() == 25 {
            for number in chosen.drain(..) {
                r.touch(full.start + number);
                r.touch(tools.start);
            }
        }
    }
}

/// A graph of nodes with a cached result each; a change to one computes all behind it again, from their inputs. The
/// change is tried several times, mostly near the end.
fn graph(r: &mut Recorder) {
    const NODES: usize = 160;
    let results = r.mixed(NODES, MIB, 64 * MIB);
    let inputs: Vec<[usize; 2]> =
        (0..NODES).map(|n| [n.saturating_sub(1), n.saturating_sub(1 + r.below(12))]).collect();
    let scratch = r.buffers(3, 32 * MIB);
    while !r.full() {
        let changed = NODES - 1 - r.popular(NODES, 0.9);
        for _ in 0..1 + r.below(8) {
            let mut dirty = [false; NODES];
            for node in changed..NODES {
                dirty[node] = node == changed || inputs[node].iter().any(|&input| dirty[input]);
                if dirty[node] {
                    r.all(inputs[node].map(|input| results.start + input));
                    r.touch(scratch.start + node % 3);
                    r.touch(results.start + node);
                }
            }
        }
    }
}

/// A range of frames plays in a loop while it is graded, then the next range; each frame passes through tables and
/// masks.
fn grading(r: &mut Recorder) {
    let masks = r.mixed(30, 256 * KIB, 16 * MIB);
    let scopes = r.mixed(8, 16 * KIB, MIB);
    while !r.full() {
        let length = 60 + r.below(150);
        let frames = r.buffers(length, 32 * MIB);
        let used = masks.start + r.below(20);
        for _ in 0..6 + r.below(10) {
            for frame in frames.clone() {
                r.touch(frame);
                r.all(used..used + 5);
                r.all(scopes.clone());
            }
        }
    }
}
