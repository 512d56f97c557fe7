//! The bridge: host threads that watch one device's timeline on behalf of other devices.
//!
//! A device that cannot import another device's semaphores waits for an *image* of the other timeline: a
//! timeline of its own, which the bridge signals once the other one has reached the value. The submitting
//! thread does not block, because Vulkan lets a queue wait for a timeline value whose signal is not submitted
//! yet. There is one thread per watched lane of a device, started at its first use. It sleeps in
//! `vkWaitSemaphores` for the lane's next step or a new task, whichever comes first; a task signals a *wake* timeline of
//! the same device. Without tasks it sleeps on a condition variable.
#![expect(unsafe_code, reason = "signalling timelines of other devices")]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ash::vk;

use super::callbacks::Callbacks;
use super::host_fence::{Callback, CallbackId};
use crate::device::{DeviceInner, QueueKind};
use crate::error::{Error, Result};

/// The bridge threads of an engine, for its own devices and for devices of other engines whose fences it was
/// given. They use the standard library's locks and not the model checker's, because they wait for a driver.
///
/// Devices are identified by address, because device ids repeat from engine to engine. The weak references
/// keep an address from being reused.
#[derive(Debug)]
pub(crate) struct Bridges {
    list: Mutex<Vec<(Weak<DeviceInner>, Arc<Bridge>)>>,
    /// How long tasks may still wait once the engine is dropped.
    last: Duration,
    /// Dropped after the bridges, whose last tasks are calls.
    callbacks: Arc<Callbacks>,
}

/// A thread that watches one lane.
#[derive(Debug)]
pub(super) struct Bridge {
    lane: QueueKind,
    last: Duration,
    queue: Arc<TaskQueue>,
    callbacks: Arc<Callbacks>,
    thread: Option<JoinHandle<()>>,
}

/// The tasks of one thread.
#[derive(Debug)]
struct TaskQueue {
    /// The watched device.
    source: Arc<DeviceInner>,
    /// A timeline of it, which is signalled with the state locked. It is destroyed with the queue.
    wake: vk::Semaphore,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tasks: Vec<Task>,
    /// When to stop waiting: set once, when the engine is dropped.
    end: Option<Instant>,
    /// The last value that the wake timeline was signalled with.
    woken: u64,
    /// Whether the thread waits for the next value of the wake timeline, too.
    asleep: bool,
}

/// An action for when the watched timeline has reached a value.
struct Task {
    value: u64,
    action: Action,
}

enum Action {
    /// Signals an image of the timeline, on another device.
    Show { target: Arc<DeviceInner>, image: vk::Semaphore },
    /// Calls a callback.
    Call { id: CallbackId },
}

/// How long the thread waits for a device's next step before it checks its tasks again, if no new task wakes it. So a
/// driver that fails to signal the wake timeline delays a task, and no more.
const SLICE: Duration = Duration::from_secs(1);
/// How long the thread pauses after a failed call.
const PAUSE: Duration = Duration::from_millis(1);

#[cfg(all(test, peerbuf_shuttle))]
impl Default for Bridges {
    fn default() -> Self {
        Self::new(Duration::from_secs(10))
    }
}

impl Bridges {
    pub(crate) fn new(last: Duration) -> Self {
        Self { list: Mutex::default(), last, callbacks: Arc::new(Callbacks::new(last)) }
    }

    /// Ends the threads that watch `source`, which has no unfinished work.
    pub(crate) fn forget(&self, source: &Arc<DeviceInner>) {
        let its = |(of, _): &mut (Weak<DeviceInner>, Arc<Bridge>)| {
            std::ptr::eq(of.as_ptr(), Arc::as_ptr(source))
        };
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let ended: Vec<_> = list.extract_if(.., its).collect();
        drop(list);
        // Without the lock: this waits for the threads.
        drop(ended);
    }

    /// The thread that watches a lane of `source`; starts it if there is none.
    pub(super) fn of(&self, source: &Arc<DeviceInner>, lane: QueueKind) -> Result<Arc<Bridge>> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(of, bridge): &&(Weak<DeviceInner>, Arc<Bridge>)| {
            std::ptr::eq(of.as_ptr(), Arc::as_ptr(source)) && bridge.lane == lane
        };
        if let Some((_, bridge)) = list.iter().find(known) {
            return Ok(Arc::clone(bridge));
        }
        let bridge = Arc::new(Bridge::start((source, lane), self.last, &self.callbacks)?);
        list.push((Arc::downgrade(source), Arc::clone(&bridge)));
        Ok(bridge)
    }
}

impl Bridge {
    fn start(
        (source, lane): (&Arc<DeviceInner>, QueueKind),
        last: Duration,
        callbacks: &Arc<Callbacks>,
    ) -> Result<Self> {
        let queue = Arc::new(TaskQueue::new(source)?);
        let callbacks = Arc::clone(callbacks);
        let (theirs, called) = (Arc::clone(&queue), Arc::clone(&callbacks));
        let thread = std::thread::Builder::new()
            .name(format!("peerbuf-bridge-{}", source.id().index()))
            .spawn(move || watch(lane, &theirs, &called))
            .map_err(|error| Error::os("clone (a thread)", errno(&error)))?;
        Ok(Self { lane, last, queue, callbacks, thread: Some(thread) })
    }

    /// Signals `image` once the watched timeline has reached `value`. `image` is a timeline of `target`, and
    /// only this thread signals it.
    pub(super) fn show(&self, value: u64, target: &Arc<DeviceInner>, image: vk::Semaphore) {
        let action = Action::Show { target: Arc::clone(target), image };
        self.queue.add(Task { value, action });
    }

    /// Calls `callback` on the thread for callbacks once the watched timeline has reached `value`.
    pub(super) fn call(&self, value: u64, callback: Callback) -> CallbackId {
        let id = self.callbacks.add(callback);
        self.queue.add(Task { value, action: Action::Call { id } });
        id
    }

    /// Removes a callback. Returns whether it was removed before it was called.
    pub(super) fn cancel(&self, id: CallbackId) -> bool {
        let is_other = |task: &Task| !matches!(task.action, Action::Call { id: of } if of == id);
        self.queue.state().tasks.retain(is_other);
        self.callbacks.remove(id)
    }
}

impl Drop for Bridge {
    /// Ends the thread. Its tasks are done first, for at most the bound of the end. After that they are done whether or
    /// not the device has reached their values, because other devices must not wait for ever.
    fn drop(&mut self) {
        self.queue.change(|state| state.end = Some(Instant::now() + self.last));
        let Some(thread) = self.thread.take() else { return };
        // This may run on the bridge's own thread: a task may own the last reference to a device.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("a bridge's thread panicked");
        }
    }
}

impl TaskQueue {
    fn new(source: &Arc<DeviceInner>) -> Result<Self> {
        let wake = source.create_timeline(0)?.into_raw();
        let (source, state, changed) = (Arc::clone(source), Mutex::default(), Condvar::new());
        Ok(Self { source, wake, state, changed })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, task: Task) {
        self.change(|state| state.tasks.push(task));
    }

    /// Changes the state, and wakes the thread.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        if std::mem::take(&mut state.asleep) {
            state.woken += 1;
            // SAFETY: a live timeline of the device, which is signalled here alone, with the state locked, and by one
            // more each time.
            let woken = unsafe { self.source.signal_timeline(self.wake, state.woken) };
            if let Err(error) = woken {
                tracing::debug!(%error, "a bridge's thread is not woken; it looks by itself");
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Sleeps until there is a task. `None` once the engine is dropped and no task is left.
    fn next(&self) -> Option<Option<Instant>> {
        let idle = |state: &mut State| state.tasks.is_empty() && state.end.is_none();
        let waited = self.changed.wait_while(self.state(), idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        (!state.tasks.is_empty()).then_some(state.end)
    }

    /// Removes the tasks whose values have been reached, in ascending order of the values.
    fn due(&self, reached: u64) -> Vec<Task> {
        let mut due: Vec<_> =
            self.state().tasks.extract_if(.., |task| task.value <= reached).collect();
        due.sort_by_key(|task| task.value);
        due
    }
}

impl Drop for TaskQueue {
    fn drop(&mut self) {
        // SAFETY: made in `new`; the thread that waits for it has a reference to this, so it has ended.
        unsafe { self.source.raw().destroy_semaphore(self.wake, None) };
    }
}

fn watch(lane: QueueKind, queue: &TaskQueue, callbacks: &Callbacks) {
    while let Some(end) = queue.next() {
        let over = end.is_some_and(|end| end <= Instant::now());
        if over {
            tracing::error!(
                device = queue.source.name(),
                "device still busy after the timeout; signalling its waiters early"
            );
        }
        let reached = if over { u64::MAX } else { progress(lane, queue, end) };
        for task in queue.due(reached) {
            // After the end time, each task is tried once.
            if let Err(task) = task.carry_out(callbacks)
                && !over
            {
                queue.add(task);
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Waits for the lane's next step or a new task, until `end`, unless a task is due; returns the value that the lane has
/// reached. A lost device counts as having reached every value.
fn progress(lane: QueueKind, queue: &TaskQueue, end: Option<Instant>) -> u64 {
    let source = &queue.source;
    let step = || {
        let reached = source.completed(lane)?;
        let mut state = queue.state();
        if state.tasks.iter().any(|task| task.value <= reached) {
            return Ok(reached);
        }
        // What is added from here on signals this value.
        state.asleep = true;
        let next = state.woken + 1;
        drop(state);
        let left = end.map_or(SLICE, |end| end.saturating_duration_since(Instant::now()));
        // Waits for the next step and not for a task's value: a task with an earlier value may be added
        // meanwhile.
        let waited = source.wait_beside(lane, reached + 1, (queue.wake, next), left.min(SLICE));
        queue.state().asleep = false;
        waited?;
        source.completed(lane)
    };
    step().unwrap_or_else(|error: Error| {
        if error.is_device_lost() {
            return u64::MAX;
        }
        std::thread::sleep(PAUSE);
        0
    })
}

impl Task {
    /// Carries the task out. `Err` with the task if it must be tried again.
    fn carry_out(self, callbacks: &Callbacks) -> Result<(), Self> {
        let Self { value, action } = self;
        let (target, image) = match action {
            Action::Show { target, image } => (target, image),
            Action::Call { id } => {
                callbacks.call(id);
                return Ok(());
            }
        };
        let shown = target.timeline_value(image).and_then(|shown| {
            if shown >= value {
                return Ok(());
            }
            // SAFETY: a live timeline of `target`, which is held here; only this thread signals it, and
            // it has not reached the value.
            unsafe { target.signal_timeline(image, value) }
        });
        match shown {
            Err(error) if !error.is_device_lost() => {
                tracing::warn!(%error, "signalling a timeline of another device failed; retrying");
                Err(Self { value, action: Action::Show { target, image } })
            }
            // Nothing waits on a lost device.
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("value", &self.value).finish_non_exhaustive()
    }
}

fn errno(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::AGAIN)
}
