//! Cost of operations among a million buffers, relative to their cost among a hundred.

use std::hint::black_box;

use peerbuf::{Access, DomainId, Mapping};

use crate::Outcome;
use crate::figure::{Direction, Figure};
use crate::live::{SIZE, Shared, share_many};
use crate::live_million::same_again;
use crate::measure::{Interval, Plan, Random, compare};
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

/// One load of this many bytes: a cache line and its neighbour, which processors load together. A buffer takes as much.
#[repr(align(128))]
#[derive(Clone, Copy)]
struct Line(u64);

/// `create_full_million` and `view_million`: a buffer dropped and one created in a full heap, and a look-up of a mapping
/// chosen at random, each among 1,000,000 and among 100. `view_million_miss`: the latter against one load from as much
/// memory as the buffers take.
pub(crate) fn million(setup: &Setup) -> Outcome<Vec<Figure>> {
    let mut few = Crowd::new(setup, 100)?;
    let mut many = Crowd::new(setup, 1_000_000)?;
    let created = compare(Plan::MICROSECONDS, || few.replace(), || many.replace())?.ratio;
    let [few_mapped, many_mapped] = [few.map_all()?, many.map_all()?];
    // The first look-up at a buffer makes its content valid.
    few_mapped.iter().chain(&many_mapped).try_for_each(|mapping| mapping.view().map(drop))?;
    let mut random = Random::new(2);
    let mut other = Random::new(2);
    let look = |mapped: &[Mapping], random: &mut Random| -> Outcome<()> {
        black_box(mapped[random.below(mapped.len())].view()?);
        Ok(())
    };
    let looked = compare(
        Plan::MICROSECONDS,
        || look(&few_mapped, &mut random),
        || look(&many_mapped, &mut other),
    )?
    .ratio;
    let lines: Vec<_> = (0..many_mapped.len() as u64).map(Line).collect();
    let missed = compare(
        Plan::MICROSECONDS,
        || {
            black_box(lines[random.below(lines.len())].0);
            Ok(())
        },
        || look(&many_mapped, &mut other),
    )?
    .ratio;
    let figure = |id, what, target, ratio: Interval| {
        let figure = Figure::count(id, what, "times", Some(target), ratio.median);
        figure.within(Direction::AtMost, (ratio.lo, ratio.hi))
    };
    Ok(vec![
        figure("view_million", "look up a mapping among 1e6, over among 1e2", 8.0, looked),
        figure(
            "view_million_miss",
            "look up a mapping among 1e6, over one load from as much memory",
            2.5,
            missed,
        ),
        figure(
            "create_full_million",
            "drop and create in a full heap, among 1e6, over among 1e2",
            3.0,
            created,
        ),
    ])
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

    fn replace(&mut self) -> Outcome<()> {
        let at = self.random.below(self.shared.len());
        drop(self.shared.swap_remove(at));
        share_many(&self.own, &mut self.shared, 1)
    }

    fn map_all(&self) -> Outcome<Vec<Mapping>> {
        let all = self.shared.iter();
        all.map(|(_, attachment)| Ok(attachment.map(Access::Read)?)).collect()
    }

    fn turn(&mut self) -> Outcome<()> {
        self.replace()?;
        let (_, attachment) = &self.shared[self.random.below(self.shared.len())];
        black_box(attachment.map(Access::Read)?.view()?);
        Ok(())
    }
}
