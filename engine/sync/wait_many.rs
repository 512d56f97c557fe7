//! Waits for many fences at once.
//!
//! Kernel counterpart: `dma_fence_wait_any_timeout`.

use std::time::{Duration, Instant};

use super::fence::Fence;
use super::host_fence::end_of;
use super::primitive::yield_now;
use crate::error::{Error, Result};

/// How many times [`Fence::wait_any`] polls and yields before it sleeps.
const YIELDS: u32 = 5;
/// The first and the longest sleep of [`Fence::wait_any`].
const SLEEPS: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(1)];

impl Fence {
    /// Waits until one of `fences` is over; returns its index, the lowest of those that have signalled, else of those
    /// whose work failed. [`Fence::is_signalled`] tells which it is.
    ///
    /// Fences of several devices, of the host and of the kernel have no common primitive to sleep on. So the wait
    /// polls, yields a few times, then sleeps in turn on each fence, for at most a millisecond. A fence that
    /// signals meanwhile is found after that sleep.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `timeout`, and at once if `fences` is empty; or what the query of a fence said.
    ///
    /// Locks: none.
    #[doc(alias = "dma_fence_wait_any_timeout")]
    pub fn wait_any(fences: &[Self], timeout: Duration) -> Result<usize> {
        let timed_out = || {
            let what = format!("the first of {} fences", fences.len());
            Err(Error::Timeout { what, after: timeout })
        };
        if fences.is_empty() {
            return timed_out();
        }
        let end = end_of(timeout);
        let [mut sleep, longest] = SLEEPS;
        for turn in 0.. {
            let mut failed = None;
            for (index, fence) in fences.iter().enumerate() {
                match fence.is_signalled() {
                    Ok(true) => return Ok(index),
                    Ok(false) => {}
                    // A fence whose work failed must not hide another one that has signalled.
                    Err(_) if fence.is_over() => failed = failed.or(Some(index)),
                    Err(error) => return Err(error),
                }
            }
            if let Some(index) = failed {
                return Ok(index);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if turn < YIELDS as usize {
                yield_now();
                continue;
            }
            // The next turn queries every fence, so the outcome of this wait is not needed.
            _ = fences[turn % fences.len()].wait_until_over(sleep.min(left));
            sleep = longest.min(sleep * 2);
        }
        timed_out()
    }

    /// Waits until all of `fences` have signalled. Failed work does not shorten the wait: every fence is waited for
    /// before an error other than [`Error::Timeout`] is returned.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `timeout`; else the error of the first fence that has one: that its work failed, or
    /// what its query said, after which nothing is known of that fence.
    ///
    /// Locks: none.
    pub fn wait_all(fences: &[Self], timeout: Duration) -> Result<()> {
        let end = end_of(timeout);
        let mut failure = Ok(());
        for fence in fences {
            let waited = fence.wait(end.saturating_duration_since(Instant::now()));
            match waited {
                Err(Error::Timeout { what, .. }) => {
                    return Err(Error::Timeout { what, after: timeout });
                }
                waited => failure = failure.and(waited),
            }
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(5);
    const LATE: Duration = Duration::from_secs(600);

    #[test]
    fn wait_any_returns_the_lowest_signalled_index() {
        let (pending, _signal) = Fence::host();
        let fences = [pending, Fence::signalled(), Fence::signalled()];
        assert!(matches!(Fence::wait_any(&fences, SOON), Ok(1)));
        assert!(matches!(Fence::wait_any(&fences[..1], SOON), Err(Error::Timeout { .. })));
        assert!(matches!(Fence::wait_any(&[], LATE), Err(Error::Timeout { .. })));
    }

    #[test]
    fn wait_any_ends_when_another_thread_signals() {
        let ((first, _keep), (second, signal)) = (Fence::host(), Fence::host());
        let fences = [first, second];
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Fence::wait_any(&fences, LATE));
            drop(signal);
            assert!(matches!(waiter.join(), Ok(Ok(1))));
        });
    }

    #[test]
    fn wait_any_prefers_signalled_fences_to_failed_ones() {
        let ((failed, fail), (pending, _keep)) = (Fence::host(), Fence::host());
        fail.fail("torn");
        let fences = [pending, failed, Fence::signalled()];
        assert!(matches!(Fence::wait_any(&fences, LATE), Ok(2)));
        assert!(matches!(Fence::wait_any(&fences[..2], LATE), Ok(1)));
        assert!(matches!(fences[1].is_signalled(), Err(Error::WorkFailed { .. })));
    }

    #[test]
    fn wait_all_waits_for_the_others_when_one_fails() {
        let ((failed, fail), (pending, signal)) = (Fence::host(), Fence::host());
        fail.fail("torn");
        let fences = [failed, pending];
        assert!(matches!(Fence::wait_all(&fences, SOON), Err(Error::Timeout { after: SOON, .. })));
        drop(signal);
        assert!(matches!(Fence::wait_all(&fences, LATE), Err(Error::WorkFailed { .. })));
        assert!(matches!(Fence::wait_all(&fences[1..], LATE), Ok(())));
        assert!(matches!(Fence::wait_all(&[], SOON), Ok(())));
    }
}
