//! Eviction and return, against everything that may happen to a buffer meanwhile. On a real device, whose memory is
//! modelled to be too small.

use shuttle::sync::{Arc, Mutex};

use super::stage::{FIRST, Stage, Told, attach_told, word};
use super::{sample, together};
use crate::{Access, Attachment, DomainId, Error, Migration, SharedBuffer};

/// Enough to find what was broken on purpose, many times over.
const RUNS: usize = 100;

/// Two buffers in a device's memory that holds one and a half, each with a seat of the second device.
struct Scene {
    seats: [Attachment; 2],
    told: [Arc<Told>; 2],
    other: SharedBuffer,
    stage: Stage,
}

impl Scene {
    fn new() -> Arc<Self> {
        let stage = Stage::new();
        let other = stage.another();
        let (first, first_told) = attach_told(&stage.buffer, &stage.b).expect("both reach it");
        let (second, second_told) = attach_told(&other, &stage.b).expect("both reach it");
        let budget = stage.engine.usage(vram(&stage)).expect("ours").used / 4 * 3;
        stage.engine.model_heap(&stage.a, budget).expect("ours");
        Arc::new(Self { seats: [first, second], told: [first_told, second_told], other, stage })
    }

    fn buffer(&self, which: usize) -> &SharedBuffer {
        [&self.stage.buffer, &self.other][which]
    }

    fn check_usage(&self) {
        let usage = self.stage.engine.usage(vram(&self.stage)).expect("ours");
        assert!(usage.used <= usage.budget, "{usage:?}");
    }

    /// Everything is gone, the words are `last`, every byte in use is somebody's, and the importers were told
    /// once of each generation.
    fn finish(self: Arc<Self>, last: [u32; 2]) {
        let this = Arc::into_inner(self).expect("the threads are gone");
        assert_eq!([word(&this.stage.buffer), word(&this.other)], last);
        for (which, told) in this.told.iter().enumerate() {
            let generation = this.buffer(which).generation();
            assert_eq!(told.list(), (0..generation).collect::<Vec<_>>(), "of {which}");
        }
        for domain in this.stage.engine.report().domains {
            let shares = domain.shares;
            let sum = shares.resident + shares.clean_copies + shares.ghosts + shares.in_flight;
            assert_eq!(domain.usage.used, sum, "{}: {shares:?}", domain.id);
        }
        let Self { seats, told, other, stage } = this;
        drop((seats, told, other));
        stage.finish();
    }
}

fn vram(stage: &Stage) -> DomainId {
    DomainId::Vram(stage.a.id())
}

/// What a device writes goes to where the buffer is, wherever it is sent meanwhile, and stays.
#[test]
fn submissions_against_eviction_and_return() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| {
                    for _ in 0..2 {
                        match scene.stage.buffer.evict() {
                            Ok(_) | Err(Error::Busy { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                        scene.check_usage();
                    }
                },
                |scene| {
                    let mut mapping = scene.seats[0].map(Access::Write).expect("mapped");
                    for word in 2..=3 {
                        scene.stage.write(&scene.seats[0], &mut mapping, word);
                        scene.check_usage();
                    }
                },
            ],
        );
        scene.finish([3, FIRST]);
    });
}

/// Two who want to be in a place that holds one of them come to an end, and neither loses a byte.
#[test]
fn room_against_room() {
    sample(RUNS, || {
        let scene = Scene::new();
        fn insist(scene: &Scene, which: usize, word: u32) {
            // The other one may have taken the room in between, but nothing else keeps it out.
            let moved = scene.buffer(which).request_residency();
            assert!(matches!(moved, Ok(_) | Err(Error::OutOfMemory { .. })), "{moved:?}");
            scene.check_usage();
            let mut mapping = scene.seats[which].map(Access::Write).expect("mapped");
            scene.stage.write(&scene.seats[which], &mut mapping, word);
            scene.check_usage();
        }
        together(&scene, [|scene| insist(scene, 0, 2), |scene| insist(scene, 1, 3)]);
        scene.finish([2, 3]);
    });
}

/// What is pinned stays, whoever needs its place.
#[test]
fn pin_against_eviction() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| {
                    // Either buffer may be the one that is in the way.
                    let moved = scene.other.request_residency();
                    assert!(matches!(moved, Ok(_) | Err(Error::OutOfMemory { .. })), "{moved:?}");
                    let _ = scene.stage.buffer.evict();
                },
                |scene| {
                    for _ in 0..2 {
                        let pin = scene.seats[0].pin("model").expect("it can be pinned");
                        let at = (scene.stage.buffer.generation(), scene.stage.buffer.domain());
                        shuttle::thread::yield_now();
                        let then = (scene.stage.buffer.generation(), scene.stage.buffer.domain());
                        assert_eq!(at, then, "pinned");
                        drop(pin);
                    }
                },
            ],
        );
        scene.finish([FIRST, FIRST]);
    });
}

/// A buffer that goes while somebody evicts it, or makes room by it, goes.
#[test]
fn drop_against_eviction() {
    sample(RUNS, || {
        let scene = Scene::new();
        let third = Arc::new(Mutex::new(Some(scene.stage.another())));
        let droppable = Arc::clone(&third);
        let dropping = shuttle::thread::spawn(move || {
            let buffer = droppable.lock().expect("nobody panics").take();
            drop(buffer);
        });
        together(
            &scene,
            [
                |scene| {
                    let evicted = scene.stage.engine.evict_all(&scene.stage.a).expect("ours");
                    assert!(evicted.stayed.is_empty() || evicted.bytes > 0, "{evicted:?}");
                },
                |scene| {
                    let came = scene.stage.engine.restore(&scene.stage.a).expect("ours");
                    assert!(came <= 2);
                    scene.check_usage();
                },
            ],
        );
        dropping.join().expect("nobody panics");
        drop(third);
        scene.finish([FIRST, FIRST]);
    });
}

/// A clean copy is of the bytes that were last written, or it is not clean.
#[test]
fn writes_against_clean_copies() {
    sample(RUNS, || {
        let scene = Scene::new();
        let back = |scene: &Scene| {
            let moved = scene.stage.buffer.request_residency();
            assert!(
                matches!(moved, Ok(Migration::None | Migration::Done { .. }))
                    || matches!(moved, Err(Error::OutOfMemory { .. } | Error::Busy { .. })),
                "{moved:?}"
            );
        };
        let _ = scene.stage.buffer.evict();
        back(&scene);
        together(
            &scene,
            [
                |scene| {
                    let _ = scene.stage.buffer.evict();
                    let _ = scene.stage.buffer.request_residency();
                    let _ = scene.stage.buffer.evict();
                },
                |scene| {
                    let access = scene.stage.buffer.host_access(Access::Write).expect("opened");
                    let words = scene.stage.buffer.size() as usize / 4;
                    access.write(0, &2u32.to_ne_bytes().repeat(words)).expect("all of it");
                    access.end().expect("it ends well");
                },
            ],
        );
        scene.finish([2, FIRST]);
    });
}
