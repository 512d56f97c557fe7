//! What the kernel says of a PCI device. A fact that this user cannot see is null.

use serde::{Deserialize, Serialize};

/// A PCI device, and the bridges above it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pci {
    /// The device itself, then each bridge above it, up to the root port.
    pub(crate) path: Vec<Hop>,
    /// -1 if the firmware assigns none.
    pub(crate) numa_node: Option<i32>,
    /// Bytes of the largest memory BAR.
    pub(crate) bar_bytes: Option<u64>,
    /// Bytes of the memory on the device, as its driver's files in sysfs have it.
    pub(crate) vram_bytes: Option<u64>,
    /// The type of its IOMMU group, such as `identity` or `DMA-FQ`; `none` if it is in no group.
    pub(crate) iommu: Option<String>,
}

/// A device on the way to the root, and the link that its file describes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hop {
    pub(crate) address: String,
    /// In GT/s per lane.
    pub(crate) speed_gts: Option<f64>,
    pub(crate) speed_max_gts: Option<f64>,
    /// In lanes.
    pub(crate) width: Option<u32>,
    pub(crate) width_max: Option<u32>,
    /// `active`, `suspended`, `unsupported`, …
    pub(crate) runtime_status: Option<String>,
    /// `D0`, `D3hot`, `D3cold`, …
    pub(crate) power_state: Option<String>,
    /// Whether it sends requests between two devices below it up to the root (Access Control Services). Only root
    /// can see this.
    pub(crate) acs_redirects: Option<bool>,
}
