//! The engine: adapters, devices, buffers; what wires the other modules together.
#![expect(unsafe_code, reason = "adopting what only the caller can vouch for")]
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::descriptor::EngineDescriptor;
use crate::buffer::{
    self, Attachment, BufferDescriptor, Buffers, CopyRegion, ForeignInfo, Mapping, Migration,
    SharedBuffer, Submission,
};
use crate::core::Core;
use crate::device::{
    Adapter, AdapterSelector, AdoptedDevice, Calls, Device, DeviceId, DeviceInner, Instance,
};
use crate::error::{Error, Result};
use crate::memory::DomainId;
use crate::observe::trace::Tracer;
use crate::observe::{Live, Report};
use crate::sync::{CallbackId, Fence, Signal, WaitRoute};
use crate::transfer::{CopySpeeds, Verdict};

/// Devices that share buffers, and all that is needed for it.
///
/// Devices take part until the engine, the last buffer and the last [`Device`] handle are gone.
#[derive(Clone, Debug)]
pub struct Engine {
    /// The buffers, with the services they use.
    pub(crate) set: Arc<Buffers>,
    adapters: Arc<[Adapter]>,
    transfer_queues: bool,
    /// `None` if every device is adopted.
    _instance: Option<Arc<Instance>>,
}

impl Engine {
    /// Loads Vulkan and reads what adapters there are.
    ///
    /// # Errors
    ///
    /// [`Error::NoLoader`]; [`Error::NoDevice`] if no adapter can be used, with what each lacks;
    /// [`Error::Unsupported`] without the validation layer that was required.
    pub fn open(descriptor: &EngineDescriptor) -> Result<Self> {
        let instance = Instance::create(descriptor.validation, descriptor.sink.clone())?;
        let mut adapters = Vec::new();
        for (index, physical) in instance.physical_devices()?.into_iter().enumerate() {
            adapters.push(Adapter::read(&instance, physical, index)?);
        }
        check_usable(&adapters)?;
        let tracer = match &descriptor.trace {
            Some(file) => Tracer::to_file(file).map_err(|error| {
                let errno = error.raw_os_error().unwrap_or(0);
                Error::os("open (trace)", rustix::io::Errno::from_raw_os_error(errno))
            })?,
            None => Tracer::from_env(),
        };
        let adapters = adapters.into();
        Ok(Self { adapters, _instance: Some(instance), ..Self::with_tracer(descriptor, tracer) })
    }

    /// An engine for adopted devices alone: no instance of its own, no adapters to open.
    pub fn without_instance(descriptor: &EngineDescriptor) -> Self {
        Self::with_tracer(descriptor, Tracer::from_env())
    }

    fn with_tracer(descriptor: &EngineDescriptor, tracer: Tracer) -> Self {
        let speeds = descriptor.copy_speeds.clone();
        let core =
            Core::new(descriptor.timeout, system_memory(), descriptor.options, tracer, speeds);
        let transfer_queues = descriptor.transfer_queues;
        Self { set: Buffers::new(core), adapters: [].into(), transfer_queues, _instance: None }
    }

    /// The adapters, in the loader's order.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The adapter that `selector` means.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`].
    pub fn adapter(&self, selector: AdapterSelector) -> Result<&Adapter> {
        selector.find(&self.adapters)
    }

    /// Opens a device. Opened twice, an adapter is two devices.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the adapter lacks something, or what `vkCreateDevice` said.
    pub fn open_device(&self, adapter: &Adapter) -> Result<Device> {
        let (calls, live) = (Arc::clone(&self.set.core.calls), Arc::clone(&self.set.core.live));
        self.join(|id| DeviceInner::open(adapter, self.transfer_queues, id, calls, live))
    }

    /// How fast host and device copy: what was said or measured; `None` while nothing was.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`].
    pub fn copy_speeds(&self, device: &Device) -> Result<Option<CopySpeeds>> {
        self.set.core.check(&device.0)?;
        Ok(self.set.core.known_speeds(device.id()).cloned())
    }

    /// Lets an application's own device take part.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if its queue cannot compute or the one for moves cannot copy, or for two locks
    /// around one queue; what a call said.
    ///
    /// # Safety
    ///
    /// * `entry`, `instance`, `physical` and `device` belong together and are live; the instance was
    ///   created for Vulkan 1.2 or newer;
    /// * `device` was created with exactly the extensions named, with the feature `timelineSemaphore`,
    ///   and with the queues named, without `VkDeviceQueueCreateFlags`;
    /// * nothing else uses those queues, except through [`Device::with_queue`] or under their locks;
    /// * `device` and `instance` stay alive until this engine, every buffer of it, everything made from
    ///   those, every fence (also one that was given to another engine), and every [`Device`] handle is
    ///   gone.
    pub unsafe fn adopt_device(&self, adopted: AdoptedDevice) -> Result<Device> {
        let (entry, instance) = (adopted.entry.clone(), adopted.instance.clone());
        // SAFETY: the caller's contract.
        let adapter = unsafe { Adapter::of(entry, instance, adopted.physical) }?;
        let (calls, live) = (Arc::clone(&self.set.core.calls), Arc::clone(&self.set.core.live));
        self.join(|id| {
            // SAFETY: the caller's contract.
            unsafe { DeviceInner::adopt(adopted, &adapter, id, calls, live) }
        })
    }

    fn join(&self, open: impl FnOnce(DeviceId) -> Result<Arc<DeviceInner>>) -> Result<Device> {
        let device = self.set.core.devices.join(self.set.core.throttle.options(), open)?;
        self.set.core.tracer.device(device.id(), device.name());
        Ok(Device(device))
    }

    /// The devices that take part.
    pub fn devices(&self) -> Vec<Device> {
        self.set.core.devices.iter().map(|entry| Device(Arc::clone(&entry.device))).collect()
    }

    /// Creates a buffer at home on `home`.
    ///
    /// Small ones are slots of slabs and cost no call into the driver while a slab has room; ones
    /// larger than 8 MiB have an allocation of their own. Its bytes are zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSize`]; [`Error::OutOfMemory`] with the numbers of the last domain that was
    /// tried; [`Error::FdLimit`]; [`Error::Unsupported`] for a usage that needs a buffer of its own, and
    /// where the device can share no memory; [`Error::ForeignEngine`]; or what a call said.
    pub fn create_buffer(
        &self,
        home: &Device,
        descriptor: BufferDescriptor,
    ) -> Result<SharedBuffer> {
        SharedBuffer::create(&self.set, &home.0, descriptor)
    }

    /// Copies bytes between two buffers of any two devices, on a device that sees both; the fence
    /// tells when it is done. Where none does, the bytes go through staging memory, and the call
    /// returns when they have arrived.
    ///
    /// Ordered after what the buffers' fences stand for, and waited for by whoever uses them next
    /// through peerbuf.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::Overlap`], [`Error::ForeignEngine`], [`Error::Timeout`],
    /// [`Error::DeviceLost`], [`Error::Staging`], or what a call said.
    ///
    /// Locks: both reservations, but not while waiting.
    pub fn copy(
        &self,
        from: &SharedBuffer,
        to: &SharedBuffer,
        region: CopyRegion,
    ) -> Result<Fence> {
        buffer::copy(&self.set, from, to, region)
    }

    /// Submits an application's commands to `device`'s queue. `declare` says which buffers they read and
    /// write, by their mappings, and what they are; then all reservations are locked together, and the
    /// commands are submitted behind whatever the buffers' fences stand for, on this device or another
    /// one, between the transfers of ownership; the fence is entered into every buffer and returned.
    ///
    /// Waits for no device; only for what no queue can be made to wait for: work of the host, and strangers'
    /// sync files where the device does not take them in. An open [`crate::HostAccess`] is no such work.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] with old and new generation if a buffer has moved since it was mapped (see
    /// [`Engine::submit_remapped`]); those of [`Submission::uses`]; [`Error::Timeout`],
    /// [`Error::DeviceLost`], what `declare` or a call said. Nothing was submitted then.
    ///
    /// Locks: the reservations of all buffers, but not while waiting.
    pub fn submit<'a>(
        &self,
        device: &'a Device,
        declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
    ) -> Result<Fence> {
        buffer::submit(&self.set, &device.0, declare)
    }

    /// The same, and where a buffer has moved since it was mapped, its mapping is replaced and `declare`
    /// called again: it gets the mappings in the order of `mappings`, and has to record anew.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`] and [`Attachment::remap`]; [`Error::Stale`] only if a buffer has moved a
    /// hundred times meanwhile.
    ///
    /// Locks: as [`Engine::submit`].
    pub fn submit_remapped<'a>(
        &self,
        device: &'a Device,
        mappings: &mut [(&Attachment, &mut Mapping)],
        declare: impl FnMut(&mut Submission<'a>, &[&Mapping]) -> Result<()>,
    ) -> Result<Fence> {
        buffer::submit_remapped(&self.set, &device.0, mappings, declare)
    }

    /// Moves many buffers, each to its domain, as [`SharedBuffer::migrate`] does; what one device copies
    /// goes in one submission. Each move has its own result, in the order of `moves`; one that fails does
    /// not hold up the others.
    ///
    /// # Errors
    ///
    /// In each result as [`SharedBuffer::migrate`], and [`Error::ForeignEngine`].
    ///
    /// Locks: the reservations of up to 64 buffers, none of them waited for while another one is held.
    pub fn migrate_many(&self, moves: &[(&SharedBuffer, DomainId)]) -> Vec<Result<Migration>> {
        buffer::migrate_many(&self.set, moves)
    }

    /// Takes in memory that somebody outside this engine has exported, as a buffer at home on `device`.
    /// Its bytes are whatever the stranger put there; it never moves. The fd stays the caller's. An fd
    /// that this engine itself has handed out gives the same buffer again.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignFd`] with what is wrong with the fd: closed, not what it was said to be, too
    /// small, of another driver, or refused by this one; [`Error::Unsupported`]; [`Error::FdLimit`]; what
    /// the driver said, if it has no memory left.
    ///
    /// # Safety
    ///
    /// * `fd` is what `info` say; for an `OPAQUE_FD` nobody can check that, and a wrong size or memory
    ///   type is undefined behaviour (VUID-VkMemoryAllocateInfo-allocationSize-01742);
    /// * whoever else uses the memory keeps to some order with this engine's use: there are no fences
    ///   between strangers.
    pub unsafe fn import_foreign(
        &self,
        device: &Device,
        fd: BorrowedFd<'_>,
        info: ForeignInfo,
        name: Option<&str>,
    ) -> Result<SharedBuffer> {
        buffer::import(&self.set, &device.0, fd, info, name)
    }

    /// What is known of the ways from one device to another. Proves them, with data, both ways, when
    /// nothing is known yet; that takes some milliseconds.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`]; what making the compute passes said.
    pub fn route(&self, from: &Device, to: &Device) -> Result<Arc<Verdict>> {
        self.set.core.check(&from.0)?;
        self.set.core.check(&to.0)?;
        self.set.core.verdict(&from.0, &to.0)
    }

    /// Forgets what was proved, so that the next use proves again.
    pub fn forget_routes(&self) {
        self.set.core.routes.forget();
        self.set.core.auto_migration.access_costs().forget();
    }

    /// A fence for work of the host, and what signals it when it is dropped: for an importer that stops
    /// something of its own.
    pub fn host_fence(&self) -> (Fence, Signal) {
        Fence::host()
    }

    /// Calls `callback` when `fence` signals, or its work fails: for executors that do not block. It runs on
    /// whatever thread finds out, possibly this one; it must not wait for anything, and not own the last
    /// handle of an engine, a buffer or a device. It is called, too, when the engine goes first. `None` if
    /// the fence had signalled already; then the callback has been called.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a stranger's fence (poll its file instead); what starting a thread said.
    #[doc(alias = "dma_fence_add_callback")]
    pub fn on_signal(
        &self,
        fence: &Fence,
        callback: impl FnOnce() + Send + 'static,
    ) -> Result<Option<CallbackId>> {
        fence.on_signal(&self.set.core.bridges, Box::new(callback))
    }

    /// Takes a callback back. Whether it had not been called, and now will not be.
    ///
    /// # Errors
    ///
    /// As [`Engine::on_signal`].
    #[doc(alias = "dma_fence_remove_callback")]
    pub fn forget_callback(&self, fence: &Fence, callback: CallbackId) -> Result<bool> {
        fence.forget_callback(&self.set.core.bridges, callback)
    }

    /// How `target`'s queue waits for work of `source`, by what their drivers say. Where a semaphore
    /// cannot be had after all, and where the source's work itself waits for a signal that is still to
    /// come, the bridge takes its place.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`].
    pub fn wait_route(&self, source: &Device, target: &Device) -> Result<WaitRoute> {
        self.set.core.check(&source.0)?;
        self.set.core.check(&target.0)?;
        Ok(WaitRoute::between(&source.0, &target.0))
    }

    /// How many bytes `device` may keep pinned at once ([`crate::Attachment::pin`]); no limit at first.
    /// What is pinned stays pinned. The first call looks at every buffer, and makes the device's pins a
    /// little dearer from then on.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignEngine`].
    ///
    /// Locks: each buffer's reservation, one at a time.
    pub fn set_pin_quota(&self, device: &Device, bytes: u64) -> Result<()> {
        self.set.core.check(&device.0)?;
        buffer::limit_pins(&self.set, device.id(), bytes);
        Ok(())
    }

    /// Gives memory that no buffer uses back to its providers, clean copies with it (the next eviction of
    /// such a buffer copies again); returns how many bytes. For an application that goes idle: what should leave
    /// the devices' memory as well is evicted first ([`Engine::evict_all`]).
    ///
    /// Locks: each buffer's reservation, one at a time.
    pub fn trim(&self) -> u64 {
        self.set.handle_lost_devices();
        self.set.trim()
    }

    /// What there is and who uses it: every live buffer with its pins, fences, attachments and mappings.
    ///
    /// Keeps no buffer alive for longer than it takes.
    ///
    /// Locks: each buffer's reservation for a moment, one at a time; so not from within an importer.
    #[doc(alias = "bufinfo")]
    pub fn report(&self) -> Report {
        buffer::report(&self.set)
    }

    /// Counters of the calls into drivers and kernel, and the means to make them fail.
    pub fn calls(&self) -> &Arc<Calls> {
        &self.set.core.calls
    }

    /// Counters of live objects. They outlive the engine, so that a test can see them end at zero.
    pub fn live(&self) -> &Arc<Live> {
        &self.set.core.live
    }
}

/// Fails if none of them can be opened.
fn check_usable(adapters: &[Adapter]) -> Result<()> {
    if adapters.iter().any(|adapter| adapter.missing().is_empty()) {
        return Ok(());
    }
    let why = adapters
        .iter()
        .map(|adapter| format!("{} lacks {}", adapter.name(), adapter.missing().join(", ")))
        .collect::<Vec<_>>()
        .join("; ");
    let why =
        if why.is_empty() { "install a driver (Debian: mesa-vulkan-drivers)".into() } else { why };
    Err(Error::NoDevice { seen: adapters.len(), why })
}

/// The machine's memory in bytes: the budget of the system domain.
fn system_memory() -> u64 {
    let info = rustix::system::sysinfo();
    // CAST: kernel longs; never negative.
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Engine>();
};
