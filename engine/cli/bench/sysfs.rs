//! What the kernel's files say of a PCI device and of the bridges above it.
//!
//! A file that is not there, that this user may not read, or whose text is unknown is no fact: nothing is guessed. The
//! root of the files is a parameter, so that tests can make them.

use std::fs;
use std::path::{Path, PathBuf};

use super::run::{Hop, Pci};

/// The flag of a memory BAR in the file `resource` (`IORESOURCE_MEM`).
const MEMORY: u64 = 0x200;

/// How many lines of `resource` are BARs; those after them are the ROM and a bridge's windows.
const BARS: usize = 6;

/// Everything that is known of a device; `None` if the kernel has no such device, or does not show it in this
/// container.
pub(crate) fn pci(root: &Path, address: &str) -> Option<Pci> {
    let folder = folder(root, address)?;
    Some(Pci {
        path: hops_of(&folder),
        numa_node: text(&folder, "numa_node").and_then(|text| text.parse().ok()),
        bar_bytes: text(&folder, "resource").and_then(|text| largest_bar(&text)),
        vram_bytes: text(&folder, "mem_info_vram_total").and_then(|text| text.parse().ok()),
        iommu: iommu(root, &folder),
    })
}

/// The links from a device up to the root, and their power states: what changes while a copy runs.
pub(crate) fn hops(root: &Path, address: &str) -> Vec<Hop> {
    folder(root, address).map(|folder| hops_of(&folder)).unwrap_or_default()
}

/// The folder of a device, whose path names the bridges above it.
fn folder(root: &Path, address: &str) -> Option<PathBuf> {
    if !is_address(address) {
        return None;
    }
    fs::canonicalize(root.join("sys/bus/pci/devices").join(address)).ok()
}

/// Whether a name is that of a PCI device: `0000:01:00.0`.
fn is_address(name: &str) -> bool {
    let parts: Vec<_> = name.split([':', '.']).collect();
    let hex = |part: &&str, digits| part.len() >= digits && u32::from_str_radix(part, 16).is_ok();
    name.matches(':').count() == 2
        && parts.len() == 4
        && parts.iter().zip([4, 2, 2, 1]).all(|(part, digits)| hex(part, digits))
}

fn hops_of(folder: &Path) -> Vec<Hop> {
    let name = |folder: &Path| Some(folder.file_name()?.to_str()?.to_owned());
    folder
        .ancestors()
        .map_while(|folder| Some((name(folder).filter(|name| is_address(name))?, folder)))
        .map(|(address, folder)| hop(address, folder))
        .collect()
}

fn hop(address: String, folder: &Path) -> Hop {
    Hop {
        address,
        speed_gts: text(folder, "current_link_speed").and_then(|text| speed(&text)),
        speed_max_gts: text(folder, "max_link_speed").and_then(|text| speed(&text)),
        width: text(folder, "current_link_width").and_then(|text| width(&text)),
        width_max: text(folder, "max_link_width").and_then(|text| width(&text)),
        runtime_status: text(folder, "power/runtime_status"),
        power_state: text(folder, "power_state").filter(|state| state != "unknown"),
        acs_redirects: fs::read(folder.join("config")).ok().and_then(|bytes| acs(&bytes)),
    }
}

fn text(folder: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// `16.0 GT/s PCIe`; kernels before 5.11 write `16 GT/s`.
fn speed(text: &str) -> Option<f64> {
    let number: f64 = text
        .strip_suffix("PCIe")
        .unwrap_or(text)
        .trim()
        .strip_suffix("GT/s")?
        .trim()
        .parse()
        .ok()?;
    (number.is_finite() && number > 0.0).then_some(number)
}

/// A number of lanes. 0 is that of a link that is down, 255 and 63 those of a device that does not answer.
fn width(text: &str) -> Option<u32> {
    text.parse().ok().filter(|width| (1..=32).contains(width))
}

/// The bytes of the largest memory BAR in the text of `resource`: each line has a start, an end and flags.
fn largest_bar(text: &str) -> Option<u64> {
    let size = |line: &str| {
        let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let mut fields = line.split_whitespace();
        let (start, end) = (number(fields.next()?)?, number(fields.next()?)?);
        let flags = number(fields.next()?)?;
        (flags & MEMORY != 0 && end > start).then(|| end - start + 1)
    };
    text.lines().take(BARS).filter_map(size).max()
}

/// The type of the device's IOMMU group; `none` if the machine shows groups and the device is in none, or if there
/// are no groups at all.
fn iommu(root: &Path, folder: &Path) -> Option<String> {
    match fs::read_link(folder.join("iommu_group")) {
        Ok(link) => {
            let group = link.file_name()?.to_owned();
            text(&root.join("sys/kernel/iommu_groups").join(group), "type")
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("none".to_owned()),
        Err(_) => None,
    }
}

/// Whether a bridge redirects requests between devices below it to the root, by its configuration space. The
/// kernel shows only root more than the first 64 bytes of it.
fn acs(config: &[u8]) -> Option<bool> {
    /// The first extended capability.
    const FIRST: usize = 0x100;
    /// The identity of Access Control Services (`PCI_EXT_CAP_ID_ACS`).
    const ACS: u32 = 0x0d;
    /// Its control register, and in it P2P Request Redirect.
    const CONTROL: usize = 6;
    const REQUEST_REDIRECT: u16 = 1 << 2;
    let word = |at: usize| Some(u32::from_le_bytes(config.get(at..at + 4)?.try_into().ok()?));
    let mut at = FIRST;
    // Each capability is at least a word long, so a list that does not end is broken.
    for _ in 0..(0x1000 - FIRST) / 4 {
        let header = word(at)?;
        if header & 0xffff == ACS {
            let control = config.get(at + CONTROL..at + CONTROL + 2)?;
            return Some(u16::from_le_bytes(control.try_into().ok()?) & REQUEST_REDIRECT != 0);
        }
        // CAST: 12 bits.
        at = (header >> 20) as usize;
        if at < FIRST {
            return Some(false);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::made::tree::Tree;
    use super::*;

    #[test]
    fn a_device_and_the_bridges_above_it_are_read() {
        let tree = Tree::new("read");
        tree.gpu("0000:01:00.0", &["0000:00:01.1"]);
        let pci = pci(tree.root(), "0000:01:00.0").expect("it is there");
        let addresses: Vec<_> = pci.path.iter().map(|hop| hop.address.as_str()).collect();
        assert_eq!(addresses, ["0000:01:00.0", "0000:00:01.1"]);
        let first = &pci.path[0];
        assert_eq!((first.speed_gts, first.speed_max_gts), (Some(16.0), Some(16.0)));
        assert_eq!((first.width, first.width_max), (Some(16), Some(16)));
        assert_eq!(first.runtime_status.as_deref(), Some("active"));
        assert_eq!(first.power_state.as_deref(), Some("D0"));
        assert_eq!(pci.numa_node, Some(0));
        assert_eq!(pci.bar_bytes, Some(16 << 30));
        assert_eq!(pci.vram_bytes, Some(16 << 30));
        assert_eq!(pci.iommu.as_deref(), Some("identity"));
        assert_eq!(hops(tree.root(), "0000:01:00.0"), pci.path);
    }

    #[test]
    fn what_cannot_be_read_is_no_fact() {
        let tree = Tree::new("unread");
        tree.gpu("0000:01:00.0", &[]);
        for file in ["numa_node", "resource", "mem_info_vram_total", "max_link_speed"] {
            tree.remove("0000:01:00.0", file);
        }
        tree.set("0000:01:00.0", "current_link_speed", "Unknown\n");
        tree.set("0000:01:00.0", "current_link_width", "0\n");
        tree.set("0000:01:00.0", "max_link_width", "255\n");
        tree.set("0000:01:00.0", "power_state", "unknown\n");
        tree.remove("0000:01:00.0", "iommu_group");
        let pci = pci(tree.root(), "0000:01:00.0").expect("it is there");
        let hop = &pci.path[0];
        assert_eq!(
            (hop.speed_gts, hop.speed_max_gts, hop.width, hop.width_max),
            (None, None, None, None)
        );
        assert_eq!(
            (&hop.power_state, hop.acs_redirects),
            (&None, None),
            "the file config is root's"
        );
        assert_eq!((pci.numa_node, pci.bar_bytes, pci.vram_bytes), (None, None, None));
        assert_eq!(pci.iommu.as_deref(), Some("none"), "a machine without an IOMMU has no groups");
    }

    #[test]
    fn a_machine_without_pci_has_no_facts() {
        let tree = Tree::new("no_pci");
        assert_eq!(pci(tree.root(), "0000:01:00.0"), None);
        assert_eq!(hops(tree.root(), "0000:01:00.0"), []);
        // A name is never a path.
        tree.gpu("0000:01:00.0", &[]);
        for name in ["", ".", "..", "0000:01:00.0/..", "../devices/0000:01:00.0", "1:2"] {
            assert_eq!(pci(tree.root(), name), None, "{name:?}");
        }
    }

    #[test]
    fn speeds_are_those_of_old_and_new_kernels() {
        assert_eq!(speed("16.0 GT/s PCIe"), Some(16.0));
        assert_eq!(speed("2.5 GT/s"), Some(2.5));
        assert_eq!(speed("8 GT/s"), Some(8.0));
        for text in ["Unknown", "Unknown speed", "", "GT/s", "-1 GT/s", "inf GT/s"] {
            assert_eq!(speed(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_largest_bar_is_one_of_memory() {
        let text = "0x00000000fb000000 0x00000000fbffffff 0x0000000000040200\n\
                    0x000000d000000000 0x000000d00fffffff 0x000000000014220c\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x000000000000e000 0x00000000ffffe07f 0x0000000000040101\n";
        assert_eq!(largest_bar(text), Some(256 << 20), "the last line is of ports");
        assert_eq!(largest_bar("0x0 0x0 0x0\n"), None);
        assert_eq!(largest_bar("no numbers\n"), None);
    }

    #[test]
    fn access_control_is_read_where_root_may() {
        let mut config = vec![0_u8; 0x1000];
        let mut put =
            |at: usize, header: u32| config[at..at + 4].copy_from_slice(&header.to_le_bytes());
        // Advanced Error Reporting, and behind it Access Control Services.
        put(0x100, 0x1 | 1 << 16 | 0x148 << 20);
        put(0x148, 0xd | 1 << 16);
        assert_eq!(acs(&config), Some(false));
        config[0x148 + 6] = 0x1d;
        assert_eq!(acs(&config), Some(true));
        assert_eq!(acs(&config[..64]), None, "other users see the first 64 bytes");
        // A list that leads back to its start ends.
        config[0x148..0x14c].copy_from_slice(&(0x2_u32 | 1 << 16 | 0x100 << 20).to_le_bytes());
        assert_eq!(acs(&config), None);
    }
}
