//! Pins, against the move. On a real device.

use shuttle::sync::Arc;
use shuttle::thread;

use super::scene::{RUNS, Scene, moved_twice};
use super::stage::{FIRST, Stage, attach_notified};
use super::{sample, together};
use crate::{DomainId, Error, Migration, Result};

/// A pinned buffer stays in place: a move either fails because of the pin, or happens before it.
#[test]
fn pin_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        // The reason is known from here on, so later pins take no lock.
        drop(scene.attachment.pin(REASON).expect("there is no quota"));
        together(&scene, [to_and_fro_unless_pinned, stays_while_pinned, stays_while_pinned]);
        assert_eq!(pins(&scene.stage), 0);
        scene.finish(FIRST);
    });
}

/// A quota that is set meanwhile counts every pin once. A refused pin is not counted, and after all pins are
/// dropped the whole quota is free.
#[test]
fn pin_against_quota_and_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        drop(scene.attachment.pin(REASON).expect("there is no quota"));
        together(
            &scene,
            [
                |scene: &Scene| {
                    let Stage { engine, b, buffer, .. } = &scene.stage;
                    engine
                        .set_pin_quota(b, buffer.size())
                        .expect("the device belongs to the engine");
                },
                to_and_fro_unless_pinned,
                pins_within_the_quota,
                pins_within_the_quota,
            ],
        );
        assert_eq!(pins(&scene.stage), 0);
        let last = scene.attachment.pin(REASON).expect("the quota has room");
        let error = scene.attachment.pin(REASON).expect_err("the quota has room for one");
        let size = scene.stage.buffer.size();
        assert!(
            matches!(error, Error::PinQuota { used, quota, .. } if (used, quota) == (size, size))
        );
        drop(last);
        scene.finish(FIRST);
    });
}

/// A pin that its quota refuses does not hinder a move.
#[test]
fn refused_pin_against_move() {
    sample(RUNS, || {
        let scene = Scene::new();
        drop(scene.attachment.pin(REASON).expect("there is no quota"));
        scene
            .stage
            .engine
            .set_pin_quota(&scene.stage.b, 0)
            .expect("the device belongs to the engine");
        together(
            &scene,
            [
                |scene: &Scene| moved_twice(scene.stage.move_on()),
                |scene| {
                    for _ in 0..3 {
                        let error =
                            scene.attachment.pin(REASON).expect_err("nothing may be pinned");
                        assert!(matches!(error, Error::PinQuota { used: 0, .. }), "{error}");
                    }
                },
            ],
        );
        scene.finish(FIRST);
    });
}

/// Pins outlive their attachment. The last of them to be dropped frees their counter.
#[test]
fn pins_against_the_end_of_their_attachment() {
    sample(RUNS, || {
        let stage = Arc::new(Stage::new());
        let (attachment, _) =
            attach_notified(&stage.buffer, &stage.b).expect("both devices reach the buffer");
        let pins = [(); 2].map(|()| attachment.pin(REASON).expect("there is no quota"));
        let moving = {
            let stage = Arc::clone(&stage);
            thread::spawn(move || {
                for to in [DomainId::System, DomainId::Vram(stage.b.id())] {
                    moved_or_pinned(stage.buffer.migrate(to));
                }
            })
        };
        let mut threads = vec![moving, thread::spawn(move || drop(attachment))];
        threads.extend(pins.map(|pin| {
            thread::spawn(move || {
                assert_eq!(pin.reason(), REASON);
                drop(pin);
            })
        }));
        for thread in threads {
            thread.join().expect("no thread panics");
        }
        assert_eq!(self::pins(&stage), 0);
        let stage = Arc::into_inner(stage).expect("the threads have ended");
        assert_eq!(stage.word(), FIRST);
        stage.finish();
    });
}

const REASON: &str = "a model";

/// Number of pins in the engine's report.
fn pins(stage: &Stage) -> u64 {
    stage.engine.report().totals().pins
}

fn moved_or_pinned(moved: Result<Migration>) {
    match moved {
        Ok(_) => {}
        Err(Error::Busy { pinned, .. }) => assert!(pinned > 0, "busy without a pin"),
        Err(error) => panic!("{error}"),
    }
}

fn to_and_fro_unless_pinned(scene: &Scene) {
    for to in [DomainId::System, DomainId::Vram(scene.stage.b.id())] {
        moved_or_pinned(scene.stage.buffer.migrate(to));
    }
}

fn stays_while_pinned(scene: &Scene) {
    let pin = scene.attachment.pin(REASON).expect("there is no quota");
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
    match scene.attachment.pin(REASON) {
        Ok(pin) => {
            stays(scene);
            drop(pin);
        }
        Err(Error::PinQuota { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}
