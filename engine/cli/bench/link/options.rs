//! The arguments of the command, and what they select.

use std::time::Duration;

use clap::Args;
use peerbuf::{AdapterSelector, Route};

use super::super::print::Printing;
use super::super::run::{CopyEngine, Key};
use super::blocks;
use super::label;
use super::plan::Planned;
use super::plant::Plant;
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
    /// Measure few sizes, for at most a minute
    ///
    /// Compute passes are measured within devices alone.
    #[arg(long, verbatim_doc_comment)]
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
    /// Measure only copies by these engines [default: all]
    ///
    /// transfer_queue, main_queue, compute, host, host_streaming, ring.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = engine,
        verbatim_doc_comment
    )]
    engines: Vec<CopyEngine>,
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
    /// Faults of tests
    #[cfg(feature = "testing")]
    #[arg(long, hide = true)]
    plant: Vec<Plant>,
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

/// Parses the name of an engine.
fn engine(text: &str) -> Result<CopyEngine, String> {
    label::ENGINES.into_iter().find(|engine| label::engine(*engine) == text).ok_or_else(|| {
        let names = label::ENGINES.map(label::engine);
        format!("there is no such engine; there are {}", names.join(", "))
    })
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

    /// Faults of tests.
    pub(super) fn plants(&self) -> &[Plant] {
        #[cfg(feature = "testing")]
        return &self.plant;
        #[cfg(not(feature = "testing"))]
        return &[];
    }

    pub(super) fn wants_cell(&self, key: &Key) -> bool {
        let is_way = self.ways.is_empty() || self.ways.contains(&key.way);
        let is_engine = self.engines.is_empty() || self.engines.contains(&key.engine);
        is_way && is_engine && self.wants_name(&label::of_cell(key))
    }

    pub(super) fn wants_name(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Prints the names of what is selected, and why other ways are not there.
    pub(super) fn print_list(&self, planned: &Planned, latencies: &[String]) -> Result<()> {
        let mut lines = names(planned, latencies);
        lines.extend(planned.missing.iter().map(|cell| {
            let why = cell.note.as_deref().unwrap_or_default();
            format!("{} (not there: {why})", label::of_cell(&cell.key))
        }));
        if self.filter.is_none() {
            let (few, many) = blocks::sizes();
            lines.push(format!(
                "and, by the two fastest ways of each pair, both directions at once, and {many} other\n\
                 sizes ({few} with --quick)"
            ));
        }
        output::print(&text(&lines))
    }

    /// Says on standard error that nothing matches, and what there is.
    pub(super) fn print_what_there_is(&self, all: &Planned, latencies: &[String]) -> Result<()> {
        let asked = self.filter.as_deref().unwrap_or_default();
        let engines = self.engines.iter().map(|engine| label::engine(*engine).to_owned());
        let given: Vec<_> = self.ways.iter().cloned().chain(engines).collect();
        let given = if given.is_empty() { String::new() } else { given.join(", ") + " and " };
        output::print_error(&format!(
            "nothing to measure: no cell matches {given}{asked:?}\nhint: there are\n{}",
            text(&names(all, latencies))
        ))
    }
}

/// The names of everything that is there.
fn names(planned: &Planned, latencies: &[String]) -> Vec<String> {
    let cells = planned.specs.iter().flat_map(|spec| &spec.cells);
    cells.map(|(key, _)| label::of_cell(key)).chain(latencies.iter().cloned()).collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |text, line| text + line + "\n")
}
