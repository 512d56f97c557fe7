//! Command-line options.

use std::error::Error;
use std::path::PathBuf;

use super::recorded::Capacity;

/// The parsed command line.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) json: bool,
    /// Recorded traces, which replace the built-in ones.
    pub(crate) traces: Vec<PathBuf>,
    pub(crate) capacities: Vec<Capacity>,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self::default();
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                // One or more, up to the next option.
                "--trace" => {
                    let before = options.traces.len();
                    while let Some(file) = arguments.next_if(|next| !next.starts_with("--")) {
                        options.traces.push(file.into());
                    }
                    if options.traces.len() == before {
                        return Err("--trace needs a file".into());
                    }
                }
                "--capacity" => {
                    let value = arguments.next().ok_or("--capacity needs a size")?;
                    options.capacities.push(capacity(&value)?);
                }
                // `cargo bench` adds this.
                "--bench" => {}
                other => {
                    let known = "--json, --trace FILE…, --capacity SIZE";
                    return Err(format!("{other}: only {known}").into());
                }
            }
        }
        if options.traces.is_empty() && !options.capacities.is_empty() {
            return Err("--capacity is for --trace".into());
        }
        Ok(options)
    }
}

/// Parses a capacity: bytes, with K, M, G for powers of 1024, or a percentage of the sum of all buffers.
fn capacity(value: &str) -> Result<Capacity, Box<dyn Error>> {
    let wrong = || format!("{value}: no size, as 256M or 75%");
    let split = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit {
        "%" => return Ok(Capacity::Percent(number)),
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(wrong().into()),
    };
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wrong)?;
    Ok(Capacity::Bytes(bytes))
}
