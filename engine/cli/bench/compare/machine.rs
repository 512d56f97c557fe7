//! Whether two runs are of one machine, and what else differs.

use super::super::run::{Device, Run};

/// What tells the machines of two runs apart; empty if it is one machine. Versions of drivers, kernels and programs are
/// not part of it: comparing those is what a comparison is for.
pub(crate) fn differences(before: &Run, after: &Run) -> Vec<String> {
    let mut found = vec![];
    let (old, new) = (&before.machine, &after.machine);
    found.extend(differ("the processor", &old.cpu, &new.cpu));
    found.extend(differ("the number of processors", &old.processors, &new.processors));
    // The kernel keeps a part of the memory that depends on its version.
    if let (Some(first), Some(second)) = (old.memory_bytes, new.memory_bytes)
        && first.abs_diff(second) > first.max(second) / 20
    {
        found.push(format!("the memory: {} MiB, {} MiB", first >> 20, second >> 20));
    }
    let place = |device: &Device| {
        let at = device.pci_address.as_deref().map_or(String::new(), |at| format!(" at {at}"));
        format!("{} ({}{at})", device.name, device.kind)
    };
    let devices = |run: &Run| {
        let devices: Vec<_> = run.devices.iter().map(place).collect();
        Some(devices.join(", "))
    };
    found.extend(differ("the devices", &devices(before), &devices(after)));
    if before.program != after.program {
        found.push(format!("the programs: {:?}, {:?}", before.program, after.program));
    }
    found
}

/// What differs although it is one machine.
pub(crate) fn remarks(before: &Run, after: &Run) -> Vec<String> {
    let mut found = vec![];
    found.extend(differ("kernel", &before.machine.kernel, &after.machine.kernel));
    found.extend(differ("governor", &before.machine.governor, &after.machine.governor));
    let version = |run: &Run| {
        let commit = run.tool.commit.as_deref().map_or(String::new(), |it| format!(" ({it})"));
        Some(format!("{}{commit}", run.tool.version))
    };
    found.extend(differ("version", &version(before), &version(after)));
    found.extend(differ("build", &Some(&before.tool.build), &Some(&after.tool.build)));
    for (old, new) in before.devices.iter().zip(&after.devices) {
        let driver = |device: &Device| device.driver_info.clone().or_else(|| device.driver.clone());
        let what = format!("driver of device{}", new.index);
        found.extend(differ(&what, &driver(old), &driver(new)));
    }
    if before.quick != after.quick {
        found.push("one run is quick and the other one is not".to_owned());
    }
    let busy = |run: &Run, which: &str| {
        let load = run.machine.load_average.filter(|load| *load > 0.5)?;
        Some(format!("the {which} run began at a load average of {load}"))
    };
    found.extend(busy(before, "first"));
    found.extend(busy(after, "second"));
    found
}

/// A difference of two known values.
fn differ<T: PartialEq + ToString>(what: &str, old: &Option<T>, new: &Option<T>) -> Option<String> {
    let (old, new) = (old.as_ref()?, new.as_ref()?);
    (old != new).then(|| format!("{what}: {}, {}", old.to_string(), new.to_string()))
}
