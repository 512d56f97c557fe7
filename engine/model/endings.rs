//! Revocation, and drops of every handle in any order. On a real device.

use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::thread;

use super::scene::{RUNS, Scene};
use super::stage::{DRIVER, FIRST, Stage, attach_notified, word};
use super::{sample, together};
use crate::{Access, Attachment, DomainId, Error, Result, SharedBuffer};

// ---- revocation ----

/// When `revoke` returns, no device uses the buffer, and later uses are refused. Writes that were submitted
/// before are visible after `unrevoke`.
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
                    buffer.revoke().expect("every mapping is dropped");
                    assert_eq!(looking.load(Ordering::Relaxed), 0, "no mapping is in use");
                    refused(scene.attachment.map(Access::Read));
                    refused(attach_notified(buffer, &scene.stage.a));
                },
                |(scene, looking)| look(&scene.attachment, looking),
                |(scene, looking)| {
                    if let Ok((attachment, _)) =
                        attach_notified(&scene.stage.buffer, &scene.stage.a)
                    {
                        look(&attachment, looking);
                    }
                },
            ],
        );
        let (scene, _) = Arc::into_inner(scene).expect("the threads have ended");
        assert_eq!(scene.notified.list(), [0]);
        scene.stage.buffer.unrevoke().expect("the buffer is not in use");
        assert!(scene.attachment.map(Access::Read).is_ok_and(|mapping| mapping.view().is_ok()));
        assert_eq!(scene.stage.word(), FIRST);
    });
}

fn look(attachment: &Attachment, looking: &AtomicU32) {
    match attachment.map(Access::Read) {
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

/// Checks that the operation succeeded, or that the buffer was busy or revoked.
fn busy_or_revoked<T>(result: Result<T>) {
    if let Err(error) = result {
        assert!(matches!(error, Error::Busy { .. } | Error::Revoked { .. }), "{error}");
    }
}

/// A revocation and a move, or a host access, happen one after the other. `unrevoke` waits for the end of a
/// revocation.
#[test]
fn revoke_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| {
                    scene.stage.buffer.revoke().expect("no use lasts long");
                    scene.stage.buffer.unrevoke().expect("no use lasts long");
                },
                |scene| {
                    for to in [DomainId::System, DomainId::Vram(scene.stage.b.id())] {
                        let moved = scene.stage.buffer.migrate(to);
                        busy_or_revoked(moved);
                    }
                },
                |scene| {
                    let access = scene.stage.buffer.host_access(Access::Read);
                    busy_or_revoked(access);
                },
                |scene| {
                    let mapped = scene.attachment.map(Access::Read);
                    busy_or_revoked(mapped);
                },
            ],
        );
        assert!(!scene.stage.buffer.is_revoked());
        assert_eq!(scene.stage.word(), FIRST);
    });
}

// ---- drops ----

/// Threads drop every handle in any order, while the buffer moves and a device uses it. No object is left, and
/// no thread waits without end.
#[test]
fn drop_against_everything() {
    sample(RUNS, || {
        let Stage { buffer, a, b, engine } = Stage::new();
        let live = Arc::clone(engine.live());
        let (attachment, notified) =
            attach_notified(&buffer, &b).expect("the device reaches the buffer");
        let kept = Arc::new(buffer.attach(&a).expect("the device reaches the buffer"));
        let old = attachment.map(Access::Read).expect("the device maps it");
        let (moving, there) = (buffer.clone(), b.id());
        drop_all([
            Box::new(move || move_or_be_busy(&moving, &[DomainId::System, DomainId::Vram(there)])),
            Box::new(move || drop((old, attachment))),
            Box::new(move || {
                let mapping = kept.map(Access::Read).expect("the device maps it");
                drop((kept, mapping));
            }),
            Box::new(move || drop((buffer, engine, a, b))),
        ]);
        drop(notified);
        assert_eq!(live.total(), 0);
    });
}

/// The same with pins, exports and host accesses, and with work that is still running when the last handle is
/// dropped.
#[test]
fn drop_against_pins_exports_submissions_and_the_host() {
    sample(RUNS, || {
        let stage = Stage::new();
        let live = Arc::clone(stage.engine.live());
        let (attachment, notified) =
            attach_notified(&stage.buffer, &stage.b).expect("the device reaches the buffer");
        let mut written = attachment.map(Access::Write).expect("the device maps it");
        let pin = attachment.pin("a model").expect("no quota");
        let exported = stage.buffer.clone();
        let (moving, accessed) = (stage.buffer.clone(), stage.buffer.clone());
        drop_all([
            Box::new(move || move_or_be_busy(&moving, &[DomainId::System])),
            Box::new(move || match exported.export_foreign() {
                // The export moves the buffer out of its slab, like any other move.
                Ok(export) => drop((exported, export)),
                Err(error) => assert!(matches!(error, Error::Busy { .. }), "{error}"),
            }),
            Box::new(move || {
                let access =
                    accessed.host_access(Access::Read).expect("the host can read the buffer");
                drop((accessed, access));
            }),
            Box::new(move || {
                stage.write(&attachment, &mut written, 2);
                // The pin outlives its attachment, and the work outlives every handle.
                drop((attachment, written));
                drop(stage);
                drop(pin);
            }),
        ]);
        drop(notified);
        assert_eq!(live.total(), 0);
    });
}

/// Runs each of `work` on a thread of its own.
fn drop_all<const T: usize>(work: [Box<dyn FnOnce() + Send>; T]) {
    for thread in work.map(thread::spawn) {
        thread.join().expect("no thread panics");
    }
}

fn move_or_be_busy(buffer: &SharedBuffer, places: &[DomainId]) {
    for &to in places {
        let moved = buffer.migrate(to);
        assert!(matches!(moved, Ok(_) | Err(Error::Busy { .. })), "{moved:?}");
    }
}

/// Memory is given to the next buffer only after the last device has finished with it. Writes to a dropped
/// buffer are visible in no other buffer.
#[test]
fn drop_against_create() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| {
                    let buffer = scene.stage.another();
                    let (attachment, _) = attach_notified(&buffer, &scene.stage.b)
                        .expect("the device reaches the buffer");
                    let mut mapping = attachment.map(Access::Write).expect("the device maps it");
                    drop(buffer);
                    scene.stage.write(&attachment, &mut mapping, 2);
                },
                |scene| {
                    let stage = &scene.stage;
                    let buffers = [(); 2].map(|()| {
                        let made = stage.engine.create_buffer(&stage.a, stage.buffer.descriptor());
                        let buffer = made.expect("there is memory");
                        assert_eq!(word(&buffer), 0, "new memory is zero");
                        buffer
                    });
                    let all = stage.b.submitted().expect("the device is live");
                    all.wait(DRIVER).expect("the device is not lost");
                    assert_eq!(
                        buffers.map(|buffer| word(&buffer)),
                        [0; 2],
                        "no other write reaches it"
                    );
                },
            ],
        );
        scene.finish(FIRST);
    });
}
