//! Compaction, on request, by [`Engine::trim`], and where an allocation fails: it moves idle buffers within their domain, and
//! is the only reason for a move that no step asks for.

use peerbuf::observe::MoveCause;
use peerbuf::{BufferDescriptor, Engine, Placement};

use crate::World;

/// Buffers that are created at once. They fill more than one block.
const CROWD: usize = 60;
const CROWD_SIZE: u64 = 60_000;

/// How often compaction has moved a buffer.
pub(crate) fn moves(engine: &Engine) -> u64 {
    engine.moved(MoveCause::Compacted).moves
}

/// Creates buffers beside the subjects, so that the next ones are in other blocks.
pub(crate) fn crowd(world: &mut World<'_>, at: usize) -> Option<()> {
    if !world.crowd.is_empty() {
        return None;
    }
    let subject = &world.subjects[at];
    let placement = match subject.domain {
        peerbuf::DomainId::System => Placement::System,
        _ => Placement::Vram,
    };
    let home = subject.home.clone();
    world.note(format!("{CROWD} buffers more, {placement:?}, {}", home.name()));
    let descriptor = || BufferDescriptor::new(CROWD_SIZE).placement(placement);
    let create = |_| world.engine.create_buffer(&home, descriptor()).expect("there is room");
    world.crowd = (0..CROWD).map(create).collect();
    Some(())
}

/// Drops the other buffers, and compacts.
pub(crate) fn compact(world: &mut World<'_>, _: usize) -> Option<()> {
    let budget = if world.random.one_in(3) { 12_292 } else { u64::MAX };
    world.note(format!("compact {budget} bytes beside {} buffers", world.crowd.len()));
    world.crowd.clear();
    let (before, done) = (moves(world.engine), world.engine.compact(budget));
    assert!(done.bytes <= budget, "{done:?}");
    assert_eq!(moves(world.engine) - before, done.buffers as u64, "{done:?}");
    Some(())
}

/// Shadows follow the buffers that compaction has moved: none that is held, none to another domain, and no other buffer.
pub(crate) fn adopt(world: &mut World<'_>) {
    let mut found = 0;
    for subject in &mut world.subjects {
        while subject.generation < subject.buffer.generation() {
            assert!(!subject.is_held() && !subject.revoked, "{} is held", subject.id);
            let (home, preferred) = (subject.home.clone(), subject.preferred);
            subject.moved(subject.domain, home);
            subject.preferred = preferred;
            found += 1;
        }
    }
    let moves = moves(world.engine);
    // Of the others none is known by its generation.
    let of_others = if world.crowd.is_empty() { 0 } else { moves - world.compacted - found };
    assert_eq!(world.compacted + found + of_others, moves, "moves that nothing has asked for");
    world.compacted = moves;
    if found > 0 {
        world.met("compacted");
    }
}
