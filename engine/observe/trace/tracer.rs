//! The face of a trace to those who have something to tell: off, it costs them one branch.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::recorder::{OpenCallback, Recorder};
use super::{AccessEvent, Counters, Move, Outcome};
use crate::device::DeviceId;
use crate::memory::DomainId;
use crate::observe::explain::Decision;

/// Names the file that an engine's trace goes to.
const VARIABLE: &str = "PEERBUF_TRACE";
/// How many engines may trace to the same name at a time.
const SIBLINGS: u32 = 64;

/// Writes down what an engine does, if it was asked to.
///
/// What it is told it writes at once, under a lock of its own, which is held across nothing else. It never
/// fails: the first error is reported by `tracing`, and then there is no trace any more.
#[derive(Default)]
pub(crate) struct Tracer(Option<Box<Mutex<Recorder>>>);

/// A move, as long as it is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MoveId(u64);

impl MoveId {
    /// No move: what an importer is called for if it is for something else.
    pub(crate) const NONE: Self = Self(0);
}

/// An importer's call, until it is dropped.
#[must_use = "the call ends when this is dropped"]
pub(crate) struct Callback<'a>(Option<(&'a Mutex<Recorder>, OpenCallback)>);

impl Tracer {
    /// Traces nothing.
    pub(crate) fn off() -> Self {
        Self::default()
    }

    /// Traces to the file that `PEERBUF_TRACE` names; nothing if it does not, or if that cannot be opened.
    pub(crate) fn from_env() -> Self {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        path.map_or_else(Self::off, |path| {
            Self::to_file(Path::new(&path)).unwrap_or_else(|error| {
                let path = Path::new(&path).display();
                tracing::warn!(%error, %path, "{VARIABLE} names a file that cannot be written");
                Self::off()
            })
        })
    }

    /// Traces to a file, which is emptied first. If another engine is tracing to it just now, in this
    /// process or another one, then to the next one that is free: `a.2.json` for `a.json`.
    pub(crate) fn to_file(path: &Path) -> io::Result<Self> {
        for number in 1..=SIBLINGS {
            let path = sibling(path, number);
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            // Where files cannot be locked, nobody else can be seen.
            if let Err(Errno::WOULDBLOCK) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                continue;
            }
            empty(&file)?;
            tracing::info!(path = %path.display(), "tracing");
            return Ok(Self::to_writer(file));
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many engines are tracing to it"))
    }

    /// Traces to whatever takes bytes.
    pub(crate) fn to_writer(out: impl Write + Send + 'static) -> Self {
        Self(Some(Box::new(Mutex::new(Recorder::new(Box::new(out))))))
    }

    /// Whether anybody looks, for those to whom it is work to say what they do.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What a device is called. To be said before anything else about it.
    pub(crate) fn device(&self, device: DeviceId, name: &str) {
        self.tell(|recorder| recorder.name_device(device, name));
    }

    /// How full a place is, after that has changed.
    pub(crate) fn counters(&self, domain: DomainId, counters: Counters) {
        self.tell(|recorder| recorder.counters(domain, counters));
    }

    /// A move begins: its importers are told next, and then bytes are copied. It must be ended, whatever
    /// becomes of it.
    pub(crate) fn begin(&self, what: Move) -> MoveId {
        self.tell(|recorder| recorder.begin(what)).map_or(MoveId::NONE, MoveId)
    }

    /// The copy of a move was submitted, or the host begins it.
    pub(crate) fn submitted(&self, id: MoveId) {
        self.tell(|recorder| recorder.submitted(id.0));
    }

    /// A move is over: its copy has ended, or there will be none.
    pub(crate) fn end(&self, id: MoveId, outcome: Outcome) {
        self.tell(|recorder| recorder.end(id.0, outcome));
    }

    /// An importer of `buffer` is called, because of a move or of none.
    pub(crate) fn callback(&self, id: MoveId, buffer: u64, importer: DeviceId) -> Callback<'_> {
        let open = self.tell(|recorder| recorder.callback(id.0, buffer, importer));
        Callback(self.0.as_deref().zip(open))
    }

    /// A device uses a buffer.
    pub(crate) fn access(&self, access: AccessEvent) {
        self.tell(|recorder| recorder.access(access));
    }

    /// Something was decided about a buffer.
    pub(crate) fn decision(&self, buffer: u64, decision: &Decision) {
        self.tell(|recorder| recorder.decision(buffer, decision));
    }

    fn tell<R>(&self, event: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
        self.0.as_deref().and_then(|recorder| tell(recorder, event))
    }
}

// Apart, so that callers who trace nothing have one branch in their code, and not all of this.
#[cold]
#[inline(never)]
fn tell<R>(recorder: &Mutex<Recorder>, event: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
    let mut recorder = lock(recorder);
    if recorder.has_stopped() {
        return None;
    }
    let told = event(&mut recorder);
    if let Err(error) = recorder.write() {
        stop(&mut recorder, &error);
    }
    Some(told)
}

// Nothing under this lock leaves anything half-made.
fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stop(recorder: &mut Recorder, error: &io::Error) {
    recorder.stop();
    tracing::warn!(%error, "the trace cannot be written any further, and ends here");
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let Some(recorder) = self.0.as_deref() else { return };
        let mut recorder = lock(recorder);
        if recorder.has_stopped() {
            return;
        }
        if let Err(error) = recorder.finish() {
            stop(&mut recorder, &error);
        }
    }
}

impl Drop for Callback<'_> {
    fn drop(&mut self) {
        if let Some((recorder, open)) = self.0.take() {
            tell(recorder, |recorder| recorder.called(&open));
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

/// The `number`-th file of that name: the file itself, then `name.2.ext`, `name.3.ext`.
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

/// Forgets what another run has written. Pipes and terminals have nothing to forget.
fn empty(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}
