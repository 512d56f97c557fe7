//! Device files: who may open them, and what opens them to others.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::report::{Finding, KernelFacts, NodeFacts, SeenDevice};
use super::root;

const AREA: &str = "nodes";

/// What a node is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Render,
    Nvidia,
    Udmabuf,
    DmaHeap,
}

/// Looks at every node that matters.
pub(super) fn find() -> Vec<NodeFacts> {
    let mut paths = vec!["/dev/udmabuf".to_owned(), "/dev/dma_heap/system".to_owned()];
    let heaps = root::names("/dev/dma_heap").into_iter().filter(|name| name != "system");
    paths.extend(heaps.map(|name| format!("/dev/dma_heap/{name}")));
    let render = root::names("/dev/dri").into_iter().filter(|name| name.starts_with("renderD"));
    paths.extend(render.map(|name| format!("/dev/dri/{name}")));
    let nvidia = root::names("/dev").into_iter().filter(|name| name.starts_with("nvidia"));
    paths.extend(nvidia.map(|name| format!("/dev/{name}")));
    paths.into_iter().filter_map(look).collect()
}

/// The facts of a node; `None` for something else, such as a folder.
fn look(path: String) -> Option<NodeFacts> {
    let at = root::system(&path);
    let Ok(meta) = fs::metadata(&at) else {
        return Some(NodeFacts { path, ..NodeFacts::default() });
    };
    let is_node = meta.file_type().is_char_device();
    // The tests' nodes are files: a device node cannot be made without privileges.
    let may_be_file = cfg!(feature = "testing") && meta.is_file();
    if !is_node && !may_be_file {
        return None;
    }
    let open = |rights: OFlags| {
        let flags = rights | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::open(&at, flags, Mode::empty()).err().map(text)
    };
    Some(NodeFacts {
        exists: true,
        mode: Some(format!("{:04o}", meta.mode() & 0o7777)),
        owner: Some(name_of("/etc/passwd", meta.uid())),
        group: Some(name_of("/etc/group", meta.gid())),
        minor: is_node.then(|| rustix::fs::minor(meta.rdev())),
        read_error: open(OFlags::RDONLY),
        write_error: open(OFlags::RDWR),
        path,
    })
}

/// An errno as a person reads it.
pub(super) fn text(errno: Errno) -> String {
    std::io::Error::from(errno).to_string()
}

/// The name of a user or group in a table of the system, or its number.
fn name_of(table: &str, id: u32) -> String {
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    };
    let table = root::text(table).unwrap_or_default();
    table.lines().find_map(name).unwrap_or_else(|| id.to_string())
}

/// What the nodes mean for this user.
pub(super) fn judge(
    nodes: &[NodeFacts],
    devices: &[SeenDevice],
    kernel: &KernelFacts,
    container: bool,
) -> Vec<Finding> {
    let mut findings: Vec<_> =
        nodes.iter().map(|node| judge_one(node, kernel, container)).collect();
    for node in nodes.iter().filter(|node| purpose(&node.path) == Purpose::Render && node.exists) {
        let minor = minor(node);
        let driven = devices.iter().any(|device| device.render_node == minor);
        if node.write_error.is_none() && !driven && minor.is_some() {
            findings.push(undriven(node));
        }
    }
    findings
}

fn purpose(path: &str) -> Purpose {
    match path {
        "/dev/udmabuf" => Purpose::Udmabuf,
        path if path.starts_with("/dev/dma_heap/") => Purpose::DmaHeap,
        path if path.starts_with("/dev/nvidia") => Purpose::Nvidia,
        _ => Purpose::Render,
    }
}

/// The minor number of a node, from its name where the node has none.
fn minor(node: &NodeFacts) -> Option<u64> {
    node.minor.map(u64::from).or_else(|| node.path.strip_prefix("/dev/dri/renderD")?.parse().ok())
}

/// The kernel's option that makes the node.
fn option(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Udmabuf => "CONFIG_UDMABUF",
        _ => "CONFIG_DMABUF_HEAPS_SYSTEM",
    }
}

fn judge_one(node: &NodeFacts, kernel: &KernelFacts, container: bool) -> Finding {
    let path = &node.path;
    let purpose = purpose(path);
    if !node.exists {
        let instead = "system memory of a driver or a memfd takes its place, which is no dma-buf";
        let todo = match purpose {
            _ if kernel.lacks(option(purpose)) => {
                format!("if a dma-buf is needed: a kernel with {}", option(purpose))
            }
            _ if container => {
                format!("if a dma-buf is needed, give it to the container: --device {path}")
            }
            Purpose::Udmabuf => {
                "if a dma-buf is needed: modprobe udmabuf (kernel option CONFIG_UDMABUF)".to_owned()
            }
            _ => format!("if a dma-buf is needed: a kernel with {}", option(purpose)),
        };
        return Finding::note(AREA, format!("no {path}: {instead}"), todo);
    }
    // A udmabuf and a dma-heap are opened for reading, a GPU for both.
    let both = matches!(purpose, Purpose::Render | Purpose::Nvidia);
    let error = if both { &node.write_error } else { &node.read_error };
    let rights = format!(
        "mode {}, {}:{}",
        node.mode.as_deref().unwrap_or("?"),
        node.owner.as_deref().unwrap_or("?"),
        node.group.as_deref().unwrap_or("?"),
    );
    let Some(error) = error else {
        return Finding::ok(AREA, format!("{path}: {rights}; this user can open it"));
    };
    let what = format!("{path}: {rights}; opening it fails: {error}");
    let todo = match [Errno::NODEV, Errno::NXIO].into_iter().any(|errno| *error == text(errno)) {
        true => "the node has no driver behind it: load the kernel's module for it".to_owned(),
        false => opens(node, both),
    };
    if both { Finding::problem(AREA, what, todo) } else { Finding::note(AREA, what, todo) }
}

/// What would let this user open a node.
fn opens(node: &NodeFacts, both: bool) -> String {
    let mode = node.mode.as_deref().and_then(|mode| u32::from_str_radix(mode, 8).ok());
    let wanted = if both { 0o060 } else { 0o040 };
    let group = node.group.as_deref().unwrap_or("render");
    let is_open_to_group = mode.is_some_and(|mode| mode & wanted == wanted);
    if is_open_to_group && group != "root" {
        return format!("join its group and log in again: sudo usermod -aG {group} $USER");
    }
    let kernel = node.path.rsplit('/').next().unwrap_or_default();
    let subsystem = match purpose(&node.path) {
        Purpose::DmaHeap => "SUBSYSTEM==\"dma_heap\", ",
        Purpose::Udmabuf => "SUBSYSTEM==\"misc\", ",
        _ => "",
    };
    let group = if both { "render" } else { "video" };
    format!(
        "a rule in /etc/udev/rules.d/70-peerbuf.rules: {subsystem}KERNEL==\"{kernel}\", \
         GROUP=\"{group}\", MODE=\"0660\"; then udevadm trigger, and join the group {group}"
    )
}

/// A GPU that no driver lists.
fn undriven(node: &NodeFacts) -> Finding {
    let name = node.path.rsplit('/').next().unwrap_or_default();
    let vendor = root::text(format!("/sys/class/drm/{name}/device/vendor"));
    let (vendor, package) = match vendor.as_deref() {
        Some("0x1002") => ("an AMD GPU", "mesa-vulkan-drivers"),
        Some("0x8086") => ("an Intel GPU", "mesa-vulkan-drivers"),
        Some("0x10de") => ("an NVIDIA GPU", "NVIDIA's driver with its Vulkan part, or Mesa's NVK"),
        Some("0x1af4") => ("a GPU of a virtual machine", "mesa-vulkan-drivers (venus)"),
        _ => ("a GPU", "a Vulkan driver for it"),
    };
    Finding::note(
        AREA,
        format!("{}: {vendor} that no Vulkan driver lists", node.path),
        format!("install {package}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Severity;
    use super::*;

    fn node(path: &str, mode: &str, group: &str) -> NodeFacts {
        let denied = Some("Permission denied (os error 13)".to_owned());
        NodeFacts {
            path: path.into(),
            exists: true,
            mode: Some(mode.into()),
            owner: Some("root".into()),
            group: Some(group.into()),
            minor: None,
            read_error: denied.clone(),
            write_error: denied,
        }
    }

    fn judged(node: &NodeFacts) -> (Severity, String, String) {
        let finding = judge_one(node, &KernelFacts::default(), false);
        (finding.severity, finding.what, finding.todo.unwrap_or_default())
    }

    #[test]
    fn a_node_of_a_group_is_opened_by_joining_it() {
        let (severity, what, todo) = judged(&node("/dev/dri/renderD128", "0660", "render"));
        assert_eq!(severity, Severity::Problem, "without it the GPU cannot be used");
        assert!(what.contains("mode 0660, root:render") && what.contains("Permission denied"));
        assert!(todo.contains("usermod -aG render"), "{todo}");
    }

    #[test]
    fn a_node_of_root_is_opened_by_a_rule() {
        let (severity, _, todo) = judged(&node("/dev/udmabuf", "0600", "root"));
        assert_eq!(severity, Severity::Note, "other memory takes its place");
        for part in ["70-peerbuf.rules", "KERNEL==\"udmabuf\"", "GROUP=\"video\""] {
            assert!(todo.contains(part), "no {part} in {todo}");
        }
        // The group may not write, which udmabuf does not need.
        let (.., todo) = judged(&node("/dev/udmabuf", "0640", "kvm"));
        assert!(todo.contains("usermod -aG kvm"), "{todo}");
    }

    #[test]
    fn reading_opens_udmabuf_and_a_heap() {
        for path in ["/dev/udmabuf", "/dev/dma_heap/system"] {
            let node = NodeFacts { read_error: None, ..node(path, "0644", "root") };
            assert_eq!(judged(&node).0, Severity::Ok, "{path}");
        }
        let node = NodeFacts { read_error: None, ..node("/dev/dri/renderD128", "0644", "root") };
        assert_eq!(judged(&node).0, Severity::Problem, "a GPU needs both");
    }
}
