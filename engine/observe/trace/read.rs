//! Taking the accesses out of a trace again.

use std::io::{self, BufRead};
use std::str::FromStr;

use super::AccessEvent;
use crate::device::DeviceId;
use crate::memory::DomainId;

/// The accesses in a trace, in their order. It need not be whole: a last line that was cut off is passed
/// over.
///
/// Reads what an engine has written, one event a line, and not what another program has made of it.
///
/// # Errors
///
/// What reading said; [`io::ErrorKind::InvalidData`] with the number of a line that is none of a trace's.
pub fn read(trace: impl BufRead) -> io::Result<Vec<AccessEvent>> {
    let mut accesses = Vec::new();
    let mut wrong = None;
    for (number, line) in (1..).zip(trace.split(b'\n')) {
        let line = line?;
        // Only the last line may be cut off.
        if let Some(number) = wrong.take() {
            return Err(invalid(number));
        }
        // It may be cut off within a character, and is then no event either.
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
        domain: place(&field::<String>(event, "domain")?)?,
        resident: field(event, "resident")?,
    })
}

/// The value of a field that holds a number, a flag, or a text in which nothing is escaped.
fn field<T: FromStr>(event: &str, key: &str) -> Option<T> {
    let (_, value) = event.split_once(&format!("\"{key}\":"))?;
    let value = value.split([',', '}']).next()?;
    value.trim_matches('"').parse().ok()
}

/// The place that calls itself so.
fn place(name: &str) -> Option<DomainId> {
    let number = name.rsplit(' ').next().and_then(|number| number.parse().ok());
    let vram = number.map(|number| DomainId::Vram(DeviceId(number)));
    [Some(DomainId::System), vram].into_iter().flatten().find(|place| place.to_string() == name)
}

fn invalid(line: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is none of a trace"))
}
