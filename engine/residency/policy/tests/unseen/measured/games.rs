//! Games.

use super::super::recorder::{KIB, MIB, Maker, Recorder};

pub(super) const MAKERS: &[Maker] = &[
    ("game: laps of a race", 0.75, laps),
    ("game: a battle seen from above", 0.7, strategy),
    ("game: virtual textures", 0.85, virtual_textures),
    ("game: checkpoints", 0.6, checkpoints),
    ("game: a lobby, then loot", 0.91, lobby),
];

/// Sectors of a course, of which those near the car are drawn; a lap takes a while. Cars, the cockpit and the
/// render targets are used in each frame, a replay after some laps shows the course from elsewhere.
fn laps(r: &mut Recorder) {
    const SECTORS: usize = 60;
    let sectors: Vec<_> = (0..SECTORS).map(|_| r.mixed(10, 32 * KIB, 16 * MIB)).collect();
    let cars = r.mixed(24, 128 * KIB, 8 * MIB);
    let targets = r.buffers(5, 24 * MIB);
    let tracks = r.mixed(12, 4 * MIB, 32 * MIB);
    while !r.full() {
        for sector in 0..SECTORS {
            // Slow corners take more frames.
            for _ in 0..1 + sector * 7 % 3 {
                r.all(cars.clone());
                (0..4).for_each(|ahead| r.all(sectors[(sector + ahead) % SECTORS].clone()));
                r.all(targets.clone());
            }
        }
        if r.chance(0.3) {
            for _ in 0..20 {
                let sector = r.below(SECTORS);
                r.all(sectors[sector].clone());
                r.all(tracks.clone());
                r.all(targets.clone());
            }
        }
    }
}

/// The camera jumps between a few bases and scrolls from there; kinds of units by popularity, and a small map and
/// the interface always.
fn strategy(r: &mut Recorder) {
    const SIDE: usize = 40;
    let ground = r.mixed(SIDE * SIDE, 256 * KIB, 4 * MIB);
    let units = r.mixed(150, 64 * KIB, 16 * MIB);
    let interface = r.mixed(16, 4 * KIB, 2 * MIB);
    let bases: Vec<_> = (0..7).map(|_| (r.below(SIDE - 8), r.below(SIDE - 8))).collect();
    while !r.full() {
        let base = r.popular(bases.len(), 0.8);
        let (mut x, mut y) = bases[base];
        let here: Vec<_> = (0..12).map(|_| units.start + r.popular(units.len(), 0.9)).collect();
        for _ in 0..6 + r.below(20) {
            r.walk(&mut x, 1, SIDE - 8);
            r.walk(&mut y, 1, SIDE - 8);
            for row in 0..5 {
                r.all((0..8).map(|column| ground.start + (y + row) * SIDE + x + column));
            }
            r.all(here.iter().copied());
            r.all(interface.clone());
        }
    }
}

/// Pages of a large texture, found by feedback from the frame before (van Waveren, "id Tech 5 challenges", 2009):
/// the view turns and walks, and of each place a chain of coarser pages is used too.
fn virtual_textures(r: &mut Recorder) {
    const SIDE: usize = 256;
    let levels: Vec<_> = (0..7).map(|n| r.buffers((SIDE >> n) * (SIDE >> n), 128 * KIB)).collect();
    let tables = r.buffers(4, MIB);
    let (mut x, mut y) = (SIDE / 2, SIDE / 2);
    while !r.full() {
        r.walk(&mut x, 2, SIDE);
        r.walk(&mut y, 2, SIDE);
        let turned = r.below(4);
        for _ in 0..3 {
            for n in 0..24 {
                // Points along the direction of view: near ones fine, far ones coarse.
                let (far, level) = (n * n / 6, (n / 5).min(4));
                let to = |at: usize, away: bool| {
                    if away { (at + far).min(SIDE - 1) } else { at.saturating_sub(far) }
                };
                let (u, v) = (to(x, turned.is_multiple_of(2)), to(y, turned < 2));
                for (level, tiles) in levels.iter().enumerate().skip(level).take(2) {
                    let side = SIDE >> level;
                    r.touch(tiles.start + (v >> level) * side + (u >> level));
                }
            }
            r.all(tables.clone());
        }
    }
}

/// A path of scenes; the player fails now and then and goes back to the last checkpoint. Now and then a level
/// begins anew.
fn checkpoints(r: &mut Recorder) {
    const SCENES: usize = 90;
    let scenes: Vec<_> = (0..SCENES).map(|_| r.mixed(14, 16 * KIB, 32 * MIB)).collect();
    let hero = r.mixed(20, 64 * KIB, 8 * MIB);
    let mut at = 0;
    while !r.full() {
        for _ in 0..5 {
            r.all(hero.clone());
            r.all(scenes[at].clone());
            r.all(scenes[(at + 1) % SCENES].clone().take(5));
        }
        at = if r.chance(0.15) { at / 6 * 6 } else { (at + 1) % SCENES };
        if r.chance(0.01) {
            at = at / 30 * 30;
        }
    }
}

/// A lobby that fits, for long; then a round in which things lie around that are seen once, among others that are
/// used in every frame; then the lobby again.
fn lobby(r: &mut Recorder) {
    let engine = r.mixed(40, 4 * KIB, 32 * MIB);
    let lobby = r.mixed(160, 16 * KIB, 32 * MIB);
    let field = r.mixed(110, 16 * KIB, 32 * MIB);
    while !r.full() {
        for _ in 0..40 {
            r.all(engine.clone());
            r.all(lobby.clone());
        }
        for _ in 0..50 {
            r.all(engine.clone());
            r.all(field.clone());
            for _ in 0..8 {
                let bytes = r.size(256 * KIB, 16 * MIB);
                r.once(bytes);
            }
        }
    }
}
