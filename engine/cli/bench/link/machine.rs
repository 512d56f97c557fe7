//! What a run says of the machine, of its devices and of this program.
//!
//! A fact that this user cannot see is null; nothing is guessed.

use std::fs;
use std::path::Path;

use super::super::run::{Device, Heap, Machine, Tool};
use super::super::sysfs;
use crate::report::DeviceFacts;

/// The root of the kernel's files.
pub(super) const ROOT: &str = "/";

/// This program, as it was started.
pub(super) fn tool() -> Tool {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    Tool {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("PEERBUF_COMMIT").map(str::to_owned),
        command: std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect(),
        build: build.to_owned(),
    }
}

/// The machine, without what has to be measured.
pub(super) fn machine(root: &Path) -> Machine {
    let text = |file: &str| {
        let text = fs::read_to_string(root.join(file)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let field = |file: &str, name: &str| {
        let text = text(file)?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kibibytes = |text: String| text.strip_suffix("kB")?.trim().parse::<u64>().ok();
    Machine {
        cpu: field("proc/cpuinfo", "model name"),
        processors: std::thread::available_parallelism()
            .ok()
            .and_then(|it| it.get().try_into().ok()),
        memory_bytes: field("proc/meminfo", "MemTotal").and_then(kibibytes).map(|it| it << 10),
        numa_nodes: nodes(root),
        kernel: text("proc/sys/kernel/osrelease"),
        governor: text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_average: text("proc/loadavg").and_then(|it| it.split(' ').next()?.parse().ok()),
        host: vec![],
    }
}

/// How many NUMA nodes the machine has.
fn nodes(root: &Path) -> Option<u32> {
    let names = fs::read_dir(root.join("sys/devices/system/node")).ok()?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_node = |name: &String| {
        name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    u32::try_from(names.filter(is_node).count()).ok().filter(|nodes| *nodes > 0)
}

/// A device, with what the kernel says of it. Whether the host can map its heaps, and its timestamps, are for the
/// caller to add.
pub(super) fn device(root: &Path, facts: &DeviceFacts) -> Device {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let address = facts.pci.map(|pci| {
        format!("{:04x}:{:02x}:{:02x}.{:x}", pci.domain, pci.bus, pci.device, pci.function)
    });
    let heap = |heap: &crate::report::HeapFacts| Heap {
        size_bytes: heap.size,
        device_local: heap.device_local,
        host_visible: None,
    };
    Device {
        index: number(facts.index),
        adapter: Some(number(facts.adapter)),
        name: facts.name.clone(),
        driver: Some(facts.driver.clone()),
        driver_info: facts.driver_info.clone(),
        kind: facts.kind.to_owned(),
        software: facts.kind == "cpu",
        uuid: Some(facts.uuid.clone()),
        driver_uuid: Some(facts.driver_uuid.clone()),
        heaps: facts.heaps.iter().map(heap).collect(),
        timestamp_bits: None,
        pci: address.as_deref().and_then(|address| sysfs::pci(root, address)),
        pci_address: address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_facts_and_a_machine_without_files_has_none() {
        let machine = machine(Path::new(ROOT));
        assert!(machine.kernel.is_some() && machine.memory_bytes > Some(1 << 20), "{machine:?}");
        let nothing = self::machine(Path::new("/proc/self/fd/nowhere"));
        assert_eq!((nothing.cpu, nothing.memory_bytes, nothing.kernel), (None, None, None));
        assert_eq!(
            (nothing.governor, nothing.numa_nodes, nothing.load_average),
            (None, None, None)
        );
    }
}
