//! `peerbuf bench`: how fast devices exchange data, whether that changed, and why it is not faster.

#[cfg(test)]
mod made;
pub(crate) mod run;
mod saved;
mod stats;
mod sysfs;
mod units;
mod verdict;

use std::path::PathBuf;

use clap::Subcommand;

use crate::failure::Result;
use crate::outcome::Outcome;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Shows a saved run
    #[command(verbatim_doc_comment)]
    Show {
        /// What `--json` of a benchmark printed
        file: PathBuf,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs a command.
pub(crate) fn run(command: Bench) -> Result<Outcome> {
    match command {
        Bench::Show { file, .. } => {
            output::print_json(&saved::read(&file)?)?;
            Ok(Outcome::Proved)
        }
    }
}
