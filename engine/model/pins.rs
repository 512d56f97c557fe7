//! What keeps a buffer in place, against the move. On a real device.

use shuttle::sync::Arc;
use shuttle::thread;

use super::scene::{RUNS, Scene, moved_twice};
use super::stage::{FIRST, Stage, attach_told};
use super::{sample, together};
use crate::{DomainId, Error, Migration, Result};

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
