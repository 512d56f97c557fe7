//! What a device says it is.

use ash::vk;

use crate::gpu::World;
use crate::harness::{simulation, with_and_without};

#[test]
fn a_device_is_listed_twice_and_both_work() {
    let text = "[[duplicate]]\ndriver = 'llvmpipe'";
    let body = |is: bool| {
        let world = World::new();
        let all: Vec<_> =
            world.devices().into_iter().filter(|d| world.name(*d).contains("llvmpipe")).collect();
        assert_eq!(all.len(), if is { 2 } else { 1 });
        if is {
            assert_ne!(world.uuid(all[0]), world.uuid(all[1]));
            let (first, second) = (world.open(all[0]), world.open(all[1]));
            let (block, fd) = first.exported(1 << 16);
            let seen = second.import(fd, 1 << 16).expect("one driver");
            first.fill(block, 7).expect("a fill");
            assert_eq!(second.first_word(seen), 7);
        }
    };
    with_and_without!(text, body);
}

#[test]
fn same_uuid_two_devices_report_one() {
    with_and_without!("+identity={device_uuid=9}", |is: bool| {
        let world = World::new();
        let all = world.devices();
        assert_eq!(world.uuid(all[0]) == world.uuid(all[1]), is);
    });
}

#[test]
fn identity_names_another_device() {
    let text = "[[device]]\ndriver='llvmpipe'\nprofile='radv'\nidentity=true";
    with_and_without!(text, |is: bool| {
        let world = World::new();
        let properties = world.devices().into_iter().map(|device| world.properties(device));
        let amd: Vec<_> = properties.filter(|properties| properties.vendor_id == 0x1002).collect();
        assert_eq!(amd.len(), usize::from(is));
        assert!(
            amd.iter()
                .all(|properties| properties.device_type == vk::PhysicalDeviceType::DISCRETE_GPU)
        );
    });
}

#[test]
fn fail_extension_enumeration_concerns_one_device() {
    with_and_without!(
        "swiftshader=+fail_extension_enumeration=initialization_failed",
        |is: bool| {
            let world = World::new();
            assert_eq!(world.extensions(world.find("SwiftShader")).is_err(), is);
            assert!(world.extensions(world.find("llvmpipe")).is_ok());
        }
    );
}

#[test]
fn fail_device_enumeration_hides_all() {
    with_and_without!("swiftshader=+fail_device_enumeration=initialization_failed", |is: bool| {
        assert_eq!(World::new().try_devices().is_err(), is);
    });
}

#[test]
fn fail_create_device_concerns_one_device() {
    with_and_without!("swiftshader=+fail_create_device=initialization_failed", |is: bool| {
        let world = World::new();
        assert_eq!(world.try_open(world.find("SwiftShader")).is_err(), is);
        assert!(world.try_open(world.find("llvmpipe")).is_ok());
    });
}

#[test]
fn api_version_hides_later_entry_points() {
    with_and_without!("llvmpipe=+api_version='1.1'", |is: bool| {
        let world = World::new();
        let device = world.find("llvmpipe");
        let version = world.properties(device).api_version;
        assert_eq!(vk::api_version_minor(version) == 1, is);
        let gpu = world.open(device);
        let has = |name: &std::ffi::CStr| {
            // SAFETY: a device of this instance.
            unsafe { world.instance.get_device_proc_addr(gpu.raw.handle(), name.as_ptr()) }
                .is_some()
        };
        assert_eq!(!has(c"vkWaitSemaphores"), is);
        assert_eq!(!has(c"vkQueueSubmit2"), is);
        assert!(has(c"vkGetDeviceQueue2"));
    });
}

#[test]
fn hide_extensions_and_no_external_memory_host_take_extensions_away() {
    let text = "llvmpipe=+no_external_memory_host+hide_extensions=['VK_KHR_timeline_semaphore']";
    with_and_without!(text, |is: bool| {
        let world = World::new();
        let names = world.extensions(world.find("llvmpipe")).expect("extensions");
        for name in ["VK_EXT_external_memory_host", "VK_KHR_timeline_semaphore"] {
            assert_eq!(!names.iter().any(|there| there == name), is, "{name}");
        }
    });
}

#[test]
fn no_opaque_fd_is_what_the_query_says() {
    with_and_without!("llvmpipe=+no_opaque_fd", |is: bool| {
        let world = World::new();
        let info = vk::PhysicalDeviceExternalBufferInfo::default()
            .usage(vk::BufferUsageFlags::STORAGE_BUFFER)
            .handle_type(vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD);
        let mut out = vk::ExternalBufferProperties::default();
        let device = world.find("llvmpipe");
        // SAFETY: a device of this instance.
        unsafe {
            world.instance.get_physical_device_external_buffer_properties(device, &info, &mut out);
        }
        assert_eq!(out.external_memory_properties.external_memory_features.is_empty(), is);
    });
}

#[test]
fn no_sync_fd_and_no_opaque_semaphore_are_what_the_query_says() {
    with_and_without!("+no_sync_fd+no_opaque_semaphore", |is: bool| {
        let world = World::new();
        let mut offered = 0;
        for device in world.devices() {
            use vk::ExternalSemaphoreHandleTypeFlags as H;
            for handle in [H::SYNC_FD, H::OPAQUE_FD] {
                let info = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(handle);
                let mut out = vk::ExternalSemaphoreProperties::default();
                // SAFETY: a device of this instance.
                unsafe {
                    world
                        .instance
                        .get_physical_device_external_semaphore_properties(device, &info, &mut out);
                }
                offered += u32::from(!out.external_semaphore_features.is_empty());
            }
        }
        assert_eq!(offered == 0, is);
    });
}

#[test]
fn a_misspelt_switch_ends_the_instance_and_not_in_silence() {
    // The library refuses it before a child is started. The layer refuses it, too: the variable can be set by hand.
    assert!(driver_sim::Simulation::new("+no_such_switch").is_err());
    let mut command = std::process::Command::new("/proc/self/exe");
    simulation("")
        .apply(&mut command)
        .env("DRIVER_SIM", "+no_such_switch")
        .env("SIM_TEST_ALONE", "1");
    let output = command
        .args(["--exact", "devices::an_instance_opens", "--nocapture"])
        .output()
        .expect("a child");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("no_such_switch"), "{text}");
}

#[test]
fn an_instance_opens() {
    drop(World::new());
}
