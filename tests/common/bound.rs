//! Tests of waits that end because the engine timeout has expired.
//!
//! All waits of an engine share one timeout, and how long other operations take depends on the machine. So these
//! tests begin with a short timeout, and start again with twice as much if another operation exceeded it. The test
//! says which those are: a timeout where it expects none is a failure.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::time::Duration;

use peerbuf::EngineDescriptor;

use super::Rig;

/// The first timeout, and one that is long enough for any machine.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(300);

/// The panic payload of a test whose timeout was too short.
struct TooShort;

/// Ends the attempt: an operation other than the tested wait took as long as the timeout.
pub(crate) fn too_short() -> ! {
    panic_any(TooShort)
}

/// Runs operations other than the tested wait. If one of them fails because it took as long as the timeout, the
/// attempt ends.
pub(crate) fn besides<R>(work: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("", String::as_str);
        // By the error's own form, or as the reason of another error: of a route too, that was not tried in time.
        let forms =
            ["Timeout {", "did not finish within", "NotProvedYet(Busy", "NotProvedYet(OutOfTime"];
        if forms.iter().any(|form| text.contains(form)) {
            too_short()
        }
        resume_unwind(panic)
    })
}

/// Runs `test` with an engine of some timeout, and passes that timeout to it.
pub(crate) fn with_bound(test: impl Fn(&mut Rig, Duration)) {
    with_bound_and(|descriptor| descriptor, test);
}

/// As [`with_bound`], with an engine whose descriptor `change` has modified.
pub(crate) fn with_bound_and(
    change: impl Fn(EngineDescriptor) -> EngineDescriptor,
    test: impl Fn(&mut Rig, Duration),
) {
    let mut bound = SHORTEST;
    loop {
        let rig = || Rig::with(|descriptor| change(descriptor.timeout(bound)));
        let attempt = || test(&mut rig(), bound);
        match catch_unwind(AssertUnwindSafe(attempt)) {
            Ok(()) => return,
            Err(panic) if panic.is::<TooShort>() && bound < LONGEST => bound *= 2,
            Err(panic) => resume_unwind(panic),
        }
    }
}
