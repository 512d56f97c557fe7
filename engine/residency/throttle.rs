//! Limits how fast evicted buffers return.
//!
//! Kernel counterpart: `amdgpu_cs_get_threshold_for_moves`: a budget of bytes that may be moved. It fills with
//! time up to a limit, and one move may overdraw it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::options::ResidencyOptions;

/// For how many milliseconds unused bytes accumulate.
const SAVED_MS: u64 = 200;

/// The budget of all submissions.
#[derive(Debug)]
pub(crate) struct Throttle {
    options: ResidencyOptions,
    balance: Mutex<Balance>,
}

#[derive(Debug)]
struct Balance {
    /// Negative after a buffer that has overdrawn it.
    bytes: i64,
    /// The time of the last refill, since the engine was created.
    filled: Duration,
}

/// The budget of one submission.
#[derive(Debug)]
pub(crate) struct Allowance<'a> {
    throttle: &'a Throttle,
    bytes: u64,
    moves: u32,
    first: bool,
}

impl Throttle {
    pub(crate) fn new(options: ResidencyOptions) -> Self {
        let balance = Balance { bytes: full(&options), filled: Duration::ZERO };
        Self { options, balance: Mutex::new(balance) }
    }

    pub(crate) fn options(&self) -> &ResidencyOptions {
        &self.options
    }

    /// A new submission's budget.
    pub(crate) fn submission(&self) -> Allowance<'_> {
        let ResidencyOptions { bytes_per_submission: bytes, moves_per_submission: moves, .. } =
            self.options;
        Allowance { throttle: self, bytes, moves, first: true }
    }

    /// Whether the balance is positive at `now`, the time since the engine was created.
    fn has_any(&self, now: Duration) -> bool {
        let mut balance = self.balance();
        let elapsed = now.saturating_sub(balance.filled);
        let earned = elapsed.as_secs_f64() * 1000.0 * self.options.bytes_per_ms as f64;
        // CAST: saturates.
        balance.bytes = balance.bytes.saturating_add(earned as i64).min(full(&self.options));
        balance.filled = balance.filled.max(now);
        balance.bytes > 0
    }

    fn balance(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowance<'_> {
    /// Whether a buffer of `bytes` may return at `now`, the time since the engine was created.
    pub(crate) fn allows(&self, bytes: u64, now: Duration) -> bool {
        let fits = bytes <= self.bytes || self.first && self.bytes > 0;
        fits && self.moves > 0 && self.throttle.has_any(now)
    }

    /// The reason of a refusal: how many bytes have returned, and how many may.
    pub(crate) fn refusal(&self) -> (u64, u64) {
        let options = &self.throttle.options;
        if !self.first {
            let left = if self.moves > 0 { self.bytes } else { 0 };
            return (options.bytes_per_submission - left, options.bytes_per_submission);
        }
        let full = full(options);
        let bytes = full.saturating_sub(self.throttle.balance().bytes);
        (bytes.unsigned_abs(), full.unsigned_abs())
    }

    /// Subtracts a buffer that has returned.
    pub(crate) fn pay(&mut self, bytes: u64) {
        self.first = false;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.moves = self.moves.saturating_sub(1);
        let mut balance = self.throttle.balance();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        balance.bytes = balance.bytes.saturating_sub(bytes);
    }
}

fn full(options: &ResidencyOptions) -> i64 {
    i64::try_from(options.bytes_per_ms.saturating_mul(SAVED_MS)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a buffer return, if it may.
    fn returns(allowance: &mut Allowance<'_>, bytes: u64, at: u64) -> bool {
        let may = allowance.allows(bytes, Duration::from_millis(at));
        if may {
            allowance.pay(bytes);
        }
        may
    }

    #[test]
    fn a_buffer_that_does_not_return_costs_nothing() {
        let throttle = throttle();
        let submission = throttle.submission();
        assert!((0..10).all(|_| submission.allows(100, Duration::ZERO)));
    }

    fn throttle() -> Throttle {
        let options = ResidencyOptions::new()
            .bytes_per_submission(100)
            .moves_per_submission(3)
            .bytes_per_ms(1);
        Throttle::new(options)
    }

    #[test]
    fn the_first_buffer_may_exceed_the_bytes_of_a_submission() {
        let throttle = throttle();
        let mut small = throttle.submission();
        assert!(returns(&mut small, 60, 0));
        assert!(!returns(&mut small, 41, 0), "more than is left");
        assert_eq!(small.refusal(), (60, 100));
        assert!(returns(&mut small, 40, 0));
        let mut large = throttle.submission();
        assert!(returns(&mut large, 500, 0), "or it would never return");
        assert!(!returns(&mut large, 1, 0));
        assert_eq!(large.refusal(), (100, 100));
    }

    #[test]
    fn a_submission_returns_a_limited_number_of_buffers() {
        let throttle = throttle();
        let mut submission = throttle.submission();
        let returned = (0..10).filter(|_| returns(&mut submission, 1, 0)).count();
        assert_eq!(returned, 3);
    }

    #[test]
    fn an_overdrawn_balance_refills_with_time_up_to_the_limit() {
        let throttle = throttle();
        let go = |bytes, at| returns(&mut throttle.submission(), bytes, at);
        assert!(go(500, 0), "200 have accumulated: it is overdrawn");
        assert!(!go(1, 300), "it is overdrawn by 300");
        assert_eq!(throttle.submission().refusal(), (200, 200));
        assert!(go(1, 302));
        assert!(go(100, 1_000_000) && go(100, 1_000_000), "at most 200 accumulate");
        assert!(!go(1, 1_000_000));
    }

    #[test]
    fn time_that_runs_backwards_refills_nothing() {
        let throttle = throttle();
        let go = |bytes, at| returns(&mut throttle.submission(), bytes, at);
        assert!(go(200, 1000));
        assert!(!go(1, 10) && !go(1, 1000));
        assert!(go(1, 1001));
    }
}
