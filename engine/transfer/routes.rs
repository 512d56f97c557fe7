//! The verdicts of one engine: proved once, kept, and proved further where a route was not tried.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::child;
use super::pair_key::PairKey;
use super::prove::{self, ProbeDevices, ProbesHeld};
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
    probes: ProbeDevices,
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
    fn is_due(&self, age: Duration) -> bool {
        !self.verdict.untried.is_empty() && age >= self.retry_at
    }
}

impl Routes {
    /// Verdicts that are also kept in a file, and found by a program in a child process, if there is one.
    pub(crate) fn with(file: Option<PathBuf>, program: Option<PathBuf>) -> Self {
        Self { file: file.map(RouteFile::new), program, ..Self::default() }
    }

    /// Returns the verdict on a pair, and whether something new was found out. Routes that are not known yet are
    /// proved; those that remain untried are tried again after a while. All of it takes at most about `limit`.
    /// `age` is the age of the engine.
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
        limit: Duration,
        age: Duration,
    ) -> Result<(Arc<Verdict>, bool)> {
        let key = PairKey::new(from, to);
        if let Some(known) = self.settled(&key, age) {
            return Ok((known, false));
        }
        let end = Instant::now() + limit;
        let Some(_turn) = self.turn(end) else {
            let nothing = || Arc::new(prove::out_of_time(Arc::ptr_eq(from, to), limit));
            return Ok((self.known(&key).unwrap_or_else(nothing), false));
        };
        // Another thread may have proved it meanwhile.
        if let Some(known) = self.settled(&key, age) {
            return Ok((known, false));
        }
        let remembered = || self.file.as_ref()?.read(&key).map(Arc::new);
        let before = self.known(&key).or_else(remembered);
        let left = end.saturating_duration_since(Instant::now());
        let (verdict, error) = self.prove((from, to), before.as_deref(), left);
        if let Some(file) = &self.file {
            file.write(&key, &verdict);
        }
        match error {
            Some(error) => {
                // The caller can mend this, and may have done so at its next call.
                self.set(key, verdict, |_| age);
                Err(error)
            }
            None => Ok((self.keep(key, verdict, age), true)),
        }
    }

    /// Proves in a child process if there is a program for it, and here if there is none, or it cannot do it.
    fn prove(
        &self,
        pair: (&Arc<DeviceInner>, &Arc<DeviceInner>),
        known: Option<&Verdict>,
        limit: Duration,
    ) -> (Verdict, Option<Error>) {
        let by_child = |program: &PathBuf| child::prove(program, pair, known, limit);
        match self.program.as_ref().and_then(by_child) {
            Some(verdict) => (verdict, None),
            None => prove::prove(pair, known, &self.probes, limit),
        }
    }

    /// The verdict on a pair, if there is one.
    pub(crate) fn known(&self, key: &PairKey) -> Option<Arc<Verdict>> {
        let list = self.list();
        list.iter().find(|entry| entry.key == *key).map(|entry| Arc::clone(&entry.verdict))
    }

    /// Sets the verdict on a pair. Its untried routes are tried again after a while.
    pub(crate) fn keep(&self, key: PairKey, verdict: Verdict, age: Duration) -> Arc<Verdict> {
        self.set(key, verdict, |earlier| {
            let factor = 4u32.saturating_pow(earlier);
            age + FIRST_RETRY.saturating_mul(factor).min(LAST_RETRY)
        })
    }

    /// Sets the verdict on a pair. `retry_at` says when its untried routes are tried again, after as many tries.
    fn set(
        &self,
        key: PairKey,
        verdict: Verdict,
        retry_at: impl FnOnce(u32) -> Duration,
    ) -> Arc<Verdict> {
        let mut list = self.list();
        let at = list.iter().position(|entry| entry.key == key);
        let earlier = at.map_or(0, |at| list.swap_remove(at).tries);
        let (verdict, retry_at) = (Arc::new(verdict), retry_at(earlier));
        list.push(Entry { key, verdict: Arc::clone(&verdict), tries: earlier + 1, retry_at });
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
    fn settled(&self, key: &PairKey, age: Duration) -> Option<Arc<Verdict>> {
        let list = self.list();
        let entry = list.iter().find(|entry| entry.key == *key)?;
        (!entry.is_due(age)).then(|| Arc::clone(&entry.verdict))
    }

    /// Waits until no other thread proves; `None` after `end`.
    fn turn(&self, end: Instant) -> Option<Turn<'_>> {
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

/// The right to prove.
struct Turn<'a>(&'a Routes);

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
