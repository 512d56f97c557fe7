//! The end of what a buffer is used by: revocation, and drops in any order. On a real device.

use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::thread;

use super::scene::{RUNS, Scene};
use super::stage::{DRIVER, FIRST, Stage, attach_told, word};
use super::{sample, together};
use crate::{Access, Attachment, DomainId, Error, Result, SharedBuffer};

// ---- taking away ----

/// When a revocation has returned, nobody looks at the buffer; whoever came later was refused, and what
/// devices had been given to write is there when it is armed again.
#[test]
fn revoke_against_map_and_attach() {
    sample(RUNS, || {
        let scene = Scene::new();
        let scene = Arc::new((scene, AtomicU32::new(0)));
        together(
            &scene,
            [
                |(scene, looking)| {
                    let buffer = &scene.stage.buffer;
                    buffer.revoke().expect("mappings are dropped");
                    assert_eq!(looking.load(Ordering::Relaxed), 0, "nobody looks at it");
                    refused(scene.seat.map(Access::Read));
                    refused(attach_told(buffer, &scene.stage.a));
                },
                |(scene, looking)| look(&scene.seat, looking),
                |(scene, looking)| {
                    if let Ok((seat, _)) = attach_told(&scene.stage.buffer, &scene.stage.a) {
                        look(&seat, looking);
                    }
                },
            ],
        );
        let (scene, _) = Arc::into_inner(scene).expect("the threads are gone");
        assert_eq!(scene.told.list(), [0]);
        scene.stage.buffer.rearm().expect("nobody holds it");
        assert!(scene.seat.map(Access::Read).is_ok_and(|mapping| mapping.view().is_ok()));
        assert_eq!(scene.stage.word(), FIRST);
    });
}

fn look(seat: &Attachment, looking: &AtomicU32) {
    match seat.map(Access::Read) {
        Ok(mapping) => {
            looking.fetch_add(1, Ordering::Relaxed);
            let view = mapping.view();
            assert!(matches!(view, Ok(_) | Err(Error::Revoked { .. })), "{view:?}");
            looking.fetch_sub(1, Ordering::Relaxed);
        }
        Err(error) => assert!(matches!(error, Error::Revoked { .. }), "{error}"),
    }
}

fn refused<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::Revoked { .. })));
}

/// That it worked, or that the buffer was held or taken away.
fn held_or_revoked<T>(result: Result<T>) {
    if let Err(error) = result {
        assert!(matches!(error, Error::Busy { .. } | Error::Revoked { .. }), "{error}");
    }
}

/// A revocation and a move come one after the other; the same for the host's access. Whoever arms the
/// buffer again waits for the revocation's end.
#[test]
fn revoke_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| {
                    scene.stage.buffer.revoke().expect("nobody holds it for long");
                    scene.stage.buffer.rearm().expect("nobody holds it for long");
                },
                |scene| {
                    for to in [DomainId::System, DomainId::Vram(scene.stage.b.id())] {
                        let moved = scene.stage.buffer.migrate(to);
                        held_or_revoked(moved);
                    }
                },
                |scene| {
                    let access = scene.stage.buffer.host_access(Access::Read);
                    held_or_revoked(access);
                },
                |scene| {
                    let mapped = scene.seat.map(Access::Read);
                    held_or_revoked(mapped);
                },
            ],
        );
        assert!(!scene.stage.buffer.is_revoked());
        assert_eq!(scene.stage.word(), FIRST);
    });
}

// ---- the end ----

/// Every handle is dropped by somebody, in any order, while the buffer moves and a device uses it. Nothing
/// is left, and nobody waits for ever.
#[test]
fn drop_against_everything() {
    sample(RUNS, || {
        let Stage { buffer, a, b, engine } = Stage::new();
        let live = Arc::clone(engine.live());
        let (seat, told) = attach_told(&buffer, &b).expect("it reaches it");
        let kept = Arc::new(buffer.attach(&a).expect("it reaches it"));
        let old = seat.map(Access::Read).expect("it maps it");
        let (moving, there) = (buffer.clone(), b.id());
        drop_all([
            Box::new(move || move_or_be_busy(&moving, &[DomainId::System, DomainId::Vram(there)])),
            Box::new(move || drop((old, seat))),
            Box::new(move || {
                let mapping = kept.map(Access::Read).expect("it maps it");
                drop((kept, mapping));
            }),
            Box::new(move || drop((buffer, engine, a, b))),
        ]);
        drop(told);
        assert_eq!(live.total(), 0);
    });
}

/// The same with what keeps a buffer in place, and with work that is still under way when the last handle
/// goes.
#[test]
fn drop_against_pins_exports_submissions_and_the_host() {
    sample(RUNS, || {
        let stage = Stage::new();
        let live = Arc::clone(stage.engine.live());
        let (seat, told) = attach_told(&stage.buffer, &stage.b).expect("it reaches it");
        let mut written = seat.map(Access::Write).expect("it maps it");
        let pin = seat.pin("a model").expect("no quota");
        let handed_out = stage.buffer.clone();
        let (moving, looked_at) = (stage.buffer.clone(), stage.buffer.clone());
        drop_all([
            Box::new(move || move_or_be_busy(&moving, &[DomainId::System])),
            Box::new(move || match handed_out.export_foreign() {
                // Its slab is left by a move, as any other.
                Ok(export) => drop((handed_out, export)),
                Err(error) => assert!(matches!(error, Error::Busy { .. }), "{error}"),
            }),
            Box::new(move || {
                let access = looked_at.host_access(Access::Read).expect("the host can read it");
                drop((looked_at, access));
            }),
            Box::new(move || {
                stage.write(&seat, &mut written, 2);
                // The pin outlives its seat, and the work everybody.
                drop((seat, written));
                drop(stage);
                drop(pin);
            }),
        ]);
        drop(told);
        assert_eq!(live.total(), 0);
    });
}

/// Does all of it at once, each on a thread of its own.
fn drop_all<const T: usize>(work: [Box<dyn FnOnce() + Send>; T]) {
    for thread in work.map(thread::spawn) {
        thread.join().expect("nobody panics");
    }
}

fn move_or_be_busy(buffer: &SharedBuffer, places: &[DomainId]) {
    for &to in places {
        let moved = buffer.migrate(to);
        assert!(matches!(moved, Ok(_) | Err(Error::Busy { .. })), "{moved:?}");
    }
}

/// Memory goes to the next buffer when the last device has finished with it, and not before: what was still
/// being written to a buffer that was dropped shows up in no other one.
#[test]
fn drop_against_create() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| {
                    let buffer = scene.stage.another();
                    let (seat, _) = attach_told(&buffer, &scene.stage.b).expect("it reaches it");
                    let mut mapping = seat.map(Access::Write).expect("it maps it");
                    drop(buffer);
                    scene.stage.write(&seat, &mut mapping, 2);
                },
                |scene| {
                    let stage = &scene.stage;
                    let buffers = [(); 2].map(|()| {
                        let made = stage.engine.create_buffer(&stage.a, stage.buffer.descriptor());
                        let buffer = made.expect("there is memory");
                        assert_eq!(word(&buffer), 0, "it is new");
                        buffer
                    });
                    let all = stage.b.submitted().expect("the device is there");
                    all.wait(DRIVER).expect("the device is not lost");
                    assert_eq!(buffers.map(|buffer| word(&buffer)), [0; 2], "it is nobody else's");
                },
            ],
        );
        scene.finish(FIRST);
    });
}
