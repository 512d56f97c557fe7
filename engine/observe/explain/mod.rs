//! Why a buffer is where it is: its last decisions, and their reasons.
//!
//! Kernel counterpart: none. `ttm_bo_evict` leaves no trace of why it chose a buffer.
//!
//! A decision is numbers and a kind of reason; the text is made when the caller asks for it. A decision keeps
//! no names of other buffers, since those may be dropped by then. The caller can supply them
//! ([`Decision::told`]).

mod bits;
mod decision;
mod history;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use history::History;

pub use decision::{Decision, Pick, Reason, What};
pub use text::DecisionText;
