//! The engine: what it owns, and how it is opened.

use std::sync::Arc;

use rustix::io::Errno;

use super::descriptor::EngineDescriptor;
use crate::buffer::{Buffers, SetRefs};
use crate::core::Core;
use crate::device::{Adapter, Instance};
use crate::error::{Error, Result};
use crate::image::{ImageProofs, Layouts};
use crate::memory::SystemMemory;
use crate::observe::trace::Tracer;
use crate::transfer::Routes;

/// Devices that share buffers, and the services for it.
///
/// Cheap to clone; all clones are the same engine. A device takes part until the engine, the last buffer and the
/// last [`crate::Device`] handle are dropped.
///
/// Kernel counterpart: none. The engine takes the place of the kernel's global state: the list of dma-bufs, the
/// `ttm_device`s, and what each importer can reach.
#[derive(Clone, Debug)]
pub struct Engine {
    /// The buffers, with the services they use.
    pub(crate) set: Arc<Buffers>,
    /// The references of buffers to them.
    pub(super) refs: Arc<SetRefs<Buffers>>,
    /// What probes of images have found.
    pub(crate) images: Arc<ImageProofs>,
    /// The layouts that images have.
    pub(super) layouts: Arc<Layouts>,
    pub(super) adapters: Arc<[Adapter]>,
    pub(super) transfer_queues: bool,
    pub(super) device_addresses: bool,
    /// `None` if every device is adopted.
    _instance: Option<Arc<Instance>>,
}

/// # Opening
impl Engine {
    /// Loads Vulkan and reads the adapters. An adapter that cannot be read or opened is listed, too
    /// ([`Adapter::why_unusable`]).
    ///
    /// # Errors
    ///
    /// [`Error::NoLoader`]; [`Error::NoDevice`] if no adapter can be used, with what each lacks;
    /// [`Error::Unsupported`] without the validation layer that was required; [`Error::Os`] if the trace file
    /// cannot be opened.
    pub fn open(descriptor: &EngineDescriptor) -> Result<Self> {
        let instance = Instance::create(descriptor.validation, descriptor.sink.clone())?;
        let adapters = Adapter::all(&instance)?;
        check_usable(&adapters)?;
        let tracer = match &descriptor.trace {
            Some(file) => {
                Tracer::to_file(file).map_err(|error| trace_error("open (trace)", &error))?
            }
            None => Tracer::from_env(),
        };
        let adapters = adapters.into();
        Ok(Self { adapters, _instance: Some(instance), ..Self::with_tracer(descriptor, tracer) })
    }

    /// An engine for adopted devices alone: it has no Vulkan instance of its own and no adapters to open.
    pub fn without_instance(descriptor: &EngineDescriptor) -> Self {
        Self::with_tracer(descriptor, Tracer::from_env())
    }

    fn with_tracer(descriptor: &EngineDescriptor, tracer: Tracer) -> Self {
        let speeds = descriptor.copy_speeds.clone();
        let memory = SystemMemory::of_this_process();
        let (options, grouping) = (descriptor.options, descriptor.grouping);
        let mut core = Core::new(descriptor.bounds(), memory, options, tracer, speeds, grouping);
        let (file, program) = (descriptor.route_cache.clone(), descriptor.probe_program.clone());
        core.routes = Routes::with(file, program);
        let set = Buffers::new(core);
        Self {
            refs: SetRefs::new(&set),
            set,
            images: Arc::default(),
            layouts: Arc::default(),
            adapters: [].into(),
            transfer_queues: descriptor.transfer_queues,
            device_addresses: descriptor.device_addresses,
            _instance: None,
        }
    }
}

/// The error of a call that opens or writes a trace.
pub(super) fn trace_error(call: &'static str, error: &std::io::Error) -> Error {
    // Only a writer that accepts no byte has no errno.
    let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Error::os(call, errno)
}

/// Fails if no adapter can be opened.
fn check_usable(adapters: &[Adapter]) -> Result<()> {
    if adapters.iter().any(|adapter| adapter.missing().is_empty()) {
        return Ok(());
    }
    let line = |adapter: &Adapter| {
        format!("{}: {}", adapter.name(), adapter.why_unusable().unwrap_or_default())
    };
    let why = adapters.iter().map(line).collect::<Vec<_>>().join("; ");
    let why =
        if why.is_empty() { "install a driver (Debian: mesa-vulkan-drivers)".into() } else { why };
    Err(Error::NoDevice { seen: adapters.len(), why })
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Engine>();
};
