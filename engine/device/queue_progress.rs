//! How far a queue is, readable without the lock of its submissions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ash::vk;
use smallvec::SmallVec;

use super::submit::NotSubmitted;

/// The values of a queue's last submissions. One thread at a time writes them: that which has the queue's lock.
///
/// Sequentially consistent, as is the mark of a lost device: a thread that has seen the mark sees every attempt that
/// has not seen it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The value of the last call of `vkQueueSubmit`, which may not have returned. Not below `submitted`.
    attempted: AtomicU64,
    /// The value of the last submission, rejected ones included.
    submitted: AtomicU64,
    /// The value of the last submission for which `vkQueueSubmit` succeeded. Written before `submitted`.
    accepted: AtomicU64,
}

/// A call of `vkQueueSubmit`.
pub(super) struct Attempt<'a>(&'a Progress, u64);

impl Progress {
    /// To be called before `vkQueueSubmit`, with the value that it will signal. `None` if the device is lost.
    pub(super) fn begin(&self, value: u64, lost: &AtomicBool) -> Option<Attempt<'_>> {
        self.attempted.store(value, Ordering::SeqCst);
        let attempt = Attempt(self, value);
        if lost.load(Ordering::SeqCst) {
            self.attempted.store(value - 1, Ordering::SeqCst);
            return None;
        }
        Some(attempt)
    }

    pub(super) fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::SeqCst)
    }

    pub(super) fn attempted(&self) -> u64 {
        self.attempted.load(Ordering::SeqCst)
    }

    /// The value of the last submission if it was rejected.
    pub(super) fn rejected(&self) -> Option<u64> {
        let submitted = self.submitted();
        (submitted > self.accepted.load(Ordering::SeqCst)).then_some(submitted)
    }

    /// Waits, until `end`, while `vkQueueSubmit` is being called. Returns the values of the last accepted submission
    /// and of the last one.
    pub(super) fn wait_for_attempt(&self, end: Instant) -> Option<(u64, u64)> {
        loop {
            let submitted = self.submitted();
            if self.attempted() == submitted {
                return Some((self.accepted.load(Ordering::SeqCst), submitted));
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Attempt<'_> {
    /// Records what `vkQueueSubmit` returned.
    pub(super) fn end(self, returned: Result<(), vk::Result>) -> Result<(), NotSubmitted> {
        let Self(progress, value) = self;
        let made = returned
            .map_err(|code| NotSubmitted { code, rejected: code == vk::Result::ERROR_DEVICE_LOST });
        match made {
            Ok(()) => {
                progress.accepted.store(value, Ordering::SeqCst);
                progress.submitted.store(value, Ordering::SeqCst);
            }
            Err(NotSubmitted { rejected: true, .. }) => {
                progress.submitted.store(value, Ordering::SeqCst);
            }
            Err(_) => progress.attempted.store(value - 1, Ordering::SeqCst),
        }
        made
    }
}

/// The timelines, signalled elsewhere, that unfinished submissions wait for, each with the value.
#[derive(Debug, Default)]
pub(super) struct Awaited(VecDeque<(u64, Points)>);

/// Values of timelines.
type Points = SmallVec<[(vk::Semaphore, u64); 1]>;

impl Awaited {
    /// Notes what the submission with `value` waits for.
    pub(super) fn push(&mut self, value: u64, timelines: &Points) {
        if !timelines.is_empty() {
            self.0.push_back((value, timelines.clone()));
        }
    }

    /// Forgets the submissions up to `completed`, which have finished.
    pub(super) fn forget(&mut self, completed: u64) {
        while self.0.front().is_some_and(|(value, _)| *value <= completed) {
            self.0.pop_front();
        }
    }

    /// The timelines, others than `own`, that the submissions up to `value` wait for.
    pub(super) fn up_to(
        &self,
        value: u64,
        own: &[vk::Semaphore],
    ) -> SmallVec<[(vk::Semaphore, u64); 4]> {
        let until = self.0.iter().take_while(|(of, _)| *of <= value);
        let timelines = until.flat_map(|(_, timelines)| timelines.iter().copied());
        timelines.filter(|(semaphore, _)| !own.contains(semaphore)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_attempted_on_a_lost_device_and_a_failed_attempt_leaves_no_trace() {
        let (progress, lost) = (Progress::default(), AtomicBool::new(false));
        let attempt = progress.begin(1, &lost).expect("not lost");
        assert_eq!((progress.attempted(), progress.submitted()), (1, 0));
        assert_eq!(progress.wait_for_attempt(Instant::now()), None, "it may be accepted yet");
        attempt.end(Ok(())).expect("accepted");
        assert_eq!(progress.wait_for_attempt(Instant::now()), Some((1, 1)));
        let attempt = progress.begin(2, &lost).expect("not lost");
        attempt.end(Err(vk::Result::ERROR_OUT_OF_HOST_MEMORY)).expect_err("not made");
        assert_eq!((progress.attempted(), progress.submitted(), progress.rejected()), (1, 1, None));
        let attempt = progress.begin(2, &lost).expect("not lost");
        let failed = attempt.end(Err(vk::Result::ERROR_DEVICE_LOST)).expect_err("rejected");
        assert!(failed.rejected);
        assert_eq!(progress.wait_for_attempt(Instant::now()), Some((1, 2)));
        assert_eq!(progress.rejected(), Some(2));
        lost.store(true, Ordering::SeqCst);
        assert!(progress.begin(3, &lost).is_none());
        assert_eq!((progress.attempted(), progress.submitted()), (2, 2));
    }

    #[test]
    fn what_finished_submissions_waited_for_is_forgotten() {
        let mut awaited = Awaited::default();
        let point = |value| SmallVec::from_slice(&[(vk::Semaphore::null(), value)]);
        awaited.push(1, &point(10));
        awaited.push(2, &SmallVec::new());
        awaited.push(3, &point(30));
        assert_eq!(awaited.up_to(2, &[]).as_slice(), [(vk::Semaphore::null(), 10)]);
        assert!(awaited.up_to(3, &[vk::Semaphore::null()]).is_empty(), "its own");
        awaited.forget(2);
        assert_eq!(awaited.up_to(3, &[]).as_slice(), [(vk::Semaphore::null(), 30)]);
    }
}
