//! The machine and its devices.

use serde::{Deserialize, Serialize};

use super::pci::Pci;

/// The machine. A fact that this user cannot see is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: Option<String>,
    /// Processors that this process may use.
    pub(crate) processors: Option<u32>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) numa_nodes: Option<u32>,
    pub(crate) kernel: Option<String>,
    /// The frequency governor of the first processor.
    pub(crate) governor: Option<String>,
    /// The load average of one minute when the run began.
    pub(crate) load_average: Option<f64>,
    /// Host memory as this run measured it.
    pub(crate) host: Vec<HostSpeed>,
}

/// One measurement of the host's memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HostSpeed {
    pub(crate) copy: HostCopy,
    /// The NUMA node of the memory; null if there is one node, or it is not known.
    pub(crate) node: Option<u32>,
    pub(crate) size_bytes: u64,
    /// Bytes read, written, or (of copies) that arrived.
    pub(crate) bytes_per_second: f64,
}

/// What the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HostCopy {
    Memcpy,
    /// A copy whose stores pass the cache by.
    StreamingCopy,
    /// A copy by all processors at once.
    ParallelCopy,
    Read,
    Write,
}

/// A device that takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Device {
    /// Its number in this run.
    pub(crate) index: u32,
    /// Its adapter's number, which `--devices` takes.
    pub(crate) adapter: Option<u32>,
    pub(crate) name: String,
    pub(crate) driver: Option<String>,
    /// The driver's own version text.
    pub(crate) driver_info: Option<String>,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Whether it is a program on the host.
    pub(crate) software: bool,
    pub(crate) uuid: Option<String>,
    pub(crate) driver_uuid: Option<String>,
    pub(crate) heaps: Vec<Heap>,
    /// Bits of a timestamp of its main queue; 0 if it has none.
    pub(crate) timestamp_bits: Option<u32>,
    /// Such as `0000:01:00.0`; null for what is on no PCI bus.
    pub(crate) pci_address: Option<String>,
    /// Null without an address, and where nothing about it can be seen.
    pub(crate) pci: Option<Pci>,
}

/// A memory heap of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heap {
    pub(crate) size_bytes: u64,
    pub(crate) device_local: bool,
    /// Whether the host can map memory of it.
    pub(crate) host_visible: Option<bool>,
}
