//! A wgpu device that an engine has adopted.
#![expect(unsafe_code, reason = "handing one Vulkan device to two libraries")]

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerbuf::{Adapter, AdoptedDevice, Device, Engine, Fence};
use wgpu::hal::vulkan as hal;

use crate::commands::Commands;
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::left::Left;
use crate::queue::{LockedQueue, SharedQueue};
use crate::raw::{RawDevice, RawInstance};
use crate::submit::submit;

/// How long the host waits for another device before wgpu may submit, where Vulkan requires that.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How a [`Guest`] is opened. Begin with [`GuestDescriptor::default`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GuestDescriptor<'a> {
    /// What [`wgpu::Adapter::request_device`] gets otherwise: features, limits, memory hints, a label.
    pub device: wgpu::DeviceDescriptor<'a>,
    /// Flags of the instance, none by default. For the validation layer set `VK_INSTANCE_LAYERS` in the environment, so
    /// that it sees the devices of peerbuf as well.
    pub instance_flags: wgpu::InstanceFlags,
    /// How long the host waits at most where Vulkan requires a wait of it; ten seconds by default.
    pub timeout: Option<Duration>,
}

impl<'a> GuestDescriptor<'a> {
    /// Sets what the wgpu device has.
    #[must_use]
    pub fn device(mut self, device: wgpu::DeviceDescriptor<'a>) -> Self {
        self.device = device;
        self
    }

    /// Sets the flags of the instance.
    #[must_use]
    pub fn instance_flags(mut self, flags: wgpu::InstanceFlags) -> Self {
        self.instance_flags = flags;
        self
    }

    /// Sets how long the host waits at most.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// A wgpu device that an engine has adopted: one `VkDevice`, with one queue, for both.
///
/// All methods may be called by any thread. End it with [`Guest::close`].
pub struct Guest {
    device: Device,
    parts: Parts,
}

/// All but the handle that a removal takes.
// Dropped in this order: wgpu first, then what keeps the Vulkan objects.
struct Parts {
    queue: LockedQueue,
    wgpu: wgpu::Device,
    adapter: wgpu::Adapter,
    instance: wgpu::Instance,
    commands: Mutex<Commands>,
    left: Left,
    /// Whether wgpu has given its device up. Relaxed: it orders nothing.
    is_wgpu_lost: Arc<AtomicBool>,
    engine: Engine,
    raw: Arc<RawDevice>,
    timeout: Duration,
}

impl Guest {
    /// Opens a wgpu device on an adapter of an engine, and lets the engine adopt it.
    ///
    /// The `VkInstance` and the `VkDevice` have the extensions and features that wgpu and peerbuf name. That
    /// `timelineSemaphore` is among them is read from what `vkCreateDevice` gets.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`], [`Error::NoQueue`], [`Error::NotExposed`], [`Error::NoTimelines`], [`Error::Required`] for an
    /// adapter that does not suit; [`Error::Loader`], [`Error::LoaderVersion`], [`Error::Order`]; those of
    /// [`Engine::adopt_device`], of Vulkan and of wgpu.
    ///
    /// # Safety
    ///
    /// wgpu believes that its queue and its textures are its own. So these rules are the caller's:
    ///
    /// * the calls of wgpu that use the queue are made in [`Guest::with_queue`] or through [`Frame::submit`] alone:
    ///   `Queue::submit`, `present`, `on_submitted_work_done`; `Buffer::map_async`, `BufferSlice::map_async`;
    ///   `Surface::configure`; the drop of a surface (also [`Guest::drop_in_queue`]) or of the last clone of the queue, unless
    ///   the guest is closed or dropped;
    /// * the texture or buffer that [`Frame::texture`] or [`Frame::buffer`] returns, and all that is made of it (views, bind
    ///   groups, bundles), is used in commands for [`Frame::submit`] of that frame, and in `Queue::write_buffer` and
    ///   `write_texture` while that frame is open, and nowhere else;
    /// * from such a write by the queue until the frame is submitted or dropped, nothing else submits to wgpu's queue, no
    ///   other frame ends, and the frame is not leaked (`std::mem::forget`): wgpu puts the write ahead of its next submission,
    ///   whichever that is;
    /// * the application does not destroy it (`wgpu::Texture::destroy`, `wgpu::Buffer::destroy`): the frame would not end
    ///   in the layout in which others expect the image (VUID-VkImageMemoryBarrier-oldLayout-01197);
    /// * a sampler with a linear filter reads a texture only if it was attached with `ImageUsage::FILTERED`, and a pipeline
    ///   blends into it only with `ImageUsage::BLENDED`. wgpu allows both by the format alone, while the image may be linear or
    ///   have a modifier, which support less (VUID-vkCmdDraw-magFilter-04553, VUID-vkCmdDraw-blendEnable-04727);
    /// * the commands write a texture or a buffer only in an access that writes;
    /// * while it is in a frame, nothing else of this device uses the same image or buffer: no other frame, no
    ///   [`Engine::submit`].
    pub unsafe fn open(
        engine: &Engine,
        adapter: &Adapter,
        descriptor: &GuestDescriptor<'_>,
    ) -> Result<Self> {
        if !adapter.missing().is_empty() {
            let missing = adapter.missing().to_vec();
            return Err(Error::Adapter { adapter: adapter.name().to_owned(), missing });
        }
        let raw_instance = RawInstance::new(descriptor.instance_flags)?;
        let physical = raw_instance.physical(adapter)?;
        let hal_instance = raw_instance.hal()?;
        let exposed = hal_instance
            .expose_adapter(physical)
            .ok_or_else(|| Error::NotExposed { adapter: adapter.name().to_owned() })?;
        check_required(adapter, &exposed, &descriptor.device)?;
        let features = descriptor.device.required_features;
        let raw = RawDevice::new(&raw_instance, (adapter, &exposed), features)?;
        let opened = hal_device(&raw, &exposed.adapter, &descriptor.device)?;
        // SAFETY: the instance is live; its callback keeps it so.
        let instance = unsafe { wgpu::Instance::from_hal::<hal::Api>(hal_instance) };
        // SAFETY: exposed by this instance.
        let wgpu_adapter = unsafe { instance.create_adapter_from_hal(exposed) };
        // SAFETY: opened on this adapter, with these features.
        let created = unsafe { wgpu_adapter.create_device_from_hal(opened, &descriptor.device) };
        let (wgpu, queue) =
            created.map_err(Error::wgpu("wgpu::Adapter::create_device_from_hal"))?;

        let is_wgpu_lost = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&is_wgpu_lost);
        wgpu.set_device_lost_callback(move |_, _| noted.store(true, Ordering::Relaxed));
        let timeout = descriptor.timeout.unwrap_or(TIMEOUT);
        let commands = Mutex::new(Commands::new(&raw, timeout)?);
        let lock = Arc::<SharedQueue>::default();
        let adopted = AdoptedDevice::new(
            raw.instance.entry.clone(),
            raw.instance.raw.clone(),
            raw.physical,
            raw.raw.clone(),
            raw.extensions.clone(),
            raw.family,
        )
        .queue_lock(Arc::clone(&lock) as _)
        // wgpu waits for its own binary semaphores, and those of surfaces; others: `Guest::wait_semaphore`.
        .waits_are_submitted(true);
        // From here on the device is destroyed only if the engine has released it.
        raw.set_free(false);
        // SAFETY: the handles belong together; the device was created with exactly these extensions, with timeline
        // semaphores and with this queue, which wgpu uses under the lock alone by the caller's contract. `RawDevice` keeps
        // the device and its instance until the engine has removed the device, and leaks them otherwise.
        let device = match unsafe { engine.adopt_device(adopted) } {
            Ok(device) => device,
            Err(error) => {
                raw.set_free(true);
                return Err(error.into());
            }
        };
        let parts = Parts {
            queue: LockedQueue::new(queue, lock, Arc::clone(&raw), timeout),
            wgpu,
            adapter: wgpu_adapter,
            instance,
            commands,
            left: Left::default(),
            is_wgpu_lost,
            engine: engine.clone(),
            raw,
            timeout,
        };
        Ok(Self { device, parts })
    }

    /// The device as peerbuf has it: attach it to buffers and images.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The engine that has adopted it.
    pub fn engine(&self) -> &Engine {
        &self.parts.engine
    }

    /// The device as wgpu has it.
    pub fn wgpu(&self) -> &wgpu::Device {
        &self.parts.wgpu
    }

    /// wgpu's adapter, for the formats of a surface.
    pub fn adapter(&self) -> &wgpu::Adapter {
        &self.parts.adapter
    }

    /// wgpu's instance, which makes surfaces.
    pub fn instance(&self) -> &wgpu::Instance {
        &self.parts.instance
    }

    /// Calls `work` with wgpu's queue while peerbuf does not use it: to submit work without shared images and buffers, to
    /// present, to map a buffer.
    ///
    /// It first waits until all is submitted on other devices that the queue waits for, as Vulkan requires of what is
    /// behind it: not at all if devices wait for each other by sync files or shared timelines, and until the other device
    /// gets there where a thread of the host is between them ([`peerbuf::WaitRoute::Bridge`]).
    ///
    /// # Errors
    ///
    /// [`peerbuf::Error::Timeout`], [`peerbuf::Error::DeviceLost`], [`Error::BusyQueue`], [`Error::Reentrant`]; `work` is
    /// not called then. For drops on a lost device there is [`Guest::drop_in_queue`].
    ///
    /// Locks: the queue's. `work` may not call peerbuf, nor this guest, and neither may callbacks that wgpu calls meanwhile:
    /// this guest then returns [`Error::Reentrant`], and peerbuf fails with [`peerbuf::Error::Unsupported`] or
    /// [`peerbuf::Error::Timeout`]. It may drop everything.
    pub fn with_queue<R>(&self, work: impl FnOnce(&wgpu::Queue) -> R) -> Result<R> {
        self.flush()?;
        let nothing = None::<fn() -> Result<Fence>>;
        self.parts.queue.locked(&self.device, nothing, work)
    }

    /// Drops something whose drop uses the queue, such as a surface. It works on a lost device, too.
    ///
    /// Locks: the queue's, unless this thread has it.
    pub fn drop_in_queue<T>(&self, dropped: T) {
        self.parts.queue.alone(|| drop(dropped));
    }

    /// As [`Guest::with_queue`], behind what `first` submits through the engine.
    pub(crate) fn with_queue_behind<R>(
        &self,
        first: impl FnOnce() -> Result<Fence>,
        work: impl FnOnce(&wgpu::Queue) -> R,
    ) -> Result<R> {
        self.parts.queue.locked(&self.device, Some(first), work)
    }

    /// Submits what earlier frames have left for wgpu to write.
    ///
    /// # Errors
    ///
    /// As [`Frame::submit`].
    pub(crate) fn flush(&self) -> Result<()> {
        if self.parts.left.is_empty() {
            return Ok(());
        }
        submit(self, vec![], vec![]).map(drop)
    }

    /// Begins a frame: a submission of wgpu's that uses shared images and buffers.
    pub fn frame(&self) -> Frame<'_> {
        Frame::new(self)
    }

    /// Polls wgpu, and gives back what images and buffers have left whose frames are over. A frame does so, too.
    ///
    /// # Errors
    ///
    /// That of [`wgpu::Device::poll`]; [`peerbuf::Error::DeviceLost`].
    pub fn poll(&self) -> Result<()> {
        // It asks for fences, so that a loss may be known.
        Commands::collect(&self.parts.commands);
        if self.device.is_lost() {
            self.device.submitted()?;
        }
        let poll = || self.parts.wgpu.poll(wgpu::PollType::Poll);
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(polled) => polled.map(drop).map_err(Error::wgpu("wgpu::Device::poll")),
            // wgpu does that on a lost device.
            Err(panic) => {
                self.device.submitted()?;
                resume_unwind(panic)
            }
        }
    }

    /// Makes all later submissions of wgpu's wait for `fence`, on the GPU: of work on another device that uses nothing
    /// shared with this one, or of the host.
    ///
    /// Frames wait for what uses their images and buffers without this.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`].
    ///
    /// Locks: the queue's.
    pub fn wait_for(&self, fence: &Fence) -> Result<()> {
        self.parts.engine.submit(&self.device, |submission| {
            submission.after(fence);
            Ok(())
        })?;
        Ok(())
    }

    /// A fence of all that wgpu and peerbuf have submitted, for other devices and for the host. A frame returns its own.
    ///
    /// [`Fence::semaphore`] has the `VkSemaphore` and the value, [`Engine::fence_semaphore`] those for another device.
    ///
    /// # Errors
    ///
    /// [`peerbuf::Error::DeviceLost`], or the error of `vkQueueSubmit`.
    ///
    /// Locks: the queue's.
    pub fn submitted(&self) -> Result<Fence> {
        Ok(self.device.submitted()?)
    }

    /// Makes wgpu's next submission, of any thread, wait for a semaphore of the application: a binary one with `value`
    /// 0, or a timeline.
    ///
    /// # Safety
    ///
    /// As [`peerbuf::Submission::wait_semaphore`]; the signal of a timeline is submitted, too, with all that it depends
    /// on, since wgpu's binary semaphores are behind it.
    pub unsafe fn wait_semaphore(&self, semaphore: peerbuf::ash::vk::Semaphore, value: u64) {
        let stages = peerbuf::ash::vk::PipelineStageFlags::ALL_COMMANDS;
        self.with_hal_queue(|queue| {
            queue.add_wait_semaphore(semaphore, (value > 0).then_some(value), stages);
        });
    }

    /// Makes wgpu's next submission, of any thread, signal a semaphore of the application when it has finished: a binary
    /// one with `value` 0, or a timeline.
    ///
    /// # Safety
    ///
    /// As [`peerbuf::Submission::signal_semaphore`].
    pub unsafe fn signal_semaphore(&self, semaphore: peerbuf::ash::vk::Semaphore, value: u64) {
        self.with_hal_queue(|queue| {
            queue.add_signal_semaphore(semaphore, (value > 0).then_some(value));
        });
    }

    fn with_hal_queue(&self, work: impl FnOnce(&hal::Queue)) {
        self.parts.queue.with_hal(work);
    }

    /// Waits for the device, removes it from the engine, and destroys it together with its instance: when wgpu's last
    /// handle of the application is dropped, or now.
    ///
    /// Drop textures, buffers, attachments and mappings of this guest, fences of its work, and clones of
    /// [`Guest::device`] first. Images and buffers whose home it is move to another device that has them attached, if
    /// there is one. A guest that is dropped without this call leaks its `VkDevice` and its `VkInstance`, since the engine
    /// may use them still; the drop waits for what is submitted, for at most the timeout of the guest, and leaks what is in
    /// use longer.
    ///
    /// A guest whose device is lost is closed in the same way, also if its content is lost. It waits for the queue, which
    /// returns in finite time on a lost device.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::remove_device`], with the guest. One whose device is lost can do nothing but close then.
    pub fn close(mut self) -> Result<(), (Box<Self>, Error)> {
        if let Err(error) = self.finish() {
            return Err((Box::new(self), error));
        }
        let Self { device, parts } = self;
        let id = device.id();
        let Err(error) = parts.engine.remove_device(device) else {
            parts.raw.set_free(true);
            return Ok(());
        };
        // A device that is not removed is listed still.
        match parts.engine.devices().into_iter().find(|device| device.id() == id) {
            Some(device) => Err((Box::new(Self { device, parts }), error.into())),
            None => Ok(()),
        }
    }

    /// Waits for all that wgpu and peerbuf have submitted. Callbacks of wgpu drop the mappings of what has moved.
    fn finish(&mut self) -> Result<()> {
        let timeout = self.parts.timeout;
        let flushed = match self.check_wgpu() {
            Ok(()) => self.flush(),
            // It writes nothing any more.
            Err(_) => {
                self.parts.left.take();
                Ok(())
            }
        };
        let waited = flushed.and_then(|()| Ok(self.device.submitted()?.wait(timeout)?));
        if self.device.is_lost() {
            return self.finish_lost();
        }
        waited?;
        let all = wgpu::PollType::Wait { submission_index: None, timeout: Some(timeout) };
        self.parts.wgpu.poll(all).map_err(Error::wgpu("wgpu::Device::poll"))?;
        Commands::collect(&self.parts.commands);
        Ok(())
    }

    /// The fences of a lost device do not signal, and wgpu does not poll it. A wait for the queue returns in finite time, and
    /// says that nothing is in use ("Lost Device" in the specification).
    fn finish_lost(&mut self) -> Result<()> {
        let raw = self.device.raw();
        // SAFETY: the queue's lock is held.
        let waited = self.device.with_queue(|queue| unsafe { raw.queue_wait_idle(queue) });
        match waited {
            Ok(()) | Err(peerbuf::ash::vk::Result::ERROR_DEVICE_LOST) => {}
            Err(code) => return Err(Error::vulkan("vkQueueWaitIdle")(code)),
        }
        self.parts.left.take();
        Commands::end_all(&self.parts.commands);
        // It gives back what it kept for its submissions.
        self.parts.queue.end();
        Ok(())
    }

    pub(crate) fn left(&self) -> &Left {
        &self.parts.left
    }

    pub(crate) fn note_wgpu_lost(&self) {
        self.parts.is_wgpu_lost.store(true, Ordering::Relaxed);
    }

    /// Checks that wgpu has not given its device up.
    ///
    /// # Errors
    ///
    /// [`Error::Wgpu`]: then it submits nothing, and says so to its callback alone.
    pub(crate) fn check_wgpu(&self) -> Result<()> {
        if self.parts.is_wgpu_lost.load(Ordering::Relaxed) && !self.device.is_lost() {
            let message = "wgpu has given the device up: close the guest and open another one";
            return Err(Error::Wgpu { call: "wgpu::Queue::submit", message: message.into() });
        }
        Ok(())
    }

    pub(crate) fn commands(&self) -> &Mutex<Commands> {
        &self.parts.commands
    }

    pub(crate) fn raw(&self) -> &RawDevice {
        &self.parts.raw
    }

    /// Calls `work` with the device as wgpu-hal has it.
    pub(crate) fn with_hal<R>(&self, work: impl FnOnce(&hal::Device) -> R) -> Result<R> {
        // SAFETY: nothing of it is destroyed.
        let device = unsafe { self.parts.wgpu.as_hal::<hal::Api>() };
        let missing = || Error::Wgpu { call: "wgpu::Device::as_hal", message: "not Vulkan".into() };
        Ok(work(&*device.ok_or_else(missing)?))
    }
}

/// Checks that an adapter has what is required, as [`wgpu::Adapter::request_device`] does.
fn check_required(
    adapter: &Adapter,
    exposed: &wgpu::hal::ExposedAdapter<hal::Api>,
    required: &wgpu::DeviceDescriptor<'_>,
) -> Result<()> {
    let lacks = |missing| Error::Required { adapter: adapter.name().to_owned(), missing };
    let features = required.required_features - exposed.features;
    if !features.is_empty() {
        return Err(lacks(format!("{features:?}")));
    }
    let mut limits = vec![];
    required.required_limits.check_limits_with_fail_fn(
        &exposed.capabilities.limits,
        false,
        |name, asked, allowed| limits.push(format!("{name} {asked} (it has {allowed})")),
    );
    if limits.is_empty() { Ok(()) } else { Err(lacks(limits.join(", "))) }
}

/// The device as wgpu-hal has it, which destroys nothing.
fn hal_device(
    raw: &Arc<RawDevice>,
    adapter: &hal::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Result<wgpu::hal::OpenDevice<hal::Api>> {
    let kept = Arc::clone(raw);
    // SAFETY: the device was created on this adapter, with these extensions, the features for them, and the first queue
    // of this family; the callback keeps it until wgpu has no use for it.
    unsafe {
        adapter.device_from_raw(
            raw.raw.clone(),
            Some(Box::new(move || drop(kept))),
            &raw.extensions,
            descriptor.required_features,
            &descriptor.required_limits,
            &descriptor.memory_hints,
            raw.family,
            0,
        )
    }
    .map_err(Error::wgpu("wgpu_hal::vulkan::Adapter::device_from_raw"))
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("device", &self.device).finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Guest>();
};
