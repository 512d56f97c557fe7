//! A move, against everything else that can be done to the buffer at the same time. On a real device.

use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use super::scene::{RUNS, Scene, moved_twice};
use super::stage::{FIRST, Stage, attach_notified, word, words};
use super::{sample, together};
use crate::{
    Access, Attachment, CopyRegion, DomainId, Engine, Error, Importer, Invalidation, Migration,
    Refault, Result, SharedBuffer, Signal,
};

/// A mapping is of the current backing. Otherwise its importer was notified, and [`Error::Stale`] says so.
#[test]
fn map_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| moved_twice(scene.stage.move_on()),
                |scene| {
                    for _ in 0..2 {
                        let notified = scene.notified.list();
                        let mapping =
                            scene.attachment.map(Access::Read).expect("the device maps it");
                        let of = mapping.generation();
                        assert!(
                            !notified.contains(&of),
                            "mapped at a generation that was invalidated"
                        );
                        match mapping.view() {
                            Ok(view) => assert_eq!(view.size, scene.stage.buffer.size()),
                            Err(Error::Stale { mapped, current, .. }) => {
                                assert_eq!(mapped, of);
                                assert!(current > of && scene.notified.has(of));
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                },
            ],
        );
        scene.finish(FIRST);
    });
}

/// An importer that remaps when it is notified has a current mapping. If the mapping is stale, the importer has
/// been notified before `view` reports it.
#[test]
fn refault_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| moved_twice(scene.stage.move_on()),
                |scene| {
                    let buffer = &scene.stage.buffer;
                    let notified = Arc::new(Refault::new());
                    let attachment =
                        buffer.attach_dynamic(&scene.stage.a, Arc::clone(&notified) as _);
                    let attachment = attachment.expect("the device reaches the buffer");
                    let mut mapping = attachment.map(Access::Read).expect("the device maps it");
                    for _ in 0..3 {
                        if notified.take_stale() {
                            attachment.remap(&mut mapping).expect("the mapping is replaced");
                        }
                        match mapping.view() {
                            Ok(_) => {}
                            Err(Error::Stale { .. }) => {
                                assert!(notified.take_stale(), "stale without a notification");
                                attachment.remap(&mut mapping).expect("the mapping is replaced");
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                },
            ],
        );
        scene.finish(FIRST);
    });
}

/// Device writes reach the current backing and survive the move.
#[test]
fn submissions_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| moved_twice(scene.stage.move_on()),
                |scene| {
                    let mut mapping =
                        scene.attachment.map(Access::Write).expect("the device maps it");
                    (2..=3)
                        .for_each(|word| scene.stage.write(&scene.attachment, &mut mapping, word));
                },
            ],
        );
        scene.finish(3);
    });
}

/// The host never reads an older value after a newer one.
#[test]
fn host_access_against_move_and_submissions() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| _ = scene.stage.move_on(),
                |scene| {
                    let mut mapping =
                        scene.attachment.map(Access::Write).expect("the device maps it");
                    (2..=3)
                        .for_each(|word| scene.stage.write(&scene.attachment, &mut mapping, word));
                },
                |scene| {
                    // A device may begin to write while the host reads, but no word returns to an older value.
                    let [first, then] = [(); 2].map(|()| words(&scene.stage.buffer));
                    let order = [FIRST, 2, 3];
                    let at = |word| order.iter().position(|of| of == word).expect("written");
                    assert!(first.iter().zip(&then).all(|(first, then)| at(first) <= at(then)));
                },
            ],
        );
        // A move that met the host's access did not happen, and the importer was not notified.
        scene.finish(3);
    });
}

/// Host writes reach the current backing.
#[test]
fn host_writes_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| _ = scene.stage.move_on(),
                |scene| {
                    let buffer = &scene.stage.buffer;
                    let access =
                        buffer.host_access(Access::Write).expect("the host can write the buffer");
                    access.fill(0, buffer.size() as usize, 7).expect("the range is in the buffer");
                    access.end().expect("the access ends without an error");
                },
            ],
        );
        scene.finish(0x0707_0707);
    });
}

/// A device that cannot import another device's memory is never attached to a buffer there. Either the move
/// fails, or the attach moves the buffer back.
#[test]
fn attach_without_peer_to_peer_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        let there = DomainId::Vram(scene.stage.b.id());
        let work: [fn(&Scene) -> Option<Attachment>; 2] = [
            |scene| {
                let there = DomainId::Vram(scene.stage.b.id());
                let moved = scene.stage.buffer.migrate(there);
                assert!(matches!(moved, Ok(_) | Err(Error::Unreachable { .. })), "{moved:?}");
                None
            },
            |scene| {
                let near = Arc::new(Near) as Arc<dyn Importer>;
                let attachment = scene.stage.buffer.attach_dynamic(&scene.stage.a, near);
                Some(attachment.expect("the device reaches its own memory and system memory"))
            },
        ];
        let attachments = together(&scene, work);
        assert_ne!(scene.stage.buffer.domain(), there);
        drop(attachments);
        assert_eq!(scene.stage.word(), FIRST);
    });
}

/// An importer that can import its own device's memory and system memory only.
struct Near;

impl Importer for Near {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}

    fn allow_peer2peer(&self) -> bool {
        false
    }
}

/// From the attach on, the importer is notified of every move, once of each.
#[test]
fn attach_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| moved_twice(scene.stage.move_on()),
                |scene| {
                    let stage = &scene.stage;
                    let (attachment, notified) = attach_notified(&stage.buffer, &stage.a)
                        .expect("the device reaches the buffer");
                    let since = stage.buffer.generation();
                    let mapping = attachment.map(Access::Read).expect("the device maps it");
                    let now = mapping.generation();
                    drop((mapping, attachment));
                    // The importer is detached: no further notification arrives.
                    let list = notified.list();
                    assert!(list.is_sorted_by(|one, next| one + 1 == *next), "{list:?}");
                    assert!((since..now).all(|generation| list.contains(&generation)), "{list:?}");
                },
            ],
        );
        scene.finish(FIRST);
    });
}

/// A static mapping keeps its buffer in place.
#[test]
fn static_mapping_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| _ = scene.stage.move_on(),
                |scene| {
                    let attachment = scene
                        .stage
                        .buffer
                        .attach(&scene.stage.a)
                        .expect("the device reaches the buffer");
                    let mapping = attachment.map(Access::Read).expect("the device maps it");
                    let view = mapping.view().expect("a static mapping is never stale");
                    thread::yield_now();
                    assert_eq!(mapping.view().ok(), Some(view));
                },
            ],
        );
        scene.finish(FIRST);
    });
}

/// Two moves of one buffer happen one after the other.
#[test]
fn move_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        let work: [fn(&Scene) -> u32; 3] = [
            |scene| u32::from(scene.stage.move_to(DomainId::System) != Some(Migration::Unchanged)),
            |scene| {
                let there = DomainId::Vram(scene.stage.b.id());
                u32::from(scene.stage.move_to(there) != Some(Migration::Unchanged))
            },
            |scene| {
                let mut mapping = scene.attachment.map(Access::Write).expect("the device maps it");
                scene.stage.write(&scene.attachment, &mut mapping, 2);
                0
            },
        ];
        let moves = together(&scene, work).into_iter().sum::<u32>();
        assert_eq!(scene.stage.buffer.generation(), moves);
        scene.finish(2);
    });
}

/// Recycled memory reads as zero, in whatever domain the buffer is first used.
#[test]
fn first_use_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        let dirty = scene.stage.another();
        let descriptor = dirty.descriptor();
        drop(dirty);
        let buffer = scene.stage.engine.create_buffer(&scene.stage.a, descriptor);
        let buffer = buffer.expect("there is memory");
        let scene = Arc::new((scene, buffer));
        together(
            &scene,
            [
                |(_, buffer)| _ = buffer.migrate(DomainId::System).expect("the buffer is idle"),
                |(scene, buffer)| {
                    let (attachment, _) = attach_notified(buffer, &scene.stage.a)
                        .expect("the device reaches the buffer");
                    let mapping = attachment.map(Access::Read).expect("the device maps it");
                    let view = mapping.view();
                    assert!(matches!(view, Ok(_) | Err(Error::Stale { .. })), "{view:?}");
                },
            ],
        );
        let (scene, buffer) = Arc::into_inner(scene).expect("the threads have ended");
        assert_eq!(word(&buffer), 0);
        drop(buffer);
        scene.finish(FIRST);
    });
}

/// A move of several buffers at once meets moves of each of them.
#[test]
fn moves_together_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        let other = scene.stage.another();
        let scene = Arc::new((scene, other));
        together(
            &scene,
            [
                |(scene, other)| {
                    let stage = &scene.stage;
                    let to = DomainId::System;
                    let moved = stage.engine.migrate_many(&[(other, to), (&stage.buffer, to)]);
                    assert!(moved.iter().all(Result::is_ok), "{moved:?}");
                },
                |(scene, _)| _ = scene.stage.move_to(DomainId::Vram(scene.stage.b.id())),
                |(scene, other)| _ = other.migrate(DomainId::Vram(scene.stage.b.id())),
                |(scene, _)| {
                    let mut mapping =
                        scene.attachment.map(Access::Write).expect("the device maps it");
                    scene.stage.write(&scene.attachment, &mut mapping, 2);
                },
            ],
        );
        let (scene, other) = Arc::into_inner(scene).expect("the threads have ended");
        assert_eq!(word(&other), FIRST);
        drop(other);
        scene.finish(2);
    });
}

/// Copies in both directions between buffers that move: none is torn.
#[test]
fn copies_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        let other = scene.stage.another();
        let access = other.host_access(Access::Write).expect("the buffer is idle");
        access.fill(0, other.size() as usize, 7).expect("the range is in the buffer");
        access.end().expect("the access ends without an error");
        let scene = Arc::new((scene, other));
        together(
            &scene,
            [
                |(scene, _)| moved_twice(scene.stage.move_on()),
                |(scene, other)| copy(&scene.stage.engine, &scene.stage.buffer, other),
                |(scene, other)| copy(&scene.stage.engine, other, &scene.stage.buffer),
            ],
        );
        let (scene, other) = Arc::into_inner(scene).expect("the threads have ended");
        let last = word(&other);
        assert!([FIRST, 0x0707_0707].contains(&last));
        drop(other);
        scene.finish(last);
    });
}

fn copy(engine: &Engine, from: &SharedBuffer, to: &SharedBuffer) {
    drop(engine.copy(from, to, CopyRegion::first(from.size())).expect("the copy is submitted"));
}

// ---- an importer whose own work must stop first ----

/// Adds a host fence when it is notified. Another thread signals the fence once the importer's work has stopped.
struct Resuming {
    engine: Arc<Stage>,
    stopping: Mutex<Option<Signal>>,
    asked: Condvar,
    stopped: AtomicBool,
}

impl Importer for Resuming {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let (fence, signal) = self.engine.engine.host_fence();
        invalidation.add_fence(Access::Write, fence);
        *self.stopping.lock().expect("no thread panicked") = Some(signal);
        self.asked.notify_one();
    }
}

impl Resuming {
    fn stop_when_asked(&self) {
        let mut stopping = self.stopping.lock().expect("no thread panicked");
        let signal = loop {
            match stopping.take() {
                Some(signal) => break signal,
                None => stopping = self.asked.wait(stopping).expect("no thread panicked"),
            }
        };
        drop(stopping);
        self.stopped.store(true, Ordering::Relaxed);
        drop(signal);
    }
}

/// A move waits for the importer's host work. Every operation that begins meanwhile waits for the move.
#[test]
fn everything_against_a_move_that_waits_for_its_importer() {
    sample(RUNS, || {
        let stage = Arc::new(Stage::new());
        let importer = Arc::new(Resuming {
            engine: Arc::clone(&stage),
            stopping: Mutex::default(),
            asked: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        let attachment = stage.buffer.attach_dynamic(&stage.b, Arc::clone(&importer) as _);
        let scene = Arc::new((stage, importer, attachment.expect("the device reaches the buffer")));
        together(
            &scene,
            [
                |(stage, importer, _)| {
                    // The move may meet the pin. The importer was not notified then.
                    while stage.move_to(DomainId::System).is_none() {
                        thread::yield_now();
                    }
                    assert_eq!(stage.buffer.generation(), 1);
                    assert!(importer.stopped.load(Ordering::Relaxed), "the move waited");
                },
                |(_, importer, _)| importer.stop_when_asked(),
                |(stage, importer, attachment)| {
                    let asked = importer.stopping.lock().expect("no thread panicked").is_some();
                    let mut mapping = attachment.map(Access::Write).expect("the device maps it");
                    assert!(!asked || mapping.generation() == 1, "mapped at the old backing");
                    stage.write(attachment, &mut mapping, 2);
                },
                |(stage, ..)| {
                    let (attachment, notified) = attach_notified(&stage.buffer, &stage.a)
                        .expect("the device reaches the buffer");
                    let since = stage.buffer.generation();
                    let before = notified.list();
                    let mapping = attachment.map(Access::Read).expect("the device maps it");
                    let now = mapping.generation();
                    assert!(!before.contains(&now), "mapped at the old backing");
                    assert!(
                        (since..now).all(|generation| notified.has(generation)),
                        "the importer is notified"
                    );
                },
                |(stage, _, attachment)| {
                    let pin = attachment.pin("a model").expect("there is no quota");
                    let generation = stage.buffer.generation();
                    thread::yield_now();
                    assert_eq!(stage.buffer.generation(), generation, "the buffer is pinned");
                    drop(pin);
                },
            ],
        );
        let (stage, importer, attachment) = Arc::into_inner(scene).expect("the threads have ended");
        assert_eq!(stage.word(), 2);
        drop((attachment, importer));
        Arc::into_inner(stage).expect("this is the last handle").finish();
    });
}
