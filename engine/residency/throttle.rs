//! How fast buffers come back.
//!
//! Kernel counterpart: `amdgpu_cs_get_threshold_for_moves`: an account of what may be moved, which fills with
//! time up to a limit and may go into debt once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rules::Rules;

/// For how many milliseconds what was not used adds up.
const SAVED_MS: u64 = 200;

/// What may still come back, over all submissions.
#[derive(Debug)]
pub(crate) struct Throttle {
    rules: Rules,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    /// Below zero after a buffer that went beyond it.
    bytes: i64,
    /// Until when it was filled, since the engine began.
    filled: Duration,
}

/// What may still come back for one submission.
#[derive(Debug)]
pub(crate) struct Allowance<'a> {
    throttle: &'a Throttle,
    bytes: u64,
    moves: u32,
    first: bool,
}

impl Throttle {
    pub(crate) fn new(rules: Rules) -> Self {
        let account = Account { bytes: full(&rules), filled: Duration::ZERO };
        Self { rules, account: Mutex::new(account) }
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What one submission may bring back.
    pub(crate) fn submission(&self) -> Allowance<'_> {
        let Rules { bytes_per_submission: bytes, moves_per_submission: moves, .. } = self.rules;
        Allowance { throttle: self, bytes, moves, first: true }
    }

    /// Whether there is anything in the account at `now`, the time since the engine began.
    fn has_any(&self, now: Duration) -> bool {
        let mut account = self.account();
        let elapsed = now.saturating_sub(account.filled);
        let earned = elapsed.as_secs_f64() * 1000.0 * self.rules.bytes_per_ms as f64;
        // CAST: saturates.
        account.bytes = account.bytes.saturating_add(earned as i64).min(full(&self.rules));
        account.filled = account.filled.max(now);
        account.bytes > 0
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowance<'_> {
    /// Whether a buffer of `bytes` may come back `now`, the time since the engine began.
    pub(crate) fn allows(&self, bytes: u64, now: Duration) -> bool {
        let fits = bytes <= self.bytes || self.first && self.bytes > 0;
        fits && self.moves > 0 && self.throttle.has_any(now)
    }

    /// Why not, if it may not: how many bytes have come, and how many may.
    pub(crate) fn refusal(&self) -> (u64, u64) {
        let rules = &self.throttle.rules;
        if !self.first {
            let left = if self.moves > 0 { self.bytes } else { 0 };
            return (rules.bytes_per_submission - left, rules.bytes_per_submission);
        }
        let full = full(rules);
        let bytes = full.saturating_sub(self.throttle.account().bytes);
        (bytes.unsigned_abs(), full.unsigned_abs())
    }

    /// It came.
    pub(crate) fn pay(&mut self, bytes: u64) {
        self.first = false;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.moves = self.moves.saturating_sub(1);
        let mut account = self.throttle.account();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        account.bytes = account.bytes.saturating_sub(bytes);
    }
}

fn full(rules: &Rules) -> i64 {
    i64::try_from(rules.bytes_per_ms.saturating_mul(SAVED_MS)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer comes, if it may.
    fn come(allowance: &mut Allowance<'_>, bytes: u64, at: u64) -> bool {
        let may = allowance.allows(bytes, Duration::from_millis(at));
        if may {
            allowance.pay(bytes);
        }
        may
    }

    #[test]
    fn who_did_not_come_pays_nothing() {
        let throttle = throttle();
        let submission = throttle.submission();
        assert!((0..10).all(|_| submission.allows(100, Duration::ZERO)));
    }

    fn throttle() -> Throttle {
        let rules = Rules::new().bytes_per_submission(100).moves_per_submission(3).bytes_per_ms(1);
        Throttle::new(rules)
    }

    #[test]
    fn a_submission_brings_back_so_many_bytes_and_one_buffer_more_at_first() {
        let throttle = throttle();
        let mut small = throttle.submission();
        assert!(come(&mut small, 60, 0));
        assert!(!come(&mut small, 41, 0), "more than is left");
        assert_eq!(small.refusal(), (60, 100));
        assert!(come(&mut small, 40, 0));
        let mut large = throttle.submission();
        assert!(come(&mut large, 500, 0), "or it would never come back");
        assert!(!come(&mut large, 1, 0));
        assert_eq!(large.refusal(), (100, 100));
    }

    #[test]
    fn a_submission_brings_back_so_many_buffers() {
        let throttle = throttle();
        let mut submission = throttle.submission();
        let came = (0..10).filter(|_| come(&mut submission, 1, 0)).count();
        assert_eq!(came, 3);
    }

    #[test]
    fn debt_is_paid_with_time_and_savings_have_an_end() {
        let throttle = throttle();
        let go = |bytes, at| come(&mut throttle.submission(), bytes, at);
        assert!(go(500, 0), "200 were saved: it goes into debt");
        assert!(!go(1, 300), "300 were owed");
        assert_eq!(throttle.submission().refusal(), (200, 200));
        assert!(go(1, 302));
        assert!(go(100, 1_000_000) && go(100, 1_000_000), "200 at most are saved");
        assert!(!go(1, 1_000_000));
    }

    #[test]
    fn time_that_runs_backwards_earns_nothing() {
        let throttle = throttle();
        let go = |bytes, at| come(&mut throttle.submission(), bytes, at);
        assert!(go(200, 1000));
        assert!(!go(1, 10) && !go(1, 1000));
        assert!(go(1, 1001));
    }
}
