//! Names of an adapter: index, UUID, PCI address, DRM node or kind. The search is in [`super::select`].

use std::fmt;
use std::str::FromStr;

use super::handle_type::Uuid;

/// The PCI address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Device.
    pub device: u32,
    /// Function.
    pub function: u32,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// Device number of a node under `/dev/dri`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DrmNode {
    /// Major number.
    pub major: u64,
    /// Minor number: 0–63 for `cardN`, 128–191 for `renderD128` and on.
    pub minor: u64,
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU in a virtual machine.
    Virtual,
    /// A software device.
    Cpu,
    /// Something else.
    Other,
}

impl AdapterKind {
    /// The short name used in reports, JSON and selections.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Cpu => "cpu",
            Self::Other => "other",
        }
    }
}

/// Names an adapter.
///
/// As text: `0`, a UUID (`6d657361-…`), a PCI address (`0000:01:00.0`), a DRM node
/// (`renderD128`, `card0`), or a kind (`discrete`, `integrated`, `virtual`, `cpu`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterSelector {
    /// Its position in the loader's list.
    Index(usize),
    /// Its device UUID.
    Uuid(Uuid),
    /// Its PCI address.
    Pci(PciAddress),
    /// Its render or primary node.
    Drm(DrmNode),
    /// The first adapter of a kind; one that can be used, if there is one.
    Kind(AdapterKind),
}

/// Major number of DRM devices (`Documentation/admin-guide/devices.txt`).
const DRM_MAJOR: u64 = 226;

impl fmt::Display for AdapterSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "index {index}"),
            Self::Uuid(uuid) => write!(f, "UUID {uuid}"),
            Self::Pci(pci) => write!(f, "PCI address {pci}"),
            Self::Drm(node) => write!(f, "DRM node {}:{}", node.major, node.minor),
            Self::Kind(kind) => write!(f, "kind {}", kind.name()),
        }
    }
}

/// The text does not name an adapter in any of the known ways.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no index, UUID, PCI address (0000:01:00.0), DRM node (renderD128) or kind (discrete, \
     integrated, virtual, cpu)"
)]
pub struct ParseSelectorError(String);

impl FromStr for AdapterSelector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        index(text)
            .or_else(|| kind(text))
            .or_else(|| drm(text))
            .or_else(|| pci(text))
            .or_else(|| uuid(text))
            .ok_or_else(|| ParseSelectorError(text.to_owned()))
    }
}

fn index(text: &str) -> Option<AdapterSelector> {
    text.parse().ok().map(AdapterSelector::Index)
}

fn kind(text: &str) -> Option<AdapterSelector> {
    use AdapterKind::{Cpu, Discrete, Integrated, Virtual};
    [Discrete, Integrated, Virtual, Cpu]
        .into_iter()
        .find(|kind| kind.name() == text)
        .map(AdapterSelector::Kind)
}

fn drm(text: &str) -> Option<AdapterSelector> {
    let name = text.strip_prefix("/dev/dri/").unwrap_or(text);
    let number = name.strip_prefix("renderD").or_else(|| name.strip_prefix("card"))?;
    let minor = number.parse().ok()?;
    Some(AdapterSelector::Drm(DrmNode { major: DRM_MAJOR, minor }))
}

fn pci(text: &str) -> Option<AdapterSelector> {
    let (rest, function) = text.rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let hex = |part: &str| u32::from_str_radix(part, 16).ok();
    let address = PciAddress {
        function: hex(function)?,
        device: hex(parts.next()?)?,
        bus: hex(parts.next()?)?,
        domain: parts.next().map_or(Some(0), hex)?,
    };
    parts.next().is_none().then_some(AdapterSelector::Pci(address))
}

fn uuid(text: &str) -> Option<AdapterSelector> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(AdapterSelector::Uuid(Uuid(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<AdapterSelector>) {
        assert_eq!(text.parse::<AdapterSelector>().ok(), expected, "{text}");
    }

    #[test]
    fn selectors_are_read_from_text() {
        check("3", Some(AdapterSelector::Index(3)));
        check("cpu", Some(AdapterSelector::Kind(AdapterKind::Cpu)));
        check("renderD129", Some(AdapterSelector::Drm(DrmNode { major: 226, minor: 129 })));
        check("/dev/dri/card1", Some(AdapterSelector::Drm(DrmNode { major: 226, minor: 1 })));
        let pci = PciAddress { domain: 0, bus: 0xc1, device: 0, function: 1 };
        check("0000:c1:00.1", Some(AdapterSelector::Pci(pci)));
        check("c1:00.1", Some(AdapterSelector::Pci(pci)));
        let uuid = Uuid(*b"mesa25.0.7-2~bpo");
        check(&uuid.to_string(), Some(AdapterSelector::Uuid(uuid)));
        for wrong in ["", "-1", "gpu", "renderD", "1:2:3:4.5", "1:2", "6d657361", "ü1:00.0"] {
            check(wrong, None);
        }
    }
}
