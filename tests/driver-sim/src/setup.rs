//! Sets up a process that runs under the layer.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io};

use crate::config::{Malformed, World};

/// The name of the layer.
pub const LAYER: &str = "VK_LAYER_PEERBUF_driver_sim";

/// The name of the layer that finds wrong uses of shared images.
pub const RECORDER: &str = "VK_LAYER_PEERBUF_recorder";

const VALIDATION: &str = "VK_LAYER_KHRONOS_validation";
const LIBRARY: &str = "libdriver_sim.so";

/// The layer, ready to be used by a child process.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let simulation = driver_sim::Simulation::new("0=nvidia 1=radv")?;
/// let mut child = std::process::Command::new("vulkaninfo");
/// let status = simulation.apply(&mut child).status()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Simulation {
    manifests: PathBuf,
    text: String,
    below_validation: bool,
    report: Option<PathBuf>,
    control: Option<PathBuf>,
    findings: Option<PathBuf>,
}

/// Why a process cannot run under the layer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Missing {
    /// The text describes no simulation.
    Description(Malformed),
    /// The layer's library is not beside this program, nor where `DRIVER_SIM_LIBRARY` says.
    Library(PathBuf),
    /// The manifest cannot be written.
    Manifest(io::Error),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Description(error) => write!(to, "description of the simulation: {error}"),
            Self::Library(path) => write!(
                to,
                "no layer at {}: `cargo build -p driver-sim` builds it; DRIVER_SIM_LIBRARY names another place",
                path.display()
            ),
            Self::Manifest(error) => write!(to, "manifest of the layer: {error}"),
        }
    }
}

impl std::error::Error for Missing {}

impl Simulation {
    /// Prepares a simulation. `text` is what `DRIVER_SIM` takes: rules, TOML, or the path of a TOML file.
    ///
    /// # Errors
    /// [`Missing`], if the text is wrong or the layer was not built.
    pub fn new(text: &str) -> Result<Self, Missing> {
        World::parse(text).map_err(Missing::Description)?;
        let library = library()?;
        Ok(Self {
            manifests: manifest(&library).map_err(Missing::Manifest)?,
            text: text.to_owned(),
            below_validation: false,
            report: None,
            control: None,
            findings: None,
        })
    }

    /// Enables the validation layer above this one, so that it checks what the application calls against what the
    /// simulated device reports. Layers that an application enables itself come *below* those of the environment.
    #[must_use]
    pub fn below_validation(mut self) -> Self {
        self.below_validation = true;
        self
    }

    /// Has the layer write a line for each simulated behaviour that takes place.
    #[must_use]
    pub fn report_to(mut self, file: impl Into<PathBuf>) -> Self {
        self.report = Some(file.into());
        self
    }

    /// Enables the recorder above this layer, and has it write a line for each wrong use of an image that it finds.
    #[must_use]
    pub fn recorded_to(mut self, file: impl Into<PathBuf>) -> Self {
        self.findings = Some(file.into());
        self
    }

    /// Has the layer look at a file for changes of switches, see [`Control`].
    #[must_use]
    pub fn controlled_by(mut self, file: impl Into<PathBuf>) -> Self {
        self.control = Some(file.into());
        self
    }

    /// Sets the environment of a command that starts a process.
    pub fn apply<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for (name, value) in self.environment() {
            command.env(name, value);
        }
        command
    }

    /// The environment of a process that runs under the layer, in addition to that of this process.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut layers = env::var_os("VK_INSTANCE_LAYERS").unwrap_or_default();
        let recorder = self.findings.is_some().then_some(RECORDER);
        let validation = self.below_validation.then_some(VALIDATION);
        for layer in [recorder, validation, Some(LAYER)].into_iter().flatten() {
            append(&mut layers, OsStr::new(layer));
        }
        let mut paths = env::var_os("VK_ADD_LAYER_PATH").unwrap_or_default();
        append(&mut paths, self.manifests.as_os_str());
        let mut all = vec![
            ("VK_INSTANCE_LAYERS", layers),
            ("VK_ADD_LAYER_PATH", paths),
            ("DRIVER_SIM", OsString::from(&self.text)),
        ];
        // With VK_LAYER_PATH the loader does not read VK_ADD_LAYER_PATH.
        if let Some(mut only) = env::var_os("VK_LAYER_PATH") {
            append(&mut only, self.manifests.as_os_str());
            all.push(("VK_LAYER_PATH", only));
        }
        all.extend(
            self.report.iter().map(|path| ("DRIVER_SIM_REPORT", path.clone().into_os_string())),
        );
        all.extend(
            self.findings.iter().map(|path| ("RECORDER_REPORT", path.clone().into_os_string())),
        );
        all.extend(
            self.control.iter().map(|path| ("DRIVER_SIM_CONTROL", path.clone().into_os_string())),
        );
        all
    }
}

fn append(list: &mut OsString, item: &OsStr) {
    if !list.is_empty() {
        list.push(":");
    }
    list.push(item);
}

/// Cargo puts the library of a path dependency beside the programs that depend on it, without a hash in its name.
fn library() -> Result<PathBuf, Missing> {
    if let Some(path) = env::var_os("DRIVER_SIM_LIBRARY").map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { Err(Missing::Library(path)) };
    }
    let program = env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new("."));
    // A test is in `deps` itself, an example beside it, a program above both.
    let near = ["", "deps", "../deps", ".."].map(|part| folder.join(part).join(LIBRARY));
    match near.iter().find(|path| path.is_file()) {
        Some(found) => found.canonicalize().map_err(Missing::Manifest),
        None => Err(Missing::Library(folder.join(LIBRARY))),
    }
}

/// Writes the manifests to a folder beside the library, and returns the folder.
fn manifest(library: &Path) -> io::Result<PathBuf> {
    let folder = library.with_extension("layer");
    fs::create_dir_all(&folder)?;
    let simulation = text(library, LAYER, "Makes drivers behave as others do", "");
    write(&folder, "driver_sim", &simulation)?;
    // Two layers of one library begin at two functions.
    let functions =
        r#""functions": { "vkNegotiateLoaderLayerInterfaceVersion": "recorder_negotiate" },"#;
    let recorder = text(library, RECORDER, "Finds wrong uses of shared images", functions);
    write(&folder, "recorder", &recorder)?;
    Ok(folder)
}

fn text(library: &Path, name: &str, description: &str, functions: &str) -> String {
    format!(
        r#"{{
    "file_format_version": "1.1.2",
    "layer": {{
        "name": "{name}",
        "type": "GLOBAL",
        "library_path": "{}",
        "api_version": "1.3.0",
        "implementation_version": "1",
        {functions}
        "description": "{description}"
    }}
}}
"#,
        library.display()
    )
}

fn write(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let file = folder.join(format!("{name}.json"));
    if fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    // Processes that start meanwhile see the old file or the new one, never a part; and threads of one process write
    // files of their own.
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let fresh = folder.join(format!("{name}.{}.{number}.new", std::process::id()));
    fs::write(&fresh, text)?;
    fs::rename(&fresh, &file)
}

/// Changes switches while devices exist: the layer reads the file at each allocation, submission and wait.
#[derive(Clone, Debug)]
pub struct Control(PathBuf);

impl Control {
    /// A control file at this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The control file of this process, which runs under the layer.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        env::var_os("DRIVER_SIM_CONTROL").map(|path| Self(path.into()))
    }

    /// Sets the rules that hold from now on over those of `DRIVER_SIM`, in the same language. An empty text leaves
    /// those of `DRIVER_SIM`.
    ///
    /// # Errors
    /// If the text is wrong, or the file cannot be written.
    pub fn set(&self, text: &str) -> io::Result<()> {
        World::parse(text).map_err(io::Error::other)?;
        let fresh = self.0.with_extension("new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.0)
    }
}
