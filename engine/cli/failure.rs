//! Why a command could not do its work, with the causes and a hint.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use peerbuf::{Adapter, AdapterSelector, Error, ImageError};

use crate::doctor::manifests;
use crate::size::Human;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Engine(#[from] Error),
    /// A selector that names no adapter.
    #[error("no adapter matches {selector}")]
    Selection {
        selector: AdapterSelector,
        /// One line for each adapter of this machine.
        present: Vec<String>,
    },
    #[error("no adapter could be opened")]
    NothingOpens {
        /// One line for each adapter, with what it lacks.
        why: Vec<String>,
    },
    #[error("cannot write the trace to {}", path.display())]
    Trace {
        path: PathBuf,
        #[source]
        error: Error,
    },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    /// A file that is no saved run, or one of another version.
    #[error("cannot use {}: {why}", path.display())]
    Saved { path: PathBuf, why: String },
    #[error("the runs are of two machines")]
    OtherMachine {
        /// One line for each difference.
        differences: Vec<String>,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("cannot write the result")]
    Output(#[source] io::Error),
    /// A call of the program's own.
    #[error("{device}: {call} failed")]
    Vulkan {
        device: String,
        call: &'static str,
        #[source]
        code: ash::vk::Result,
    },
    /// None of the devices has a queue for graphics.
    #[error("no device draws: select one whose queue draws with --devices")]
    NothingDraws,
    /// An image could not be created, or read by the host.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl Failure {
    /// The failure to find an adapter, with a list of those of this machine.
    pub(crate) fn selecting(selector: AdapterSelector, adapters: &[Adapter]) -> Self {
        Self::Selection { selector, present: adapters.iter().map(describe).collect() }
    }

    /// The failure to open an engine that writes `trace`, or no trace.
    pub(crate) fn opening(error: Error, trace: Option<&Path>) -> Self {
        match (error, trace) {
            (error @ Error::Os { .. }, Some(path)) => Self::Trace { path: path.to_owned(), error },
            (error, _) => Self::Engine(error),
        }
    }

    /// The whole message: the error, its causes, and a hint.
    pub(crate) fn message(&self) -> String {
        let mut shown = match self {
            // What each device lacks has a line of its own.
            Self::Engine(Error::NoDevice { seen: 0, .. }) => "no usable Vulkan device".to_owned(),
            Self::Engine(Error::NoDevice { seen, .. }) => {
                format!("no usable Vulkan device among {seen}")
            }
            _ => self.to_string(),
        };
        let mut message = format!("error: {shown}\n");
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors only pass on the text of the one below.
            if text != shown {
                add(&mut message, format_args!("  because: {text}"));
            }
            shown = text;
            cause = error.source();
        }
        match self {
            Self::Selection { present, .. } => {
                add(&mut message, format_args!("hint: --devices takes"));
                present.iter().for_each(|line| add(&mut message, format_args!("  {line}")));
            }
            Self::OtherMachine { differences } => {
                differences.iter().for_each(|line| add(&mut message, format_args!("  {line}")));
                add(&mut message, format_args!("hint: --anyway compares them all the same"));
            }
            Self::NothingOpens { why } => {
                why.iter().for_each(|line| add(&mut message, format_args!("  {line}")));
            }
            Self::Engine(error) => {
                for reason in reasons(error) {
                    add(&mut message, format_args!("  {reason}"));
                }
                if matches!(error, Error::NoDevice { .. }) {
                    broken_manifests(&mut message);
                }
                if let Some(hint) = hint(error) {
                    add(&mut message, format_args!("hint: {hint}"));
                }
            }
            Self::Trace { .. }
            | Self::Read { .. }
            | Self::Saved { .. }
            | Self::Write { .. }
            | Self::Output(_)
            | Self::Vulkan { .. }
            | Self::NothingDraws
            | Self::Image(_) => {}
        }
        message
    }
}

/// The reasons of an error that has several: one for each route to a device that cannot reach a buffer, or for each
/// device that cannot be used.
pub(crate) fn reasons(error: &Error) -> Vec<String> {
    match error {
        Error::NoDevice { why, .. } => why.split("; ").map(str::to_owned).collect(),
        Error::Unreachable { refused: routes, .. }
        | Error::RoutesUnproved { untried: routes, .. } => {
            routes.iter().map(ToString::to_string).collect()
        }
        _ => vec![],
    }
}

fn add(message: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(message, "{line}").expect("writing to a string cannot fail");
}

/// The manifests of drivers that are wrong: some loaders give up because of one.
fn broken_manifests(message: &mut String) {
    for manifest in manifests::drivers() {
        if let Some(error) = manifest.driver_error() {
            add(message, format_args!("  {}: {error}", manifest.file.display()));
        }
    }
}

fn describe(adapter: &Adapter) -> String {
    let place = adapter.pci().map_or(String::new(), |pci| format!(", PCI {pci}"));
    let (index, name, kind) = (adapter.index(), adapter.name(), adapter.kind().name());
    format!("{index}  {name} ({kind}{place}, UUID {})", adapter.device_uuid())
}

fn hint(error: &Error) -> Option<Cow<'static, str>> {
    let text = match error {
        Error::NoLoader { .. } => {
            "on Debian and Ubuntu: apt install libvulkan1 mesa-vulkan-drivers; the latter has drivers \
             for AMD and Intel, and lavapipe, which needs no GPU"
        }
        Error::NoDevice { .. } => {
            "`peerbuf doctor` says what is wrong with each driver and device; if there is none, install \
             NVIDIA's own or mesa-vulkan-drivers (AMD, Intel, and lavapipe, which needs no GPU)"
        }
        Error::OutOfMemory { budget, used, .. } => {
            let free = Human(budget.saturating_sub(*used));
            return Some(format!("a smaller --size or --vram may fit; free there: {free}").into());
        }
        Error::Vulkan { code, .. } if *code == ash::vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
            "a smaller --size or --vram may fit: some drivers allocate at most 1 or 2 GiB at once"
        }
        Error::Unsupported { missing, .. } if missing.contains("its limit is") => {
            "a smaller --size fits: this is a limit of the driver for one allocation, not a shortage"
        }
        Error::Unsupported { .. } => {
            "`peerbuf doctor` lists what each device lacks; a newer driver may have it"
        }
        Error::FdLimit { .. } => "raise the limit: ulimit -n 4096",
        Error::RoutesUnproved { .. } => "try again when the devices are less busy",
        Error::Unreachable { .. } => "`peerbuf devices` shows which devices can share memory",
        Error::Timeout { .. } => {
            "the device hangs or is very slow; if a smaller --size or --vram works, it is slow"
        }
        Error::DeviceLost { .. } => "the kernel log (dmesg) may say why the device was lost",
        _ => return None,
    };
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use peerbuf::Route;
    use peerbuf::transfer::{Refusal, RefusalReason};

    use super::*;

    #[test]
    fn each_reason_for_an_unreachable_device_has_a_line() {
        let refusal = |route, why: &str| Refusal::new(route, RefusalReason::Failed(why.into()));
        let refused = vec![refusal(Route::DmaBuf, "no; never"), refusal(Route::Memfd, "too small")];
        let failure = Failure::Engine(Error::unreachable("demo", "GPU", refused));
        assert_eq!(
            failure.message(),
            "error: demo: GPU cannot reach it\n  dma_buf: no; never\n  memfd: too small\n\
             hint: `peerbuf devices` shows which devices can share memory\n"
        );
    }
}
