//! `peerbuf bench`: how fast devices exchange data, whether that changed, and why it is not faster.

pub(crate) mod compare;
mod csv;
mod html;
mod link;
#[cfg(test)]
pub(crate) mod made;
pub(crate) mod print;
pub(crate) mod run;
mod saved;
#[cfg(test)]
mod schema;
pub(crate) mod stats;
pub(crate) mod sysfs;
pub(crate) mod units;
pub(crate) mod verdict;
pub(crate) mod view;

use std::path::PathBuf;

use clap::Subcommand;

use crate::failure::{Failure, Result};
use crate::outcome::Outcome;
use crate::{output, show};
use print::Printing;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Measures how fast devices, and a device and the host, exchange data
    ///
    /// By each way there is, alone and both directions at once, in several sizes,
    /// and how long small operations take. Every cell is checked: each byte of a
    /// pattern is compared by the end that receives it.
    #[command(verbatim_doc_comment)]
    Link(link::Options),
    /// Imports memory of another process; started by `link` alone
    #[command(hide = true)]
    Peer(link::Peer),
    /// Compares two saved runs: what became slower, or faster
    ///
    /// Something changed only if the intervals of both runs do not touch, and the
    /// ratio is beyond the noise of both. Where the noise could hide a change as
    /// large as --fail-below asks for, the answer is "cannot tell".
    #[command(
        verbatim_doc_comment,
        after_help = "\
Exit status: 0 if nothing became slower than asked, 1 if something did or could
no longer be measured, 2 for wrong bytes or an impossible speed in B, or an
error, 3 if both runs have nothing in common, or, with --strict, if something
cannot be told. Without it \"cannot tell\" is no failure: the first line says so,
and the status is 0."
    )]
    Compare {
        /// The earlier run: what --json of a benchmark printed
        #[arg(value_name = "A")]
        before: PathBuf,
        /// The later run
        #[arg(value_name = "B")]
        after: PathBuf,
        /// Fail if something is less than so many times as fast
        #[arg(long, default_value_t = 0.9, value_name = "RATIO", value_parser = ratio)]
        fail_below: f64,
        /// Exit with status 3 if something cannot be told
        ///
        /// For a gate that must not pass because the machine was busy: run it
        /// again then.
        #[arg(long, verbatim_doc_comment)]
        strict: bool,
        /// Compare runs of different machines too
        #[arg(long)]
        anyway: bool,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
        /// Print all values, those that did not change as well
        #[arg(long)]
        verbose: bool,
    },
    /// Shows a saved run
    #[command(verbatim_doc_comment)]
    Show {
        /// What --json of a benchmark printed
        file: PathBuf,
        #[command(flatten)]
        printing: Printing,
    },
}

/// A ratio between 0 and 1.
fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if ratio > 0.0 && ratio <= 1.0 => Ok(ratio),
        _ => Err("a number above 0 and up to 1, such as 0.9".to_owned()),
    }
}

/// Runs a command.
pub(crate) fn run(command: Bench) -> Result<Outcome> {
    match command {
        Bench::Peer(peer) => peer.run(),
        Bench::Link(options) => {
            let Some(mut run) = link::measure(&options)? else {
                return Ok(if options.is_list() { Outcome::Proved } else { Outcome::Nothing });
            };
            verdict::judge(&mut run);
            options.printing.print(&run)?;
            Ok(print::outcome(&run))
        }
        Bench::Compare { before, after, fail_below, strict, anyway, json, verbose } => {
            let (old, new) = (saved::read(&before)?, saved::read(&after)?);
            let differences = compare::differences(&old, &new);
            if !anyway && !differences.is_empty() {
                return Err(Failure::OtherMachine { differences });
            }
            let found = compare::compare(&old, &new, fail_below);
            if json {
                output::print_json(&found)?;
            } else {
                output::print(&show::compare(&found, verbose))?;
            }
            Ok(found.outcome(strict))
        }
        Bench::Show { file, printing } => {
            let run = saved::read(&file)?;
            printing.print(&run)?;
            Ok(print::outcome(&run))
        }
    }
}
