//! The loader and each driver, loaded alone in a process of its own.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::child::{self, End, Heard};
use super::manifests::{self, Manifest, is_listed};
use super::part::{self, Message};
use super::report::{DriverFacts, Finding, LoaderFacts, SeenDevice};

const LOADER: &str = "loader";
const DRIVERS: &str = "drivers";

/// The longest that the loader or a driver may take. A driver that compiles its kernels at start takes seconds.
const BOUND: Duration = Duration::from_secs(20);

/// Variables that change what the loader finds.
const VARIABLES: [&str; 11] = [
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "VK_ADD_DRIVER_FILES",
    "VK_LOADER_DRIVERS_SELECT",
    "VK_LOADER_DRIVERS_DISABLE",
    "VK_LAYER_PATH",
    "VK_ADD_LAYER_PATH",
    "VK_INSTANCE_LAYERS",
    "VK_LOADER_LAYERS_ENABLE",
    "VK_LOADER_LAYERS_DISABLE",
    "LD_LIBRARY_PATH",
];

/// How long a child process may take, in place of `bound`: tests set it with the feature `testing`.
pub(super) fn bounded(bound: Duration) -> Duration {
    #[cfg(feature = "testing")]
    if let Ok(Ok(seconds)) = env::var("PEERBUF_DOCTOR_BOUND").map(|text| text.parse()) {
        return Duration::from_secs(seconds);
    }
    bound
}

/// A command that does one part in a child process.
pub(super) fn child_process(part: &str) -> Command {
    // This very program, also if another build has replaced its file.
    let mut command = Command::new("/proc/self/exe");
    command.args(["doctor", "--part", part]);
    command
}

/// Makes the loader find `manifests` and no other driver.
pub(super) fn with_drivers(command: &mut Command, manifests: &[&str]) {
    let list = manifests.join(":");
    command.env("VK_DRIVER_FILES", &list).env("VK_ICD_FILENAMES", &list);
    for other in ["VK_ADD_DRIVER_FILES", "VK_LOADER_DRIVERS_SELECT", "VK_LOADER_DRIVERS_DISABLE"] {
        command.env_remove(other);
    }
}

/// Looks at the loader.
pub(super) fn loader(findings: &mut Vec<Finding>) -> LoaderFacts {
    let set = |name: &str| Some((name.to_owned(), env::var(name).ok()?));
    let environment = VARIABLES.iter().filter_map(|name| set(name)).collect();
    let mut facts = LoaderFacts { environment, ..LoaderFacts::default() };
    let Heard { messages, end, .. } = child::run(&mut child_process("loader"), BOUND);
    for message in messages {
        match message {
            Message::Loader { version, file } => {
                facts.version = Some(part::version(version));
                facts.file = file;
            }
            Message::Failed(error) => facts.error = Some(error),
            _ => {}
        }
    }
    if let End::Failed(why) = end {
        facts.error.get_or_insert(why);
    }
    findings.push(match (&facts.version, &facts.error) {
        (Some(version), _) => {
            let file = facts.file.as_deref().unwrap_or("libvulkan.so.1");
            Finding::ok(LOADER, format!("{file}, Vulkan {version}"))
        }
        (None, Some(error)) if error.starts_with(child::NOT_STARTED) => Finding::problem(
            LOADER,
            error,
            "see the limits: this says nothing of the loader",
        ),
        (None, error) => Finding::problem(
            LOADER,
            error.as_deref().unwrap_or("the loader does not answer"),
            "install it: apt install libvulkan1 (Debian, Ubuntu), dnf install vulkan-loader (Fedora), \
             pacman -S vulkan-icd-loader (Arch)",
        ),
    });
    for (name, value) in &facts.environment {
        if name != "LD_LIBRARY_PATH" {
            let todo = "unset it if this is not intended";
            findings.push(Finding::note(LOADER, format!("{name}={value}"), todo));
        }
    }
    facts
}

/// Looks at each driver. Without a loader the manifests are read and no driver is loaded.
pub(super) fn all(
    loader: &LoaderFacts,
    findings: &mut Vec<Finding>,
) -> (Vec<DriverFacts>, Vec<SeenDevice>) {
    let (mut drivers, mut devices) = (Vec::new(), Vec::new());
    let manifests = manifests::drivers();
    if manifests.is_empty() {
        findings.push(Finding::problem(
            DRIVERS,
            "no driver has a manifest where the loader looks",
            "install a Vulkan driver: NVIDIA's own, or mesa-vulkan-drivers (AMD, Intel, and lavapipe, \
             which needs no GPU)",
        ));
    }
    for manifest in &manifests {
        let mut facts = DriverFacts {
            manifest: manifest.file.display().to_string(),
            library: manifest.field("ICD", "library_path").map(str::to_owned),
            api_version: manifest.field("ICD", "api_version").map(str::to_owned),
            error: manifest.driver_error(),
            skipped: skipped(manifest, loader),
            ..DriverFacts::default()
        };
        if facts.error.is_none() && facts.skipped.is_none() {
            load(&mut facts, &mut devices);
        }
        findings.push(judge(manifest, &facts, &devices));
        drivers.push(facts);
    }
    twice(&drivers, findings);
    (drivers, devices)
}

/// Why a driver is not loaded.
fn skipped(manifest: &Manifest, loader: &LoaderFacts) -> Option<String> {
    let name = manifest.name();
    let selects = env::var_os("VK_LOADER_DRIVERS_SELECT").is_some_and(|list| !list.is_empty());
    if manifest.is_of_other_size() {
        Some("it is for programs with pointers of another size".to_owned())
    } else if selects && !is_listed("VK_LOADER_DRIVERS_SELECT", &name) {
        Some("VK_LOADER_DRIVERS_SELECT does not name it".to_owned())
    } else if !selects && is_listed("VK_LOADER_DRIVERS_DISABLE", &name) {
        Some("VK_LOADER_DRIVERS_DISABLE names it".to_owned())
    } else {
        let was_seen = loader.error.as_ref().is_none_or(|why| !why.starts_with(child::NOT_STARTED));
        let why =
            if was_seen { "there is no loader to load it" } else { "no process can be started" };
        loader.version.is_none().then(|| why.to_owned())
    }
}

/// Loads one driver alone.
fn load(facts: &mut DriverFacts, devices: &mut Vec<SeenDevice>) {
    let mut command = child_process("driver");
    with_drivers(&mut command, &[&facts.manifest]);
    command.env("VK_LOADER_DEBUG", "error,warn");
    let Heard { messages, printed, end, .. } = child::run(&mut command, bounded(BOUND));
    facts.messages = printed;
    for message in messages {
        match message {
            Message::Device(mut device) => {
                device.manifest.clone_from(&facts.manifest);
                facts.devices.push(devices.len());
                devices.push(*device);
            }
            Message::Opened(result) => {
                if let Some(device) = devices.last_mut() {
                    device.opens = result.is_none();
                    device.unusable = result;
                }
            }
            Message::Failed(error) => facts.error = Some(error),
            _ => {}
        }
    }
    if let End::Failed(why) = end {
        // What was being done when it ended.
        if let Some(device) = facts.devices.last().map(|&at| &mut devices[at])
            && !device.opens
            && device.unusable.is_none()
        {
            device.unusable = Some(format!("opening a device: {why}"));
        }
        facts.error.get_or_insert(why);
    }
    if facts.error.is_none() && facts.devices.is_empty() {
        facts.error = unloadable(&facts.messages);
    }
}

/// What the loader says of a library that it cannot load. That it found no driver or no device says nothing: most
/// drivers have no device on most machines.
fn unloadable(messages: &[String]) -> Option<String> {
    let of_library = |line: &&String| {
        [
            "cannot open shared object",
            "Failed loading library",
            "ELF",
            "undefined symbol",
            "Attempt to retrieve",
        ]
        .iter()
        .any(|part| line.contains(part))
    };
    let line = messages.iter().find(of_library)?;
    let text = line.split_once("ERROR").map_or(line.as_str(), |(_, rest)| rest);
    Some(text.trim_start_matches([':', ' ', '|', ']']).to_owned())
}

fn judge(manifest: &Manifest, facts: &DriverFacts, devices: &[SeenDevice]) -> Finding {
    let name = &facts.manifest;
    let file = manifest.name();
    if let Some(error) = &facts.error {
        let wrong = manifest.content.is_err();
        let todo = if wrong {
            "mend or remove the file: older loaders fail with ERROR_OUT_OF_HOST_MEMORY because of it, \
             and then no driver works"
                .to_owned()
        } else {
            format!(
                "install the driver's package again, or leave it out: VK_LOADER_DRIVERS_DISABLE={file}"
            )
        };
        return Finding::problem(DRIVERS, format!("{name}: {error}"), todo);
    }
    if let Some(why) = &facts.skipped {
        return Finding::ok(DRIVERS, format!("{file}: not loaded: {why}"));
    }
    let names: Vec<_> = facts.devices.iter().map(|&at| devices[at].name.as_str()).collect();
    match &names[..] {
        [] => Finding::ok(DRIVERS, format!("{file}: loads; it has no device here")),
        names => Finding::ok(DRIVERS, format!("{file}: {}", names.join(", "))),
    }
}

/// Two manifests of one library list its devices twice.
fn twice(drivers: &[DriverFacts], findings: &mut Vec<Finding>) {
    let name = |library: &str| Path::new(library).file_name().map(ToOwned::to_owned);
    for (at, driver) in drivers.iter().enumerate().filter(|(_, driver)| !driver.devices.is_empty())
    {
        let Some(library) = driver.library.as_deref().map(name) else { continue };
        let same = |other: &&DriverFacts| {
            !other.devices.is_empty() && other.library.as_deref().map(name) == Some(library.clone())
        };
        if let Some(first) = drivers[..at].iter().find(same) {
            findings.push(Finding::note(
                DRIVERS,
                format!("{} and {} name one library", first.manifest, driver.manifest),
                "remove one of them: the same device is listed twice",
            ));
        }
    }
}
