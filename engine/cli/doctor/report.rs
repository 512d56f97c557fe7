//! The result of `peerbuf doctor` as plain data: the JSON that it prints, and what its child processes send.

use serde::{Deserialize, Serialize};

/// Whether the machine is ready, with all that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DoctorReport {
    pub(crate) schema: u32,
    /// The version of peerbuf.
    pub(crate) version: &'static str,
    /// Whether no finding is a problem.
    pub(crate) ready: bool,
    pub(crate) findings: Vec<Finding>,
    pub(crate) loader: LoaderFacts,
    pub(crate) drivers: Vec<DriverFacts>,
    pub(crate) devices: Vec<SeenDevice>,
    pub(crate) routes: Vec<SeenRoute>,
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) layers: Vec<LayerFacts>,
    pub(crate) limits: LimitFacts,
    pub(crate) kernel: KernelFacts,
    pub(crate) memory: MemoryFacts,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Ok,
    /// Something works less well than it could, or is worth knowing in a bug report.
    Note,
    /// Something does not work.
    Problem,
}

/// One thing that was found: one line what it is, one line what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) area: &'static str,
    pub(crate) severity: Severity,
    pub(crate) what: String,
    /// What to do; null if nothing.
    #[serde(rename = "do")]
    pub(crate) todo: Option<String>,
}

impl Finding {
    pub(crate) fn ok(area: &'static str, what: impl Into<String>) -> Self {
        Self { area, severity: Severity::Ok, what: what.into(), todo: None }
    }

    pub(crate) fn note(
        area: &'static str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self { area, severity: Severity::Note, what: what.into(), todo: Some(todo.into()) }
    }

    pub(crate) fn problem(
        area: &'static str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self { area, severity: Severity::Problem, what: what.into(), todo: Some(todo.into()) }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct LoaderFacts {
    /// The newest Vulkan version that the loader supports.
    pub(crate) version: Option<String>,
    /// The file that was loaded.
    pub(crate) file: Option<String>,
    /// Variables of the environment that change what the loader does.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) error: Option<String>,
}

/// A driver's manifest, and what the driver did when it was loaded alone.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct DriverFacts {
    pub(crate) manifest: String,
    pub(crate) library: Option<String>,
    pub(crate) api_version: Option<String>,
    /// What is wrong with the manifest or the library.
    pub(crate) error: Option<String>,
    /// Why the driver was not loaded although its manifest is good.
    pub(crate) skipped: Option<String>,
    /// Positions in the report's list of devices.
    pub(crate) devices: Vec<usize>,
    /// What the loader and the driver printed while it was loaded.
    pub(crate) messages: Vec<String>,
}

/// A device as one driver lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenDevice {
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) driver_info: String,
    pub(crate) driver_version: u32,
    pub(crate) api_version: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) uuid: String,
    pub(crate) driver_uuid: String,
    pub(crate) pci: Option<String>,
    /// The minor number of its render node.
    pub(crate) render_node: Option<u64>,
    pub(crate) heaps: Vec<(u64, bool)>,
    /// Memory types: the heap, and the flags as text.
    pub(crate) types: Vec<(u32, String)>,
    /// The largest allocation in bytes.
    pub(crate) max_allocation: u64,
    /// Semaphores that it exports and imports, for example `SYNC_FD` and `timeline OPAQUE_FD`.
    pub(crate) semaphores: Vec<String>,
    pub(crate) exports: Vec<String>,
    pub(crate) imports: Vec<String>,
    /// Extensions that peerbuf uses and the device has.
    pub(crate) extensions: Vec<String>,
    /// Why it cannot be used.
    pub(crate) unusable: Option<String>,
    /// Whether a device was opened on it.
    pub(crate) opens: bool,
    /// The manifest of its driver.
    #[serde(default)]
    pub(crate) manifest: String,
}

/// What is known of one ordered pair of devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeenRoute {
    /// Positions in the report's list of devices.
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) route: Option<String>,
    pub(crate) wait: Option<String>,
    /// Routes that work, with their speed of reading in bytes per second.
    pub(crate) working: Vec<(String, f64)>,
    /// Routes that do not, and why.
    pub(crate) refused: Vec<(String, String)>,
    pub(crate) error: Option<String>,
}

/// A device file.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct NodeFacts {
    pub(crate) path: String,
    pub(crate) exists: bool,
    /// Permissions in octal digits.
    pub(crate) mode: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) minor: Option<u32>,
    /// Why this user cannot open it for reading; null if it can.
    pub(crate) read_error: Option<String>,
    /// The same for reading and writing.
    pub(crate) write_error: Option<String>,
}

/// A layer that is active.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LayerFacts {
    pub(crate) name: String,
    pub(crate) manifest: String,
    pub(crate) why: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct LimitFacts {
    pub(crate) fds_open: Option<u64>,
    /// The soft and the hard `RLIMIT_NOFILE`; null if there is none.
    pub(crate) fds: Option<u64>,
    pub(crate) fds_hard: Option<u64>,
    /// The soft `RLIMIT_MEMLOCK` in bytes; null if there is none.
    pub(crate) memlock: Option<u64>,
    pub(crate) udmabuf_size_mib: Option<u64>,
    pub(crate) udmabuf_list: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct KernelFacts {
    pub(crate) release: String,
    /// Where the options were read; null if they cannot be.
    pub(crate) config: Option<String>,
    /// Options and their values; `n` if they are not set.
    pub(crate) options: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct MemoryFacts {
    pub(crate) total: Option<u64>,
    pub(crate) available: Option<u64>,
    /// The smallest limit of the control groups that this process is in, and the file that has it.
    pub(crate) cgroup_limit: Option<u64>,
    pub(crate) cgroup_used: Option<u64>,
    pub(crate) cgroup_file: Option<String>,
    pub(crate) container: Option<String>,
    /// `vm.overcommit_memory`.
    pub(crate) overcommit: Option<u64>,
}
