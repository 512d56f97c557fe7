//! The file descriptors of this process, from `/proc/self/fd`.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;

use rustix::io::FdFlags;

/// The file descriptors that were open at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenFds(BTreeMap<RawFd, PathBuf>);

impl OpenFds {
    /// Lists the descriptors that are open now.
    pub(crate) fn now() -> Self {
        let list = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
        let numbers = list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // The descriptor of the directory itself is closed when its link is read, so it is left out.
        let numbers: Vec<RawFd> = numbers.collect();
        Self(numbers.into_iter().filter_map(|fd| Some((fd, link(fd)?))).collect())
    }

    /// The number of open descriptors.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Describes the descriptors that only one of `self` and `later` has. Numbers may differ if the same
    /// files are open.
    pub(crate) fn difference(&self, later: &Self) -> Vec<String> {
        if self.kinds() == later.kinds() {
            return vec![];
        }
        let more = later.0.iter().filter(|(fd, path)| self.0.get(fd) != Some(path));
        let less = self.0.iter().filter(|(fd, path)| later.0.get(fd) != Some(path));
        more.map(|(fd, path)| format!("fd {fd} was opened and not closed: {}", path.display()))
            .chain(
                less.map(|(fd, path)| {
                    format!("fd {fd} was closed unexpectedly: {}", path.display())
                }),
            )
            .collect()
    }

    fn kinds(&self) -> Vec<&PathBuf> {
        let mut kinds: Vec<_> = self.0.values().collect();
        kinds.sort();
        kinds
    }

    /// What the numbers of the standard streams are open as.
    pub(crate) fn standard(&self) -> Vec<String> {
        self.0.range(0..3).map(|(fd, path)| format!("fd {fd}: {}", path.display())).collect()
    }

    /// The descriptors that a child program would inherit, except the standard three.
    pub(crate) fn inheritable(&self) -> Vec<String> {
        self.0
            .iter()
            .filter(|(fd, _)| **fd > 2 && !closes_on_exec(**fd))
            .map(|(fd, path)| format!("fd {fd}: {}", path.display()))
            .collect()
    }
}

/// The kernel's name of an fd's file: `/dmabuf:` for a dma-buf, `/memfd:peerbuf` for a memfd.
pub(crate) fn link_of(fd: BorrowedFd<'_>) -> String {
    link(fd.as_raw_fd()).expect("an open fd has a link").display().to_string()
}

fn link(fd: RawFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()
}

fn closes_on_exec(fd: RawFd) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0);
    flags & rustix::fs::OFlags::CLOEXEC.bits() != 0
}

/// Whether `fd` closes when the process starts another program.
pub(crate) fn is_close_on_exec(fd: BorrowedFd<'_>) -> bool {
    rustix::io::fcntl_getfd(fd).is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC))
}
