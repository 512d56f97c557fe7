//! Cost of operations among a million buffers, relative to their cost among a hundred.

use std::hint::black_box;

use peerbuf::{Access, DomainId};

use crate::Outcome;
use crate::figure::{Direction, Figure};
use crate::live::{SIZE, Shared, share_many};
use crate::live_million::same_again;
use crate::measure::{Plan, Random, compare};
use crate::setup::Setup;

/// `op_scaling`: drops a buffer, creates and attaches another one, maps and looks up a third one. They are chosen
/// at random, and all buffers together fill a modelled heap to the last byte.
pub(crate) fn scaling(setup: &Setup) -> Outcome<Vec<Figure>> {
    let mut few = Crowd::new(setup, 100)?;
    let mut many = Crowd::new(setup, 1_000_000)?;
    let compared = compare(Plan::MICROSECONDS, || few.turn(), || many.turn())?;
    let ratio = compared.ratio;
    let figure = Figure::count(
        "op_scaling",
        "drop, create, share, map and look up, among 1e6 buffers that fill their heap, over among 1e2",
        "times",
        Some(4.0),
        ratio.median,
    );
    Ok(vec![figure.within(Direction::AtMost, (ratio.lo, ratio.hi))])
}

/// An engine and its buffers.
struct Crowd {
    // Dropped before the engine.
    shared: Vec<Shared>,
    own: Setup,
    random: Random,
}

impl Crowd {
    fn new(setup: &Setup, buffers: usize) -> Outcome<Self> {
        let own = same_again(setup)?;
        own.engine.model_heap(&own.near, buffers as u64 * SIZE)?;
        let mut shared = Vec::with_capacity(buffers);
        share_many(&own, &mut shared, buffers)?;
        let usage = own.engine.usage(DomainId::Vram(own.near.id()))?;
        if usage.used != usage.budget {
            return Err(format!("the buffers do not fill their heap: {usage:?}").into());
        }
        Ok(Self { shared, own, random: Random::new(1) })
    }

    fn turn(&mut self) -> Outcome<()> {
        let at = self.random.below(self.shared.len());
        drop(self.shared.swap_remove(at));
        share_many(&self.own, &mut self.shared, 1)?;
        let (_, attachment) = &self.shared[self.random.below(self.shared.len())];
        black_box(attachment.map(Access::Read)?.view()?);
        Ok(())
    }
}
