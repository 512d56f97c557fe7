//! A made tree of the kernel's files, below the temporary folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A folder that is removed at the end.
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty tree. Tests that run at the same time have different names.
    pub(crate) fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("peerbuf-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("sys/bus/pci/devices")).expect("a folder can be made");
        fs::create_dir_all(root.join("sys/kernel/iommu_groups")).expect("a folder can be made");
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A device with a fast, wide, awake link below `bridges`, the root port first.
    pub(crate) fn gpu(&self, address: &str, bridges: &[&str]) {
        let mut folder = self.root.join("sys/devices/pci0000:00");
        for bridge in bridges {
            folder = folder.join(bridge);
            self.device(bridge, &folder);
        }
        self.device(address, &folder.join(address));
        self.set(address, "resource", "0x0000000000000000 0x00000003ffffffff 0x000000000014220c\n");
        self.set(address, "mem_info_vram_total", "17179869184\n");
        self.set(address, "numa_node", "0\n");
        let group = self.root.join("sys/kernel/iommu_groups/7");
        fs::create_dir_all(&group).expect("a folder can be made");
        fs::write(group.join("type"), "identity\n").expect("a file can be written");
        let link = self.of(address).join("iommu_group");
        if !link.is_symlink() {
            symlink(&group, link).expect("a link can be made");
        }
    }

    /// Sets the text of a file of a device.
    pub(crate) fn set(&self, address: &str, file: &str, text: &str) {
        fs::write(self.of(address).join(file), text).expect("a file can be written");
    }

    /// Sets the type of the IOMMU group of all devices.
    pub(crate) fn set_iommu(&self, text: &str) {
        fs::write(self.root.join("sys/kernel/iommu_groups/7/type"), text)
            .expect("a file can be written");
    }

    pub(crate) fn remove(&self, address: &str, file: &str) {
        fs::remove_file(self.of(address).join(file)).expect("the file was there");
    }

    fn of(&self, address: &str) -> PathBuf {
        self.root.join("sys/bus/pci/devices").join(address)
    }

    fn device(&self, address: &str, folder: &Path) {
        fs::create_dir_all(folder.join("power")).expect("a folder can be made");
        let link = self.of(address);
        if !link.is_symlink() {
            symlink(folder, link).expect("a link can be made");
        }
        for (file, text) in [
            ("current_link_speed", "16.0 GT/s PCIe\n"),
            ("max_link_speed", "16.0 GT/s PCIe\n"),
            ("current_link_width", "16\n"),
            ("max_link_width", "16\n"),
            ("power/runtime_status", "active\n"),
            ("power_state", "D0\n"),
        ] {
            self.set(address, file, text);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // A folder that stays behind is no failure of the test.
        let _ = fs::remove_dir_all(&self.root);
    }
}
