//! Reads the accesses of a trace.

use std::io::{self, BufRead};
use std::str::FromStr;

use super::event::AccessEvent;
use crate::device::DeviceId;
use crate::memory::DomainId;

/// The accesses in a trace, in their order. A last line that was cut off is ignored.
///
/// Reads traces as an engine writes them, with one event a line. A trace that another program has reformatted
/// is not read.
///
/// # Errors
///
/// Those of `trace`; [`io::ErrorKind::InvalidData`] with the number of a line that is not part of a trace.
pub fn read(trace: impl BufRead) -> io::Result<Vec<AccessEvent>> {
    let mut accesses = Vec::new();
    let mut wrong = None;
    for (number, line) in (1..).zip(trace.split(b'\n')) {
        let line = line?;
        // Only the last line may be cut off.
        if let Some(number) = wrong.take() {
            return Err(invalid(number));
        }
        // A line that is cut off within a character is not an event either.
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_ascii_end();
        match (number, line.strip_suffix(',').unwrap_or(line)) {
            (1, "[") | (2.., "" | "]") => {}
            (2.., event) if event.starts_with('{') && event.ends_with('}') => {
                if event.contains(r#""cat":"access""#) {
                    accesses.push(access(event).ok_or_else(|| invalid(number))?);
                }
            }
            _ => wrong = Some(number),
        }
    }
    match wrong {
        Some(1) => Err(invalid(1)),
        _ => Ok(accesses),
    }
}

fn access(event: &str) -> Option<AccessEvent> {
    Some(AccessEvent {
        buffer: field(event, "buffer")?,
        bytes: field(event, "bytes")?,
        device: DeviceId(field(event, "device")?),
        domain: domain(&field::<String>(event, "domain")?)?,
        resident: field(event, "resident")?,
    })
}

/// The value of a field: a number, a flag, or a text without escapes.
fn field<T: FromStr>(event: &str, key: &str) -> Option<T> {
    let (_, value) = event.split_once(&format!("\"{key}\":"))?;
    let value = value.split([',', '}']).next()?;
    value.trim_matches('"').parse().ok()
}

/// The domain whose text is `name`.
fn domain(name: &str) -> Option<DomainId> {
    let number = name.rsplit(' ').next().and_then(|number| number.parse().ok());
    let vram = number.map(|number| DomainId::Vram(DeviceId(number)));
    [Some(DomainId::System), vram].into_iter().flatten().find(|domain| domain.to_string() == name)
}

fn invalid(line: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not part of a trace"))
}
