//! Files of the system. Tests put a folder in their place.

use std::path::{Path, PathBuf};

/// The path of a file of the system. With the feature `testing` it is below the folder that `PEERBUF_DOCTOR_ROOT`
/// names, if that is set.
pub(super) fn system(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    #[cfg(feature = "testing")]
    if let Some(root) = std::env::var_os("PEERBUF_DOCTOR_ROOT") {
        return Path::new(&root).join(path.strip_prefix("/").unwrap_or(path));
    }
    path.to_owned()
}

/// The text of a file of the system, without white space at its ends.
pub(super) fn text(path: impl AsRef<Path>) -> Option<String> {
    let bytes = std::fs::read(system(path)).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The number that is the text of a file.
pub(super) fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path)?.parse().ok()
}

/// The names in a folder of the system, sorted.
pub(super) fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(system(folder)) else { return vec![] };
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}
