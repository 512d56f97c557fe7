//! What most models of a move begin with: a buffer on one device, and an importer of another one.

use shuttle::sync::Arc;

use super::stage::{Stage, Told, attach_told};
use crate::{Attachment, Migration};

/// Enough to find what was broken on purpose, many times over.
pub(super) const RUNS: usize = 150;

/// A stage whose second device is attached with an importer.
pub(super) struct Scene {
    pub(super) seat: Attachment,
    pub(super) told: Arc<Told>,
    pub(super) stage: Stage,
}

impl Scene {
    pub(super) fn new() -> Arc<Self> {
        let stage = Stage::new();
        let (seat, told) = attach_told(&stage.buffer, &stage.b).expect("both reach it");
        Arc::new(Self { seat, told, stage })
    }

    /// Everything is gone, the bytes are `last`, and the importer was told once of each generation.
    pub(super) fn finish(self: Arc<Self>, last: u32) {
        let this = Arc::into_inner(self).expect("the threads are gone");
        assert_eq!(this.stage.word(), last);
        let generation = this.stage.buffer.generation();
        assert_eq!(this.told.list(), (0..generation).collect::<Vec<_>>());
        let Self { seat, told, stage } = this;
        drop((seat, told));
        stage.finish();
    }
}

pub(super) fn moved_twice(moves: [Option<Migration>; 2]) {
    let done = |generation| Some(Migration::Done { generation });
    assert_eq!(moves, [done(1), done(2)]);
}
