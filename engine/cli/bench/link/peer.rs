//! Copies between two processes: this one exports a buffer as an fd, and a child imports it on its own device and copies out
//! of it.
//!
//! The fd is the child's standard input, so that no other one is inherited. The child measures by itself, and prints what
//! it found as one JSON object.
#![expect(unsafe_code, reason = "importing what the parent has exported")]

use std::error;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use peerbuf::{
    Access, BufferDescriptor, CopyBy, CopyRegion, Engine, EngineDescriptor, Error, ForeignInfo,
    Placement,
};
use serde::{Deserialize, Serialize};

use super::super::run::{Actor, Cell, CopyEngine, Direction, Ended, Key, Pattern, Verified};
use super::super::stats;
use super::bed::Bed;
use super::child;
use super::job::missing;
use super::place::end;
use super::progress::Progress;
use super::{blocks::SIZE, label};
use crate::failure::Result;
use crate::outcome::Outcome;
use crate::output;

/// What the child is told.
#[derive(Debug, Args)]
pub(crate) struct Peer {
    /// The number of its adapter.
    adapter: usize,
    /// [`ForeignInfo::to_bytes`] in hexadecimal digits.
    info: String,
    /// The seed of the pattern in the memory.
    seed: u32,
    /// How long samples are taken.
    millis: u64,
}

/// What the child found.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    samples_ns: Vec<f64>,
    device_ns: Vec<f64>,
    bytes: u64,
    wrong_bytes: u64,
    /// Why it found nothing.
    error: Option<String>,
}

/// The longest wait for a device.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The least samples.
const LEAST: usize = 3;

/// How often each pair is measured, with all others in between: one round says nothing about the machine's drift.
const ROUNDS: usize = 5;

impl Peer {
    /// The child: measures, and prints the result.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let found = self.measure();
        let failed = |error: Box<dyn error::Error>| {
            let text = error.downcast_ref::<Error>().map_or(error.to_string(), Error::with_causes);
            Found { error: Some(text), ..Found::default() }
        };
        output::print_json(&found.unwrap_or_else(failed))?;
        Ok(Outcome::Proved)
    }

    fn measure(&self) -> Result<Found, Box<dyn error::Error>> {
        let engine = Engine::open(&EngineDescriptor::new().timeout(TIMEOUT))?;
        let mut adapters = engine.adapters().iter();
        let adapter = adapters.find(|adapter| adapter.index() == self.adapter);
        let device = engine.open_device(adapter.ok_or("the other process has no such adapter")?)?;
        let info = from_hex(&self.info).ok_or("no description of the memory")?;
        let stdin = io::stdin();
        // SAFETY: the parent has exported the fd with this information, and neither writes the memory nor drops its
        // export until this process has ended.
        let source = unsafe { engine.import_foreign(&device, stdin.as_fd(), info, None) }?;
        let descriptor = BufferDescriptor::new(info.size).placement(Placement::Vram);
        let target = engine.create_buffer(&device, descriptor)?;
        let attachment = target.attach(&device)?;
        attachment.map(Access::Write)?.fill(!self.seed)?;
        let by = CopyBy::MainQueue(device.clone());
        let mut found = Found::default();
        let copy = || {
            let start = Instant::now();
            let run = engine.copy_by(&source, &target, CopyRegion::first(info.size), &by)?;
            run.fence().wait(TIMEOUT)?;
            Ok::<_, Error>((start.elapsed(), run.device_time()?))
        };
        copy()?;
        let begin = Instant::now();
        // CAST: times in nanoseconds are far below 2⁵³.
        let nanos = |time: Duration| time.as_nanos() as f64;
        while found.samples_ns.len() < LEAST || begin.elapsed().as_millis() < self.millis.into() {
            let (host, by_device) = copy()?;
            found.samples_ns.push(nanos(host));
            found.device_ns.extend(by_device.map(nanos));
        }
        let report = attachment.map(Access::Read)?.verify(self.seed)?;
        (found.bytes, found.wrong_bytes) = (report.words * 4, report.wrong * 4);
        Ok(found)
    }
}

/// Measures each ordered pair of devices, the second one in a process of its own.
pub(super) fn measure(
    bed: &mut Bed<'_>,
    wants: &dyn Fn(&Key) -> bool,
    progress: &Progress,
) -> Vec<Cell> {
    let count = bed.devices.len();
    let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
    let wanted = |(from, to): &(usize, usize)| from != to && wants(&key(*from, *to));
    let mut pairs: Vec<_> = pairs.filter(wanted).map(Measured::new).collect();
    for round in 0..ROUNDS {
        for pair in pairs.iter_mut().filter(|pair| pair.failure.is_none()) {
            if let Some(why) = bed.stop.reason() {
                // What was measured in earlier rounds stays.
                pair.failure = (round == 0).then(|| format!("left out: {why}"));
                continue;
            }
            progress.say(&label::of_cell(&key(pair.ends.0, pair.ends.1)));
            match found_by(bed, pair.ends) {
                Ok((way, found)) => {
                    pair.way = way;
                    pair.found.push(found);
                }
                Err(_) if bed.stop.reason().is_some() && round > 0 => {}
                Err(why) => pair.failure = Some(why),
            }
        }
    }
    pairs.into_iter().map(Measured::into_cell).collect()
}

/// A pair, and what was found so far.
struct Measured {
    ends: (usize, usize),
    way: &'static str,
    /// One for each round.
    found: Vec<Found>,
    failure: Option<String>,
}

impl Measured {
    fn new(ends: (usize, usize)) -> Self {
        Self { ends, way: "fd", found: vec![], failure: None }
    }

    fn into_cell(self) -> Cell {
        let key = key(self.ends.0, self.ends.1);
        match self.failure {
            Some(why) => missing(key, why),
            None => cell(Key { way: self.way.to_owned(), ..key }, self.found),
        }
    }
}

/// What a child found, and the way: in the device's own memory if the child can import it, else in the host's.
fn found_by(bed: &mut Bed<'_>, pair: (usize, usize)) -> Result<(&'static str, Found), String> {
    let mut reasons = Vec::new();
    for placement in [Placement::Vram, Placement::System] {
        match share(bed, pair, placement) {
            Ok((way, Found { error: Some(error), .. })) => reasons.push(format!("{way}: {error}")),
            Ok(found) => return Ok(found),
            Err(error) => reasons.push(error),
        }
    }
    Err(reasons.join("; "))
}

fn key(from: usize, to: usize) -> Key {
    Key {
        from: end(from),
        to: end(to),
        way: "fd".to_owned(),
        engine: CopyEngine::MainQueue,
        direction: Direction::There,
        actor: Actor::Importer,
        size_bytes: SIZE,
        pattern: Pattern::Pair,
        processes: 2,
    }
}

/// Exports a buffer and lets a child copy out of it. Returns the way as well.
fn share(
    bed: &mut Bed<'_>,
    (from, to): (usize, usize),
    placement: Placement,
) -> Result<(&'static str, Found), String> {
    let text = |error: Error| error.with_causes();
    let home = &bed.devices[from];
    let descriptor = BufferDescriptor::new(SIZE).placement(placement).dedicated().name("bench");
    let buffer = bed.engine.create_buffer(home, descriptor).map_err(text)?;
    let seed = bed.next_seed();
    let fill = || buffer.attach(home)?.map(Access::Write)?.fill(seed);
    fill().map_err(text)?;
    let export = buffer.export_foreign().map_err(text)?;
    let handle = export.handle().map_err(text)?;
    let input = handle.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let millis = if bed.quick { 40 } else { 400 };
    let mut command = Command::new(program);
    command
        .args(["bench", "peer"])
        .arg(bed.devices[to].adapter().index().to_string())
        .arg(to_hex(&handle.info()))
        .arg(seed.to_string())
        .arg(millis.to_string())
        .stdin(Stdio::from(input));
    let printed = child::output(&mut command, &bed.stop, TIMEOUT + Duration::from_millis(millis))?;
    let way = buffer.provider().name();
    drop(export);
    let found = serde_json::from_slice(&printed);
    found.map(|found| (way, found)).map_err(|error| format!("{way}: the other process: {error}"))
}

/// The cell of what a child found in each round.
fn cell(key: Key, found: Vec<Found>) -> Cell {
    let sum = |of: fn(&Found) -> u64| found.iter().map(of).sum();
    let (bytes, wrong_bytes) = (sum(|it| it.bytes), sum(|it| it.wrong_bytes));
    let (samples_ns, device_ns): (Vec<_>, Vec<_>) =
        found.into_iter().map(|it| (it.samples_ns, it.device_ns)).unzip();
    Cell {
        bytes: Some(key.size_bytes),
        summary: stats::summary(&samples_ns),
        device_summary: stats::summary(&device_ns),
        queued_summary: None,
        samples_ns,
        ended: Some(Ended::Time),
        verified: Some(Verified { bytes, wrong_bytes }),
        note: None,
        ..missing(key, String::new())
    }
}

fn to_hex(info: &ForeignInfo) -> String {
    info.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<ForeignInfo> {
    let mut bytes = [0; ForeignInfo::BYTES];
    if !text.is_ascii() || text.len() != 2 * bytes.len() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..][..2], 16).ok()?;
    }
    ForeignInfo::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use peerbuf::HandleType;

    use super::*;

    #[test]
    fn what_memory_is_survives_the_command_line() {
        let info = ForeignInfo::new(HandleType::DmaBuf, 0x1234_5678_9abc);
        assert_eq!(from_hex(&to_hex(&info)), Some(info));
        for wrong in ["", "00", "zz", &"é".repeat(64), &"0".repeat(127)] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
