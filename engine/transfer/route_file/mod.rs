//! Verdicts in a file, so that another engine need not prove the same routes again.
//!
//! The file is text: a first line that names the format, and a line for each route that was tried ([`line`]). A line
//! counts only if it is whole, and only for the same adapters, driver versions and kernel release. The file is
//! replaced in one step (`rename(2)`), so a reader sees the old or the new one. If two processes write at once, one
//! of them proves again later. A file of another kind is neither read nor replaced.
//!
//! No error of the file is one of the engine: without the file, routes are proved.

mod escape;
mod line;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::pair_key::PairKey;
use super::verdict::Verdict;
pub(super) use escape::{escape, unescape};
pub(super) use line::Record;

/// The first line.
const HEADER: &str = "peerbuf routes 1";
/// A larger file is another kind of file.
const LONGEST: u64 = 1 << 20;

/// The file of [`crate::EngineDescriptor::route_cache`].
#[derive(Debug)]
pub(super) struct RouteFile {
    path: PathBuf,
    /// The kernel's release: `uname -r`.
    kernel: String,
}

/// The kernel's release.
pub(super) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// What is at the path.
enum Content {
    /// Nothing yet, or an empty file.
    None,
    /// The whole lines of a file of this kind.
    Lines(Vec<String>),
    /// Something else.
    Foreign,
}

impl RouteFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, kernel: kernel() }
    }

    /// What the file knows of a pair; `None` if it knows nothing.
    pub(super) fn read(&self, key: &PairKey) -> Option<Verdict> {
        self.read_each([key]).pop().flatten()
    }

    /// What the file knows of each pair; it is read once.
    pub(super) fn read_each<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a PairKey>,
    ) -> Vec<Option<Verdict>> {
        let lines = match self.content() {
            Content::Lines(lines) => lines,
            Content::None | Content::Foreign => vec![],
        };
        let records: Vec<_> = lines.iter().filter_map(|line| Record::parse(line)).collect();
        keys.into_iter().map(|key| self.remembered(key, &records)).collect()
    }

    fn remembered(&self, key: &PairKey, records: &[Record]) -> Option<Verdict> {
        let pair = key.text(&self.kernel);
        let (mut working, mut refused, mut trials) = (vec![], vec![], vec![]);
        for Record { result, trial, .. } in records.iter().filter(|record| record.pair == pair) {
            match result.clone() {
                Ok(found) => working.push(found),
                Err(refusal) => refused.push(refusal),
            }
            trials.push(trial.clone());
        }
        if trials.is_empty() {
            return None;
        }
        tracing::debug!(routes = trials.len(), path = %self.path.display(), "routes remembered");
        Some(Verdict::new(working, refused, vec![], trials))
    }

    /// Adds what was tried for a pair, in place of what the file knew of the same routes.
    pub(super) fn write(&self, key: &PairKey, verdict: &Verdict) {
        let pair = key.text(&self.kernel);
        let new: Vec<_> = Record::of_verdict(&pair, verdict).collect();
        if new.is_empty() {
            return;
        }
        let mut lines = match self.content() {
            Content::Lines(lines) => lines,
            Content::None => vec![],
            Content::Foreign => return,
        };
        lines.retain(|line| {
            let known = Record::parse(line);
            known.is_some_and(|known| !new.iter().any(|record| record.is_of_route(&known)))
        });
        lines.extend(new.iter().map(Record::to_string));
        self.replace(&lines);
    }

    /// Forgets all that the file knows.
    pub(super) fn forget(&self) {
        if matches!(self.content(), Content::Lines(_)) {
            self.replace(&[]);
        }
    }

    fn content(&self) -> Content {
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Content::None,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "routes are not remembered");
                return Content::Foreign;
            }
        };
        let mut lines = text.split_inclusive('\n');
        match lines.next() {
            None => Content::None,
            // Cut in its first line.
            Some(first) if HEADER.starts_with(first) => Content::None,
            Some(first) if first.trim_end() == HEADER => {
                let whole = lines.filter_map(|line| line.strip_suffix('\n'));
                Content::Lines(whole.map(str::to_owned).collect())
            }
            Some(_) => {
                tracing::warn!(
                    path = %self.path.display(),
                    "not a file of routes, or of another version; routes are not remembered"
                );
                Content::Foreign
            }
        }
    }

    fn replace(&self, lines: &[String]) {
        if let Err(error) = write(&self.path, lines) {
            tracing::warn!(%error, path = %self.path.display(), "routes are not remembered");
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() || facts.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of routes"));
    }
    // CAST: at most LONGEST.
    let mut text = String::with_capacity(facts.len() as usize + 1);
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a new file beside the old one, and puts it in its place.
fn write(path: &Path, lines: &[String]) -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.{number}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let mut text = format!("{HEADER}\n");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // The first error says more.
        let _ = fs::remove_file(&beside);
    }
    written
}
