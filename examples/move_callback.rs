//! A buffer moves while two devices share it, then it is taken away from them, and then it is given back.
//! Three kinds of importers are told.
//!
//! * One *refaults*: it notes that its mapping is old, and maps again at its next use.
//! * One *fences and resumes*: something of its own is still running; the move waits for its fence.
//! * One *is revoked*: it copes with a move, but when the buffer is taken away it gives up for good.
//!
//! `cargo run --example move_callback`

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::fmt::Display;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peerbuf::{
    Access, BufferDescriptor, DomainId, Engine, EngineDescriptor, Error, Importer, Invalidation,
    InvalidationCause, Signal,
};

/// How long an answer may take, so that a mistake is not a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// What happened when.
struct Story(Instant, Mutex<Vec<String>>);

impl Story {
    fn tell(&self, who: &str, what: impl Display) {
        let line = format!("{:>8.3} ms  {who:<9} {what}", self.0.elapsed().as_secs_f64() * 1e3);
        self.1.lock().expect("nobody panics while telling").push(line);
    }
}

struct Refault(Arc<Story>);

impl Importer for Refault {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        let (cause, generation) = (told.cause(), told.generation());
        self.0.tell("refault", format!("told: {cause:?}; generation {generation} is old"));
    }
}

/// Its queue is the other end of the channel.
struct FenceAndResume(Arc<Story>, Arc<Engine>, Sender<Signal>);

impl Importer for FenceAndResume {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        let (stopped, signal) = self.1.host_fence();
        told.still_using(Access::Read, stopped);
        let cause = told.cause();
        self.0.tell("fence", format!("told: {cause:?}; still reading, wait for my fence"));
        // Not sent: the signal is dropped, and nobody waits.
        let _ = self.2.send(signal);
    }
}

/// What it has mapped is with the other end of the channel, which lets go of it.
struct GiveUp(Arc<Story>, Sender<()>);

impl Importer for GiveUp {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        if told.cause() == InvalidationCause::Revoke {
            self.0.tell("revocable", "told: Revoke; this is the end");
            // Not sent: everything is dropped already.
            let _ = self.1.send(());
        } else {
            self.0.tell("revocable", "told: Move; I keep looking at the old place");
        }
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
    let ((sender, queue), (last, end)) = (channel(), channel());
    let importers: [Arc<dyn Importer>; 3] = [
        Arc::new(Refault(Arc::clone(&story))),
        Arc::new(FenceAndResume(Arc::clone(&story), Arc::clone(&engine), sender)),
        Arc::new(GiveUp(Arc::clone(&story), last)),
    ];
    let [refault, fence, revocable] = importers;
    let refault = buffer.attach_dynamic(&first, refault)?;
    let fence = buffer.attach_dynamic(&second, fence)?;
    let revocable = buffer.attach_dynamic(&second, revocable)?;

    let mut mapping = refault.map(Access::ReadWrite)?;
    mapping.fill(1)?;
    let seen = revocable.map(Access::Read)?;
    story.tell("frame", format!("written, in {}", buffer.domain()));

    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        if let Ok(reading) = queue.recv_timeout(PATIENCE) {
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

    // Somebody needs the bytes for himself.
    std::thread::scope(|scope| {
        let revoker = scope.spawn(|| buffer.revoke());
        if let Ok(reading) = queue.recv_timeout(PATIENCE) {
            story.tell("fence", "has read enough");
            drop(reading);
        }
        // To the first it is one more thing that it finds out at its next use.
        match mapping.verify(1) {
            Err(error @ Error::Revoked { .. }) => story.tell("refault", error),
            other => panic!("the buffer is revoked: {other:?}"),
        }
        drop(mapping);
        end.recv_timeout(PATIENCE).expect("everybody is told");
        story.tell("revocable", "drops its mapping of the old place, and its seat");
        drop((seen, revocable));
        revoker.join().expect("a revocation does not panic")
    })?;
    story.tell("frame", "revoked: nobody looks at it, nothing works on it");
    assert!(matches!(refault.map(Access::Read), Err(Error::Revoked { .. })));

    buffer.rearm()?;
    assert!(refault.map(Access::Read)?.verify(1)?.is_clean());
    story.tell("refault", "armed again, mapped again: every byte is right");

    for line in story.1.lock().expect("nobody panics while telling").iter() {
        println!("{line}");
    }
    Ok(())
}
