//! The command line of a program that prints figures.

use crate::Outcome;

/// Command-line options.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) json: bool,
    pub(crate) quick: bool,
    /// Parts of ids, separated by commas.
    filter: Option<String>,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--quick" => options.quick = true,
                "--filter" => {
                    options.filter = Some(arguments.next().ok_or("--filter needs an id")?);
                }
                // `cargo bench` adds this.
                "--bench" => {}
                other => {
                    return Err(format!("{other}: only --json, --quick and --filter A,B").into());
                }
            }
        }
        Ok(options)
    }

    pub(crate) fn wants(&self, id: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.split(',').any(|part| id.contains(part)))
    }
}
