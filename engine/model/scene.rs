//! The setup of most models of a move: a buffer on one device, and an importer on a second device.

use shuttle::sync::Arc;

use super::stage::{Notified, Stage, attach_notified};
use crate::{Attachment, Migration};

/// Enough interleavings to find each bug that was planted on purpose many times over.
pub(super) const RUNS: usize = 150;

/// A stage whose second device is attached dynamically.
pub(super) struct Scene {
    pub(super) attachment: Attachment,
    pub(super) notified: Arc<Notified>,
    pub(super) stage: Stage,
}

impl Scene {
    pub(super) fn new() -> Arc<Self> {
        let stage = Stage::new();
        let (attachment, notified) =
            attach_notified(&stage.buffer, &stage.b).expect("both devices reach the buffer");
        Arc::new(Self { attachment, notified, stage })
    }

    /// Checks that every word is `last`, that the importer was notified once of each generation, and that no
    /// object is left after the last drop.
    pub(super) fn finish(self: Arc<Self>, last: u32) {
        let this = Arc::into_inner(self).expect("the threads have ended");
        assert_eq!(this.stage.word(), last);
        let generation = this.stage.buffer.generation();
        assert_eq!(this.notified.list(), (0..generation).collect::<Vec<_>>());
        let Self { attachment, notified, stage } = this;
        drop((attachment, notified));
        stage.finish();
    }
}

pub(super) fn moved_twice(moves: [Option<Migration>; 2]) {
    let done = |generation| Some(Migration::Done { generation });
    assert_eq!(moves, [done(1), done(2)]);
}
