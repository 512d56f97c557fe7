//! Emulates two queues on a device whose driver has one.
//!
//! Each queue is a thread. It forwards its submissions in order, each after all semaphores that the submission
//! waits for. So the queues progress independently, as two queues of a GPU do, and a test can hold either.
//!
//! The queues replace functions in the table that an application passes with its device. The driver and the
//! validation layer see one queue.
#![expect(unsafe_code, reason = "a function table with replaced functions")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ash::vk::{self, Handle};

/// Two emulated queues of one device. They end when this is dropped.
pub(crate) struct SoftQueues {
    device: ash::Device,
    both: [Arc<SoftQueue>; 2],
    threads: Vec<JoinHandle<()>>,
}

struct SoftQueue {
    device: ash::Device,
    /// The driver's queue, to which both forward under this lock.
    real: Arc<Mutex<vk::Queue>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Whether a submission is being forwarded.
    busy: bool,
    held: bool,
    end: bool,
}

impl State {
    fn is_at_work(&self) -> bool {
        self.busy || !self.jobs.is_empty()
    }
}

/// A queued submission. Values of binary semaphores are 0.
struct Job {
    waits: Vec<(vk::Semaphore, u64)>,
    commands: Vec<vk::CommandBuffer>,
    signals: Vec<(vk::Semaphore, u64)>,
}

/// The queue of each handle: by the queue's own handle, and by device handle and index.
static KNOWN: Mutex<BTreeMap<(u64, u32), Arc<SoftQueue>>> = Mutex::new(BTreeMap::new());

/// Keeps a queue from forwarding submissions until it is dropped.
pub(crate) struct Held(Arc<SoftQueue>);

impl SoftQueues {
    /// Creates two queues in place of the first queue of `family`.
    pub(crate) fn new(real: &ash::Device, family: u32) -> Self {
        // SAFETY: the device was made with this queue.
        let queue = Arc::new(Mutex::new(unsafe { real.get_device_queue(family, 0) }));
        let both = [0, 1].map(|_| {
            Arc::new(SoftQueue {
                device: real.clone(),
                real: Arc::clone(&queue),
                state: Mutex::default(),
                changed: Condvar::new(),
            })
        });
        let mut known = lock(&KNOWN);
        for (index, queue) in (0..).zip(&both) {
            known.insert((real.handle().as_raw(), index), Arc::clone(queue));
            known.insert((handle(queue).as_raw(), ITSELF), Arc::clone(queue));
        }
        drop(known);
        let spawn = |queue: &Arc<SoftQueue>| {
            let queue = Arc::clone(queue);
            std::thread::spawn(move || while queue.forward() {})
        };
        Self { device: table(real), threads: both.iter().map(spawn).collect(), both }
    }

    /// The device, with a function table that uses the emulated queues.
    pub(crate) fn device(&self) -> &ash::Device {
        &self.device
    }

    /// Holds the queue of this index.
    pub(crate) fn hold(&self, index: usize) -> Held {
        let queue = Arc::clone(&self.both[index]);
        lock(&queue.state).held = true;
        Held(queue)
    }

    /// The number of submissions that a queue has not begun.
    pub(crate) fn waiting(&self, index: usize) -> usize {
        lock(&self.both[index].state).jobs.len()
    }

    /// Whether a queue forwards all its submissions within `bound`.
    pub(crate) fn drains(&self, index: usize, bound: Duration) -> bool {
        let queue = &self.both[index];
        let state = lock(&queue.state);
        let waited = queue.changed.wait_timeout_while(state, bound, |state| state.is_at_work());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.0.state).held = false;
        self.0.changed.notify_all();
    }
}

impl Drop for SoftQueues {
    fn drop(&mut self) {
        for queue in &self.both {
            lock(&queue.state).end = true;
            queue.changed.notify_all();
        }
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking(), "a queue's thread panicked");
        }
        lock(&KNOWN).retain(|_, known| !self.both.iter().any(|queue| Arc::ptr_eq(queue, known)));
    }
}

impl SoftQueue {
    /// Waits for a submission and forwards it. Returns whether more may follow.
    fn forward(&self) -> bool {
        let idle = |state: &mut State| (state.held || state.jobs.is_empty()) && !state.end;
        let waited = self.changed.wait_while(lock(&self.state), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(job) = state.jobs.pop_front() else { return false };
        state.busy = true;
        drop(state);
        job.run(&self.device, &self.real);
        lock(&self.state).busy = false;
        self.changed.notify_all();
        true
    }

    fn wait_idle(&self) -> vk::Result {
        let waited = self.changed.wait_while(lock(&self.state), |state| state.is_at_work());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        let real = lock(&self.real);
        // SAFETY: the driver's queue, which is locked.
        unsafe { self.device.queue_wait_idle(*real) }.err().unwrap_or(vk::Result::SUCCESS)
    }
}

impl Job {
    /// # Safety
    ///
    /// All pointers in `info` are valid, and its chain holds only timeline values.
    unsafe fn new(info: &vk::SubmitInfo<'_>) -> Self {
        let none = vk::TimelineSemaphoreSubmitInfo::default();
        // SAFETY: the caller's contract.
        let values = unsafe { info.p_next.cast::<vk::TimelineSemaphoreSubmitInfo<'_>>().as_ref() };
        let values = values.unwrap_or(&none);
        let (waits, signals) =
            (values.wait_semaphore_value_count, values.signal_semaphore_value_count);
        // SAFETY: as above.
        let waited = unsafe { list(values.p_wait_semaphore_values, waits) };
        // SAFETY: as above.
        let signalled = unsafe { list(values.p_signal_semaphore_values, signals) };
        // SAFETY: as above.
        let waits = unsafe { list(info.p_wait_semaphores, info.wait_semaphore_count) };
        // SAFETY: as above.
        let signals = unsafe { list(info.p_signal_semaphores, info.signal_semaphore_count) };
        // SAFETY: as above.
        let commands = unsafe { list(info.p_command_buffers, info.command_buffer_count) };
        let with = |values: Vec<u64>| values.into_iter().chain(std::iter::repeat(0));
        Self {
            waits: waits.into_iter().zip(with(waited)).collect(),
            commands,
            signals: signals.into_iter().zip(with(signalled)).collect(),
        }
    }

    /// Waits for timeline semaphores on the host and forwards the rest, so that no wait blocks the driver's queue.
    fn run(self, device: &ash::Device, real: &Mutex<vk::Queue>) {
        let (timelines, once): (Vec<_>, Vec<_>) =
            self.waits.into_iter().partition(|(_, value)| *value > 0);
        let (semaphores, values): (Vec<_>, Vec<_>) = timelines.into_iter().unzip();
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        if !semaphores.is_empty() {
            // SAFETY: the submitter keeps the semaphores until the submission has ended.
            unsafe { device.wait_semaphores(&info, u64::MAX) }.expect("the device is not lost");
        }
        let once: Vec<_> = once.into_iter().map(|(semaphore, _)| semaphore).collect();
        let stages: Vec<_> = once.iter().map(|_| vk::PipelineStageFlags::ALL_COMMANDS).collect();
        let (signals, values): (Vec<_>, Vec<_>) = self.signals.into_iter().unzip();
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let info = [vk::SubmitInfo::default()
            .wait_semaphores(&once)
            .wait_dst_stage_mask(&stages)
            .command_buffers(&self.commands)
            .signal_semaphores(&signals)
            .push_next(&mut timeline)];
        let real = lock(real);
        // SAFETY: a valid submission, forwarded later than it was made; the queue is locked.
        unsafe { device.queue_submit(*real, &info, vk::Fence::null()) }.expect("a submission");
    }
}

/// # Safety
///
/// `first` points to `count` valid elements.
unsafe fn list<T: Clone>(first: *const T, count: u32) -> Vec<T> {
    if count == 0 {
        return vec![];
    }
    let count = usize::try_from(count).expect("it was counted here");
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts(first, count) }.to_vec()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- the function table ----

fn table(real: &ash::Device) -> ash::Device {
    let functions = ash::DeviceFnV1_0 {
        get_device_queue,
        queue_submit,
        queue_wait_idle,
        ..real.fp_v1_0().clone()
    };
    let (one, two, three) = (real.fp_v1_1(), real.fp_v1_2(), real.fp_v1_3());
    ash::Device::from_parts_1_3(real.handle(), functions, one.clone(), two.clone(), three.clone())
}

/// The handle of an emulated queue, which no driver knows.
fn handle(queue: &Arc<SoftQueue>) -> vk::Queue {
    vk::Queue::from_raw(Arc::as_ptr(queue).addr() as u64)
}

/// The index under which a queue is stored by its own handle.
const ITSELF: u32 = u32::MAX;

fn find(handle: u64, index: u32) -> Arc<SoftQueue> {
    Arc::clone(lock(&KNOWN).get(&(handle, index)).expect("one of these"))
}

unsafe extern "system" fn get_device_queue(
    device: vk::Device,
    _family: u32,
    index: u32,
    out: *mut vk::Queue,
) {
    let queue = handle(&find(device.as_raw(), index));
    // SAFETY: the caller's contract.
    unsafe { out.write(queue) };
}

unsafe extern "system" fn queue_submit(
    queue: vk::Queue,
    count: u32,
    infos: *const vk::SubmitInfo<'_>,
    fence: vk::Fence,
) -> vk::Result {
    assert_eq!(fence, vk::Fence::null(), "the tests use no fence here");
    // SAFETY: the caller's contract.
    let infos = unsafe { list(infos, count) };
    let queue = find(queue.as_raw(), ITSELF);
    for info in &infos {
        // SAFETY: the caller's contract; peerbuf and the tests chain nothing else.
        let job = unsafe { Job::new(info) };
        lock(&queue.state).jobs.push_back(job);
    }
    queue.changed.notify_all();
    vk::Result::SUCCESS
}

unsafe extern "system" fn queue_wait_idle(queue: vk::Queue) -> vk::Result {
    find(queue.as_raw(), ITSELF).wait_idle()
}
