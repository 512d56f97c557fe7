#![expect(clippy::print_stdout, reason = "an example prints its results")]
//! Shares one buffer between two devices: the first writes, the second reads.
//!
//! `cargo run --example share`

use peerbuf::{Access, BufferDescriptor, Engine, EngineDescriptor, Validation};

fn main() -> peerbuf::Result<()> {
    let engine = Engine::open(&EngineDescriptor::new().validation(Validation::IfPresent))?;

    // Two adapters if there are two. Otherwise one adapter is opened twice, which also gives two devices.
    let adapters = engine.adapters();
    let first = engine.open_device(&adapters[0])?;
    let second = engine.open_device(adapters.get(1).unwrap_or(&adapters[0]))?;

    // A buffer whose home is the first device, attached by both.
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(1 << 20).name("greeting"))?;
    let writer = buffer.attach(&first)?;
    let reader = buffer.attach(&second)?;

    // The first device writes a pattern; the second reads the same bytes.
    writer.map(Access::Write)?.fill(2026)?;
    let report = reader.map(Access::Read)?.verify(2026)?;

    let route = engine.route(&first, &second)?;
    println!("{} → {}: {} ({})", first.name(), second.name(), route.route, buffer.provider());
    println!("{} words read, {} wrong; now in {}", report.words, report.wrong, buffer.domain());
    for refusal in &route.refused {
        println!("  not {refusal}");
    }
    assert!(report.is_clean());
    Ok(())
}
