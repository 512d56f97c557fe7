//! Recorded traces (`PEERBUF_TRACE=file`), as lists of uses for domains of some sizes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use peerbuf::observe::trace::read;
use peerbuf::residency::policy::traces::{Trace, recorded};
use peerbuf::{DomainId, DomainKind};

/// Size of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capacity {
    Bytes(u64),
    /// Percentage of the sum of the domain's buffers.
    Percent(u64),
}

/// Capacities without `--capacity`.
pub(crate) const CAPACITIES: [Capacity; 3] =
    [Capacity::Percent(50), Capacity::Percent(75), Capacity::Percent(90)];

/// Reads one trace for each device whose memory is in the file, and each capacity.
pub(crate) fn traces(file: &Path, capacities: &[Capacity]) -> Result<Vec<Trace>, Box<dyn Error>> {
    let said = |error: std::io::Error| format!("{}: {error}", file.display());
    let accesses = File::open(file).and_then(|file| read(BufReader::new(file))).map_err(said)?;
    let domains = accesses.iter().map(|access| access.domain);
    let domains: Vec<DomainId> = domains.fold(vec![], |mut domains, domain| {
        if domain.kind() == DomainKind::Vram && !domains.contains(&domain) {
            domains.push(domain);
        }
        domains
    });
    if domains.is_empty() {
        return Err(format!("{}: no use of a buffer in a device's memory", file.display()).into());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut traces = vec![];
    for domain in domains {
        let uses = recorded(&accesses, domain);
        let buffers: BTreeMap<_, _> = uses.iter().map(|each| (each.slot, each.bytes)).collect();
        let all = buffers.values().sum::<u64>();
        for capacity in capacities {
            let (bytes, said) = match *capacity {
                Capacity::Bytes(bytes) => (bytes, format!("{} MiB", bytes >> 20)),
                Capacity::Percent(part) => (all / 100 * part, format!("{part} %")),
            };
            let name = format!("{name}, {domain}, {said}");
            traces.push(Trace { name, capacity: bytes, uses: uses.clone() });
        }
    }
    Ok(traces)
}
