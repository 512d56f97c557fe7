//! The arguments of the command, and what they select.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use peerbuf::{AdapterSelector, Route};

use super::super::print::Printing;
use super::super::run::Key;
use super::blocks;
use super::label;
use super::plan::Planned;
use crate::failure::Result;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Devices that take part, in this order [default: all]
    ///
    /// As for `peerbuf devices`. A single device is opened twice, so that there
    /// is a pair.
    #[arg(long, value_name = "LIST", value_delimiter = ',', verbatim_doc_comment)]
    pub(super) devices: Vec<AdapterSelector>,
    /// Measure few sizes for a short time: at most a minute
    #[arg(long)]
    pub(super) quick: bool,
    /// List the cells, and measure nothing
    #[arg(long)]
    pub(super) list: bool,
    /// Measure only cells whose name contains this text
    ///
    /// Names are those of --list, such as
    /// device0-device1/opaque_fd/main_queue/importer/64MiB.
    #[arg(long, value_name = "TEXT", verbatim_doc_comment)]
    filter: Option<String>,
    /// Measure only these ways [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = way)]
    ways: Vec<String>,
    /// End after so many seconds [default: 60 with --quick, else 600]
    ///
    /// What was measured by then is printed. Ctrl-C does the same.
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400),
        verbatim_doc_comment
    )]
    time_limit: Option<u64>,
    /// Longest wait for a device, in seconds
    #[arg(
        long,
        default_value_t = 10,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    timeout: u64,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

/// Ways that are no routes.
const OTHER_WAYS: [&str; 2] = ["local", "host_visible"];

/// The names of all ways.
fn ways() -> impl Iterator<Item = &'static str> {
    Route::LADDER.iter().map(|route| route.name()).chain(OTHER_WAYS)
}

/// Parses the name of a way.
fn way(text: &str) -> Result<String, String> {
    if ways().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    Err(format!("there is no such way; there are {}", ways().collect::<Vec<_>>().join(", ")))
}

impl Options {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// When the run ends at the latest. What remains to be done then takes a moment.
    pub(super) fn time_limit(&self) -> Duration {
        Duration::from_secs(self.time_limit.unwrap_or(if self.quick { 60 } else { 600 }))
    }

    /// Whether the cells are listed, and nothing is measured.
    pub(crate) fn is_list(&self) -> bool {
        self.list
    }

    /// Whether no progress is shown.
    pub(super) fn is_silent(&self) -> bool {
        self.printing.json || self.printing.csv || self.list
    }

    pub(super) fn wants_cell(&self, key: &Key) -> bool {
        let is_way = self.ways.is_empty() || self.ways.contains(&key.way);
        is_way && self.wants_name(&label::of_cell(key))
    }

    pub(super) fn wants_name(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Prints the names of what there is, to standard output if `--list` asks for it; if nothing matches, to standard error.
    pub(super) fn print_list(
        &self,
        planned: &Planned,
        latencies: &[String],
        devices: usize,
    ) -> Result<()> {
        let mut text = String::new();
        let mut line = |name: &str| writeln!(text, "{name}").expect("a string takes all text");
        for spec in &planned.specs {
            spec.cells.iter().for_each(|(key, _)| line(&label::of_cell(key)));
        }
        for cell in &planned.missing {
            let why = cell.note.as_deref().unwrap_or_default();
            line(&format!("{} (not there: {why})", label::of_cell(&cell.key)));
        }
        latencies.iter().for_each(|name| line(name));
        if !self.list {
            let asked = self.filter.as_deref().unwrap_or_default();
            let names = (0..devices).map(|index| format!("device{index}"));
            let names: Vec<_> = names.chain(["host".to_owned()]).collect();
            return output::print_error(&format!(
                "nothing to measure: no cell that is there matches {asked:?}{}\n{text}\
                 hint: names have ends ({}), ways ({}), and more; `--list` shows them\n",
                if self.ways.is_empty() { "" } else { " and these ways" },
                names.join(", "),
                ways().collect::<Vec<_>>().join(", ")
            ));
        }
        if self.filter.is_none() {
            let (few, many) = blocks::sizes();
            line(&format!(
                "and, by the two fastest ways of each pair, both directions at once, and {} sizes\n\
                 ({} with --quick)",
                many, few
            ));
        }
        output::print(&text)
    }
}
