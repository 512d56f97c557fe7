//! The devices of the run, and a description of the machine.

use std::time::Duration;

use ash::vk;
use peerbuf::device::AdapterKind;
use peerbuf::{Adapter, BufferDescriptor, Device, Engine, EngineDescriptor, HandleType, Provider};

use crate::Outcome;

/// Two devices that share memory directly, which the baselines do by hand.
pub(crate) struct Setup {
    pub(crate) engine: Engine,
    /// The exporter.
    pub(crate) near: Device,
    /// The importer.
    pub(crate) far: Device,
    /// Handle type of the shared memory.
    pub(crate) handle: HandleType,
}

/// Timeout of every wait.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

impl Setup {
    pub(crate) fn new() -> Outcome<Self> {
        let engine = Engine::open(&EngineDescriptor::new().timeout(TIMEOUT))?;
        let mut adapters: Vec<_> = usable(&engine).collect();
        adapters.sort_by_key(|adapter| rank(adapter));
        let first = *adapters.first().ok_or("no adapter can be used")?;
        // Two hardware adapters if there are two, otherwise one adapter twice.
        let second = adapters.get(1).copied().filter(|adapter| rank(adapter) == HARDWARE);
        let near = engine.open_device(first)?;
        let far = engine.open_device(second.unwrap_or(first))?;
        let handle = shared_by(&engine, &near, &far)?;
        Ok(Self { engine, near, far, handle })
    }

    /// Describes the machine and the build, as pairs of name and value.
    pub(crate) fn machine(&self) -> Vec<(&'static str, String)> {
        let kernel = rustix::system::uname();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let profile = if cfg!(debug_assertions) { "debug: NOT FOR FIGURES" } else { "release" };
        vec![
            ("near", describe(&self.near)),
            ("far", describe(&self.far)),
            ("shared by", self.handle.to_string()),
            ("processor", format!("{}, {cores} cores", processor())),
            ("kernel", kernel.release().to_string_lossy().into_owned()),
            ("build", profile.into()),
        ]
    }
}

/// The handle type of a buffer that both devices share. Sharing one also proves the routes, which must end before
/// the measurements.
fn shared_by(engine: &Engine, near: &Device, far: &Device) -> Outcome<HandleType> {
    let buffer = engine.create_buffer(near, BufferDescriptor::new(4096))?;
    let _attachment = buffer.attach(far)?;
    match buffer.provider() {
        Provider::Device { handle, .. } => Ok(handle),
        other => {
            let (near, far) = (near.name(), far.name());
            Err(format!("{near} and {far} share by {other}, which is not done by hand here").into())
        }
    }
}

const HARDWARE: u32 = 0;

/// Rank of an adapter: hardware first, then lavapipe, then any other.
fn rank(adapter: &Adapter) -> u32 {
    match (adapter.kind(), adapter.driver_id()) {
        (AdapterKind::Cpu, vk::DriverId::MESA_LLVMPIPE) => 1,
        (AdapterKind::Cpu, _) => 2,
        _ => HARDWARE,
    }
}

fn usable(engine: &Engine) -> impl Iterator<Item = &Adapter> {
    engine.adapters().iter().filter(|adapter| adapter.missing().is_empty())
}

fn describe(device: &Device) -> String {
    let adapter = device.adapter();
    let software = if adapter.kind() == AdapterKind::Cpu { ", a software device" } else { "" };
    format!("{}, {} {}{software}", device.name(), adapter.driver_name(), adapter.driver_info())
}

/// The name of the processor.
pub(crate) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}
