//! What the devices of this process know of each other: whose memory a file is, and how much each heap holds.
//!
//! Two Vulkan instances of one process have devices of the same GPUs, so this is kept for the process.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{LazyLock, Mutex};

use super::lock;

/// A file: the device and inode number of `fstat`. A dma-buf and a memfd have their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId(u64, u64);

impl FileId {
    pub(super) fn of(fd: impl AsFd) -> Option<(Self, u64)> {
        let stat = rustix::fs::fstat(fd.as_fd()).ok()?;
        // CAST: a size is not negative.
        Some((Self(stat.st_dev, stat.st_ino), stat.st_size as u64))
    }

    /// The file of a number that the application passed, and the file's size.
    ///
    /// # Safety
    /// The number is an open fd, or none at all.
    pub(super) unsafe fn of_number(fd: i32) -> Option<(Self, u64)> {
        if fd < 0 {
            return None;
        }
        // SAFETY: the fd stays open during the call: the caller owns it.
        Self::of(unsafe { BorrowedFd::borrow_raw(fd) })
    }
}

/// The device that exported a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exporter {
    /// Its index.
    pub(super) index: usize,
    /// Whether importers cannot submit.
    pub(super) poisons: bool,
}

const HEAPS: usize = ash::vk::MAX_MEMORY_HEAPS;

#[derive(Default)]
struct Process {
    exporters: HashMap<FileId, Exporter>,
    /// How many imports of each device's memory other devices have.
    imported: HashMap<usize, u32>,
    used: HashMap<usize, [u64; HEAPS]>,
}

static PROCESS: LazyLock<Mutex<Process>> = LazyLock::new(Mutex::default);

/// A device has exported the file.
pub(super) fn exported(file: FileId, exporter: Exporter) {
    lock(&PROCESS).exporters.insert(file, exporter);
}

/// The device whose memory the file is, if it was exported in this process.
pub(super) fn exporter(file: FileId) -> Option<Exporter> {
    lock(&PROCESS).exporters.get(&file).copied()
}

/// Another device has imported memory of device `index`, or has freed such an import.
pub(super) fn count_import(index: usize, is_new: bool) {
    let mut process = lock(&PROCESS);
    let count = process.imported.entry(index).or_default();
    *count = if is_new { *count + 1 } else { count.saturating_sub(1) };
}

/// Whether another device has imported memory of device `index`.
pub(super) fn is_imported(index: usize) -> bool {
    lock(&PROCESS).imported.get(&index).is_some_and(|count| *count > 0)
}

/// Bytes allocated from each heap of device `index`.
pub(super) fn usage(index: usize) -> [u64; HEAPS] {
    lock(&PROCESS).used.get(&index).copied().unwrap_or_default()
}

/// Takes bytes from a heap, if no more than `limit` are then taken.
pub(super) fn charge(index: usize, heap: u32, bytes: u64, limit: u64) -> bool {
    let mut process = lock(&PROCESS);
    let used = &mut process.used.entry(index).or_default()[heap as usize];
    let after = used.saturating_add(bytes);
    let fits = after <= limit;
    if fits {
        *used = after;
    }
    fits
}

/// Gives bytes back.
pub(super) fn uncharge(index: usize, heap: u32, bytes: u64) {
    if let Some(used) = lock(&PROCESS).used.get_mut(&index) {
        used[heap as usize] = used[heap as usize].saturating_sub(bytes);
    }
}
