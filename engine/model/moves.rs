//! The move, against everything that may happen to a buffer meanwhile. On a real device.

use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use super::scene::{RUNS, Scene, moved_twice};
use super::stage::{FIRST, Stage, attach_told, word, words};
use super::{sample, together};
use crate::{
    Access, Attachment, CopyRegion, DomainId, Engine, Error, Importer, Invalidation, Migration,
    Refault, Result, SharedBuffer, Signal,
};

/// A mapping is of the place where the buffer is, or its importer has been told, and it says so itself.
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
                        let told = scene.told.list();
                        let mapping = scene.seat.map(Access::Read).expect("the device maps it");
                        let of = mapping.generation();
                        assert!(!told.contains(&of), "a mapping of a place that is being left");
                        match mapping.view() {
                            Ok(view) => assert_eq!(view.size, scene.stage.buffer.size()),
                            Err(Error::Stale { mapped, current, .. }) => {
                                assert_eq!(mapped, of);
                                assert!(current > of && scene.told.has(of));
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

/// Whoever maps again when it is told has a mapping that is good, or will have been told by the time that it
/// finds out.
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
                    let told = Arc::new(Refault::new());
                    let seat = buffer.attach_dynamic(&scene.stage.a, Arc::clone(&told) as _);
                    let seat = seat.expect("it reaches it");
                    let mut mapping = seat.map(Access::Read).expect("it maps it");
                    for _ in 0..3 {
                        if told.take_stale() {
                            seat.remap(&mut mapping).expect("it maps it again");
                        }
                        match mapping.view() {
                            Ok(_) => {}
                            Err(Error::Stale { .. }) => {
                                assert!(told.take_stale(), "old, and nobody said so");
                                seat.remap(&mut mapping).expect("it maps it again");
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

/// What devices write goes to where the buffer is, and stays when it moves.
#[test]
fn submissions_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| moved_twice(scene.stage.move_on()),
                |scene| {
                    let mut mapping = scene.seat.map(Access::Write).expect("the device maps it");
                    (2..=3).for_each(|word| scene.stage.write(&scene.seat, &mut mapping, word));
                },
            ],
        );
        scene.finish(3);
    });
}

/// What the host reads never goes back to what was there before.
#[test]
fn host_access_against_move_and_submissions() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| _ = scene.stage.move_on(),
                |scene| {
                    let mut mapping = scene.seat.map(Access::Write).expect("the device maps it");
                    (2..=3).for_each(|word| scene.stage.write(&scene.seat, &mut mapping, word));
                },
                |scene| {
                    // A device may begin to write while the host reads; but no word goes back.
                    let [first, then] = [(); 2].map(|()| words(&scene.stage.buffer));
                    let order = [FIRST, 2, 3];
                    let at = |word| order.iter().position(|of| of == word).expect("written");
                    assert!(first.iter().zip(&then).all(|(first, then)| at(first) <= at(then)));
                },
            ],
        );
        // A move that met the host did not happen, nor was anybody told.
        scene.finish(3);
    });
}

/// What the host writes goes to where the buffer is, too.
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
                    let access = buffer.host_access(Access::Write).expect("it is in place");
                    access.fill(0, buffer.size() as usize, 7).expect("all of it");
                    access.end().expect("it ends well");
                },
            ],
        );
        scene.finish(0x0707_0707);
    });
}

/// Whoever cannot have another device's memory never sits at it: the move fails, or the seat comes with a
/// move back.
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
                let seat = scene.stage.buffer.attach_dynamic(&scene.stage.a, near);
                Some(seat.expect("it can be reached where it was, or in system memory"))
            },
        ];
        let seats = together(&scene, work);
        assert_ne!(scene.stage.buffer.domain(), there);
        drop(seats);
        assert_eq!(scene.stage.word(), FIRST);
    });
}

/// An importer that can take in its own device's memory, and system memory.
struct Near;

impl Importer for Near {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}

    fn allow_peer2peer(&self) -> bool {
        false
    }
}

/// Whoever attaches is told of every move since, from the first moment on, once of each.
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
                    let (seat, told) = attach_told(&stage.buffer, &stage.a).expect("it reaches it");
                    let since = stage.buffer.generation();
                    let mapping = seat.map(Access::Read).expect("it maps it");
                    let now = mapping.generation();
                    drop((mapping, seat));
                    // Nobody is told any more.
                    let list = told.list();
                    assert!(list.is_sorted_by(|one, next| one + 1 == *next), "{list:?}");
                    assert!((since..now).all(|generation| list.contains(&generation)), "{list:?}");
                },
            ],
        );
        scene.finish(FIRST);
    });
}

/// A buffer that is mapped statically stays where it is.
#[test]
fn static_mapping_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| _ = scene.stage.move_on(),
                |scene| {
                    let seat = scene.stage.buffer.attach(&scene.stage.a).expect("it reaches it");
                    let mapping = seat.map(Access::Read).expect("it maps it");
                    let view = mapping.view().expect("it cannot become old");
                    thread::yield_now();
                    assert_eq!(mapping.view().ok(), Some(view));
                },
            ],
        );
        scene.finish(FIRST);
    });
}

/// Two who move a buffer do it one after the other.
#[test]
fn move_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        let work: [fn(&Scene) -> u32; 3] = [
            |scene| u32::from(scene.stage.move_to(DomainId::System) != Some(Migration::None)),
            |scene| {
                let there = DomainId::Vram(scene.stage.b.id());
                u32::from(scene.stage.move_to(there) != Some(Migration::None))
            },
            |scene| {
                let mut mapping = scene.seat.map(Access::Write).expect("the device maps it");
                scene.stage.write(&scene.seat, &mut mapping, 2);
                0
            },
        ];
        let moves = together(&scene, work).into_iter().sum::<u32>();
        assert_eq!(scene.stage.buffer.generation(), moves);
        scene.finish(2);
    });
}

/// Memory that had another owner is zero for this one, wherever it is when it is first used.
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
                |(_, buffer)| _ = buffer.migrate(DomainId::System).expect("nobody holds it"),
                |(scene, buffer)| {
                    let (seat, _) = attach_told(buffer, &scene.stage.a).expect("it reaches it");
                    let mapping = seat.map(Access::Read).expect("it maps it");
                    let view = mapping.view();
                    assert!(matches!(view, Ok(_) | Err(Error::Stale { .. })), "{view:?}");
                },
            ],
        );
        let (scene, buffer) = Arc::into_inner(scene).expect("the threads are gone");
        assert_eq!(word(&buffer), 0);
        drop(buffer);
        scene.finish(FIRST);
    });
}

/// Moves of many at once meet the move of one of them.
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
                    let mut mapping = scene.seat.map(Access::Write).expect("the device maps it");
                    scene.stage.write(&scene.seat, &mut mapping, 2);
                },
            ],
        );
        let (scene, other) = Arc::into_inner(scene).expect("the threads are gone");
        assert_eq!(word(&other), FIRST);
        drop(other);
        scene.finish(2);
    });
}

/// Copies that cross, of buffers that move: each is of one moment.
#[test]
fn copies_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        let other = scene.stage.another();
        let access = other.host_access(Access::Write).expect("nobody uses it");
        access.fill(0, other.size() as usize, 7).expect("all of it");
        access.end().expect("it ends well");
        let scene = Arc::new((scene, other));
        together(
            &scene,
            [
                |(scene, _)| moved_twice(scene.stage.move_on()),
                |(scene, other)| copy(&scene.stage.engine, &scene.stage.buffer, other),
                |(scene, other)| copy(&scene.stage.engine, other, &scene.stage.buffer),
            ],
        );
        let (scene, other) = Arc::into_inner(scene).expect("the threads are gone");
        let last = word(&other);
        assert!([FIRST, 0x0707_0707].contains(&last));
        drop(other);
        scene.finish(last);
    });
}

fn copy(engine: &Engine, from: &SharedBuffer, to: &SharedBuffer) {
    drop(engine.copy(from, to, CopyRegion::first(from.size())).expect("it is submitted"));
}

// ---- an importer that must stop something of its own first ----

/// Says that the host is still at it, until somebody else says that it has stopped.
struct Resuming {
    engine: Arc<Stage>,
    stopping: Mutex<Option<Signal>>,
    asked: Condvar,
    stopped: AtomicBool,
}

impl Importer for Resuming {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let (fence, signal) = self.engine.engine.host_fence();
        invalidation.still_using(Access::Write, fence);
        *self.stopping.lock().expect("nobody panicked") = Some(signal);
        self.asked.notify_one();
    }
}

impl Resuming {
    fn stop_when_asked(&self) {
        let mut stopping = self.stopping.lock().expect("nobody panicked");
        let signal = loop {
            match stopping.take() {
                Some(signal) => break signal,
                None => stopping = self.asked.wait(stopping).expect("nobody panicked"),
            }
        };
        drop(stopping);
        self.stopped.store(true, Ordering::Relaxed);
        drop(signal);
    }
}

/// A move waits for what an importer's host is still doing, and whoever comes meanwhile waits for the move.
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
        let seat = stage.buffer.attach_dynamic(&stage.b, Arc::clone(&importer) as _);
        let scene = Arc::new((stage, importer, seat.expect("it reaches it")));
        together(
            &scene,
            [
                |(stage, importer, _)| {
                    // It may meet the pin. Then nobody was asked.
                    while stage.move_to(DomainId::System).is_none() {
                        thread::yield_now();
                    }
                    assert_eq!(stage.buffer.generation(), 1);
                    assert!(importer.stopped.load(Ordering::Relaxed), "it waited");
                },
                |(_, importer, _)| importer.stop_when_asked(),
                |(stage, importer, seat)| {
                    let asked = importer.stopping.lock().expect("nobody panicked").is_some();
                    let mut mapping = seat.map(Access::Write).expect("the device maps it");
                    assert!(!asked || mapping.generation() == 1, "mapped where it was leaving");
                    stage.write(seat, &mut mapping, 2);
                },
                |(stage, ..)| {
                    let (seat, told) = attach_told(&stage.buffer, &stage.a).expect("it reaches it");
                    let since = stage.buffer.generation();
                    let before = told.list();
                    let mapping = seat.map(Access::Read).expect("it maps it");
                    let now = mapping.generation();
                    assert!(!before.contains(&now), "a place that is being left");
                    assert!((since..now).all(|generation| told.has(generation)), "it is told");
                },
                |(stage, _, seat)| {
                    let pin = seat.pin("a model").expect("there is no quota");
                    let generation = stage.buffer.generation();
                    thread::yield_now();
                    assert_eq!(stage.buffer.generation(), generation, "it is pinned");
                    drop(pin);
                },
            ],
        );
        let (stage, importer, seat) = Arc::into_inner(scene).expect("the threads are gone");
        assert_eq!(stage.word(), 2);
        drop((seat, importer));
        Arc::into_inner(stage).expect("nobody else has it").finish();
    });
}
