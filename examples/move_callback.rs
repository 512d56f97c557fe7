//! A buffer moves while two devices share it, then it is taken away from them, and then it is given back.
//! Three kinds of importers are told, and what happened is printed as a table.
//!
//! * One *refaults*: it notes that its mapping is old, and maps again at its next use.
//! * One *fences and resumes*: something of its own is still running; the move waits for its fence.
//! * One *is revoked*: it copes with a move, but when the buffer is taken away it gives up for good.
//!
//! `cargo run --example move_callback`

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::fmt::Display;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peerbuf::{
    Access, BufferDescriptor, DomainId, Engine, EngineDescriptor, Error, FenceAndResume, Refault,
    Revocable,
};

/// How long an answer may take, so that a mistake is not a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// What happened when.
struct Story(Instant, Mutex<Vec<String>>);

impl Story {
    fn tell(&self, who: &str, what: impl Display) {
        let line = format!("{:>9.3}  {who:<9}  {what}", self.0.elapsed().as_secs_f64() * 1e3);
        self.1.lock().expect("nobody panics while telling").push(line);
    }
}

fn main() -> peerbuf::Result<()> {
    let engine = Arc::new(Engine::open(&EngineDescriptor::new())?);
    // Two devices on one adapter stand in for two GPUs that reach each other's memory.
    let adapter = &engine.adapters()[engine.adapters().len() - 1];
    let (first, second) = (engine.open_device(adapter)?, engine.open_device(adapter)?);
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(4 << 20).name("frame"))?;
    let story = Arc::new(Story(Instant::now(), Mutex::default()));

    // The first is only told; it looks when it needs the buffer.
    let told = Arc::new(Refault::new());
    let refault = buffer.attach_dynamic(&first, Arc::clone(&told) as _)?;

    // The second reads all the time. Told to stop, it answers with a fence; its queue, the other end of the
    // channel, signals that when it has stopped.
    let (stop, queue) = channel();
    let (engine_too, story_too) = (Arc::clone(&engine), Arc::clone(&story));
    let reader = Arc::new(FenceAndResume::new(Access::Read, move || {
        let (stopped, signal) = engine_too.host_fence();
        story_too.tell("fence", "told; still reading, wait for my fence");
        // Not sent: the signal is dropped, and nobody waits.
        let _ = stop.send(signal);
        stopped
    }));
    let fence = buffer.attach_dynamic(&second, Arc::clone(&reader) as _)?;
    let read_enough = || {
        // Dropping the signal signals.
        let _reading = queue.recv_timeout(PATIENCE).expect("it is told");
        story.tell("fence", "has read enough");
    };

    // The third copes with moves. Whoever holds its mapping hears when it is to give up.
    let (last, end) = channel();
    let story_too = Arc::clone(&story);
    let lodger = Arc::new(Revocable::new(move || {
        story_too.tell("revocable", "told that this is the end");
        // Not sent: everything is dropped already.
        let _ = last.send(());
    }));
    let revocable = buffer.attach_dynamic(&second, Arc::clone(&lodger) as _)?;

    let mut mapping = refault.map(Access::ReadWrite)?;
    mapping.fill(1)?;
    let seen = revocable.map(Access::Read)?;
    story.tell("frame", format!("written, in {}", buffer.domain()));

    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        read_enough();
        mover.join().expect("a move does not panic")
    })?;
    story.tell("frame", format!("moved, in {}", buffer.domain()));

    assert!(told.take_stale() && reader.take_stale() && lodger.take_stale(), "all were told");
    refault.remap(&mut mapping)?;
    assert!(mapping.verify(1)?.is_clean());
    story.tell("refault", format!("maps generation {}: every byte is right", mapping.generation()));
    assert!(fence.map(Access::Read)?.verify(1)?.is_clean());
    story.tell("fence", "resumes: every byte is right");

    // Somebody needs the bytes for himself: nobody may look at them any more.
    std::thread::scope(|scope| {
        let revoker = scope.spawn(|| buffer.revoke());
        read_enough();
        end.recv_timeout(PATIENCE).expect("everybody is told");
        story.tell("revocable", "drops its mapping of the old place, and its seat");
        drop((seen, revocable));
        match mapping.verify(1) {
            Err(error @ Error::Revoked { .. }) => story.tell("refault", error),
            other => panic!("the buffer is revoked: {other:?}"),
        }
        drop(mapping);
        revoker.join().expect("a revocation does not panic")
    })?;
    story.tell("frame", "revoked: nobody looks at it, nothing works on it");

    buffer.rearm()?;
    assert!(told.take_stale() && lodger.is_revoked());
    assert!(refault.map(Access::Read)?.verify(1)?.is_clean());
    story.tell("refault", "armed again, mapped again: every byte is right");

    println!("{:>9}  {:<9}  what", "time (ms)", "who");
    for line in story.1.lock().expect("nobody panics while telling").iter() {
        println!("{line}");
    }
    Ok(())
}
