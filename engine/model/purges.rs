//! Purges, against reads, writes, renewal and `set_purgeable(false)`. On a real device.

use shuttle::sync::Arc;

use super::stage::{FIRST, Stage, attach_notified, word};
use super::{sample, together};
use crate::{Access, Error, Result};

/// Enough interleavings to find each bug that was planted on purpose many times over.
const RUNS: usize = 100;

/// The word that the device writes.
const SECOND: u32 = 0x0202_0202;

fn purgeable() -> Arc<Stage> {
    let stage = Stage::new();
    assert!(
        stage.buffer.set_purgeable(true).expect("the buffer is not imported"),
        "the content is still there"
    );
    Arc::new(stage)
}

/// The result, or `None` if the buffer was purged.
fn unless_purged<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(Error::Purged { .. }) => None,
        Err(error) => panic!("the operation succeeds, or the buffer is purged: {error}"),
    }
}

/// Evicts the buffer, which purges it if it is purgeable. A busy buffer stays.
fn purge(stage: &Stage) {
    match stage.buffer.evict() {
        Ok(_) | Err(Error::Busy { .. } | Error::Purged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The first word, as the host reads it; `None` if the buffer is purged.
fn look(stage: &Stage) -> Option<u32> {
    let access = unless_purged(stage.buffer.host_access(Access::Read))?;
    let mut bytes = [0; 4];
    access.read(0, &mut bytes).expect("the range is in the buffer");
    access.end().expect("the access ends without an error");
    Some(u32::from_ne_bytes(bytes))
}

fn finish(stage: Arc<Stage>) {
    Arc::into_inner(stage).expect("the threads have ended").finish();
}

/// A read of the content finds what was written. If `set_purgeable(false)` returns true, the content stays.
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
                    let kept =
                        stage.buffer.set_purgeable(false).expect("the buffer is not imported");
                    assert_eq!(stage.buffer.is_purged(), !kept);
                    assert_eq!(look(stage), kept.then_some(FIRST));
                },
            ],
        );
        assert_eq!(look(&stage), (!stage.buffer.is_purged()).then_some(FIRST));
        finish(stage);
    });
}

/// A renewed buffer is zero until it is written, whatever work was running on its old backing.
#[test]
fn purge_against_writes_and_renewal() {
    sample(RUNS, || {
        let stage = purgeable();
        together(
            &stage,
            [
                |stage| purge(stage),
                |stage| {
                    let attachment = attach_notified(&stage.buffer, &stage.b);
                    let Some((attachment, _)) = unless_purged(attachment) else { return };
                    if let Some(mut mapping) = unless_purged(attachment.map(Access::Write)) {
                        unless_purged(stage.try_write(&attachment, &mut mapping, SECOND));
                    }
                },
                |stage| {
                    stage.buffer.repopulate().expect("there is memory");
                    let found = look(stage);
                    assert!(matches!(found, None | Some(0 | FIRST | SECOND)), "{found:x?}");
                },
            ],
        );
        let purged = stage.buffer.is_purged();
        stage.buffer.repopulate().expect("there is memory");
        let last = word(&stage.buffer);
        if purged {
            assert_eq!(last, 0, "renewed memory is zero");
        } else {
            assert!([0, FIRST, SECOND].contains(&last), "{last:x}");
        }
        finish(stage);
    });
}
