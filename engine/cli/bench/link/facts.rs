//! What the header says: the program, the machine, the devices, and the ways of each pair.

use std::fs;
use std::path::Path;

use peerbuf::ash::vk;
use peerbuf::device::AdapterKind;
use peerbuf::{Device, Verdict, WaitRoute};

use super::super::run::{self, Access, AccessWay, Heap, Machine, Tool, WayState};
use super::super::sysfs;
use super::place::end;
use crate::lineup::Lineup;

pub(super) fn tool() -> Tool {
    Tool {
        name: "peerbuf bench link".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("PEERBUF_COMMIT").map(str::to_owned),
        command: std::env::args().collect(),
        build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
    }
}

/// The machine, without the speed of its memory.
pub(super) fn machine(root: &Path) -> Machine {
    let text = |file: &str| fs::read_to_string(root.join(file)).ok();
    let after = |text: String, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?.split_once(':')?.1.trim();
        Some(line.to_owned())
    };
    let memory = text("proc/meminfo").and_then(|text| after(text, "MemTotal"));
    let kibibytes = memory.and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
    let is_node = |name: &str| {
        let number = name.strip_prefix("node");
        number.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let nodes = fs::read_dir(root.join("sys/devices/system/node")).ok().map(|folder| {
        let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| is_node(name)).count()
    });
    let governor = text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    Machine {
        cpu: text("proc/cpuinfo").and_then(|text| after(text, "model name")),
        processors: std::thread::available_parallelism()
            .ok()
            .and_then(|count| u32::try_from(count.get()).ok()),
        memory_bytes: kibibytes.map(|kibibytes| kibibytes << 10),
        numa_nodes: nodes.and_then(|count| u32::try_from(count).ok()),
        kernel: text("proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        governor: governor.map(|text| text.trim().to_owned()),
        load_average: text("proc/loadavg")
            .and_then(|text| text.split_whitespace().next()?.parse().ok()),
        host: vec![],
    }
}

pub(super) fn devices(root: &Path, devices: &[Device]) -> Vec<run::Device> {
    let facts = |(index, device): (u32, &Device)| {
        let adapter = device.adapter();
        let address = adapter.pci().map(|pci| pci.to_string());
        let mappable = |heap: usize| {
            adapter.memory_types().iter().any(|kind| {
                kind.heap as usize == heap
                    && kind.flags.contains(vk::MemoryPropertyFlags::HOST_VISIBLE)
            })
        };
        let heaps = adapter.heaps().iter().enumerate().map(|(index, heap)| Heap {
            size_bytes: heap.size,
            device_local: heap.device_local,
            host_visible: Some(mappable(index)),
        });
        run::Device {
            index,
            adapter: u32::try_from(adapter.index()).ok(),
            name: adapter.name().to_owned(),
            driver: Some(adapter.driver_name().to_owned()),
            driver_info: Some(adapter.driver_info().to_owned()).filter(|text| !text.is_empty()),
            kind: adapter.kind().name().to_owned(),
            software: adapter.kind() == AdapterKind::Cpu,
            uuid: Some(adapter.device_uuid().to_string()),
            driver_uuid: Some(adapter.driver_uuid().to_string()),
            heaps: heaps.collect(),
            timestamp_bits: Some(device.timestamp_bits()),
            pci: address.as_deref().and_then(|address| sysfs::pci(root, address)),
            pci_address: address,
        }
    };
    (0..).zip(devices).map(facts).collect()
}

/// The ways of each ordered pair, with their proofs.
pub(super) fn access(lineup: &Lineup) -> Vec<Access> {
    // All pairs at once, so that each device is opened once more, and not once for each pair.
    let _ = lineup.engine.prove_routes(&lineup.devices);
    lineup.pairs().map(|(from, to)| access_of(lineup, from, to)).collect()
}

fn access_of(lineup: &Lineup, from: usize, to: usize) -> Access {
    let (first, second) = (&lineup.devices[from], &lineup.devices[to]);
    let wait = lineup.engine.wait_route(first, second).ok();
    let (chosen, ways) = match lineup.engine.route(first, second) {
        Ok(verdict) => {
            let chosen = verdict.verified.then(|| verdict.route.name().to_owned());
            (chosen, ways_of(&verdict))
        }
        // One device cannot even run a compute pass.
        Err(error) => {
            let reason = Some(error.with_causes());
            let way = "any".to_owned();
            let state = WayState::Untried;
            (None, vec![AccessWay { way, state, reason, read_bytes_per_second: None }])
        }
    };
    Access {
        from: end(from),
        to: end(to),
        chosen,
        wait: wait.map(|route| WaitRoute::name(route).to_owned()),
        ways,
    }
}

fn ways_of(verdict: &Verdict) -> Vec<AccessWay> {
    let working = verdict.working.iter().map(|working| AccessWay {
        way: working.route.name().to_owned(),
        state: WayState::Proved,
        reason: None,
        // CAST: a rate needs no more digits.
        read_bytes_per_second: Some(working.bytes as f64 / working.read.as_secs_f64())
            .filter(|speed| speed.is_finite()),
    });
    let not = |state| {
        move |refusal: &peerbuf::Refusal| AccessWay {
            way: refusal.route.name().to_owned(),
            state,
            reason: Some(refusal.reason.to_string()),
            read_bytes_per_second: None,
        }
    };
    working
        .chain(verdict.refused.iter().map(not(WayState::Refused)))
        .chain(verdict.untried.iter().map(not(WayState::Untried)))
        .collect()
}
