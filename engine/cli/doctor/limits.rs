//! Limits of the process and of the kernel's modules, and memory.

use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::nodes::text;
use super::report::{Finding, LimitFacts, MemoryFacts};
use super::root;
use crate::size::Human;

const LIMITS: &str = "limits";
const MEMORY: &str = "memory";

/// Descriptors that peerbuf, a loader and a few drivers open together.
const FDS_NEEDED: u64 = 64;
/// What many buffers of their own memory need: each exported one is a descriptor.
const FDS_COMFORTABLE: u64 = 1024;
/// Bytes of host memory below which nothing useful can be shared.
const MEMORY_NEEDED: u64 = 64 << 20;

/// Reads the limits. Must be called before anything else opens descriptors.
pub(super) fn read() -> LimitFacts {
    // The folder's own descriptor is one of those that it lists.
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().saturating_sub(1));
    let fds = getrlimit(Resource::Nofile);
    let parameter = |name: &str| root::number(format!("/sys/module/udmabuf/parameters/{name}"));
    LimitFacts {
        // CAST: a count of descriptors.
        fds_open: open.map(|open| open as u64),
        fds: fds.current,
        fds_hard: fds.maximum,
        memlock: getrlimit(Resource::Memlock).current,
        udmabuf_size_mib: parameter("size_limit_mb"),
        udmabuf_list: parameter("list_limit"),
    }
}

/// Raises the soft limit of descriptors for this command and its child processes, so that a low limit does not hide
/// what else there is to find.
pub(super) fn raise(facts: &LimitFacts) {
    let is_low = facts.fds.is_some_and(|soft| soft < FDS_COMFORTABLE);
    let raised = facts.fds_hard.map_or(FDS_COMFORTABLE, |hard| hard.min(FDS_COMFORTABLE));
    if is_low {
        // If it fails, the findings are those of the low limit.
        let _ =
            setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: facts.fds_hard });
    }
}

/// What the limits mean.
pub(super) fn judge(facts: &LimitFacts) -> Vec<Finding> {
    let mut findings = vec![fds(facts)];
    findings.extend(memfds());
    if let Some(bytes) = facts.memlock.filter(|bytes| *bytes < MEMORY_NEEDED) {
        findings.push(Finding::note(
            LIMITS,
            format!("RLIMIT_MEMLOCK is {}", Human(bytes)),
            "raise it if a driver refuses host memory: ulimit -l unlimited (it counts pages that a \
             driver pins)",
        ));
    }
    if let Some(size) = facts.udmabuf_size_mib {
        let list =
            facts.udmabuf_list.map_or_else(String::new, |list| format!(", list_limit {list}"));
        let what = format!("udmabuf makes dma-bufs of at most {size} MiB (size_limit_mb{list})");
        findings.push(if size < 64 {
            Finding::note(
                LIMITS,
                what,
                "raise it: echo 64 > /sys/module/udmabuf/parameters/size_limit_mb",
            )
        } else {
            Finding::ok(LIMITS, what)
        });
    }
    findings
}

/// Whether memfds can be created: the last kind of memory that any two devices share.
fn memfds() -> Option<Finding> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let error = rustix::fs::memfd_create("peerbuf-doctor", flags).err()?;
    let is_strict = root::number("/proc/sys/vm/memfd_noexec") == Some(2);
    let todo = match (error, is_strict) {
        (Errno::MFILE | Errno::NFILE, _) => "raise the limit of file descriptors",
        (_, true) => "sysctl vm.memfd_noexec=1: with 2 the kernel refuses most programs' memfds",
        _ => "a sandbox may forbid memfd_create: allow it",
    };
    Some(Finding::problem(LIMITS, format!("memfd_create fails: {}", text(error)), todo))
}

fn fds(facts: &LimitFacts) -> Finding {
    let (Some(soft), Some(open)) = (facts.fds, facts.fds_open) else {
        return Finding::ok(LIMITS, "file descriptors are not limited");
    };
    let left = soft.saturating_sub(open);
    let what = format!("file descriptors: {open} open of {soft} (RLIMIT_NOFILE), {left} left");
    let wanted = FDS_COMFORTABLE * 4;
    let todo = match facts.fds_hard.filter(|hard| *hard < wanted) {
        Some(hard) => format!(
            "ulimit -n {hard} is the most that this user may set; more needs LimitNOFILE= or \
             limits.conf"
        ),
        None => format!("raise it: ulimit -n {wanted}"),
    };
    if left < FDS_NEEDED {
        Finding::problem(LIMITS, what, todo)
    } else if left < FDS_COMFORTABLE / 2 {
        Finding::note(LIMITS, what, todo)
    } else {
        Finding::ok(LIMITS, what)
    }
}

/// Reads how much memory there is, for this process and in all.
pub(super) fn memory() -> MemoryFacts {
    let info = root::text("/proc/meminfo").unwrap_or_default();
    let row = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim_start_matches(':').split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    };
    let cgroup = cgroup();
    MemoryFacts {
        total: row("MemTotal"),
        available: row("MemAvailable"),
        cgroup_limit: cgroup.as_ref().map(|group| group.limit),
        cgroup_used: cgroup.as_ref().and_then(|group| group.used),
        cgroup_file: cgroup.map(|group| group.file),
        container: container(),
        overcommit: root::number("/proc/sys/vm/overcommit_memory"),
    }
}

struct Cgroup {
    limit: u64,
    used: Option<u64>,
    file: String,
}

/// The smallest memory limit of the process' control group and those above it, of version 2 or 1.
fn cgroup() -> Option<Cgroup> {
    let groups = root::text("/proc/self/cgroup")?;
    let mut found: Option<Cgroup> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (base, limit, used) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // In a container the path may be that of the host, which is not there; its root is.
        for folder in Path::new(path).ancestors() {
            let folder = PathBuf::from(base).join(folder.strip_prefix("/").unwrap_or(folder));
            // Version 1 writes a number close to 2^63 for no limit, version 2 the word "max".
            let bytes = root::number(folder.join(limit)).filter(|bytes| *bytes < 1 << 60);
            if let Some(limit_bytes) = bytes
                && found.as_ref().is_none_or(|found| limit_bytes < found.limit)
            {
                found = Some(Cgroup {
                    limit: limit_bytes,
                    used: root::number(folder.join(used)),
                    file: folder.join(limit).display().to_string(),
                });
            }
        }
    }
    found
}

/// How it is known that the process is in a container.
fn container() -> Option<String> {
    let marks = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let of_file = marks.iter().find(|(file, _)| root::system(file).exists());
    of_file.map(|(_, name)| (*name).to_owned()).or_else(|| std::env::var("container").ok())
}

/// What the memory means.
pub(super) fn judge_memory(facts: &MemoryFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let (Some(total), Some(available)) = (facts.total, facts.available) {
        let what = format!("{} of memory, {} available", Human(total), Human(available));
        findings.push(Finding::ok(MEMORY, what));
    }
    if let Some(name) = &facts.container {
        findings.push(Finding::ok(MEMORY, format!("this is a container ({name})")));
    }
    if let Some(limit) = facts.cgroup_limit.filter(|limit| Some(*limit) < facts.total) {
        let used = facts.cgroup_used.unwrap_or(0);
        let file = facts.cgroup_file.as_deref().unwrap_or_default();
        let what = format!("control group: {} in use of {} ({file})", Human(used), Human(limit));
        let room = limit.saturating_sub(used);
        let todo = format!(
            "the kernel ends processes beyond it: cap system memory below {} with Engine::set_cap, or \
             raise the limit",
            Human(room)
        );
        findings.push(if room < MEMORY_NEEDED {
            Finding::problem(MEMORY, what, todo)
        } else {
            Finding::note(MEMORY, what, todo)
        });
    }
    if facts.overcommit == Some(2) {
        findings.push(Finding::note(
            MEMORY,
            "vm.overcommit_memory is 2: the kernel refuses memory beyond CommitLimit",
            "if buffers are refused with memory free: raise vm.overcommit_ratio",
        ));
    }
    findings
}
