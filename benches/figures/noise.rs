//! The noise of a run: the same operation as both contenders.

use std::fmt;
use std::hint::black_box;

use crate::Outcome;
use crate::by_hand::ByHand;
use crate::copy::{HeapCopy, Turns, in_turns};
use crate::figure::time;
use crate::measure::{Compared, Plan, compare};
use crate::run;
use crate::setup::Setup;

/// The noise of this run, per kind of operation. Without noise every ratio would be 1.
pub(crate) struct Noise(pub(crate) Vec<Line>);

/// Comparison of one operation with itself.
pub(crate) struct Line {
    what: &'static str,
    size_bytes: Option<u64>,
    compared: Compared,
}

impl Noise {
    pub(crate) fn measure(setup: &Setup) -> Outcome<Self> {
        let by_hand = ByHand::new(&setup.near, &setup.far, setup.handle, 64 << 10)?;
        let block = by_hand.create()?;
        let share = || {
            black_box(by_hand.share(&block)?);
            Ok(())
        };
        let micros = compare(Plan::MICROSECONDS, share, share)?;
        let (mut heap, mut other_heap) = in_turns(HeapCopy::new, HeapCopy::new)?;
        let (mut turns, mut other_turns) = (Turns::default(), Turns::default());
        let millis = compare(
            Plan::MILLISECONDS,
            || {
                heap[turns.next()].copy();
                Ok(())
            },
            || {
                other_heap[other_turns.next()].copy();
                Ok(())
            },
        )?;
        Ok(Self(vec![
            Line { what: "sharing by hand", size_bytes: None, compared: micros },
            Line { what: "memcpy of 64 MiB", size_bytes: Some(64 << 20), compared: millis },
        ]))
    }
}

impl Line {
    /// The line as it is saved.
    pub(crate) fn saved(&self) -> run::Noise {
        let ratio = self.compared.ratio;
        run::Noise {
            what: self.what.to_owned(),
            size_bytes: self.size_bytes,
            ratio: ratio.median,
            ratio_lo: ratio.lo,
            ratio_hi: ratio.hi,
            median_ns: self.compared.ours * 1e9,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.compared.ratio;
        write!(
            f,
            "{}: {:.3} ({:.3} … {:.3}), {} each",
            self.what,
            ratio.median,
            ratio.lo,
            ratio.hi,
            time(self.compared.ours),
        )
    }
}
