//! A buffer moves while two devices share it, and three kinds of importers are told.
//!
//! * One *refaults*: it notes that its mapping is old, and maps again at its next use.
//! * One *fences and resumes*: something of its own is still running; the move waits for its fence.
//! * One *gives up*: to it a move is the end.
//!
//! `cargo run --example move_callback`

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::fmt::Display;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peerbuf::{
    Access, BufferDescriptor, DomainId, Engine, EngineDescriptor, Error, Importer, Invalidation,
    Signal,
};

/// What happened when.
struct Story(Instant, Mutex<Vec<String>>);

impl Story {
    fn tell(&self, who: &str, what: impl Display) {
        let line = format!("{:>8.3} ms  {who:<8} {what}", self.0.elapsed().as_secs_f64() * 1e3);
        self.1.lock().expect("nobody panics while telling").push(line);
    }
}

struct Refault(Arc<Story>);

impl Importer for Refault {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        self.0.tell("refault", format!("told: generation {} is old", told.generation()));
    }
}

/// Its queue is the other end of the channel.
struct FenceAndResume(Arc<Story>, Arc<Engine>, Sender<Signal>);

impl Importer for FenceAndResume {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        let (stopped, signal) = self.1.host_fence();
        told.still_using(Access::Read, stopped);
        self.0.tell("fence", "told: still reading; the move waits for my fence");
        // Not sent: the signal is dropped, and the move goes on.
        let _ = self.2.send(signal);
    }
}

struct GiveUp(Arc<Story>);

impl Importer for GiveUp {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        self.0.tell("give up", "told: will not map it again");
    }
}

fn main() -> peerbuf::Result<()> {
    let engine = Arc::new(Engine::open(&EngineDescriptor::new())?);
    // Two devices on one adapter stand in for two GPUs that reach each other's memory.
    let adapter = &engine.adapters()[engine.adapters().len() - 1];
    let (first, second) = (engine.open_device(adapter)?, engine.open_device(adapter)?);
    let story = Arc::new(Story(Instant::now(), Mutex::default()));

    let descriptor = BufferDescriptor::new(4 << 20).name("frame");
    let buffer = engine.create_buffer(&first, descriptor)?;
    let (sender, queue) = channel();
    let importers: [Arc<dyn Importer>; 3] = [
        Arc::new(Refault(Arc::clone(&story))),
        Arc::new(FenceAndResume(Arc::clone(&story), Arc::clone(&engine), sender)),
        Arc::new(GiveUp(Arc::clone(&story))),
    ];
    let [refault, fence, give_up] = importers;
    let refault = buffer.attach_dynamic(&first, refault)?;
    let fence = buffer.attach_dynamic(&second, fence)?;
    let give_up = buffer.attach_dynamic(&second, give_up)?;

    let mut mapping = refault.map(Access::ReadWrite)?;
    mapping.fill(1)?;
    let seen = give_up.map(Access::Read)?;
    story.tell("frame", format!("written, in {}", buffer.domain()));

    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        if let Ok(reading) = queue.recv_timeout(Duration::from_secs(1)) {
            story.tell("fence", "has read enough");
            drop(reading);
        }
        mover.join().expect("a move does not panic")
    })?;
    story.tell("frame", format!("moved, in {}", buffer.domain()));

    // The first finds out at its next use, and maps again.
    match mapping.verify(1) {
        Err(error @ Error::Stale { .. }) => story.tell("refault", error),
        other => panic!("the mapping is of the old place: {other:?}"),
    }
    refault.remap(&mut mapping)?;
    assert!(mapping.verify(1)?.is_clean());
    story.tell("refault", format!("maps generation {}: every byte is right", mapping.generation()));
    assert!(fence.map(Access::Read)?.verify(1)?.is_clean());
    story.tell("fence", "resumes: every byte is right");
    // The third drops what it had; with it goes the last view of the old place.
    drop(seen);
    story.tell("give up", "gone");

    for line in story.1.lock().expect("nobody panics while telling").iter() {
        println!("{line}");
    }
    Ok(())
}
