//! An opened or adopted `VkDevice`, parent of everything made on it.
#![expect(unsafe_code, reason = "creating and destroying the device, loading its extensions")]

use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ash::{ext, khr, vk};
use smallvec::{SmallVec, smallvec};

use super::adapter::Adapter;
use super::adopt::AdoptedDevice;
use super::calls::Calls;
use super::lane::{self, Lane, Lanes, QueueChoice, QueueIndex};
use super::queue::{Body, NOT_LOCKED, NOT_ONCE, Queue, SignalOnce, Submit};
use super::semaphore::{OwnedSemaphore, SemaphoreHandle, Waits};
use crate::error::{Error, Result};
use crate::observe::{Live, Object};

/// Number of a device within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub(crate) u16);

impl DeviceId {
    /// The number, from 0 in the order of opening.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

/// A device that takes part: opened by [`crate::Engine::open_device`] or adopted from an application
/// by [`crate::Engine::adopt_device`].
///
/// Cheap to clone. Two devices opened on one adapter are two devices, as different as two GPUs.
#[derive(Clone)]
pub struct Device(pub(crate) Arc<DeviceInner>);

impl Device {
    /// Its number within its engine.
    pub fn id(&self) -> DeviceId {
        self.0.id
    }

    /// The adapter it was opened on.
    pub fn adapter(&self) -> &Adapter {
        &self.0.adapter
    }

    /// The adapter's name and the device's number, as errors and reports show it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The raw device with its function table, for applications that record their own commands.
    ///
    /// Handles made from it must be gone, and work submitted through it be over, before the last
    /// [`Device`] and everything made on it is gone.
    pub fn raw(&self) -> &ash::Device {
        &self.0.raw
    }

    /// The raw instance, likewise.
    pub fn raw_instance(&self) -> &ash::Instance {
        self.0.adapter.instance().raw()
    }

    /// The family of its queue.
    pub fn queue_family(&self) -> u32 {
        self.0.queue_family(Lane::Main)
    }

    /// The family of the queue that moves go to beside that one; `None` if they go to the same one.
    pub fn transfer_queue_family(&self) -> Option<u32> {
        let lane = self.0.lane_for_moves();
        (lane != Lane::Main).then(|| self.0.queue_family(lane))
    }

    /// Calls `work` with the raw queue, while nobody else uses it. Moves may go to another one
    /// ([`Device::transfer_queue_family`]).
    ///
    /// # Panics
    ///
    /// If the application's own [`super::QueueLock`] does not call the work that it is given.
    ///
    /// Locks: the queue's. `work` must not submit through peerbuf on this device, nor do anything that
    /// takes a buffer's reservation, dropping mappings and ending accesses included: others hold a
    /// reservation while they wait for the queue.
    pub fn with_queue<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> R {
        let out = self.0.queue(Lane::Main).with_raw(work);
        out.expect("the application's QueueLock calls the work that it is given")
    }

    /// Whether a call has found the device to be lost.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("id", &self.0.id.0)
            .field("adapter", &self.0.adapter)
            .field("owned", &self.0.owned)
            .finish_non_exhaustive()
    }
}

/// # Invariants
///
/// `raw` is live until the end of `drop`, and was created on `adapter` with timeline semaphores. The
/// extension tables are there exactly if the extension was enabled.
pub(crate) struct DeviceInner {
    // Constant after creation.
    id: DeviceId,
    name: String,
    adapter: Adapter,
    raw: ash::Device,
    owned: bool,
    lanes: Lanes,
    memory_fd: Option<khr::external_memory_fd::Device>,
    memory_host: Option<ext::external_memory_host::Device>,
    semaphore_fd: Option<khr::external_semaphore_fd::Device>,
    dma_buf: bool,
    foreign_queue_family: bool,
    calls: Arc<Calls>,
    live: Arc<Live>,
    /// Set once, never cleared. Release/acquire, so that who sees it sees what led to it.
    lost: AtomicBool,
    /// Timelines on this device that show how far another one's has come; kept as long as the device.
    /// Protected by this mutex, which is taken alone.
    images: Mutex<Vec<(Weak<DeviceInner>, Lane, Image)>>,
}

/// A timeline on one device that shows how far another one's has come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Image {
    /// It is the other one's, taken in.
    Shared(vk::Semaphore),
    /// The host signals it.
    Shown(vk::Semaphore),
}

impl DeviceInner {
    /// Opens a device of our own on `adapter`; with a queue for moves if `lanes` says so and there is one.
    pub(crate) fn open(
        adapter: &Adapter,
        lanes: bool,
        id: DeviceId,
        calls: Arc<Calls>,
        live: Arc<Live>,
    ) -> Result<Arc<Self>> {
        if let [missing, ..] = adapter.missing() {
            return Err(Error::Unsupported {
                device: adapter.name().to_owned(),
                missing: (*missing).to_owned(),
            });
        }
        let family = adapter.compute_family()?;
        let main = QueueIndex { family, index: 0 };
        let transfer = lane::beside(adapter.queue_families(), family).filter(|_| lanes);
        let raw = create_raw(adapter, main, transfer)?;
        let own = |at| QueueChoice { at, lock: None };
        let queues = (own(main), transfer.map(own));
        let parts = Parts { adapter, id, calls, live, raw, queues, owned: true };
        // SAFETY: `raw` was just created with those queues, those extensions and the feature.
        unsafe { Self::wrap(parts, adapter.device_extensions()) }
    }

    /// Takes part in an application's device.
    ///
    /// # Safety
    ///
    /// The contract of [`crate::Engine::adopt_device`].
    pub(crate) unsafe fn adopt(
        adopted: AdoptedDevice,
        adapter: &Adapter,
        id: DeviceId,
        calls: Arc<Calls>,
        live: Arc<Live>,
    ) -> Result<Arc<Self>> {
        let (raw, extensions) = (adopted.device.clone(), adopted.extensions.clone());
        let queues = adopted.queues(adapter)?;
        let parts = Parts { adapter, id, calls, live, raw, queues, owned: false };
        // SAFETY: the caller's contract is that of `wrap`.
        unsafe { Self::wrap(parts, &extensions) }
    }

    /// # Safety
    ///
    /// `parts.raw` is live, of `parts.adapter`, with exactly `extensions`, timeline semaphores and the
    /// queues enabled; if `owned`, nobody else destroys it.
    unsafe fn wrap(parts: Parts<'_>, extensions: &[&CStr]) -> Result<Arc<Self>> {
        let Parts { adapter, id, calls, live, raw, queues: (main, transfer), owned } = parts;
        let has = |name: &CStr| extensions.contains(&name);
        // The owner of an adopted device may not have asked for what a shared timeline needs.
        let export = if has(khr::external_semaphore_fd::NAME) {
            timeline_export(adapter)
        } else {
            SemaphoreHandle::empty()
        };
        // SAFETY: the caller's contract.
        let lanes = match unsafe { Lanes::new(&raw, main, transfer, export) } {
            Ok(lanes) => lanes,
            Err(code) => {
                if owned {
                    // SAFETY: just created, and nothing was made on it.
                    unsafe { raw.destroy_device(None) };
                }
                return Err(Error::vulkan("vkCreateSemaphore", adapter.name(), code));
            }
        };
        let instance = adapter.instance().raw();
        live.born(Object::Device);
        Ok(Arc::new(Self {
            id,
            name: format!("{} [{}]", adapter.name(), id.0),
            adapter: adapter.clone(),
            owned,
            lanes,
            memory_fd: has(khr::external_memory_fd::NAME)
                .then(|| khr::external_memory_fd::Device::new(instance, &raw)),
            memory_host: has(ext::external_memory_host::NAME)
                .then(|| ext::external_memory_host::Device::new(instance, &raw)),
            semaphore_fd: has(khr::external_semaphore_fd::NAME)
                .then(|| khr::external_semaphore_fd::Device::new(instance, &raw)),
            dma_buf: has(ext::external_memory_dma_buf::NAME),
            foreign_queue_family: has(ext::queue_family_foreign::NAME),
            raw,
            calls,
            live,
            lost: AtomicBool::new(false),
            images: Mutex::default(),
        }))
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(crate) fn raw(&self) -> &ash::Device {
        &self.raw
    }

    fn queue(&self, lane: Lane) -> &Queue {
        self.lanes.get(lane)
    }

    /// The lane that moves go to: one of their own where there is one.
    pub(crate) fn lane_for_moves(&self) -> Lane {
        self.lanes.for_moves()
    }

    pub(crate) fn queue_family(&self, lane: Lane) -> u32 {
        self.queue(lane).family()
    }

    pub(crate) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// `VK_KHR_external_memory_fd`, if it is on.
    pub(crate) fn memory_fd(&self) -> Option<&khr::external_memory_fd::Device> {
        self.memory_fd.as_ref()
    }

    /// `VK_EXT_external_memory_host`, if it is on.
    pub(crate) fn memory_host(&self) -> Option<&ext::external_memory_host::Device> {
        self.memory_host.as_ref()
    }

    /// Whether `VK_EXT_external_memory_dma_buf` is on.
    pub(crate) fn has_dma_buf(&self) -> bool {
        self.dma_buf
    }

    /// Whether `VK_EXT_queue_family_foreign` is on.
    pub(crate) fn has_foreign_queue_family(&self) -> bool {
        self.foreign_queue_family
    }

    /// `VK_KHR_external_semaphore_fd`, if it is on.
    pub(crate) fn semaphore_fd(&self) -> Option<&khr::external_semaphore_fd::Device> {
        self.semaphore_fd.as_ref()
    }

    /// Records and submits behind `waits`; returns the value that the main lane's timeline will reach.
    pub(crate) fn submit(
        &self,
        waits: Waits,
        record: impl FnMut(vk::CommandBuffer),
    ) -> Result<u64> {
        self.submit_on(Lane::Main, waits, record)
    }

    /// The same on any lane.
    pub(crate) fn submit_on(
        &self,
        lane: Lane,
        waits: Waits,
        mut record: impl FnMut(vk::CommandBuffer),
    ) -> Result<u64> {
        self.give(lane, Submit { waits, body: Body::Record(&mut record), signal: None })
    }

    /// The same for any kind of submission, on the main lane.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], also if it was another call that said so; what the call said.
    pub(crate) fn submit_as(&self, submit: Submit<'_>) -> Result<u64> {
        self.give(Lane::Main, submit)
    }

    fn give(&self, lane: Lane, submit: Submit<'_>) -> Result<u64> {
        if self.lost.load(Ordering::Acquire) {
            self.discard(submit.waits);
            return Err(self.error("vkQueueSubmit", vk::Result::ERROR_DEVICE_LOST));
        }
        let given = self.queue(lane).submit(&self.raw, &self.calls, submit);
        given.map_err(|code| self.not_submitted(code))
    }

    fn not_submitted(&self, code: vk::Result) -> Error {
        if code == NOT_LOCKED {
            return Error::Unsupported {
                device: self.name.clone(),
                missing: "a QueueLock that calls the work that it is given".into(),
            };
        }
        self.error("vkQueueSubmit", code)
    }

    /// Checks that the main queue's family has the stages (VUID-vkCmdPipelineBarrier-srcStageMask-06461).
    pub(crate) fn check_stages(&self, stages: vk::PipelineStageFlags) -> Result<()> {
        use vk::PipelineStageFlags as Stages;
        let everywhere =
            Stages::TOP_OF_PIPE | Stages::BOTTOM_OF_PIPE | Stages::ALL_COMMANDS | Stages::HOST;
        let compute = Stages::TRANSFER | Stages::COMPUTE_SHADER | Stages::DRAW_INDIRECT;
        let graphics = Stages::ALL_GRAPHICS
            | Stages::VERTEX_INPUT
            | Stages::VERTEX_SHADER
            | Stages::FRAGMENT_SHADER
            | Stages::EARLY_FRAGMENT_TESTS
            | Stages::LATE_FRAGMENT_TESTS
            | Stages::COLOR_ATTACHMENT_OUTPUT;
        let family = self.queue_family(Lane::Main);
        let flags = self.adapter.queue_flags(family);
        let mut has = everywhere | compute;
        if flags.contains(vk::QueueFlags::GRAPHICS) {
            has |= graphics;
        }
        let missing = stages & !has;
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Unsupported {
            device: self.name.clone(),
            missing: format!("{missing:?} on queue family {family}"),
        })
    }

    /// Destroys a semaphore when the lane's timeline has reached `value`.
    pub(crate) fn keep_until(&self, lane: Lane, value: u64, semaphore: OwnedSemaphore<'_>) {
        self.queue(lane).keep_until(value, semaphore.into_raw());
    }

    /// The largest value that the lane's timeline has reached.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], also if it was another call that said so.
    pub(crate) fn completed(&self, lane: Lane) -> Result<u64> {
        const CALL: &str = "vkGetSemaphoreCounterValue";
        if self.lost.load(Ordering::Acquire) {
            return Err(self.error(CALL, vk::Result::ERROR_DEVICE_LOST));
        }
        self.queue(lane).completed(&self.raw).map_err(|code| self.error(CALL, code))
    }

    /// Whether everything that was submitted here has finished, as far as peerbuf knows.
    pub(crate) fn is_idle(&self) -> Result<bool> {
        for lane in [Lane::Main, self.lane_for_moves()] {
            if self.completed(lane)? < self.queue(lane).submitted() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The timeline that counts a lane's submissions.
    pub(crate) fn timeline(&self, lane: Lane) -> vk::Semaphore {
        self.queue(lane).timeline()
    }

    /// Submits nothing but the signal of a binary semaphore, behind everything that the lane was given so
    /// far; `Ok(None)` if that cannot be now, because something there may depend on a signal that nobody has
    /// submitted yet, or many are under way.
    pub(crate) fn signal_once(&self, lane: Lane, semaphore: vk::Semaphore) -> Result<Option<u64>> {
        if self.lost.load(Ordering::Acquire) {
            return Err(self.error("vkQueueSubmit", vk::Result::ERROR_DEVICE_LOST));
        }
        let waits = Waits::default();
        let signal = Some(SignalOnce { semaphore, beside: self.lanes.beside(lane) });
        let submit = Submit { waits, body: Body::Nothing, signal };
        match self.queue(lane).submit(&self.raw, &self.calls, submit) {
            Ok(value) => Ok(Some(value)),
            Err(NOT_ONCE) => Ok(None),
            Err(code) => Err(self.not_submitted(code)),
        }
    }

    /// The timeline on this device that shows how far a lane of `other` has come, made by `make` if there is
    /// none. Devices are told apart by their addresses, since their numbers repeat from engine to engine.
    pub(crate) fn image_of(
        &self,
        other: &Arc<Self>,
        lane: Lane,
        make: impl FnOnce() -> Result<Image>,
    ) -> Result<Image> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        // A weak one keeps the address from being used again.
        let known = |(of, on, _): &&(Weak<Self>, Lane, Image)| {
            std::ptr::eq(of.as_ptr(), Arc::as_ptr(other)) && *on == lane
        };
        if let Some((.., image)) = images.iter().find(known) {
            return Ok(*image);
        }
        let image = make()?;
        images.push((Arc::downgrade(other), lane, image));
        Ok(image)
    }

    /// Whether the lane's timeline has reached `value`.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`] if it has not and never will, whichever call said so: drivers need not say it
    /// again.
    pub(crate) fn reached(&self, lane: Lane, value: u64) -> Result<bool> {
        const CALL: &str = "vkGetSemaphoreCounterValue";
        let queue = self.queue(lane);
        let completed = queue.completed(&self.raw).map_err(|code| self.error(CALL, code))?;
        let lost = self.lost.load(Ordering::Acquire);
        // A counter beyond the last submission is how some drivers let everybody go.
        if completed >= value && !(lost && completed > queue.submitted()) {
            return Ok(true);
        }
        if lost { Err(self.error(CALL, vk::Result::ERROR_DEVICE_LOST)) } else { Ok(false) }
    }

    /// Waits until the lane's timeline reaches `value`; `Ok(false)` if `timeout` came first.
    ///
    /// # Errors
    ///
    /// As [`DeviceInner::reached`].
    pub(crate) fn wait(&self, lane: Lane, value: u64, timeout: Duration) -> Result<bool> {
        if timeout.is_zero() || self.lost.load(Ordering::Acquire) {
            return self.reached(lane, value);
        }
        let reached = self
            .queue(lane)
            .wait(&self.raw, &self.calls, value, timeout)
            .map_err(|code| self.error("vkWaitSemaphores", code))?;
        // Looked at again, for what the driver says of a device that was lost meanwhile.
        if reached { self.reached(lane, value) } else { Ok(false) }
    }

    /// Waits, in bounds, for everything that the lanes were given. Whether it is over.
    fn comes_to_its_end(&self) -> bool {
        // A wait may fail for reasons of its own, so it is tried more than once; only a signalled timeline,
        // or a lost device, says that nothing is running.
        const TRIES: u32 = 3;
        let end = Instant::now() + LAST_WAIT;
        self.lanes.iter().all(|queue| {
            let last = queue.submitted();
            let left = |_| end.saturating_duration_since(Instant::now());
            let waited =
                (0..TRIES).map(|nth| queue.wait(&self.raw, &self.calls, last, left(nth))).find(
                    |waited| waited.is_ok() || matches!(waited, Err(vk::Result::ERROR_DEVICE_LOST)),
                );
            waited.is_some_and(|waited| waited.unwrap_or(true))
        })
    }

    /// Translates a code, and remembers a loss.
    pub(crate) fn error(&self, call: &'static str, code: vk::Result) -> Error {
        if code == vk::Result::ERROR_DEVICE_LOST && !self.lost.swap(true, Ordering::AcqRel) {
            self.calls.note_lost_device();
            tracing::error!(device = self.name, call, "device lost");
        }
        Error::vulkan(call, &self.name, code)
    }
}

/// How long the last drop of a device waits for what peerbuf submitted on it.
const LAST_WAIT: Duration = Duration::from_secs(10);

impl Drop for DeviceInner {
    /// The only wait for a GPU in the drop of an object: whoever holds a device keeps it alive, so when
    /// the last one is gone only our own finished or abandoned work can be left on it. Bounded: a device
    /// that does not come to its end is leaked.
    fn drop(&mut self) {
        self.live.died(Object::Device);
        if !self.comes_to_its_end() {
            tracing::error!(device = self.name, "the device did not come to its end; leaked");
            // The instance may not be destroyed before the device.
            std::mem::forget(self.adapter.clone());
            return;
        }
        let images = self.images.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (.., Image::Shared(image) | Image::Shown(image)) in images.drain(..) {
            // SAFETY: nothing submitted here is running; whoever signals it from the host holds the
            // device.
            unsafe { self.raw.destroy_semaphore(image, None) };
        }
        for queue in self.lanes.iter() {
            // SAFETY: the wait above says that nothing submitted here is running.
            unsafe { queue.destroy(&self.raw) };
        }
        if self.owned {
            // SAFETY: everything made on the device holds an `Arc` of it, so all of it is destroyed;
            // what an application made or submitted itself is gone by the contract of `Device::raw`.
            unsafe { self.raw.destroy_device(None) };
        }
    }
}

impl fmt::Debug for DeviceInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceInner").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Parts<'a> {
    adapter: &'a Adapter,
    id: DeviceId,
    calls: Arc<Calls>,
    live: Arc<Live>,
    raw: ash::Device,
    /// The main one, and one for moves.
    queues: (QueueChoice, Option<QueueChoice>),
    owned: bool,
}

/// As what timelines of `adapter` can be exported; empty where they cannot.
fn timeline_export(adapter: &Adapter) -> SemaphoreHandle {
    const HANDLE: SemaphoreHandle = SemaphoreHandle::OPAQUE_FD;
    let mut rows = adapter.external_semaphores().iter();
    let able = rows.any(|row| row.handle == HANDLE && row.timeline && row.exportable);
    if able { HANDLE } else { SemaphoreHandle::empty() }
}

fn create_raw(
    adapter: &Adapter,
    main: QueueIndex,
    transfer: Option<QueueIndex>,
) -> Result<ash::Device> {
    let priorities = [1.0; 2];
    let family = |family, count| {
        let info = vk::DeviceQueueCreateInfo::default().queue_family_index(family);
        info.queue_priorities(&priorities[..count])
    };
    // A family is named once (VUID-VkDeviceCreateInfo-queueFamilyIndex-02802).
    let queues: SmallVec<[_; 2]> = match transfer {
        None => smallvec![family(main.family, 1)],
        Some(at) if at.family == main.family => smallvec![family(main.family, 2)],
        Some(at) => smallvec![family(main.family, 1), family(at.family, 1)],
    };
    let extensions: Vec<_> = adapter.device_extensions().iter().map(|name| name.as_ptr()).collect();
    let mut timeline =
        vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .push_next(&mut timeline);
    // SAFETY: the families exist and have so many queues, the extensions were enumerated, and the feature was found to be
    // supported when the adapter was read; all pointers outlive the call.
    unsafe { adapter.instance().raw().create_device(adapter.physical(), &info, None) }
        .map_err(|code| Error::vulkan("vkCreateDevice", adapter.name(), code))
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Device>();
};
