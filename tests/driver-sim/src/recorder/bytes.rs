//! Whose bytes are the same: memory of several devices is told by the file or the address that it comes from.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

/// A file: the device and inode number of `fstat`. A dma-buf and a memfd have their own.
pub(super) type FileId = (u64, u64);

/// The number of some bytes that devices share.
pub(super) type StoreId = u64;

/// All memory without a file, by its address in the process.
pub(super) const ADDRESSES: StoreId = 0;

/// Where memory begins within its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) store: StoreId,
    pub(super) at: u64,
}

/// The file of a number that the application passed, if it can be told from others by its inode.
///
/// # Safety
/// The number is an open fd, or negative.
pub(super) unsafe fn file_of(fd: i32) -> Option<FileId> {
    if fd < 0 {
        return None;
    }
    // SAFETY: the fd stays open during the call: the caller owns it.
    let stat = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?;
    // All files of the kernel's anonymous inode have the same number. They have no type, and dma-bufs have a size.
    let is_anonymous = rustix::fs::FileType::from_raw_mode(stat.st_mode)
        != rustix::fs::FileType::RegularFile
        && stat.st_size == 0;
    (!is_anonymous).then_some((stat.st_dev, stat.st_ino))
}

/// The file that is mapped at an address, and where in it the address lies.
pub(super) fn mapped_at(address: u64) -> Option<(FileId, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (from, to) = (hex(from)?, hex(to)?);
        if !(from..to).contains(&address) {
            return None;
        }
        let offset = hex(words.nth(1)?)?;
        let (major, minor) = words.next()?.split_once(':')?;
        let inode: u64 = words.next()?.parse().ok()?;
        // CAST: numbers of devices have 32 bits.
        let device = rustix::fs::makedev(hex(major)? as u32, hex(minor)? as u32);
        (inode != 0).then_some(((device, inode), offset + (address - from)))
    })
}

/// How much is known of some bytes.
#[derive(Debug, Default)]
struct Store {
    /// Memory objects over them.
    memories: u32,
    files: Vec<FileId>,
}

/// All bytes that devices of the process have.
#[derive(Debug, Default)]
pub(super) struct Stores {
    all: HashMap<StoreId, Store>,
    by_file: HashMap<FileId, StoreId>,
    last: StoreId,
}

impl Stores {
    /// Memory that its device has allocated itself.
    pub(super) fn allocated(&mut self) -> Origin {
        self.last += 1;
        self.all.insert(self.last, Store { memories: 1, ..Store::default() });
        Origin { store: self.last, at: 0 }
    }

    /// Memory that is a file, from byte `at` on.
    pub(super) fn imported(&mut self, file: FileId, at: u64) -> Origin {
        if let Some(store) = self.by_file.get(&file) {
            self.all.entry(*store).or_default().memories += 1;
            return Origin { store: *store, at };
        }
        let Origin { store, .. } = self.allocated();
        self.exported(store, file);
        Origin { store, at }
    }

    /// The memory has this file as well.
    pub(super) fn exported(&mut self, store: StoreId, file: FileId) {
        if store != ADDRESSES && self.by_file.insert(file, store) != Some(store) {
            self.all.entry(store).or_default().files.push(file);
        }
    }

    /// A memory object is no more. Returns whether the bytes cannot come back.
    pub(super) fn freed(&mut self, store: StoreId) -> bool {
        let Some(known) = self.all.get_mut(&store) else { return false };
        known.memories = known.memories.saturating_sub(1);
        let is_last = known.memories == 0 && known.files.is_empty();
        if is_last {
            self.all.remove(&store);
        }
        is_last
    }

    /// Whether what is known of these bytes holds when no object uses them any more.
    pub(super) fn outlives_its_objects(&self, store: StoreId) -> bool {
        self.all.get(&store).is_some_and(|known| !known.files.is_empty())
    }
}
