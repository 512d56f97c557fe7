//! Eviction and restore, against everything else that can be done to the buffer at the same time. On a real
//! device, whose memory is modelled to be too small.

use shuttle::sync::{Arc, Mutex};

use super::stage::{FIRST, Notified, Stage, attach_notified, word};
use super::{sample, together};
use crate::{Access, Attachment, DomainId, Error, Migration, SharedBuffer};

/// Enough interleavings to find each bug that was planted on purpose many times over.
const RUNS: usize = 100;

/// Two buffers in a domain that holds one and a half of them, each attached by the second device.
struct Scene {
    attachments: [Attachment; 2],
    notified: [Arc<Notified>; 2],
    other: SharedBuffer,
    stage: Stage,
}

impl Scene {
    fn new() -> Arc<Self> {
        let stage = Stage::new();
        let other = stage.another();
        let (first, first_notified) =
            attach_notified(&stage.buffer, &stage.b).expect("both devices reach the buffer");
        let (second, second_notified) =
            attach_notified(&other, &stage.b).expect("both devices reach the buffer");
        let budget =
            stage.engine.usage(vram(&stage)).expect("the device belongs to the engine").used / 4
                * 3;
        stage.engine.model_heap(&stage.a, budget).expect("the device belongs to the engine");
        Arc::new(Self {
            attachments: [first, second],
            notified: [first_notified, second_notified],
            other,
            stage,
        })
    }

    fn buffer(&self, which: usize) -> &SharedBuffer {
        [&self.stage.buffer, &self.other][which]
    }

    fn check_usage(&self) {
        let usage =
            self.stage.engine.usage(vram(&self.stage)).expect("the device belongs to the engine");
        assert!(usage.used <= usage.budget, "{usage:?}");
    }

    /// Checks that the words are `last`, that the importers were notified once of each generation, that the
    /// report accounts for every byte in use, and that no object is left after the last drop.
    fn finish(self: Arc<Self>, last: [u32; 2]) {
        let this = Arc::into_inner(self).expect("the threads have ended");
        assert_eq!([word(&this.stage.buffer), word(&this.other)], last);
        for (which, notified) in this.notified.iter().enumerate() {
            let generation = this.buffer(which).generation();
            assert_eq!(notified.list(), (0..generation).collect::<Vec<_>>(), "of {which}");
        }
        for domain in this.stage.engine.report().domains {
            let shares = domain.shares;
            let sum = shares.resident + shares.clean_copies + shares.ghosts + shares.in_flight;
            assert_eq!(domain.usage.used, sum, "{}: {shares:?}", domain.id);
        }
        let Self { attachments, notified, other, stage } = this;
        drop((attachments, notified, other));
        stage.finish();
    }
}

fn vram(stage: &Stage) -> DomainId {
    DomainId::Vram(stage.a.id())
}

/// Device writes reach the current backing, however often the buffer is evicted and restored, and survive.
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
                    let mut mapping =
                        scene.attachments[0].map(Access::Write).expect("the device maps it");
                    for word in 2..=3 {
                        scene.stage.write(&scene.attachments[0], &mut mapping, word);
                        scene.check_usage();
                    }
                },
            ],
        );
        scene.finish([3, FIRST]);
    });
}

/// Two buffers compete for a domain that holds one of them: both calls return, and no byte is lost.
#[test]
fn residency_against_residency() {
    sample(RUNS, || {
        let scene = Scene::new();
        fn insist(scene: &Scene, which: usize, word: u32) {
            // The other buffer may have taken the room in between. There is no other reason to fail.
            let moved = scene.buffer(which).request_residency();
            assert!(matches!(moved, Ok(_) | Err(Error::OutOfMemory { .. })), "{moved:?}");
            scene.check_usage();
            let mut mapping =
                scene.attachments[which].map(Access::Write).expect("the device maps it");
            scene.stage.write(&scene.attachments[which], &mut mapping, word);
            scene.check_usage();
        }
        together(&scene, [|scene| insist(scene, 0, 2), |scene| insist(scene, 1, 3)]);
        scene.finish([2, 3]);
    });
}

/// A pinned buffer is not evicted, however much memory is needed.
#[test]
fn pin_against_eviction() {
    sample(RUNS, || {
        let scene = Scene::new();
        together(
            &scene,
            [
                |scene| {
                    // Either buffer may be the victim.
                    let moved = scene.other.request_residency();
                    assert!(matches!(moved, Ok(_) | Err(Error::OutOfMemory { .. })), "{moved:?}");
                    let _ = scene.stage.buffer.evict();
                },
                |scene| {
                    for _ in 0..2 {
                        let pin = scene.attachments[0].pin("model").expect("there is no quota");
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

/// A buffer that is dropped while it is evicted, or while it is a victim, is freed.
#[test]
fn drop_against_eviction() {
    sample(RUNS, || {
        let scene = Scene::new();
        let third = Arc::new(Mutex::new(Some(scene.stage.another())));
        let droppable = Arc::clone(&third);
        let dropping = shuttle::thread::spawn(move || {
            let buffer = droppable.lock().expect("no thread panics").take();
            drop(buffer);
        });
        together(
            &scene,
            [
                |scene| {
                    let evicted = scene
                        .stage
                        .engine
                        .evict_all(&scene.stage.a)
                        .expect("the device belongs to the engine");
                    assert!(evicted.stayed.is_empty() || evicted.bytes > 0, "{evicted:?}");
                },
                |scene| {
                    let restored = scene
                        .stage
                        .engine
                        .restore(&scene.stage.a)
                        .expect("the device belongs to the engine");
                    assert!(restored <= 2);
                    scene.check_usage();
                },
            ],
        );
        dropping.join().expect("no thread panics");
        drop(third);
        scene.finish([FIRST, FIRST]);
    });
}

/// A clean copy has the bytes that were last written, or it is not clean.
#[test]
fn writes_against_clean_copies() {
    sample(RUNS, || {
        let scene = Scene::new();
        let back = |scene: &Scene| {
            let moved = scene.stage.buffer.request_residency();
            assert!(
                matches!(moved, Ok(Migration::Unchanged | Migration::Done { .. }))
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
                    let access = scene
                        .stage
                        .buffer
                        .host_access(Access::Write)
                        .expect("the host can write the buffer");
                    let words = scene.stage.buffer.size() as usize / 4;
                    access
                        .write(0, &2u32.to_ne_bytes().repeat(words))
                        .expect("the range is in the buffer");
                    access.end().expect("the access ends without an error");
                },
            ],
        );
        scene.finish([2, FIRST]);
    });
}
