//! Whether a device accepts memory that it did not allocate.

use std::ffi::c_void;

use ash::vk;

use super::chain::find;
use super::device::Device;
use super::origin::Exporter;
use super::{origin, report};
use crate::config::HostPointer;

/// Memory that a device did not allocate itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Import {
    /// Through an fd.
    Fd {
        fd: i32,
        /// The device that exported it, if that is another one.
        from: Option<Exporter>,
        /// Whether this device exported it. A driver imports what it has exported itself.
        own: bool,
    },
    /// Through an address.
    Host,
}

impl Import {
    /// What an allocation imports.
    pub(super) unsafe fn of(device: &Device, info: &vk::MemoryAllocateInfo<'_>) -> Option<Self> {
        if let Some(fd) = find::<vk::ImportMemoryFdInfoKHR<'_>>(info.p_next)
            && !fd.handle_type.is_empty()
        {
            let exporter =
                origin::FileId::of_number(fd.fd).and_then(|(file, _)| origin::exporter(file));
            let own = exporter.is_some_and(|from| from.index == device.physical.index);
            return Some(Self::Fd { fd: fd.fd, from: exporter.filter(|_| !own), own });
        }
        let host = find::<vk::ImportMemoryHostPointerInfoEXT<'_>>(info.p_next)?;
        (!host.handle_type.is_empty()).then_some(Self::Host)
    }

    /// Refuses the import if a switch says so.
    pub(super) unsafe fn check(
        self,
        device: &Device,
        info: &vk::MemoryAllocateInfo<'_>,
    ) -> Result<(), vk::Result> {
        let switches = device.switches();
        match self {
            Self::Fd { fd, from, own } => {
                if let (Some(code), Some(from)) = (switches.refuse_foreign_import, from) {
                    report::event(
                        "refuse_foreign_import",
                        format_args!("{}, from {}", device.label(), from.index),
                    );
                    return Err(code.0);
                }
                if let Some(slack) = switches.import_slack.filter(|_| !own) {
                    let size = origin::FileId::of_number(fd).map_or(0, |(_, size)| size);
                    let wanted = info.allocation_size.saturating_add(slack.0);
                    if size < wanted {
                        report::event(
                            "import_slack",
                            format_args!("{}: {size} of {wanted} bytes", device.label()),
                        );
                        return Err(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE);
                    }
                }
                Ok(())
            }
            Self::Host => {
                let Some(host) = find::<vk::ImportMemoryHostPointerInfoEXT<'_>>(info.p_next) else {
                    return Ok(());
                };
                match switches.refuse_host_pointer {
                    Some(which) if is_refused(which, host.p_host_pointer, info.allocation_size) => {
                        report::event(
                            "refuse_host_pointer",
                            format_args!("{} ({which:?})", device.label()),
                        );
                        Err(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE)
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Whether a mapping below the range is of the refused kind.
pub(super) fn is_refused(which: HostPointer, pointer: *const c_void, size: u64) -> bool {
    let from = pointer.addr() as u64;
    let to = from.saturating_add(size.max(1));
    match which {
        HostPointer::All => true,
        HostPointer::File => {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
            maps.lines()
                .filter_map(Area::parse)
                .any(|area| area.overlaps(from, to) && area.inode != 0)
        }
        HostPointer::Pfn => {
            // The flags are in a file that is slow to read. It is read only if a mapping may be one of page frames:
            // memory without a file and without a name, and a memfd, have none.
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
            let may_be = |line: &str| {
                let is_plain = |area: &Area| {
                    area.inode == 0 && !line.ends_with(']') || line.contains(" /memfd:")
                };
                Area::parse(line).is_some_and(|area| area.overlaps(from, to) && !is_plain(&area))
            };
            if !maps.lines().any(may_be) {
                return false;
            }
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
            let mut inside = false;
            maps.lines().any(|line| {
                if let Some(area) = Area::parse(line) {
                    inside = area.overlaps(from, to);
                }
                // `pf`: VM_PFNMAP, `mm`: VM_MIXEDMAP (`fs/proc/task_mmu.c`, `show_smap_vma_flags`).
                let flags = line.strip_prefix("VmFlags:");
                inside
                    && flags.is_some_and(|flags| {
                        flags.split_whitespace().any(|flag| flag == "pf" || flag == "mm")
                    })
            })
        }
    }
}

/// A line of `/proc/self/maps`: `from-to rwxp offset device inode path`.
struct Area {
    from: u64,
    to: u64,
    inode: u64,
}

impl Area {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        Some(Self { from: hex(from)?, to: hex(to)?, inode: words.nth(3)?.parse().ok()? })
    }

    fn overlaps(&self, from: u64, to: u64) -> bool {
        self.from < to && from < self.to
    }
}
