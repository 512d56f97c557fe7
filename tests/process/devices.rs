//! Facts of adapters are consistent, devices are found by each of their names, and errors of missing devices state
//! what to do.

use std::collections::HashSet;

use crate::common::turn::turn;
use crate::common::{Rig, child};
use peerbuf::device::{AdapterKind, DrmNode, PciAddress, Uuid};
use peerbuf::{AdapterSelector, BufferDescriptor, Engine, EngineDescriptor, Error, HandleType};

#[test]
fn the_facts_of_every_adapter_are_sane() {
    let rig = Rig::new();
    for (index, adapter) in rig.engine().adapters().iter().enumerate() {
        let name = adapter.name();
        assert_eq!(adapter.index(), index, "{name}");
        assert!(!name.is_empty() && !adapter.driver_name().is_empty(), "{adapter:?}");
        assert!(adapter.api_version() >= ash::vk::API_VERSION_1_2, "{name}");
        assert_ne!(adapter.device_uuid(), Uuid([0; 16]), "{name}");
        assert_ne!(adapter.driver_uuid(), Uuid([0; 16]), "{name}");
        assert!(adapter.missing().is_empty(), "{name} lacks {:?}", adapter.missing());
        assert!(adapter.heaps().iter().any(|heap| heap.device_local && heap.size > 0), "{name}");
        assert!(!adapter.memory_types().is_empty(), "{name}");
        for kind in adapter.memory_types() {
            assert!((kind.heap as usize) < adapter.heaps().len(), "{name}: {kind:?}");
        }
        let alignment = adapter.host_pointer_alignment();
        assert!(alignment.is_none_or(u64::is_power_of_two), "{name}: {alignment:?}");
    }
}

#[test]
fn every_adapter_has_a_row_for_every_handle_type() {
    let rig = Rig::new();
    for adapter in rig.engine().adapters() {
        let rows: Vec<_> = adapter.external_buffers().iter().map(|row| row.handle).collect();
        assert_eq!(rows, HandleType::ALL, "{}", adapter.name());
        for &handle in HandleType::ALL {
            assert_eq!(adapter.external_buffer(handle).handle, handle);
        }
        let host = adapter.external_buffer(HandleType::HostPointer);
        assert_eq!(host.importable, adapter.host_pointer_alignment().is_some(), "{host:?}");
        assert!(!host.exportable, "{}: host pointers are not exported", adapter.name());
        assert_eq!(adapter.external_semaphores().len(), 3);
    }
}

#[test]
fn software_drivers_can_share_the_measured_handle_types() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for device in [&lavapipe, &swiftshader] {
        let opaque = device.adapter().external_buffer(HandleType::OpaqueFd);
        assert!(opaque.exportable && opaque.importable, "{}: {opaque:?}", device.name());
        let host = device.adapter().external_buffer(HandleType::HostPointer);
        assert!(host.importable, "{}: {host:?}", device.name());
        assert_eq!(device.adapter().kind(), AdapterKind::Cpu);
        assert!(device.adapter().quirks().count() > 0, "software drivers have known quirks");
    }
    assert!(!swiftshader.adapter().external_buffer(HandleType::DmaBuf).importable);
}

#[test]
fn uuids_distinguish_two_drivers() {
    let rig = Rig::new();
    let adapters = rig.engine().adapters();
    let drivers: HashSet<_> = adapters.iter().map(|adapter| adapter.driver_id()).collect();
    let uuids: HashSet<_> = adapters.iter().map(|adapter| adapter.driver_uuid()).collect();
    assert!(uuids.len() >= drivers.len(), "{adapters:?}");
}

#[test]
fn every_adapter_is_found_by_each_of_its_names() {
    let rig = Rig::new();
    for adapter in rig.engine().adapters() {
        let text = [adapter.index().to_string(), adapter.device_uuid().to_string()];
        let selectors = [
            Some(AdapterSelector::Index(adapter.index())),
            Some(AdapterSelector::Uuid(adapter.device_uuid())),
            adapter.pci().map(AdapterSelector::Pci),
            adapter.drm_render().map(AdapterSelector::Drm),
            adapter.drm_primary().map(AdapterSelector::Drm),
            Some(text[0].parse().expect("an index")),
            Some(text[1].parse().expect("a UUID")),
        ];
        for selector in selectors.into_iter().flatten() {
            let found = rig.engine().adapter(selector).expect("the adapter is found");
            assert_eq!(found, adapter, "{selector}");
        }
        let kind = rig.engine().adapter(AdapterSelector::Kind(adapter.kind()));
        assert_eq!(kind.expect("one of that kind").kind(), adapter.kind());
    }
}

#[test]
fn an_unknown_device_error_names_the_present_adapters() {
    let rig = Rig::new();
    let pci = PciAddress { domain: 0xffff, bus: 0xff, device: 0x1f, function: 7 };
    let selectors = [
        AdapterSelector::Index(99),
        AdapterSelector::Uuid(Uuid([0xab; 16])),
        AdapterSelector::Pci(pci),
        AdapterSelector::Drm(DrmNode { major: 226, minor: 9999 }),
        AdapterSelector::Kind(AdapterKind::Other),
    ];
    for wanted in selectors {
        let error = rig.engine().adapter(wanted).expect_err("there is no such adapter");
        let Error::UnknownDevice { selector, present, names, .. } = &error else {
            panic!("{wanted}: {error:?}")
        };
        assert_eq!((*selector, *present), (wanted, rig.engine().adapters().len()));
        for adapter in rig.engine().adapters() {
            assert!(names.contains(adapter.name()), "{error}");
        }
        assert!(error.to_string().contains(&wanted.to_string()), "{error}");
    }
}

#[test]
fn one_adapter_opened_twice_is_two_devices() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    assert_ne!(first, second);
    assert_ne!(first.id(), second.id());
    assert_eq!(first.adapter(), second.adapter());
    assert_eq!(rig.engine().devices(), [first.clone(), second.clone()]);
    let buffer = rig.engine().create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
    let one = buffer.attach(&first).expect("the first attaches");
    let two = buffer.attach(&second).expect("the second attaches");
    one.map(peerbuf::Access::Write).and_then(|m| m.fill(1)).expect("one writes");
    let report = two.map(peerbuf::Access::Read).and_then(|m| m.verify(1)).expect("two reads");
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_missing_loader_error_names_what_to_install() {
    if child::is_child() {
        let error = Engine::open(&EngineDescriptor::new()).expect_err("there is no loader");
        assert!(matches!(error, Error::NoLoader { .. }), "{error:?}");
        assert!(error.to_string().contains("libvulkan1"), "{error}");
        return;
    }
    let _turn = turn();
    // The dynamic linker searches this folder first, and fails at a file that is no library.
    let folder = std::env::temp_dir().join(format!("peerbuf-no-loader-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    std::fs::write(folder.join("libvulkan.so.1"), "not a library").expect("a file in it");
    child::run(|command| command.env("LD_LIBRARY_PATH", &folder));
    std::fs::remove_dir_all(&folder).expect("the folder is removed");
}

#[test]
fn a_missing_driver_error_names_what_to_install() {
    if child::is_child() {
        let error = Engine::open(&EngineDescriptor::new()).expect_err("there is no driver");
        assert!(matches!(error, Error::NoDevice { seen: 0, .. }), "{error:?}");
        assert!(error.to_string().contains("mesa-vulkan-drivers"), "{error}");
        return;
    }
    let nowhere = "/nonexistent/driver.json";
    child::run(|command| {
        command
            .env("VK_DRIVER_FILES", nowhere)
            .env("VK_ICD_FILENAMES", nowhere)
            .env_remove("VK_ADD_DRIVER_FILES")
    });
}
