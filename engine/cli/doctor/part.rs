//! What the child processes do: each loads Vulkan and sends what it finds, one message a line.

use std::io::Write;
use std::time::Duration;

use clap::ValueEnum;
use peerbuf::device::Loader;
use peerbuf::transfer::Working;
use peerbuf::{Adapter, AdapterSelector, Device, Engine, EngineDescriptor, HandleType, WaitRoute};
use serde::{Deserialize, Serialize};

use super::child::MARK;
use super::report::{SeenDevice, SeenRoute};
use crate::lineup::without_name;

/// The longest that a probe may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a child process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Loader,
    Driver,
    Pair,
}

/// A message of a child process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Message {
    Loader {
        version: u32,
        file: Option<String>,
    },
    /// A device, before it is opened.
    Device(Box<SeenDevice>),
    /// The last device was opened, or why not.
    Opened(Option<String>),
    /// A pair is about to be tried.
    Trying(usize, usize),
    Route(SeenRoute),
    Failed(String),
}

fn send(message: &Message) {
    let Ok(text) = serde_json::to_string(message) else { return };
    let mut out = std::io::stdout().lock();
    // Without a reader the message is not needed.
    let _ = writeln!(out, "{MARK}{text}").and_then(|()| out.flush());
}

/// Does one part. `pair` names the two devices of [`Part::Pair`], and their numbers.
pub(super) fn run(part: Part, pair: &[String]) {
    let done = match part {
        Part::Loader => loader(),
        Part::Driver => driver(),
        Part::Pair => try_pair(pair),
    };
    if let Err(error) = done {
        send(&Message::Failed(error.with_causes()));
    }
}

fn loader() -> peerbuf::Result<()> {
    let Loader { version, file, .. } = Loader::find()?;
    send(&Message::Loader { version, file: file.map(|file| file.display().to_string()) });
    Ok(())
}

fn driver() -> peerbuf::Result<()> {
    let adapters = match Adapter::list() {
        // What the loader printed says more.
        Err(peerbuf::Error::NoDevice { .. }) => return Ok(()),
        listed => listed?,
    };
    let is_usable = |adapter: &Adapter| adapter.why_unusable().is_none();
    let engine = match adapters.iter().any(is_usable) {
        true => Some(Engine::open(&EngineDescriptor::new())?),
        false => None,
    };
    for adapter in &adapters {
        send(&Message::Device(Box::new(seen(adapter))));
        if let Some(engine) = engine.as_ref().filter(|_| is_usable(adapter)) {
            let opened = engine
                .adapter(AdapterSelector::Index(adapter.index()))
                .and_then(|same| engine.open_device(same));
            send(&Message::Opened(opened.err().map(|error| without_name(&error, adapter))));
        }
    }
    Ok(())
}

pub(super) fn version(packed: u32) -> String {
    let (major, minor, patch) = (packed >> 22 & 0x7f, packed >> 12 & 0x3ff, packed & 0xfff);
    format!("{major}.{minor}.{patch}")
}

fn seen(adapter: &Adapter) -> SeenDevice {
    let handles = |able: fn(&Adapter, HandleType) -> bool| {
        let rows = adapter.external_buffers().iter().map(|row| row.handle);
        rows.filter(|&handle| able(adapter, handle))
            .map(|handle| handle.name().to_owned())
            .collect()
    };
    let extensions = adapter.device_extensions().iter();
    SeenDevice {
        name: adapter.name().to_owned(),
        driver: adapter.driver_name().to_owned(),
        driver_info: adapter.driver_info().to_owned(),
        driver_version: adapter.driver_version(),
        api_version: version(adapter.api_version()),
        kind: adapter.kind().name().to_owned(),
        uuid: adapter.device_uuid().to_string(),
        driver_uuid: adapter.driver_uuid().to_string(),
        pci: adapter.pci().map(|pci| pci.to_string()),
        render_node: adapter.drm_render().map(|node| node.minor),
        heaps: adapter.heaps().iter().map(|heap| (heap.size, heap.device_local)).collect(),
        types: adapter
            .memory_types()
            .iter()
            .map(|kind| (kind.heap, format!("{:?}", kind.flags)))
            .collect(),
        max_allocation: adapter.max_allocation(),
        semaphores: adapter
            .external_semaphores()
            .iter()
            .filter(|row| row.exportable && row.importable)
            .map(|row| format!("{}{:?}", if row.timeline { "timeline " } else { "" }, row.handle))
            .collect(),
        exports: handles(|adapter, handle| adapter.external_buffer(handle).exportable),
        imports: handles(|adapter, handle| adapter.external_buffer(handle).importable),
        extensions: extensions.map(|name| name.to_string_lossy().into_owned()).collect(),
        unusable: adapter.why_unusable(),
        opens: false,
        manifest: String::new(),
    }
}

/// What tells one device from others in another process.
pub(super) fn key(device: &SeenDevice) -> String {
    let pci = device.pci.as_deref().unwrap_or_default();
    format!("{}/{}/{pci}/{}", device.uuid, device.driver_uuid, device.name)
}

/// Tries both directions between two devices.
fn try_pair(pair: &[String]) -> peerbuf::Result<()> {
    let [first, second, from, to] = pair else { return Ok(()) };
    let (from, to) = (from.parse().unwrap_or(0), to.parse().unwrap_or(0));
    let engine = Engine::open(&EngineDescriptor::new().timeout(TIMEOUT))?;
    let adapters = engine.adapters();
    let position = |wanted: &String, not: Option<usize>| {
        let fits = |(at, adapter): &(usize, &Adapter)| {
            Some(*at) != not && adapter.why_unusable().is_none() && key(&seen(adapter)) == *wanted
        };
        adapters.iter().enumerate().find(fits).map(|(at, _)| at)
    };
    let at = position(first, None);
    // One device alone is opened twice.
    let other = position(second, at).or_else(|| position(second, None));
    let (Some(at), Some(other)) = (at, other) else {
        send(&Message::Failed("a device is not listed any more".to_owned()));
        return Ok(());
    };
    let (a, b) = (engine.open_device(&adapters[at])?, engine.open_device(&adapters[other])?);
    let directions = [((from, &a), (to, &b)), ((to, &b), (from, &a))];
    // Of one device with itself both are the same.
    let count = if from == to { 1 } else { directions.len() };
    for ((from, source), (to, reader)) in directions.into_iter().take(count) {
        send(&Message::Trying(from, to));
        send(&Message::Route(route(&engine, (from, source), (to, reader))));
    }
    Ok(())
}

fn route(engine: &Engine, (from, a): (usize, &Device), (to, b): (usize, &Device)) -> SeenRoute {
    let wait = engine.wait_route(a, b).ok().map(|wait| WaitRoute::name(wait).to_owned());
    let none =
        SeenRoute { from, to, route: None, wait, working: vec![], refused: vec![], error: None };
    match engine.route(a, b) {
        Ok(verdict) => {
            let speed = |working: &Working| {
                let seconds = working.read.max(Duration::from_nanos(1)).as_secs_f64();
                // CAST: a rate needs no more digits.
                (working.route.name().to_owned(), verdict.probe_bytes as f64 / seconds)
            };
            let refused = verdict.refused.iter();
            SeenRoute {
                route: verdict.verified.then(|| verdict.route.name().to_owned()),
                working: verdict.working.iter().map(speed).collect(),
                refused: refused
                    .map(|no| (no.route.name().to_owned(), no.reason.to_string()))
                    .collect(),
                ..none
            }
        }
        Err(error) => SeenRoute { error: Some(error.with_causes()), ..none },
    }
}
