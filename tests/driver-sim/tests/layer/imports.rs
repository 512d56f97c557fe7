//! Memory of other devices and of the host.

use std::ffi::c_void;
use std::ptr::null_mut;

use ash::vk;
use rustix::mm::{MapFlags, ProtFlags};

use crate::gpu::{Gpu, World};
use crate::harness::{controlled, scratch, simulation, with_and_without};

/// Two GPUs of one driver, so that one can import what the other exports.
const PAIR: &str = "[[duplicate]]\ndriver = 'llvmpipe'\n[[device]]\nindex = 2\n";

fn pair(switches: &str) -> String {
    format!("{PAIR}switches.{switches}\n")
}

/// The duplicate of lavapipe is device 2; without the layer's description there is only one.
fn two(world: &World) -> [vk::PhysicalDevice; 2] {
    let all: Vec<_> =
        world.devices().into_iter().filter(|d| world.name(*d).contains("llvmpipe")).collect();
    [all[0], *all.last().expect("lavapipe")]
}

fn shared(first: &Gpu<'_>, second: &Gpu<'_>) -> Result<(), vk::Result> {
    let (_, fd) = first.exported(1 << 16);
    second.import(fd, 1 << 16).map(|_| ())
}

#[test]
fn import_poisons_submit_and_a_control_submission_tells_it_apart() {
    with_and_without!(&pair("import_poisons_submit = 'out_of_host_memory'"), |is: bool| {
        let world = World::new();
        let [first, second] = two(&world).map(|device| world.open(device));
        second.ping().expect("nothing is imported yet");
        let (_, fd) = first.exported(1 << 16);
        let import = second.import(fd, 1 << 16).expect("the import itself succeeds");
        let poisoned = second.ping();
        assert_eq!(poisoned == Err(vk::Result::ERROR_OUT_OF_HOST_MEMORY), is);
        first.ping().expect("the exporter goes on");
        second.free(import.memory);
        second.ping().expect("without the import the device works again");
    });
}

#[test]
fn import_poisons_submit_can_lose_the_device() {
    with_and_without!(&pair("import_poisons_submit = 'device_lost'"), |is: bool| {
        let world = World::new();
        let [first, second] = two(&world).map(|device| world.open(device));
        shared(&first, &second).expect("the import itself succeeds");
        assert_eq!(second.ping() == Err(vk::Result::ERROR_DEVICE_LOST), is);
        assert_eq!(second.ping().is_err(), is, "a lost device stays lost");
        first.ping().expect("the exporter goes on");
    });
}

#[test]
fn poisonous_import_can_be_that_of_a_host_pointer() {
    let text = "llvmpipe=+import_poisons_submit=out_of_device_memory+poisonous_import=host";
    with_and_without!(text, |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        shared(&gpu, &gpu).expect("an fd");
        gpu.ping().expect("fds are fine");
        gpu.import_host(pages(false), 65536).expect("the import itself succeeds");
        assert_eq!(gpu.ping() == Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY), is);
    });
}

#[test]
fn export_poisons_importers_of_any_driver() {
    let text = "[[duplicate]]\ndriver = 'llvmpipe'\n[[device]]\ndriver = 'llvmpipe'\n\
                switches.export_poisons_importers = true";
    with_and_without!(text, |is: bool| {
        let world = World::new();
        let [first, second] = two(&world).map(|device| world.open(device));
        shared(&second, &second).expect("its own memory");
        first.ping().expect("its own memory is fine");
        shared(&first, &second).expect("the import itself succeeds");
        assert_eq!(second.ping() == Err(vk::Result::ERROR_DEVICE_LOST), is);
    });
}

#[test]
fn refuse_foreign_import_refuses_another_devices_memory_alone() {
    with_and_without!(&pair("refuse_foreign_import = 'invalid_external_handle'"), |is: bool| {
        let world = World::new();
        let [first, second] = two(&world).map(|device| world.open(device));
        assert_eq!(shared(&first, &second).is_err(), is);
        shared(&second, &second).expect("its own memory");
    });
}

#[test]
fn submit_lost_on_oom_counts_what_is_imported() {
    with_and_without!("llvmpipe=+submit_lost_on_oom='100 KiB'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        shared(&gpu, &gpu).expect("64 KiB");
        gpu.ping().expect("64 KiB are fine");
        shared(&gpu, &gpu).expect("64 KiB more");
        assert_eq!(gpu.ping() == Err(vk::Result::ERROR_DEVICE_LOST), is);
    });
}

#[test]
fn import_slack_wants_more_than_the_size_of_others_memory() {
    // The driver has a header of its own in the file, and less than a mebibyte of it.
    for (slack, refused) in [("1 MiB", true), ("0", false)] {
        driver_sim::under(&simulation(&pair(&format!("import_slack = '{slack}'"))), || {
            let world = World::new();
            let [first, second] = two(&world).map(|gpu| world.open(gpu));
            let (_, fd) = first.exported(1 << 16);
            let result = second.import(fd, 1 << 16).err();
            assert_eq!(result == Some(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE), refused);
            shared(&second, &second).expect("a driver imports what it has exported");
        });
    }
}

#[test]
fn failed_import_closes_fd_or_leaves_it() {
    for closes in [true, false] {
        let text = format!("import_slack = '1 GiB'\nswitches.failed_import_closes_fd = {closes}");
        driver_sim::under(&simulation(&pair(&text)), || {
            let world = World::new();
            let [first, second] = two(&world).map(|gpu| world.open(gpu));
            let (_, fd) = first.exported(1 << 16);
            assert_eq!(
                second.import(fd, 1 << 16).err(),
                Some(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE)
            );
            let is_open = std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists();
            assert_eq!(is_open, !closes);
        });
    }
}

/// Pages of the host: private ones, or those of a memfd.
fn pages(is_file: bool) -> *mut c_void {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    if is_file {
        let file =
            rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
        rustix::fs::ftruncate(&file, 65536).expect("64 KiB");
        // SAFETY: a new mapping.
        unsafe { rustix::mm::mmap(null_mut(), 65536, access, MapFlags::SHARED, &file, 0) }
            .expect("a mapping")
    } else {
        // SAFETY: a new mapping.
        unsafe { rustix::mm::mmap_anonymous(null_mut(), 65536, access, MapFlags::PRIVATE) }
            .expect("a mapping")
    }
}

#[test]
fn refuse_host_pointer_file_looks_at_the_mapping() {
    with_and_without!("llvmpipe=+refuse_host_pointer='file'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert_eq!(gpu.import_host(pages(true), 65536).is_err(), is);
        assert!(gpu.import_host(pages(false), 65536).is_ok());
    });
}

#[test]
fn refuse_host_pointer_pfn_accepts_ordinary_pages() {
    with_and_without!("llvmpipe=+refuse_host_pointer='pfn'", |_: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert!(gpu.import_host(pages(true), 65536).is_ok());
        assert!(gpu.import_host(pages(false), 65536).is_ok());
    });
}

#[test]
fn refuse_host_pointer_all_accepts_none() {
    with_and_without!("llvmpipe=+refuse_host_pointer='all'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert_eq!(gpu.import_host(pages(false), 65536).is_err(), is);
    });
}

#[test]
fn map_import_refuse_concerns_imports_alone() {
    with_and_without!("llvmpipe=+map_import='refuse'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        let (block, fd) = gpu.exported(1 << 16);
        let import = gpu.import(fd, 1 << 16).expect("an import");
        assert!(gpu.map(block).is_ok());
        assert_eq!(gpu.map(import) == Err(vk::Result::ERROR_MEMORY_MAP_FAILED), is);
    });
}

#[test]
fn map_import_sigbus_maps_pages_that_cannot_be_touched() {
    with_and_without!("llvmpipe=+map_import='sigbus'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        let (_, fd) = gpu.exported(1 << 16);
        let import = gpu.import(fd, 1 << 16).expect("an import");
        let at = gpu.map(import).expect("mapping it succeeds");
        // The kernel reads for us, and says EFAULT where an access would be SIGBUS.
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        // SAFETY: the kernel checks the address.
        let bytes = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), 4) };
        let wrote = rustix::io::write(&writer, bytes);
        assert_eq!(wrote == Err(rustix::io::Errno::FAULT), is);
        drop(reader);
    });
}

#[test]
fn copy_engine_lies_about_imports_alone() {
    with_and_without!("llvmpipe=+copy_engine_lies='all'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        let (block, fd) = gpu.exported(1 << 16);
        let import = gpu.import(fd, 1 << 16).expect("an import");
        let own = gpu.block(1 << 16);
        gpu.fill(import, 3).expect("a shader's bytes arrive");
        assert_eq!(gpu.first_word(block), 3);
        gpu.copy(gpu.family, import, own);
        assert_eq!(gpu.first_word(own) != 3, is, "a copy out of it delivers others");
        gpu.fill(own, 4).expect("a fill");
        gpu.copy(gpu.family, own, import);
        assert_eq!(gpu.first_word(block) != 4, is, "a copy into it does not arrive");
        gpu.copy(gpu.family, own, block);
        assert_eq!(gpu.first_word(block), 4, "own memory is copied");
    });
}

#[test]
fn slow_exporter_is_slow_while_another_device_has_its_memory() {
    let text = format!(
        "{PAIR}switches.map_import='refuse'\n[[device]]\ndriver = 'llvmpipe'\nswitches.slow_exporter = 50\n"
    );
    driver_sim::under(&simulation(&text).report_to(scratch("report")), || {
        let world = World::new();
        let [first, second] = two(&world).map(|device| world.open(device));
        let (block, fd) = first.exported(1 << 22);
        let slow = || {
            let report = std::env::var("DRIVER_SIM_REPORT").expect("a report");
            std::fs::read_to_string(report).unwrap_or_default().contains("slow_exporter")
        };
        first.fill(block, 1).expect("a fill");
        assert!(!slow(), "no other device has imported it");
        let import = second.import(fd, 1 << 22).expect("an import");
        first.fill(block, 2).expect("a fill");
        assert!(slow());
        assert_eq!(second.first_word_of_import(import), None);
    });
}

impl Gpu<'_> {
    /// The first word, if imports can be mapped.
    fn first_word_of_import(&self, block: crate::gpu::Block) -> Option<u32> {
        self.map(block).ok().map(|at| {
            // SAFETY: mapped memory of at least a word.
            unsafe { at.read_volatile() }
        })
    }
}

#[test]
fn timeline_export_refused_though_each_alone_works() {
    with_and_without!("llvmpipe=+timeline_export_refused='out_of_host_memory'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert!(gpu.try_timeline(false).is_ok());
        let exported = gpu.try_timeline(true);
        if is {
            assert_eq!(exported, Err(vk::Result::ERROR_OUT_OF_HOST_MEMORY));
        }
    });
}

#[test]
fn a_control_file_changes_switches_of_a_running_process() {
    driver_sim::under(&controlled(""), || {
        let control = driver_sim::Control::of_this_process().expect("a control file");
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert!(gpu.allocate(1 << 20, 0).is_ok());
        control.set("llvmpipe=+max_allocation=4096").expect("written");
        assert!(gpu.allocate(1 << 20, 0).is_err());
        control.set("").expect("written");
        assert!(gpu.allocate(1 << 20, 0).is_ok());
    });
}
