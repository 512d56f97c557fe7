//! Content that may be lost, against those who look at it, keep it, write it and renew it. On a real device.

use shuttle::sync::Arc;

use super::stage::{FIRST, Stage, attach_told, word};
use super::{sample, together};
use crate::{Access, Error, Result};

/// Enough to find what was broken on purpose, many times over.
const RUNS: usize = 100;

/// What somebody else writes.
const SECOND: u32 = 0x0202_0202;

fn purgeable() -> Arc<Stage> {
    let stage = Stage::new();
    assert!(stage.buffer.set_purgeable(true).expect("it is ours"), "nobody has purged it yet");
    Arc::new(stage)
}

/// What came of it, unless the content was gone.
fn there<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(Error::Purged { .. }) => None,
        Err(error) => panic!("it works, or the content is gone: {error}"),
    }
}

/// Drops the content if it may be lost, unless somebody is looking at it.
fn purge(stage: &Stage) {
    match stage.buffer.evict() {
        Ok(_) | Err(Error::Busy { .. } | Error::Purged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The first word, as the host sees it.
fn look(stage: &Stage) -> Option<u32> {
    let access = there(stage.buffer.host_access(Access::Read))?;
    let mut bytes = [0; 4];
    access.read(0, &mut bytes).expect("all of it");
    access.end().expect("it ends well");
    Some(u32::from_ne_bytes(bytes))
}

fn finish(stage: Arc<Stage>) {
    Arc::into_inner(stage).expect("the threads are gone").finish();
}

/// Whoever finds content finds what was written; whoever was told that it is kept has it for good.
#[test]
fn purge_against_looks_and_keeping() {
    sample(RUNS, || {
        let stage = purgeable();
        together(
            &stage,
            [
                |stage| {
                    purge(stage);
                    purge(stage);
                },
                |stage| assert!(matches!(look(stage), None | Some(FIRST))),
                |stage| {
                    let kept = stage.buffer.set_purgeable(false).expect("it is ours");
                    assert_eq!(stage.buffer.is_purged(), !kept);
                    assert_eq!(look(stage), kept.then_some(FIRST));
                },
            ],
        );
        assert_eq!(look(&stage), (!stage.buffer.is_purged()).then_some(FIRST));
        finish(stage);
    });
}

/// What is renewed is zero until somebody writes, whatever was under way in the place that it had.
#[test]
fn purge_against_writes_and_renewal() {
    sample(RUNS, || {
        let stage = purgeable();
        together(
            &stage,
            [
                |stage| purge(stage),
                |stage| {
                    let seat = attach_told(&stage.buffer, &stage.b);
                    let Some((seat, _)) = there(seat) else { return };
                    if let Some(mut mapping) = there(seat.map(Access::Write)) {
                        there(stage.try_write(&seat, &mut mapping, SECOND));
                    }
                },
                |stage| {
                    stage.buffer.renew().expect("there is room");
                    let found = look(stage);
                    assert!(matches!(found, None | Some(0 | FIRST | SECOND)), "{found:x?}");
                },
            ],
        );
        let purged = stage.buffer.is_purged();
        stage.buffer.renew().expect("there is room");
        let last = word(&stage.buffer);
        if purged {
            assert_eq!(last, 0, "a new place shows nobody's bytes");
        } else {
            assert!([0, FIRST, SECOND].contains(&last), "{last:x}");
        }
        finish(stage);
    });
}
