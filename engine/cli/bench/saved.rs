//! Saved runs.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::run::{Run, SCHEMA};
use crate::failure::{Failure, Result};

/// What every version of the format has.
#[derive(Deserialize)]
struct Versioned {
    schema: u64,
}

/// Reads a run from a file.
pub(crate) fn read(file: &Path) -> Result<Run> {
    let path = || file.to_owned();
    let text = fs::read(file).map_err(|error| Failure::Read { path: path(), error })?;
    parse(&text).map_err(|why| Failure::Saved { path: path(), why })
}

/// Reads a run; the error says why the text is none.
fn parse(text: &[u8]) -> Result<Run, String> {
    let Versioned { schema } =
        serde_json::from_slice(text).map_err(|error| format!("it is no run: {error}"))?;
    if schema != u64::from(SCHEMA) {
        return Err(format!("its schema is {schema}, and this program reads {SCHEMA}"));
    }
    serde_json::from_slice(text)
        .map_err(|error| format!("it is no run of schema {SCHEMA}: {error}"))
}
