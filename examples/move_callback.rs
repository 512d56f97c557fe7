//! A buffer moves while two devices share it. Then it is revoked, and then it is made available again. Three
//! kinds of importers are notified, and the events are printed as a table.
//!
//! * [`Refault`] notes that its mapping is stale, and maps again at its next use.
//! * [`FenceAndResume`] still has work running: the move waits for its fence.
//! * [`Revocable`] follows moves, but a revocation ends its attachment.
//!
//! `cargo run --example move_callback`

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::fmt::Display;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peerbuf::{
    Access, BufferDescriptor, DomainId, Engine, EngineDescriptor, Error, FenceAndResume, Refault,
    Revocable,
};

/// Timeout of waits for another thread, so that a mistake does not hang.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The start, and the events so far.
struct Story(Instant, Mutex<Vec<String>>);

impl Story {
    fn log(&self, who: &str, what: impl Display) {
        let line = format!("{:>9.3}  {who:<9}  {what}", self.0.elapsed().as_secs_f64() * 1e3);
        self.1.lock().expect("no thread panics while it logs").push(line);
    }
}

fn main() -> peerbuf::Result<()> {
    let engine = Arc::new(Engine::open(&EngineDescriptor::new())?);
    // Two devices on one adapter stand in for two GPUs that reach each other's memory.
    let adapter = &engine.adapters()[engine.adapters().len() - 1];
    let (first, second) = (engine.open_device(adapter)?, engine.open_device(adapter)?);
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(4 << 20).name("frame"))?;
    let story = Arc::new(Story(Instant::now(), Mutex::default()));

    // The first is only notified. It checks its mapping when it needs the buffer.
    let stale = Arc::new(Refault::new());
    let refault = buffer.attach_dynamic(&first, Arc::clone(&stale) as _)?;

    // The second reads all the time. When it is notified, it returns a fence. Its queue is the other end of the
    // channel and signals the fence when the reading has stopped.
    let (stop, queue) = channel();
    let (engine_too, story_too) = (Arc::clone(&engine), Arc::clone(&story));
    let reader = Arc::new(FenceAndResume::new(Access::Read, move || {
        let (stopped, signal) = engine_too.host_fence();
        story_too.log("fence", "notified; still reading, returns a fence");
        // If the send fails, the signal is dropped, and dropping it signals the fence.
        let _ = stop.send(signal);
        stopped
    }));
    let fence = buffer.attach_dynamic(&second, Arc::clone(&reader) as _)?;
    let read_enough = || {
        // The signal is dropped at the end of this block, which signals the fence.
        let _reading = queue.recv_timeout(TIMEOUT).expect("the importer is notified");
        story.log("fence", "stops reading");
    };

    // The third follows moves. The holder of its mapping is notified when it must drop the mapping.
    let (last, end) = channel();
    let story_too = Arc::clone(&story);
    let revoked = Arc::new(Revocable::new(move || {
        story_too.log("revocable", "notified of the revocation");
        // If the send fails, the mapping is dropped already.
        let _ = last.send(());
    }));
    let revocable = buffer.attach_dynamic(&second, Arc::clone(&revoked) as _)?;

    let mut mapping = refault.map(Access::ReadWrite)?;
    mapping.fill(1)?;
    let seen = revocable.map(Access::Read)?;
    story.log("frame", format!("written, in {}", buffer.domain()));

    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        read_enough();
        mover.join().expect("a move does not panic")
    })?;
    story.log("frame", format!("moved, in {}", buffer.domain()));

    assert!(stale.take_stale() && reader.take_stale() && revoked.take_stale(), "all are notified");
    refault.remap(&mut mapping)?;
    assert!(mapping.verify(1)?.is_clean());
    story.log("refault", format!("maps generation {}: every byte is right", mapping.generation()));
    assert!(fence.map(Access::Read)?.verify(1)?.is_clean());
    story.log("fence", "resumes: every byte is right");

    // The owner needs the buffer alone: no device may use it any more.
    std::thread::scope(|scope| {
        let revoker = scope.spawn(|| buffer.revoke());
        read_enough();
        end.recv_timeout(TIMEOUT).expect("every importer is notified");
        story.log("revocable", "drops its mapping and its attachment");
        drop((seen, revocable));
        match mapping.verify(1) {
            Err(error @ Error::Revoked { .. }) => story.log("refault", error),
            other => panic!("the buffer is revoked: {other:?}"),
        }
        drop(mapping);
        revoker.join().expect("a revocation does not panic")
    })?;
    story.log("frame", "revoked: no mapping is in use, no work is running");

    buffer.unrevoke()?;
    assert!(stale.take_stale() && revoked.is_revoked());
    assert!(refault.map(Access::Read)?.verify(1)?.is_clean());
    story.log("refault", "available and mapped again: every byte is right");

    println!("{:>9}  {:<9}  what", "time (ms)", "who");
    for line in story.1.lock().expect("no thread panics while it logs").iter() {
        println!("{line}");
    }
    Ok(())
}
