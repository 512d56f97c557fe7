#![expect(clippy::print_stdout, reason = "an example prints its results")]
//! Streams four times as much as a device's memory holds through two devices: one writes a tile, the other
//! reads it. The program requests no move: tiles in use are restored, and tiles out of use are evicted.
//!
//! `cargo run --example overcommit`

use std::sync::Arc;

use peerbuf::observe::MoveCause;
use peerbuf::{
    Access, Attachment, BufferDescriptor, DomainId, Engine, EngineDescriptor, Error, Mapping,
    Refault, Result,
};

const TILE: u64 = 1 << 20;
const VRAM: u64 = 8 * TILE;
const TILES: u32 = 32;

fn main() -> Result<()> {
    let engine = Engine::open(&EngineDescriptor::new())?;
    // Two devices on one adapter stand in for two GPUs that reach each other's memory.
    let adapter = &engine.adapters()[engine.adapters().len() - 1];
    let (writer, reader) = (engine.open_device(adapter)?, engine.open_device(adapter)?);
    // A software device has no memory of its own. This sets the size of a modelled heap.
    engine.model_heap(&writer, VRAM)?;

    let mut tiles = Vec::new();
    for number in 0..TILES {
        let tile = BufferDescriptor::new(TILE).name(&format!("tile {number}"));
        let tile = engine.create_buffer(&writer, tile)?;
        // Dynamic attachments do not keep a buffer from moving: their importers are notified.
        let write = tile.attach_dynamic(&writer, Arc::new(Refault::new()))?;
        let read = tile.attach_dynamic(&reader, Arc::new(Refault::new()))?;
        write.map(Access::Write)?.fill(number)?;
        tiles.push((tile, write, read, number));
    }

    let mut wrong = 0;
    for frame in 0..64 {
        // Each frame uses four tiles; every fourth frame moves on to the next four.
        for at in 0..4 {
            let (_, write, read, seed) = &mut tiles[(frame / 4 * 4 + at) % TILES as usize];
            wrong += current(read, Access::Read, |mapping| mapping.verify(*seed))?.wrong;
            *seed += TILES;
            current(write, Access::Write, |mapping| mapping.fill(*seed))?;
        }
    }
    for (_, _, read, seed) in &tiles {
        wrong += current(read, Access::Read, |mapping| mapping.verify(*seed))?.wrong;
    }

    let (usage, moved) = (engine.usage(DomainId::Vram(writer.id()))?, |why| engine.moved(why));
    println!("{TILES} tiles of {TILE} bytes; budget {}, peak {}", usage.budget, usage.peak);
    for why in [MoveCause::Evicted, MoveCause::Restored] {
        println!("{why}: {} times, {} bytes copied", moved(why).moves, moved(why).copied);
    }
    println!("{wrong} words wrong\n{}", tiles[0].0.explain());
    assert!(wrong == 0 && usage.peak <= usage.budget);
    Ok(())
}

/// Maps the buffer and runs `work`. If the buffer has moved in between, maps it again.
fn current<T>(
    attachment: &Attachment,
    access: Access,
    work: impl Fn(&Mapping) -> Result<T>,
) -> Result<T> {
    loop {
        match attachment.map(access).and_then(|mapping| work(&mapping)) {
            Err(Error::Stale { .. }) => {}
            done => return done,
        }
    }
}
