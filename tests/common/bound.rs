//! Tests of waits that end because their bound is over.
//!
//! All waits of an engine have one bound, and how long the others take depends on the machine. So these tests begin
//! with a short one, and start again with twice as much when something was slower than that.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::time::Duration;

use super::Rig;

/// The first bound, and one that no machine is too slow for.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(300);

/// What a test panics with that finds that its bound was too short.
struct TooShort;

/// Ends the attempt: something else than the wait in question took as long as the bound.
pub(crate) fn too_short() -> ! {
    panic_any(TooShort)
}

/// Runs `test` with an engine whose waits end after a bound, which it is told.
pub(crate) fn with_bound(test: impl Fn(&mut Rig, Duration)) {
    let mut bound = SHORTEST;
    loop {
        let attempt = || test(&mut Rig::with(|descriptor| descriptor.timeout(bound)), bound);
        match catch_unwind(AssertUnwindSafe(attempt)) {
            Ok(()) => return,
            Err(panic) if is_too_short(&*panic) && bound < LONGEST => bound *= 2,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// Whether a wait has ended that was not to.
fn is_too_short(panic: &(dyn Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>();
    panic.is::<TooShort>() || text.is_some_and(|text| text.contains("Timeout {"))
}
