//! Drivers and versions with known faults, and what devices lack. Each row has its evidence.

use super::report::{Finding, SeenDevice};

const AREA: &str = "devices";

/// A version of a driver that is known to do something wrong.
struct Known {
    /// A part of the driver's name.
    driver: &'static str,
    /// Versions below this one; every version if it is `None`.
    below: Option<(u32, u32)>,
    what: &'static str,
    todo: &'static str,
    evidence: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        driver: "llvmpipe",
        below: Some((24, 3)),
        what: "exports no dma-bufs",
        todo: "update Mesa to 24.3 or newer if dma-bufs are needed",
        evidence: "lp_screen.c of Mesa 24.3 has the first export, through /dev/udmabuf",
    },
    Known {
        driver: "Intel",
        below: Some((21, 0)),
        what: "gives two equal cards one UUID, so their opaque fds are taken for each other's",
        todo: "update Mesa",
        evidence: "intel_uuid.c computed the device's UUID from the chip alone",
    },
    Known {
        driver: "NVIDIA",
        below: None,
        what: "other drivers accept its dma-bufs, and their first submission then fails, on some versions",
        todo: "nothing: peerbuf tries each route with data; trust the routes below",
        evidence: "NVIDIA/open-gpu-kernel-modules#1037",
    },
    Known {
        driver: "AMD open-source driver",
        below: None,
        what: "reports timelines that can be exported and fails to create them",
        todo: "prefer RADV (mesa-vulkan-drivers)",
        evidence: "KhronosGroup/Vulkan-ValidationLayers#5947",
    },
];

/// Extensions that peerbuf uses, and what is lost without them.
const EXTENSIONS: &[(&str, &str)] = &[
    ("VK_KHR_external_memory_fd", "no fd leaves or enters: memory is shared by address or copied"),
    ("VK_EXT_external_memory_dma_buf", "no dma-bufs"),
    ("VK_EXT_external_memory_host", "system memory cannot be imported by address"),
    ("VK_KHR_external_semaphore_fd", "other devices wait for it by a host thread"),
    ("VK_EXT_queue_family_foreign", "ownership passes to other drivers by EXTERNAL"),
    ("VK_EXT_memory_budget", "its budget is the size of its heap"),
];

/// What is known of the devices.
pub(super) fn judge(devices: &[SeenDevice]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, device) in devices.iter().enumerate() {
        let name = format!("{at} {}", device.name);
        if let Some(why) = &device.unusable {
            findings.push(Finding::problem(
                AREA,
                format!("{name}: cannot be used: {why}"),
                "update the driver: peerbuf needs Vulkan 1.2 with timeline semaphores",
            ));
            continue;
        }
        findings.push(Finding::ok(AREA, format!("{name}: {}", describe(device))));
        let lacks: Vec<_> = EXTENSIONS
            .iter()
            .filter(|(extension, _)| !device.extensions.iter().any(|has| has == extension))
            .map(|(extension, lost)| format!("{extension} ({lost})"))
            .collect();
        if !lacks.is_empty() {
            findings.push(Finding::note(
                AREA,
                format!("{name} lacks {}", lacks.join(", ")),
                "a newer driver may have it; peerbuf works without",
            ));
        }
        for (lacks, lost) in abilities(device) {
            findings.push(Finding::note(
                AREA,
                format!("{name} lacks {lacks}: {lost}"),
                "nothing: peerbuf works without",
            ));
        }
        for known in KNOWN.iter().filter(|known| applies(known, device)) {
            findings.push(Finding::note(
                AREA,
                format!("{name}: {} ({})", known.what, known.evidence),
                known.todo,
            ));
        }
    }
    if !devices.iter().any(|device| device.opens) {
        findings.push(Finding::problem(
            AREA,
            "no device can be used",
            "do what is said of the loader and the drivers; if there is no driver, install one: \
             mesa-vulkan-drivers has lavapipe, which needs no GPU",
        ));
    }
    findings
}

/// What else a device lacks, and what that costs.
fn abilities(device: &SeenDevice) -> Vec<(&'static str, &'static str)> {
    let has_type = |flag| device.types.iter().any(|(_, flags)| flags.contains(flag));
    let passes_on = |name: &str| device.semaphores.iter().any(|semaphore| semaphore == name);
    let has_fds = device.extensions.iter().any(|name| name == "VK_KHR_external_semaphore_fd");
    [
        (!has_type("HOST_VISIBLE"), "memory that the host can map", "the host reads by copies"),
        (!has_type("HOST_CACHED"), "cached host memory", "the host reads it slowly"),
        // Without the extension that is said already.
        (
            has_fds && !passes_on("SYNC_FD"),
            "sync files",
            "other drivers wait for it by a host thread",
        ),
    ]
    .into_iter()
    .filter_map(|(lacks, what, lost)| lacks.then_some((what, lost)))
    .collect()
}

fn describe(device: &SeenDevice) -> String {
    let SeenDevice { driver, driver_info, kind, api_version, .. } = device;
    let driver = format!("{driver} {driver_info}");
    let driver = if driver == " " { "a driver without a name" } else { driver.trim() };
    let list =
        |names: &[String]| if names.is_empty() { "nothing".into() } else { names.join(", ") };
    format!(
        "{kind}, Vulkan {api_version}, {driver}; exports {}; imports {}",
        list(&device.exports),
        list(&device.imports),
    )
}

fn applies(known: &Known, device: &SeenDevice) -> bool {
    let is_driver = device.driver.contains(known.driver);
    is_driver
        && known.below.is_none_or(|below| mesa(&device.driver_info).is_some_and(|has| has < below))
}

/// The version in a text such as `Mesa 25.0.7-2`.
fn mesa(info: &str) -> Option<(u32, u32)> {
    let mut parts = info.strip_prefix("Mesa ")?.split(|digit: char| !digit.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(driver: &str, info: &str) -> SeenDevice {
        SeenDevice {
            name: "GPU".into(),
            driver: driver.into(),
            driver_info: info.into(),
            driver_version: 0,
            api_version: "1.3.0".into(),
            kind: "cpu".into(),
            uuid: String::new(),
            driver_uuid: String::new(),
            pci: None,
            render_node: None,
            heaps: vec![],
            types: vec![(0, "HOST_VISIBLE | HOST_CACHED".into())],
            max_allocation: 1 << 30,
            semaphores: vec!["SYNC_FD".into()],
            exports: vec![],
            imports: vec![],
            extensions: EXTENSIONS.iter().map(|(name, _)| (*name).to_owned()).collect(),
            unusable: None,
            opens: true,
            manifest: String::new(),
        }
    }

    #[test]
    fn old_versions_are_known_and_new_ones_are_not() {
        let notes = |info| judge(&[device("llvmpipe", info)]).len() - 1;
        assert_eq!(notes("Mesa 24.2.8-1 (LLVM 15)"), 1);
        assert_eq!(notes("Mesa 24.3.0"), 0);
        assert_eq!(notes("Mesa 25.0.7-2~bpo12+1"), 0);
        assert_eq!(notes("something else"), 0);
        assert_eq!(judge(&[device("NVIDIA", "580.1")]).len(), 2, "every version");
    }

    #[test]
    fn an_extension_that_is_missing_is_named_with_what_is_lost() {
        let mut without = device("driver", "");
        without.extensions.retain(|name| name != "VK_EXT_external_memory_dma_buf");
        let findings = judge(&[without]);
        assert!(findings[1].what.contains("lacks VK_EXT_external_memory_dma_buf (no dma-bufs)"));
        let without = SeenDevice { types: vec![], semaphores: vec![], ..device("driver", "") };
        let whats: Vec<_> = judge(&[without]).into_iter().map(|finding| finding.what).collect();
        assert_eq!(whats.len(), 4, "{whats:?}");
        assert!(whats[3].contains("lacks sync files"), "{whats:?}");
    }
}
