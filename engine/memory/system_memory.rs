//! How much memory of the machine this process may use, and how much of it is available.
//!
//! Kernel: `Documentation/admin-guide/cgroup-v2.rst` (`memory.max`, `memory.current`),
//! `Documentation/admin-guide/cgroup-v1/memory.rst`, `Documentation/filesystems/proc.rst` (`MemAvailable`). The kernel's
//! own default for memory of GPUs is half of the machine's too (`ttm_tt_mgr_init`).

use std::path::{Path, PathBuf};

/// The memory of the machine, as this process may use it; in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SystemMemory {
    /// All memory of the machine, or the least limit of the process' memory cgroups.
    pub(crate) limit: u64,
    /// What buffers may use of it by default: the least of half of the machine's memory, `MemAvailable`, and what each
    /// memory cgroup has left; but at least [`LEAST`], so that routes can be proved.
    pub(crate) available: u64,
}

/// A process that has less than this available begins with this much.
const LEAST: u64 = 64 << 20;

impl SystemMemory {
    /// Reads it now.
    pub(crate) fn of_this_process() -> Self {
        let info = rustix::system::sysinfo();
        // CAST: kernel longs; never negative.
        let total = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
        Self::read(total, Path::new("/proc"), Path::new("/sys/fs/cgroup"))
    }

    /// Reads it from files below `proc` and `cgroups`. What cannot be read is no limit.
    fn read(total: u64, proc: &Path, cgroups: &Path) -> Self {
        let mut this = Self { limit: total, available: total / 2 };
        let meminfo = read_text(proc.join("meminfo"));
        if let Some(kib) = value_of(&meminfo, "MemAvailable:") {
            this.available = this.available.min(kib.saturating_mul(1024));
        }
        for line in read_text(proc.join("self/cgroup")).lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                // Version 2, alone or beside version 1.
                this.walk(cgroups, path, &VERSION_2);
                this.walk(&cgroups.join("unified"), path, &VERSION_2);
            } else if controllers.split(',').any(|controller| controller == "memory") {
                this.walk(&cgroups.join("memory"), path, &VERSION_1);
            }
        }
        this.available = this.available.max(LEAST).min(this.limit);
        this
    }

    /// Applies the limits of the cgroup at `path` and of all above it. In a container the path may be that of the host,
    /// which is not mounted; the root of what is mounted is then the container's own cgroup.
    fn walk(&mut self, mount: &Path, path: &str, files: &Files) {
        let inner = mount.join(path.trim_start_matches('/'));
        for directory in inner.ancestors().take_while(|directory| directory.starts_with(mount)) {
            let number = |name| read_text(directory.join(name)).trim().parse::<u64>().ok();
            // "max" is no number.
            let Some(limit) = number(files.limit) else { continue };
            self.limit = self.limit.min(limit);
            let stat = read_text(directory.join("memory.stat"));
            // Pages of files that are not in use make way.
            let cached = files.cached.iter().filter_map(|name| value_of(&stat, name));
            let used = number(files.used).unwrap_or(0).saturating_sub(cached.sum());
            self.available = self.available.min(limit.saturating_sub(used));
        }
    }
}

/// The names of a cgroup's files.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Lines of `memory.stat`.
    cached: [&'static str; 2],
}

const VERSION_2: Files =
    Files { limit: "memory.max", used: "memory.current", cached: ["inactive_file", "active_file"] };

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};

fn read_text(file: PathBuf) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// The number that follows `name` at the beginning of a line.
fn value_of(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut fields| (fields.next()? == name).then(|| fields.next()?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    /// A directory with the given files, removed at the end.
    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str, files: &[(&str, String)]) -> Self {
            let root = std::env::temp_dir().join(format!("peerbuf-{name}-{}", std::process::id()));
            for (file, text) in files {
                let file = root.join(file);
                let parent = file.parent().expect("it is below the root");
                std::fs::create_dir_all(parent).expect("a directory");
                std::fs::write(file, text).expect("a file");
            }
            Self(root)
        }

        fn read(&self, total: u64) -> SystemMemory {
            SystemMemory::read(total, &self.0.join("proc"), &self.0.join("cgroup"))
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            // A leftover in the directory for temporary files breaks nothing.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn check(name: &str, total: u64, files: &[(&str, String)], limit: u64, available: u64) {
        let read = Fixture::new(name, files).read(total);
        assert_eq!(read, SystemMemory { limit, available }, "{name}");
    }

    fn meminfo(mib: u64) -> (&'static str, String) {
        let kib = mib * 1024;
        ("proc/meminfo", format!("MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:  {kib} kB\n"))
    }

    fn cgroup(lines: &str) -> (&'static str, String) {
        ("proc/self/cgroup", lines.to_owned())
    }

    #[test]
    fn half_of_the_machine_is_the_most() {
        check("plain", 64 * GIB, &[], 64 * GIB, 32 * GIB);
        check("free", 64 * GIB, &[meminfo(60 * 1024)], 64 * GIB, 32 * GIB);
    }

    #[test]
    fn what_others_use_is_not_available() {
        check("busy", 64 * GIB, &[meminfo(3000)], 64 * GIB, 3000 * MIB);
        check("full", 64 * GIB, &[meminfo(1)], 64 * GIB, LEAST);
        check("tiny", 32 * MIB, &[meminfo(1)], 32 * MIB, 32 * MIB);
    }

    #[test]
    fn a_container_has_what_its_cgroup_has_left() {
        // Namespaced: the process sees the root of its own hierarchy.
        let text = |bytes: u64| format!("{bytes}\n");
        let files = [
            meminfo(400 * 1024),
            cgroup("0::/\n"),
            ("cgroup/memory.max", text(8 * GIB)),
            ("cgroup/memory.current", text(3 * GIB)),
            ("cgroup/memory.stat", format!("anon 5\ninactive_file {GIB}\nactive_file {MIB}\n")),
        ];
        check("container", 512 * GIB, &files, 8 * GIB, 6 * GIB + MIB);
    }

    #[test]
    fn every_level_of_the_hierarchy_limits() {
        let text = |bytes: u64| bytes.to_string();
        let files = [
            cgroup("0::/user/app/part\n"),
            ("cgroup/user/app/part/memory.max", "max\n".into()),
            ("cgroup/user/app/memory.max", text(10 * GIB)),
            ("cgroup/user/app/memory.current", text(9 * GIB)),
            ("cgroup/user/memory.max", text(5 * GIB)),
            ("cgroup/user/memory.current", text(GIB)),
        ];
        check("levels", 100 * GIB, &files, 5 * GIB, GIB);
    }

    #[test]
    fn version_1_and_the_path_of_a_host_are_understood() {
        let files = [
            cgroup("12:pids:/x\n4:cpu,memory:/docker/0123\n0::/\n"),
            ("cgroup/memory/memory.limit_in_bytes", (2 * GIB).to_string()),
            ("cgroup/memory/memory.usage_in_bytes", GIB.to_string()),
            ("cgroup/memory/memory.stat", format!("total_inactive_file {}\n", 512 * MIB)),
        ];
        check("version 1", 64 * GIB, &files, 2 * GIB, GIB + 512 * MIB);
        let unlimited = [
            cgroup("4:memory:/\n"),
            ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n".into()),
            ("cgroup/memory/memory.usage_in_bytes", GIB.to_string()),
        ];
        check("unlimited", 64 * GIB, &unlimited, 64 * GIB, 32 * GIB);
    }
}
