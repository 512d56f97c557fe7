//! The move, against everything that may happen to a buffer meanwhile. On a real device.

use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use super::stage::{DRIVER, FIRST, Stage, Told, attach_told, word, words};
use super::{sample, together};
use crate::{
    Access, Attachment, CopyRegion, DomainId, Engine, Error, Importer, Invalidation, Migration,
    Refault, Result, SharedBuffer, Signal,
};

/// Enough to find what was broken on purpose, many times over.
const RUNS: usize = 150;

/// A stage whose second device is attached with an importer.
struct Scene {
    seat: Attachment,
    told: Arc<Told>,
    stage: Stage,
}

impl Scene {
    fn new() -> Arc<Self> {
        let stage = Stage::new();
        let (seat, told) = attach_told(&stage.buffer, &stage.b).expect("both reach it");
        Arc::new(Self { seat, told, stage })
    }

    /// Everything is gone, the bytes are `last`, and the importer was told once of each generation.
    fn finish(self: Arc<Self>, last: u32) {
        let this = Arc::into_inner(self).expect("the threads are gone");
        assert_eq!(this.stage.word(), last);
        let generation = this.stage.buffer.generation();
        assert_eq!(this.told.list(), (0..generation).collect::<Vec<_>>());
        let Self { seat, told, stage } = this;
        drop((seat, told));
        stage.finish();
    }
}

fn moved_twice(moves: [Option<Migration>; 2]) {
    let done = |generation| Some(Migration::Done { generation });
    assert_eq!(moves, [done(1), done(2)]);
}

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

/// A pinned buffer stays where it is; a move meets the pin, or was there before it.
#[test]
fn pin_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        // The reason of a pin that takes no lock from here on.
        drop(scene.seat.pin(REASON).expect("there is no quota"));
        together(&scene, [to_and_fro_unless_pinned, stays_while_pinned, stays_while_pinned]);
        assert_eq!(pins(&scene.stage), 0);
        scene.finish(FIRST);
    });
}

/// A quota that comes meanwhile counts every pin, once: what is refused was never there, and when all of
/// them are gone there is room for as many as before.
#[test]
fn pin_against_quota_and_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        drop(scene.seat.pin(REASON).expect("there is no quota"));
        together(
            &scene,
            [
                |scene: &Scene| {
                    let Stage { engine, b, buffer, .. } = &scene.stage;
                    engine.set_pin_quota(b, buffer.size()).expect("our device");
                },
                to_and_fro_unless_pinned,
                pins_within_the_quota,
                pins_within_the_quota,
            ],
        );
        assert_eq!(pins(&scene.stage), 0);
        let last = scene.seat.pin(REASON).expect("there is room");
        let error = scene.seat.pin(REASON).expect_err("for one");
        let size = scene.stage.buffer.size();
        assert!(
            matches!(error, Error::PinQuota { used, quota, .. } if (used, quota) == (size, size))
        );
        drop(last);
        scene.finish(FIRST);
    });
}

/// Nobody is in the way of a move who is refused by a quota.
#[test]
fn refused_pin_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        drop(scene.seat.pin(REASON).expect("there is no quota"));
        scene.stage.engine.set_pin_quota(&scene.stage.b, 0).expect("our device");
        together(
            &scene,
            [
                |scene: &Scene| moved_twice(scene.stage.move_on()),
                |scene| {
                    for _ in 0..3 {
                        let error = scene.seat.pin(REASON).expect_err("nothing may be pinned");
                        assert!(matches!(error, Error::PinQuota { used: 0, .. }), "{error}");
                    }
                },
            ],
        );
        scene.finish(FIRST);
    });
}

/// Pins outlive their attachment, and whoever of all of them goes last takes what counted them along.
#[test]
fn pins_against_the_end_of_their_attachment() {
    sample(RUNS, || {
        let stage = Arc::new(Stage::new());
        let (seat, _) = attach_told(&stage.buffer, &stage.b).expect("both reach it");
        let pins = [(); 2].map(|()| seat.pin(REASON).expect("there is no quota"));
        let moving = {
            let stage = Arc::clone(&stage);
            thread::spawn(move || {
                for to in [DomainId::System, DomainId::Vram(stage.b.id())] {
                    moved_or_pinned(stage.buffer.migrate(to));
                }
            })
        };
        let mut threads = vec![moving, thread::spawn(move || drop(seat))];
        threads.extend(pins.map(|pin| {
            thread::spawn(move || {
                assert_eq!(pin.reason(), REASON);
                drop(pin);
            })
        }));
        for thread in threads {
            thread.join().expect("nobody panics");
        }
        assert_eq!(self::pins(&stage), 0);
        let stage = Arc::into_inner(stage).expect("the threads are gone");
        assert_eq!(stage.word(), FIRST);
        stage.finish();
    });
}

const REASON: &str = "a model";

/// How many pins the report tells of.
fn pins(stage: &Stage) -> u64 {
    stage.engine.report().totals().pins
}

fn moved_or_pinned(moved: Result<Migration>) {
    match moved {
        Ok(_) => {}
        Err(Error::Busy { pinned, .. }) => assert!(pinned > 0, "held by nobody"),
        Err(error) => panic!("{error}"),
    }
}

fn to_and_fro_unless_pinned(scene: &Scene) {
    for to in [DomainId::System, DomainId::Vram(scene.stage.b.id())] {
        moved_or_pinned(scene.stage.buffer.migrate(to));
    }
}

fn stays_while_pinned(scene: &Scene) {
    let pin = scene.seat.pin(REASON).expect("there is no quota");
    stays(scene);
    drop(pin);
}

fn stays(scene: &Scene) {
    let (generation, domain) = (scene.stage.buffer.generation(), scene.stage.buffer.domain());
    assert_eq!(scene.stage.word(), FIRST);
    assert_eq!(scene.stage.buffer.domain(), domain);
    assert_eq!(scene.stage.buffer.generation(), generation);
}

fn pins_within_the_quota(scene: &Scene) {
    match scene.seat.pin(REASON) {
        Ok(pin) => {
            stays(scene);
            drop(pin);
        }
        Err(Error::PinQuota { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// So does one that is mapped statically.
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
