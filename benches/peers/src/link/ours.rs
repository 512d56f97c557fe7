//! peerbuf: two shared buffers, and `Engine::copy`.

use peerbuf::{Access, BufferDescriptor, CopyRegion, SharedBuffer};

use super::{Pair, Peer, TIMEOUT};
use crate::Outcome;

const SEED: u32 = 2026;

pub(super) struct Ours<'a> {
    pair: &'a Pair,
    from: SharedBuffer,
    to: SharedBuffer,
}

impl<'a> Ours<'a> {
    pub(super) fn new(pair: &'a Pair, size: u64) -> Outcome<Self> {
        let create = |home| pair.engine.create_buffer(home, BufferDescriptor::new(size));
        let (from, to) = (create(&pair.near)?, create(&pair.far)?);
        from.attach(&pair.near)?.map(Access::Write)?.fill(SEED)?;
        to.attach(&pair.far)?.map(Access::Write)?.fill(!SEED)?;
        Ok(Self { pair, from, to })
    }
}

impl Peer for Ours<'_> {
    fn copy(&mut self) -> Outcome<()> {
        let region = CopyRegion::first(self.from.size());
        Ok(self.pair.engine.copy(&self.from, &self.to, region)?.wait(TIMEOUT)?)
    }

    fn check(&mut self) -> Outcome<()> {
        let report = self.to.attach(&self.pair.far)?.map(Access::Read)?.verify(SEED)?;
        if report.is_clean() { Ok(()) } else { Err(format!("peerbuf: {report:?}").into()) }
    }
}
