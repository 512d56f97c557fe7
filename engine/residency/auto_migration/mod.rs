//! Auto-migration: moves a buffer into the memory of the device that uses it most, when the time that this
//! saves pays for the move.
//!
//! Kernel counterparts: the fault counts of automatic NUMA balancing (`task_numa_fault`), amdgpu's threshold
//! for moves; the access counters of CUDA's managed memory.
//!
//! The *access cost* is the time that a device takes to read a byte in a domain, as it was measured when the
//! route was proved. A pair that was not measured has none, and decides nothing. A use by device U counts
//! only if U would read the buffer in its own memory at two thirds of the cost or less. Software devices have
//! the same memory everywhere, and no access costs.
//!
//! For each buffer, and each device D that would gain, a counter adds up the time that would have been saved
//! with the buffer in D's memory: a use by U of `bytes` adds `bytes × (U's cost here - U's cost at D)`. Uses
//! by devices that would lose are subtracted, and the counter does not fall below zero. A move costs
//! `M = size × (D's cost here + D's cost at home)`, because D reads each byte here and writes it there. The
//! buffer moves to D when D's counter has reached `T = 2 M`. Then all counters start anew, and `T` doubles
//! with each recent move.
//!
//! # How good it is
//!
//! Let all uses be small against `T`, and the time short against the period ([`table::PERIOD_MS`]), so that
//! nothing is forgotten.
//!
//! *Two domains, no doubling.* The counter, cut off at zero, is the difference of the work functions of the
//! two domains plus `M`. Moving at `2 M` is therefore the work function algorithm. It costs at most 3 times
//! what an optimal algorithm costs that knows all uses beforehand. No algorithm without that knowledge can do
//! better (Borodin, Linial, Saks: metrical task systems, with two states).
//!
//! *Ski rental.* A buffer that moves once has cost at most `2 M` too much before, and `M` for the move. To
//! move it at once would have cost `M`. So the ratio is 3, and less the longer the buffer is used.
//!
//! *Doubling.* Let `T₀, T₁, …` be the thresholds of a buffer that moves back and forth. While it was in the
//! wrong domain it has cost at most `Tₖ` more than in the other one, and `2 M` for the moves. An optimal
//! algorithm that keeps it in one domain has paid at least `Tₖ₋₁` during the stay before, because that is what
//! made the buffer move. `(Tₖ + 2 M) / Tₖ₋₁` is at most 3, so the whole is at most 4 times the cost of the
//! best domain, for any uses. The last of `n` moves was preceded by a saving of `2ⁿ M`, so the number of moves
//! is at most logarithmic in the time spent. Fewer moves are worth that: importers are notified of each, and
//! each makes mappings stale.
//!
//! *One more use.* A counter exceeds `T` by at most what one use adds. For a use of all bytes that is less
//! than `M`. That makes the ratio 4.5.
//!
//! *Ageing.* After each period the counters are halved, and one doubling is forgotten. A device that would
//! save less than `M` per period never gets the buffer, and loses at most that share of its time.
//!
//! # What it costs
//!
//! Nothing per buffer. A table of bounded size is made at the first counted use. While it has no entry, a use
//! costs a comparison or two. In a full set, a new buffer halves the counters of the least used entry, and
//! takes the entry when nothing is left of them.

mod access_costs;
mod counters;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use access_costs::AccessCost;
pub(crate) use counters::BufferUse;
pub(crate) use table::{AccessCounts, AutoMigration};
