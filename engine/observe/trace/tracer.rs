//! The interface for code that reports events. If tracing is off, a report costs one branch.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::event::{AccessEvent, Counters, Move, Outcome};
use super::recorder::{OpenCallback, Recorder};
use crate::device::DeviceId;
use crate::memory::DomainId;
use crate::observe::explain::Decision;

/// The environment variable that names the file of an engine's trace.
const VARIABLE: &str = "PEERBUF_TRACE";
/// The number of engines that may trace to the same name at a time.
const SIBLINGS: u32 = 64;

/// Writes a trace of what an engine does, if tracing is on.
///
/// Each event is recorded at once, under the tracer's own lock, which is held across nothing else. No method
/// fails: the first error is reported by `tracing` and ends the trace.
#[derive(Default)]
pub(crate) struct Tracer(Option<Box<Mutex<Recorder>>>);

/// The number of a traced move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MoveId(u64);

impl MoveId {
    /// No move: the cause of an importer's call is something else.
    pub(crate) const NONE: Self = Self(0);
}

/// A running call of an importer. Dropping it ends the call.
#[must_use = "the call ends when this is dropped"]
pub(crate) struct Callback<'a>(Option<(&'a Mutex<Recorder>, OpenCallback)>);

impl Tracer {
    /// A tracer that is off.
    pub(crate) fn off() -> Self {
        Self::default()
    }

    /// Traces to the file that `PEERBUF_TRACE` names. If it names none, or one that cannot be opened, tracing is
    /// off.
    ///
    /// The variable is ignored in a program that has more rights than its caller (set-user-ID, file capabilities),
    /// since the caller would choose which file is emptied. For the same reason a symbolic link is not followed.
    pub(crate) fn from_env() -> Self {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        let path = path.filter(|_| !is_secure_execution());
        path.map_or_else(Self::off, |path| {
            Self::open(Path::new(&path), OFlags::NOFOLLOW).unwrap_or_else(|error| {
                let path = Path::new(&path).display();
                tracing::warn!(%error, %path, "cannot open the file that {VARIABLE} names; tracing is off");
                Self::off()
            })
        })
    }

    /// Traces to a file, which is emptied first. If another engine is tracing to it, in this process or another
    /// one, the next free name is used: `a.2.json` for `a.json`.
    pub(crate) fn to_file(path: &Path) -> io::Result<Self> {
        Self::open(path, OFlags::empty())
    }

    fn open(path: &Path, flags: OFlags) -> io::Result<Self> {
        // CAST: the flags of `open` are an int.
        let flags = flags.bits() as i32;
        for number in 1..=SIBLINGS {
            let path = sibling(path, number);
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).custom_flags(flags);
            let file = options.open(&path)?;
            // On file systems without locks, another engine cannot be detected.
            if let Err(Errno::WOULDBLOCK) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                continue;
            }
            empty(&file)?;
            tracing::info!(path = %path.display(), "writing a trace");
            return Ok(Self::to_writer(file));
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "too many engines are tracing to this file",
        ))
    }

    /// Traces to a writer.
    pub(crate) fn to_writer(out: impl Write + Send + 'static) -> Self {
        Self(Some(Box::new(Mutex::new(Recorder::new(Box::new(out))))))
    }

    /// Whether tracing is on, for callers to which collecting an event is work.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Sets the name of a device. Must be called before other events of the device.
    pub(crate) fn device(&self, device: DeviceId, name: &str) {
        self.record(|recorder| recorder.name_device(device, name));
    }

    /// Records the use of a domain, after a change.
    pub(crate) fn counters(&self, domain: DomainId, counters: Counters) {
        self.record(|recorder| recorder.counters(domain, counters));
    }

    /// Begins a move. Its importers are notified next, then the bytes are copied. The caller must end it in any
    /// case.
    pub(crate) fn begin(&self, what: Move) -> MoveId {
        self.record(|recorder| recorder.begin(what)).map_or(MoveId::NONE, MoveId)
    }

    /// Records that the copy of a move was submitted, or that the host begins it.
    pub(crate) fn submitted(&self, id: MoveId) {
        self.record(|recorder| recorder.submitted(id.0));
    }

    /// Ends a move: its copy has ended, or there will be none.
    pub(crate) fn end(&self, id: MoveId, outcome: Outcome) {
        self.record(|recorder| recorder.end(id.0, outcome));
    }

    /// Begins a call of an importer of `buffer`, caused by a move or by something else.
    pub(crate) fn callback(&self, id: MoveId, buffer: u64, importer: DeviceId) -> Callback<'_> {
        let open = self.record(|recorder| recorder.callback(id.0, buffer, importer));
        Callback(self.0.as_deref().zip(open))
    }

    /// Records a use of a buffer by a device.
    pub(crate) fn access(&self, access: AccessEvent) {
        self.record(|recorder| recorder.access(access));
    }

    /// Records a decision about a buffer.
    pub(crate) fn decision(&self, buffer: u64, decision: &Decision) {
        self.record(|recorder| recorder.decision(buffer, decision));
    }

    /// Completes the trace; later events are not recorded.
    ///
    /// # Errors
    ///
    /// The error that ended the trace, now or earlier.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let Some(recorder) = self.0.as_deref() else { return Ok(()) };
        let mut recorder = lock(recorder);
        if !recorder.has_stopped() {
            match recorder.finish() {
                Ok(()) => recorder.stop(None),
                Err(error) => stop(&mut recorder, error),
            }
        }
        recorder.error().map_or(Ok(()), |error| {
            // An `io::Error` cannot be cloned.
            Err(error
                .raw_os_error()
                .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error))
        })
    }

    fn record<R>(&self, event: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
        self.0.as_deref().and_then(|recorder| record(recorder, event))
    }
}

// A function of its own, so that a caller has only one branch inlined for the case that tracing is off.
#[cold]
#[inline(never)]
fn record<R>(recorder: &Mutex<Recorder>, event: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
    let mut recorder = lock(recorder);
    if recorder.has_stopped() {
        return None;
    }
    let result = event(&mut recorder);
    if let Err(error) = recorder.write() {
        stop(&mut recorder, error);
    }
    Some(result)
}

// A panic under this lock leaves the recorder usable: no code under it leaves an event half-made.
fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stop(recorder: &mut Recorder, error: io::Error) {
    tracing::warn!(%error, "cannot write the trace; it ends here");
    recorder.stop(Some(error));
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let Some(recorder) = self.0.as_deref() else { return };
        let mut recorder = lock(recorder);
        if recorder.has_stopped() {
            return;
        }
        if let Err(error) = recorder.finish() {
            stop(&mut recorder, error);
        }
    }
}

impl Drop for Callback<'_> {
    fn drop(&mut self) {
        if let Some((recorder, open)) = self.0.take() {
            record(recorder, |recorder| recorder.called(&open));
        }
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("on", &self.is_on()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Callback<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").field("on", &self.0.is_some()).finish_non_exhaustive()
    }
}

/// Whether the program has more rights than its caller, so that the environment is not to be trusted
/// (`AT_SECURE`, getauxval(3)). Such a program may not be able to read its own vector, which counts as well.
fn is_secure_execution() -> bool {
    std::fs::read("/proc/self/auxv").map_or(true, |vector| is_secure(&vector))
}

/// Whether an auxiliary vector, pairs of a key and a value, says so.
pub(super) fn is_secure(vector: &[u8]) -> bool {
    /// `AT_SECURE` of `include/uapi/linux/auxvec.h`.
    const AT_SECURE: usize = 23;
    let (words, _) = vector.as_chunks::<{ size_of::<usize>() }>();
    let (pairs, _) = words.as_chunks::<2>();
    let pair = pairs.iter().find(|[key, _]| usize::from_ne_bytes(*key) == AT_SECURE);
    pair.is_none_or(|[_, value]| usize::from_ne_bytes(*value) != 0)
}

/// The `number`-th file of a name: the file itself, then `name.2.ext`, `name.3.ext`.
fn sibling(path: &Path, number: u32) -> PathBuf {
    if number == 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Drops the content of an earlier run. Pipes and terminals have none.
fn empty(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}
