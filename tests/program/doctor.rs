//! `peerbuf doctor`: what it finds on a machine with one fault at a time.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::drivers::{driver, folder, manifest, unreadable};
use crate::patient;

const READY: i32 = 0;
const NOT_READY: i32 = 1;

fn doctor() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    // Longer than by default: a driver that works may take its time to load on a busy machine.
    command.args(["doctor", "--json"]).env("PEERBUF_DOCTOR_BOUND", "600");
    command
}

fn run(command: &mut Command) -> (Option<i32>, Value) {
    let output = patient::output(command);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", shown(&output)));
    (output.status.code(), report)
}

fn shown(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn list<'a>(report: &'a Value, name: &str) -> &'a [Value] {
    report[name].as_array().unwrap_or_else(|| panic!("no list {name} in {report:#}"))
}

/// The findings of an area, as (severity, what, what to do).
fn findings<'a>(report: &'a Value, area: &str) -> Vec<(&'a str, &'a str, &'a str)> {
    let text = |finding: &'a Value, name: &str| finding[name].as_str().unwrap_or_default();
    list(report, "findings")
        .iter()
        .filter(|finding| finding["area"] == area)
        .map(|finding| (text(finding, "severity"), text(finding, "what"), text(finding, "do")))
        .collect()
}

/// Checks that an area has a finding of this severity with all `parts`, in what it says or what to do.
fn check(report: &Value, area: &str, severity: &str, parts: &[&str]) {
    let all = findings(report, area);
    let found = all.iter().any(|(how, what, todo)| {
        *how == severity && parts.iter().all(|part| what.contains(part) || todo.contains(part))
    });
    assert!(found, "no {severity} with {parts:?} in {area}: {all:#?}");
}

/// The manifest of a driver that works here, and its first device's name.
fn good_driver() -> (String, String) {
    let (_, report) = run(&mut doctor());
    let device = list(&report, "devices").iter().find(|device| device["opens"] == true);
    let device = device.unwrap_or_else(|| panic!("no device works: {report:#}"));
    let text = |name: &str| device[name].as_str().expect("text").to_owned();
    (text("manifest"), text("name"))
}

/// Makes the loader find these drivers alone.
fn with(command: &mut Command, manifests: &[&str]) {
    let list = manifests.join(":");
    command.env("VK_DRIVER_FILES", &list).env("VK_ICD_FILENAMES", &list);
    command.env_remove("VK_ADD_DRIVER_FILES");
}

/// Checks that the devices of a good driver are there and have a proved route although another driver is broken.
fn check_the_others_work(report: &Value, device: &str) {
    let names: Vec<_> = list(report, "devices").iter().map(|device| &device["name"]).collect();
    assert!(names.contains(&&Value::from(device)), "{names:?}");
    assert!(list(report, "routes").iter().any(|route| route["route"].is_string()), "{report:#}");
}

#[test]
fn a_machine_without_faults_is_ready() {
    let (code, report) = run(&mut doctor());
    assert_eq!((code, &report["ready"]), (Some(READY), &true.into()), "{report:#}");
    assert_eq!(report["schema"], 1);
    for finding in list(&report, "findings") {
        assert!(["ok", "note"].contains(&finding["severity"].as_str().unwrap_or_default()));
        let has_todo = finding["do"].is_string();
        assert_eq!(has_todo, finding["severity"] == "note", "a note says what to do: {finding}");
        assert!(!finding["what"].as_str().unwrap_or_default().contains('\n'), "{finding}");
    }
    assert!(report["loader"]["version"].is_string() && report["loader"]["file"].is_string());
    for name in ["drivers", "devices", "routes", "nodes"] {
        assert!(!list(&report, name).is_empty(), "{name}");
    }
    for route in list(&report, "routes") {
        let of = |name: &str| route[name].as_array().map_or(0, Vec::len);
        assert_eq!(of("working") + of("refused"), peerbuf::Route::LADDER.len(), "{route}");
    }
    for name in ["fds_open", "fds"] {
        assert!(report["limits"][name].is_number(), "{name} in {}", report["limits"]);
    }
}

#[test]
fn the_text_has_each_finding_and_fits_80_columns() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    let output = patient::output(command.args(["doctor", "--verbose"]));
    assert_eq!(output.status.code(), Some(READY), "{}", shown(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["\nloader\n", "\ndrivers\n", "\ndevices\n", "\nroutes\n", "\nlimits\n", "Ready;"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    // A path is not broken, however long it is.
    let wide = |line: &&str| line.chars().count() > 80 && line.split_whitespace().count() > 3;
    assert_eq!(text.lines().find(wide), None);
}

#[test]
fn without_a_loader_it_says_what_to_install_and_still_looks_at_the_rest() {
    let folder = folder("doctor-no-loader");
    fs::write(folder.join("libvulkan.so.1"), "").expect("the folder is writable");
    let (code, report) = run(doctor().env("LD_LIBRARY_PATH", folder));
    assert_eq!(code, Some(NOT_READY));
    check(&report, "loader", "problem", &["no Vulkan loader", "apt install libvulkan1"]);
    assert!(list(&report, "drivers").iter().all(|driver| driver["skipped"].is_string()));
    assert!(!findings(&report, "limits").is_empty() && !findings(&report, "nodes").is_empty());
}

#[test]
fn a_broken_manifest_is_named_with_its_line_and_hides_no_driver() {
    let (good, device) = good_driver();
    let folder = folder("doctor-broken-manifest");
    let broken = folder.join("comma.json");
    let text = "{\n\"file_format_version\": \"1.0.0\",\n\"ICD\": {\"library_path\": \"x.so\",}\n}";
    fs::write(&broken, text).expect("the folder is writable");
    let broken = broken.to_str().expect("a path of text");
    let mut command = doctor();
    with(&mut command, &[broken, &good]);
    let (code, report) = run(&mut command);
    assert_eq!(code, Some(NOT_READY));
    check(&report, "drivers", "problem", &[broken, "no JSON", "line 3", "mend or remove"]);
    check_the_others_work(&report, &device);
    // The other commands name it too, where the loader gives up.
    let mut devices = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    with(devices.arg("devices"), &[broken]);
    let output = devices.output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    let text = shown(&output);
    assert!(text.contains(broken) && text.contains("line 3"), "{text}");
    assert!(text.contains("peerbuf doctor"), "{text}");
}

#[test]
fn a_driver_whose_library_is_missing_is_named() {
    let (good, device) = good_driver();
    let folder = folder("doctor-missing-library");
    let path = manifest(&folder, "path", "./libnowhere.so");
    let bare = manifest(&folder, "bare", "libnowhere-peerbuf.so");
    let mut command = doctor();
    with(&mut command, &[&path, &bare, &good]);
    let (code, report) = run(&mut command);
    assert_eq!(code, Some(NOT_READY));
    check(&report, "drivers", "problem", &[&path, "libnowhere.so", "No such file"]);
    check(&report, "drivers", "problem", &[&bare, "libnowhere-peerbuf.so"]);
    check_the_others_work(&report, &device);
}

#[test]
fn a_driver_that_crashes_or_hangs_is_named_and_hides_no_other() {
    let (good, device) = good_driver();
    let folder = folder("doctor-crash");
    let (crash, hang) = (driver(&folder, "crash"), driver(&folder, "hang"));
    let mut command = doctor();
    with(&mut command, &[&crash, &good]);
    let (code, report) = run(&mut command);
    assert_eq!(code, Some(NOT_READY));
    let leave_out = "VK_LOADER_DRIVERS_DISABLE=crash.json";
    check(&report, "drivers", "problem", &[&crash, "SIGSEGV", leave_out]);
    check_the_others_work(&report, &device);
    // A driver that takes long is no driver that hangs: the others are not loaded under the short bound.
    with(&mut command, &[&hang]);
    let (code, report) = run(command.env("PEERBUF_DOCTOR_BOUND", "2"));
    assert_eq!(code, Some(NOT_READY));
    check(&report, "drivers", "problem", &[&hang, "it hangs"]);
}

#[test]
fn a_device_that_cannot_be_read_is_named_and_hides_no_other() {
    let (_, name) = good_driver();
    let mut command = doctor();
    unreadable(&mut command, &folder("doctor-unreadable"), &name);
    let (code, report) = run(&mut command);
    assert_eq!(code, Some(NOT_READY));
    let call = "vkEnumerateDeviceExtensionProperties";
    check(&report, "devices", "problem", &[&name, call, "ERROR_INITIALIZATION_FAILED"]);
    check(&report, "layers", "note", &["VK_LAYER_PEERBUF_unreadable", "VK_INSTANCE_LAYERS"]);
}

#[test]
fn absent_nodes_are_named_with_what_brings_them() {
    let root = folder("doctor-no-nodes");
    let (code, report) = run(doctor().env("PEERBUF_DOCTOR_ROOT", &root));
    assert_eq!(code, Some(READY), "{report:#}");
    check(&report, "nodes", "note", &["no /dev/udmabuf", "modprobe udmabuf"]);
    check(&report, "nodes", "note", &["no /dev/dma_heap/system", "CONFIG_DMABUF_HEAPS_SYSTEM"]);
    // With the kernel's options at hand, it says which one is missing.
    write(&root, "proc/sys/kernel/osrelease", "6.1.0-test\n");
    write(&root, "boot/config-6.1.0-test", "# CONFIG_UDMABUF is not set\nCONFIG_SYNC_FILE=y\n");
    let (_, report) = run(doctor().env("PEERBUF_DOCTOR_ROOT", &root));
    check(&report, "nodes", "note", &["no /dev/udmabuf", "a kernel with CONFIG_UDMABUF"]);
    check(&report, "kernel", "ok", &["6.1.0-test", "CONFIG_UDMABUF=n", "CONFIG_SYNC_FILE=y"]);
}

fn write(root: &Path, file: &str, text: &str) {
    let file = root.join(file);
    fs::create_dir_all(file.parent().expect("a folder")).expect("the folder is writable");
    fs::write(file, text).expect("the folder is writable");
}

#[test]
fn four_descriptors_left_are_a_problem_that_hides_nothing_else() {
    // Three are open. With the soft limit the command may raise it; with the hard one it may not.
    for (option, can_raise) in [("-Sn", true), ("-n", false)] {
        let mut shell = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_peerbuf");
        shell.args(["-c", &format!("ulimit {option} 7; exec \"{program}\" doctor --json")]);
        let (code, report) = run(shell.env("PEERBUF_DOCTOR_BOUND", "600"));
        assert_eq!(code, Some(NOT_READY), "{option}");
        check(&report, "limits", "problem", &["of 7 (RLIMIT_NOFILE)", "ulimit -n"]);
        if can_raise {
            check(&report, "loader", "ok", &["Vulkan"]);
            let routes = list(&report, "routes");
            assert!(routes.iter().any(|route| route["route"].is_string()), "{report:#}");
        }
        assert!(!findings(&report, "nodes").is_empty(), "{option}");
    }
}

#[test]
fn three_descriptors_left_are_no_reason_to_install_a_loader_that_is_there() {
    // Three are open, and a process that looks at the loader needs four.
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_peerbuf");
    shell.args(["-c", &format!("ulimit -n 6; exec \"{program}\" doctor --json")]);
    let (code, report) = run(shell.env("PEERBUF_DOCTOR_BOUND", "600"));
    assert_eq!(code, Some(NOT_READY));
    check(&report, "loader", "problem", &["Too many open files", "limits"]);
    let loader = findings(&report, "loader");
    let installs = loader.iter().any(|(_, _, todo)| todo.contains("install"));
    assert!(!installs, "the loader is there: {loader:#?}");
}

#[test]
fn the_memory_limit_of_a_container_is_named() {
    const LIMIT: u64 = 512 << 20;
    let of = |root: &Path| run(doctor().env("PEERBUF_DOCTOR_ROOT", root));
    // Version 2, with the limit on the group above.
    let root = folder("doctor-container-2");
    write(&root, "proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n");
    write(&root, "proc/self/cgroup", "0::/pod/work\n");
    write(&root, "sys/fs/cgroup/pod/work/memory.max", "max\n");
    write(&root, "sys/fs/cgroup/pod/memory.max", &format!("{LIMIT}\n"));
    write(&root, "sys/fs/cgroup/pod/memory.current", "104857600\n");
    write(&root, ".dockerenv", "");
    let (code, report) = of(&root);
    assert_eq!(code, Some(READY), "{report:#}");
    check(
        &report,
        "memory",
        "note",
        &["100 MiB in use of 512 MiB", "/sys/fs/cgroup/pod/memory.max", "Engine::set_cap"],
    );
    check(&report, "memory", "ok", &["container (docker)"]);
    check(&report, "nodes", "note", &["/dev/udmabuf", "--device /dev/udmabuf"]);
    assert_eq!(report["memory"]["cgroup_limit"], LIMIT);
    // Version 1, in a name space: the path is the host's, and the root has the limit. It is nearly used up.
    let root = folder("doctor-container-1");
    write(&root, "proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n");
    write(&root, "proc/self/cgroup", "4:cpu:/\n3:memory:/docker/0123\n");
    write(&root, "sys/fs/cgroup/memory/memory.limit_in_bytes", &format!("{LIMIT}\n"));
    write(
        &root,
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
        &format!("{}\n", LIMIT - (32 << 20)),
    );
    let (code, report) = of(&root);
    assert_eq!(code, Some(NOT_READY));
    check(&report, "memory", "problem", &["480 MiB in use of 512 MiB"]);
    // Version 1 without a limit.
    write(&root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    let (code, report) = of(&root);
    assert_eq!((code, &report["memory"]["cgroup_limit"]), (Some(READY), &Value::Null));
}
