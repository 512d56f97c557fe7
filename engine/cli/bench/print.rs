//! Where a run goes: text, JSON, CSV, a page.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::run::{Program, Run, Verdict};
use super::{csv, html};
use crate::failure::{Failure, Result};
use crate::outcome::Outcome;
use crate::{output, show};

#[derive(Debug, Default, Args)]
pub(crate) struct Printing {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Print comma-separated values instead of text, one row for each cell
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// Also write a page: one file, which needs no script and no network
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print all tables
    #[arg(long)]
    pub(crate) verbose: bool,
}

impl Printing {
    /// Checks that the page can be written, without a change of what is there.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(file) = &self.html else { return Ok(()) };
        let failed = |error| Failure::Write { path: file.to_owned(), error };
        let is_there = file.exists();
        fs::OpenOptions::new().create(true).append(true).open(file).map_err(failed)?;
        if is_there { Ok(()) } else { fs::remove_file(file).map_err(failed) }
    }

    /// Prints a run. The page is written first, so that a closed pipe does not prevent it.
    pub(crate) fn print(&self, run: &Run) -> Result<()> {
        if let Some(file) = &self.html {
            write(file, &html::page(run))?;
        }
        match (self.json, self.csv) {
            (true, _) => output::print_json(run),
            (_, true) => output::print(&csv::csv(run)),
            _ => output::print(&show::bench(run, self.verbose)),
        }
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(|error| Failure::Write { path: file.to_owned(), error })
}

/// What a run found out.
pub(crate) fn outcome(run: &Run) -> Outcome {
    let is_fault = |verdict| matches!(verdict, Verdict::WrongBytes | Verdict::MoreThanPossible);
    if run.cells.iter().any(|cell| is_fault(cell.verdict)) {
        return Outcome::Faulty;
    }
    let measured = match run.program {
        Program::Figures => !run.figures.is_empty(),
        Program::Link | Program::Other => {
            let cells = run.cells.iter().any(|cell| cell.summary.is_some());
            cells || run.latency.iter().any(|latency| latency.percentiles.is_some())
        }
    };
    if measured { Outcome::Proved } else { Outcome::Nothing }
}
