//! What kept a command from doing its work, told with its causes and with what may help.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use peerbuf::{Adapter, Error};

use crate::size::Human;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Engine(#[from] Error),
    /// An error that a list of the adapters helps with.
    #[error("{error}")]
    Selection {
        error: Error,
        /// One line for each adapter that there is.
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
    #[error("cannot write the result")]
    Output(#[source] io::Error),
}

impl Failure {
    /// `error`, beside the adapters that there are.
    pub(crate) fn selecting(error: Error, adapters: &[Adapter]) -> Self {
        let present = adapters.iter().map(describe).collect();
        Self::Selection { error, present }
    }

    /// What opening an engine said that was to write a trace, or none.
    pub(crate) fn opening(error: Error, trace: Option<&Path>) -> Self {
        match (error, trace) {
            (error @ Error::Os { .. }, Some(path)) => Self::Trace { path: path.to_owned(), error },
            (error, _) => Self::Engine(error),
        }
    }

    /// The whole message: the error, its causes, and a hint.
    pub(crate) fn story(&self) -> String {
        let mut told = self.to_string();
        let mut story = format!("error: {told}\n");
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors only pass on the text of the one below.
            if text != told {
                add(&mut story, format_args!("  because: {text}"));
            }
            told = text;
            cause = error.source();
        }
        match self {
            Self::Selection { present, .. } => {
                add(&mut story, format_args!("hint: --devices takes"));
                present.iter().for_each(|line| add(&mut story, format_args!("  {line}")));
            }
            Self::NothingOpens { why } => {
                why.iter().for_each(|line| add(&mut story, format_args!("  {line}")));
            }
            Self::Engine(error) => {
                if let Some(hint) = hint(error) {
                    add(&mut story, format_args!("hint: {hint}"));
                }
            }
            Self::Trace { .. } | Self::Output(_) => {}
        }
        story
    }
}

fn add(story: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(story, "{line}").expect("writing to a string cannot fail");
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
            "install a Vulkan driver: NVIDIA's own, or mesa-vulkan-drivers (AMD, Intel, and lavapipe, \
             which needs no GPU); if there is one, look at VK_DRIVER_FILES and at the rights on \
             /dev/dri"
        }
        Error::OutOfMemory { budget, used, .. } => {
            let free = Human(budget.saturating_sub(*used));
            return Some(
                format!("a smaller --size or --vram may fit; {free} are free there").into(),
            );
        }
        Error::Vulkan { code, .. } if *code == ash::vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
            "a smaller --size or --vram may fit: some drivers take no more than 1 or 2 GiB at once"
        }
        Error::FdLimit { .. } => "raise the limit: ulimit -n 4096",
        Error::Unreachable { .. } => "`peerbuf devices` shows which devices can share memory",
        Error::Timeout { .. } => {
            "a device hangs, or is very slow; a smaller --size or --vram may tell which"
        }
        Error::DeviceLost { .. } => "the kernel's log (dmesg) may say why the device went away",
        _ => return None,
    };
    Some(text.into())
}
