//! `peerbuf`: which devices share buffers, by which route, proved with data.
//!
//! The program is a user of the library like any other: it knows nothing but its public items. Both
//! commands collect a report (`report`), and print it as JSON or as tables (`show`), so that the two
//! cannot disagree.

mod demo;
mod devices;
mod failure;
mod lineup;
mod live;
mod moving;
mod output;
mod overcommit;
mod report;
mod show;
mod size;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use peerbuf::AdapterSelector;

use demo::Demo;
use failure::Failure;
use size::Size;

/// Shares GPU buffers between Vulkan devices, and proves with data that it works.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the devices, and by which routes each can share memory with each other.
    ///
    /// Every route between two devices is tried: a pattern is written on one side and read back on
    /// the other, in both directions. What does not work is listed with the reason.
    #[command(
        after_help = "Exit status: 0 if every ordered pair of devices has a proved route, 1 if \
                            one has none, 2 for an error."
    )]
    Devices(Options),
    /// Shares buffers among all devices: one that moves around, and four times as many bytes as a
    /// device's memory holds.
    ///
    /// Each device fills the buffer with a fresh pattern, through a mapping of its own. Then each
    /// other device compares every word with what it should be. Then the same again, while the buffer
    /// moves all the time: to system memory, into every device's own memory where all can follow, and to
    /// other memory of the place where it is; every importer is called back at each move, and maps the new place.
    ///
    /// Then the main job: buffers that are together four times as large as a device's memory, which is
    /// modelled to be small, and a frame loop that slides over them. In each frame a device writes some
    /// and others check; whatever is used comes to that memory, and others make room. At the end stands
    /// how much was moved, beside what somebody who knows the future would have moved.
    #[command(
        after_help = "Exit status: 0 if every byte was right, every importer was told of every \
                            move and no memory held more than its budget, 1 if not, 2 for an error."
    )]
    Demo {
        #[command(flatten)]
        options: Options,
        /// Size of the one buffer: bytes, or with K, M, G, T for powers of 1024; a multiple of 4.
        #[arg(long, default_value = "64M", value_name = "SIZE")]
        size: Size,
        /// How much memory a device is taken to have in the main job; at least 64K. The buffers are
        /// together four times as large.
        #[arg(long, default_value = "32M", value_name = "SIZE", value_parser = size::heap)]
        vram: Size,
        /// Write the main job as a trace, for https://ui.perfetto.dev or chrome://tracing.
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Which devices take part, in this order; the default is every one that can.
    ///
    /// Each is an index as `peerbuf devices` shows it, a UUID, a PCI address (0000:01:00.0), a DRM
    /// node (renderD128) or a type (discrete, integrated, virtual, cpu), which means the first one of
    /// that type. Named twice, it is opened twice, and counts as two devices. A single one is opened
    /// twice too, so that there is a pair.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    devices: Vec<AdapterSelector>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Devices(options) => devices::run(&options.devices, options.json),
        Command::Demo { options, size, vram, trace } => {
            let Options { devices, json } = options;
            Demo { devices, size, vram, trace, json }.run()
        }
    };
    match outcome {
        Ok(Outcome::Proved) => ExitCode::SUCCESS,
        Ok(Outcome::Disproved) => ExitCode::from(1),
        Err(failure) => {
            output::complain(&failure);
            ExitCode::from(2)
        }
    }
}

/// What a command found out, when nothing kept it from finding out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Proved,
    Disproved,
}

impl Outcome {
    fn of(proved: bool) -> Self {
        if proved { Self::Proved } else { Self::Disproved }
    }
}

type Result<T, E = Failure> = std::result::Result<T, E>;
