//! The program `peerbuf`.
//!
//! The program uses only the public items of the library. Each command collects a report (`report`) and
//! prints it, either as JSON or as text (`show`), so that the two cannot disagree.

mod bench;
mod demo;
mod devices;
mod doctor;
mod failure;
mod frames;
mod image_demo;
mod image_demo_report;
mod image_report;
mod images;
mod lineup;
mod live;
mod moving;
mod outcome;
mod output;
mod overcommit;
mod pipelines;
mod report;
mod show;
mod size;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use peerbuf::image::Extent;
use peerbuf::{AdapterSelector, Engine};

use demo::Demo;
use image_demo::ImageDemo;
use images::Wanted;
use outcome::Outcome;
use size::Size;

// Help is printed as it is broken here, so that it fits 80 columns: clap breaks lines only with more
// dependencies.

/// Shares GPU buffers between Vulkan devices, moves them while they are shared,
/// and checks every byte.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the Vulkan devices, and how each shares memory with each other
    ///
    /// For each pair of devices, in both directions, every way to share memory (a
    /// route) is tried: one device writes a pattern, the other one reads it back.
    /// Routes that do not work are listed with the reason.
    ///
    /// With --images, the same is done for layouts of images: one device writes
    /// every texel, the other one reads them by a copy and by a shader.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Exit status: 0 if every ordered pair of devices has a proved route, 1 if one
has none, 2 for an error. Layouts of images do not change it."
    )]
    Devices {
        #[command(flatten)]
        options: Options,
        /// Also prove layouts of images, in these formats
        ///
        /// Each is a fourcc as in drm_fourcc.h (AR24, NV12), or `all`. Without
        /// one, ten usual formats are proved.
        #[arg(
            long,
            value_name = "FOURCC",
            num_args = 0..,
            value_delimiter = ',',
            verbatim_doc_comment
        )]
        images: Option<Vec<Wanted>>,
    },
    /// Shares buffers among all devices, moves them, and overcommits memory
    ///
    /// Part 1: one buffer. Each device fills it with a new pattern, and each other
    /// device compares every word. Then they do so again while the buffer moves: to
    /// system memory, to the memory of each device that all others can reach, and to
    /// other memory in the same domain. Every device is notified of each move.
    ///
    /// Part 2: buffers that are together four times as large as a device's memory,
    /// whose size is set by --vram. In each frame one device writes some buffers and
    /// others check some, in a window that slides over all of them. Buffers that are
    /// used are moved into that memory; others are evicted to make room. The result
    /// shows how many bytes were moved, compared with the least possible.
    ///
    /// With --images, the same as part 1 with an image: each device draws, and each
    /// other one samples every texel, where the image was created, after it has
    /// moved, was evicted and came back, got another layout, and while it moves.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Exit status: 0 if every byte was right, every device was notified of every move
and no memory held more than its limit, 1 if not, 2 for an error."
    )]
    Demo {
        #[command(flatten)]
        options: Options,
        /// Size of the buffer in part 1
        ///
        /// Bytes, or a number with K, M, G or T for powers of 1024. Must be a
        /// multiple of 4.
        #[arg(long, default_value = "64M", value_name = "SIZE", verbatim_doc_comment)]
        size: Size,
        /// Memory size in part 2, at least 64K
        ///
        /// The device is taken to have so much memory. The buffers together are
        /// four times as large.
        #[arg(
            long,
            default_value = "32M",
            value_name = "SIZE",
            value_parser = size::heap,
            verbatim_doc_comment
        )]
        vram: Size,
        /// Write a trace of part 2
        ///
        /// Open it with https://ui.perfetto.dev or chrome://tracing.
        #[arg(long, value_name = "FILE", verbatim_doc_comment)]
        trace: Option<PathBuf>,
        /// Share an image instead of buffers
        ///
        /// Without a size, one whose rows drivers place at different distances.
        #[arg(
            long,
            value_name = "SIZE",
            num_args = 0..=1,
            default_missing_value = "1000x562",
            value_parser = size::extent,
            conflicts_with_all = ["size", "vram", "trace"],
            verbatim_doc_comment
        )]
        images: Option<Extent>,
    },
    /// Says whether this machine is ready, and if not, what to do
    ///
    /// Looks at the Vulkan loader, each driver alone, each device and each pair of
    /// devices, device files and who may open them, limits, layers, the kernel, and
    /// the memory of a container. A driver that crashes or hangs hides no other.
    /// Attach the output of --json to a bug report.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Exit status: 0 if the machine is ready, 1 if there is a problem, 2 for an error."
    )]
    Doctor(DoctorOptions),
    /// Shows and compares runs of the benchmarks
    #[command(after_help = "\
Exit status: 0 if all is well, 1 if something is slower than asked, 2 for wrong
bytes, a speed that is impossible, or an error, 3 if there is nothing to measure
or to compare.")]
    Bench {
        #[command(subcommand)]
        command: bench::Bench,
    },
    /// Proves routes for another process; started by the library alone
    #[command(hide = true)]
    Probe { arguments: Vec<String> },
}

#[derive(Debug, Args)]
struct DoctorOptions {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Print the reasons of all routes, and what drivers printed
    #[arg(long)]
    verbose: bool,
    /// What a child process of this command does
    #[arg(long, value_enum, hide = true)]
    part: Option<doctor::Part>,
    #[arg(hide = true)]
    pair: Vec<String>,
}

#[derive(Debug, Args)]
struct Options {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Print more details; JSON always has all of them
    #[arg(long)]
    verbose: bool,
    /// Devices that take part, in this order [default: all]
    ///
    /// Each is an index as `peerbuf devices` shows it, a UUID, a PCI address
    /// (0000:01:00.0), a DRM node (renderD128), or a type (discrete,
    /// integrated, virtual, cpu) for the first device of that type. A device
    /// named twice is opened twice and counts as two. A single device is
    /// opened twice too, so that there is a pair.
    #[arg(long, value_name = "LIST", value_delimiter = ',', verbatim_doc_comment)]
    devices: Vec<AdapterSelector>,
    /// Longest wait for a device, in seconds
    ///
    /// A device that takes longer counts as busy, and its routes as not
    /// proved. On a slow machine, such as an emulated one, allow more. The
    /// demo adds time for large sizes.
    #[arg(
        long,
        default_value_t = 10,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400),
        verbatim_doc_comment
    )]
    timeout: u64,
}

impl Options {
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

fn probe(arguments: &[String]) -> failure::Result<Outcome> {
    Engine::answer_probe(arguments, &mut std::io::stdout().lock())?;
    Ok(Outcome::Proved)
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Probe { arguments } => probe(&arguments),
        Command::Bench { command } => bench::run(command),
        Command::Devices { options, images } => devices::run(
            &options.devices,
            images.as_deref(),
            options.timeout(),
            (options.json, options.verbose),
        ),
        Command::Doctor(DoctorOptions { part: Some(part), pair, .. }) => {
            Ok(doctor::run_part(part, &pair))
        }
        Command::Doctor(DoctorOptions { json, verbose, .. }) => doctor::run(json, verbose),
        Command::Demo { options, size, vram, trace, images } => {
            let timeout = options.timeout();
            let Options { devices, json, verbose, .. } = options;
            match images {
                Some(extent) => ImageDemo { devices, extent, json, verbose, timeout }.run(),
                None => Demo { devices, size, vram, trace, json, verbose, timeout }.run(),
            }
        }
    };
    match outcome {
        Ok(Outcome::Proved) => ExitCode::SUCCESS,
        Ok(Outcome::Disproved) => ExitCode::from(1),
        Ok(Outcome::Faulty) => ExitCode::from(2),
        Ok(Outcome::Nothing) => ExitCode::from(3),
        Err(failure) => {
            output::print_failure(&failure);
            ExitCode::from(2)
        }
    }
}
