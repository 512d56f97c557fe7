//! The verdicts of one engine: proved once, kept, and proved further where a route was not tried.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::child;
use super::need::Need;
use super::pair_key::PairKey;
use super::prove::{self, ProbeDevices, ProbesHeld, Task};
use super::refusal::Route;
use super::route_file::RouteFile;
use super::verdict::Verdict;
use crate::device::DeviceInner;
use crate::error::{Error, Result};

/// Untried routes are tried again after this time, after four times as much if they are still untried, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(10);
/// The longest time between two tries.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The verdicts on pairs of devices, and the devices on which they are found.
///
/// One thread proves at a time.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// A list and not a map: there are few pairs, every move asks, and hashing a key takes longer than comparing a
    /// dozen of them.
    list: Mutex<Vec<Entry>>,
    /// How often `list` has changed. Changed with `list` locked.
    version: AtomicU64,
    /// Whether a thread proves. Taken before `list`, and not held while it proves.
    proving: Mutex<bool>,
    proved: Condvar,
    pub(super) probes: ProbeDevices,
    /// Read and written only by the thread that proves, and by [`Routes::forget`].
    file: Option<RouteFile>,
    /// The program that proves in a child process.
    program: Option<PathBuf>,
}

#[derive(Debug)]
struct Entry {
    key: PairKey,
    verdict: Arc<Verdict>,
    /// How often routes remained untried, and the age of the engine at which they are tried again.
    tries: u32,
    retry_at: Duration,
}

impl Entry {
    /// Whether untried routes are tried again.
    fn is_due(&self, age: Duration) -> bool {
        !self.verdict.untried.is_empty() && age >= self.retry_at
    }

    /// Whether all needed routes are known, or are not to be tried yet.
    fn is_settled(&self, need: Need, age: Duration) -> bool {
        let verdict = &self.verdict;
        let is_open = |route: Route| {
            let untried = || verdict.untried.iter().any(|refusal| refusal.route == route);
            !verdict.knows(route) && (self.is_due(age) || !untried())
        };
        let mut ladder = prove::ladder(self.key.same_device);
        !ladder.any(|route| need.wants(route, &verdict.working) && is_open(route))
    }
}

impl Routes {
    /// Verdicts that are also kept in a file, and found by a program in a child process, if there is one.
    pub(crate) fn with(file: Option<PathBuf>, program: Option<PathBuf>) -> Self {
        Self { file: file.map(RouteFile::new), program, ..Self::default() }
    }

    /// Returns the verdict on a pair, and whether something new was found out. Needed routes that are not known yet are
    /// proved; those that remain untried are tried again after a while. All of it takes at most about `limit`.
    /// `now` returns the age of the engine.
    ///
    /// Where a program proves, it proves all routes at once: to start it takes longer.
    ///
    /// # Errors
    ///
    /// [`Error::FdLimit`]. What was found out before is kept.
    ///
    /// Locks: none may be held; this waits for devices, and for another thread that proves.
    pub(crate) fn verdict(
        &self,
        from: &Arc<DeviceInner>,
        to: &Arc<DeviceInner>,
        need: Need,
        limit: Duration,
        now: impl Fn() -> Duration,
    ) -> Result<(Arc<Verdict>, bool)> {
        let (key, age) = (PairKey::new(from, to), now());
        if let Some(known) = self.settled(&key, need, age) {
            return Ok((known, false));
        }
        let end = Instant::now() + limit;
        let Some(_turn) = self.turn(end) else {
            let known = self.known(&key);
            let task = Task { known: known.as_deref(), need, retry: false };
            return Ok((Arc::new(prove::out_of_time((from, to), task, limit)), false));
        };
        // Another thread may have proved it meanwhile.
        if let Some(known) = self.settled(&key, need, age) {
            return Ok((known, false));
        }
        let need = if self.program.is_some() { Need::All } else { need };
        let remembered = || self.file.as_ref()?.read(&key).map(Arc::new);
        let before = self.known(&key).or_else(remembered);
        let left = end.saturating_duration_since(Instant::now());
        let task = Task { known: before.as_deref(), need, retry: self.is_due(&key, age) };
        let (verdict, error) = self.prove((from, to), task, left);
        tracing::info!(
            from = from.name(),
            to = to.name(),
            ?need,
            route = verdict.route.name(),
            untried = verdict.untried.len(),
            "routes proved"
        );
        if let Some(file) = &self.file {
            file.write(&key, &verdict);
        }
        // The delay before the next try begins now: a trial of a busy device takes longer than the first delay.
        let age = now();
        match error {
            Some(error) => {
                // The caller can mend this, and may have done so at its next call.
                self.set(key, verdict, true, |_| age);
                Err(error)
            }
            None => Ok((self.set(key, verdict, task.retry, later(age)), true)),
        }
    }

    /// Takes over what the file knows of these pairs, so that their first uses need not read it. Proves nothing, and does nothing
    /// while another thread proves.
    ///
    /// Locks: none may be held; this reads the file.
    pub(crate) fn recall(&self, pairs: &[(&Arc<DeviceInner>, &Arc<DeviceInner>)], age: Duration) {
        let Some(file) = &self.file else { return };
        let Some(_turn) = self.turn(Instant::now()) else { return };
        let keys: Vec<_> = pairs.iter().map(|(from, to)| PairKey::new(from, to)).collect();
        let remembered = file.read_each(&keys);
        for ((&pair, key), verdict) in pairs.iter().zip(keys).zip(remembered) {
            if let (Some(verdict), None) = (verdict, self.known(&key)) {
                self.set(key, prove::recalled(pair, &verdict), false, later(age));
            }
        }
    }

    /// Proves in a child process if there is a program for it, and here if there is none, or it cannot do it.
    fn prove(
        &self,
        pair: (&Arc<DeviceInner>, &Arc<DeviceInner>),
        task: Task<'_>,
        limit: Duration,
    ) -> (Verdict, Option<Error>) {
        let by_child = |program: &PathBuf| child::prove(program, pair, task.known, limit);
        match self.program.as_ref().and_then(by_child) {
            Some(verdict) => (verdict, None),
            None => prove::prove(pair, task, &self.probes, limit),
        }
    }

    /// The verdict on a pair, if there is one: what was needed so far.
    pub(crate) fn known(&self, key: &PairKey) -> Option<Arc<Verdict>> {
        let list = self.list();
        list.iter().find(|entry| entry.key == *key).map(|entry| Arc::clone(&entry.verdict))
    }

    /// Sets the verdict on a pair. Its untried routes are tried again after a while.
    #[cfg(all(test, peerbuf_shuttle))]
    pub(crate) fn keep(&self, key: PairKey, verdict: Verdict, age: Duration) -> Arc<Verdict> {
        self.set(key, verdict, true, later(age))
    }

    /// Sets the verdict on a pair. `retry_at` says when its untried routes are tried again, after as many tries. Those that
    /// were untried before, and were not retried, are due when they were.
    fn set(
        &self,
        key: PairKey,
        verdict: Verdict,
        retried: bool,
        retry_at: impl FnOnce(u32) -> Duration,
    ) -> Arc<Verdict> {
        let mut list = self.list();
        let at = list.iter().position(|entry| entry.key == key);
        let earlier = at.map(|at| list.swap_remove(at));
        let (tries, retry_at) = match earlier {
            _ if verdict.untried.is_empty() => (0, Duration::ZERO),
            Some(of) if !retried && of.verdict.untried == verdict.untried => {
                (of.tries, of.retry_at)
            }
            earlier => {
                let tries = earlier.map_or(0, |earlier| earlier.tries);
                (tries + 1, retry_at(tries))
            }
        };
        let verdict = Arc::new(verdict);
        list.push(Entry { key, verdict: Arc::clone(&verdict), tries, retry_at });
        self.version.fetch_add(1, Ordering::Release);
        verdict
    }

    /// Forgets all verdicts, those in the file too, so that the next use proves again.
    pub(crate) fn forget(&self) {
        let mut list = self.list();
        list.clear();
        self.version.fetch_add(1, Ordering::Release);
        drop(list);
        if let Some(file) = &self.file {
            file.forget();
        }
    }

    /// A number that grows with each change of a verdict, for what is computed from verdicts.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Keeps the devices on which routes are proved open for several pairs, until the result is dropped.
    pub(crate) fn hold_probes(&self) -> ProbesHeld<'_> {
        self.probes.hold()
    }

    /// The verdict on a pair, if all of its routes are known, or the others are not to be tried yet.
    fn settled(&self, key: &PairKey, need: Need, age: Duration) -> Option<Arc<Verdict>> {
        let list = self.list();
        let entry = list.iter().find(|entry| entry.key == *key)?;
        entry.is_settled(need, age).then(|| Arc::clone(&entry.verdict))
    }

    /// Whether nothing has to be proved for what is needed.
    pub(crate) fn is_settled(&self, key: &PairKey, need: Need, age: Duration) -> bool {
        self.list().iter().any(|entry| entry.key == *key && entry.is_settled(need, age))
    }

    /// Whether routes of a pair that could not be tried are tried now. A pair that is not known has none.
    fn is_due(&self, key: &PairKey, age: Duration) -> bool {
        self.list().iter().find(|entry| entry.key == *key).is_none_or(|entry| entry.is_due(age))
    }

    /// Waits until no other thread proves; `None` after `end`.
    pub(super) fn turn(&self, end: Instant) -> Option<Turn<'_>> {
        let mut proving = self.proving.lock().unwrap_or_else(PoisonError::into_inner);
        while *proving {
            let left = end.checked_duration_since(Instant::now())?;
            let woken = self.proved.wait_timeout(proving, left);
            proving = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *proving = true;
        Some(Turn(self))
    }

    fn list(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When untried routes are tried again, after a number of tries at that age of the engine.
fn later(age: Duration) -> impl FnOnce(u32) -> Duration {
    move |tries| {
        let factor = 4u32.saturating_pow(tries);
        age + FIRST_RETRY.saturating_mul(factor).min(LAST_RETRY)
    }
}

/// The right to prove.
pub(super) struct Turn<'a>(&'a Routes);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.proving.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.proved.notify_one();
    }
}

impl Verdict {
    /// Fails if no route works, and some were not tried.
    pub(crate) fn check_proved(&self, device: &DeviceInner) -> Result<()> {
        if !self.working.is_empty() || self.untried.is_empty() {
            return Ok(());
        }
        let (device, untried) = (device.name().to_owned(), self.untried.clone());
        Err(Error::RoutesUnproved { device, untried })
    }
}
