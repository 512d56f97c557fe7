//! The bridge: host threads that watch one device's timeline on behalf of other devices.
//!
//! A device that cannot import another device's semaphores waits for an *image* of the other timeline: a
//! timeline of its own, which the bridge signals once the other one has reached the value. The submitting
//! thread does not block, because Vulkan lets a queue wait for a timeline value whose signal is not submitted
//! yet. There is one thread per watched lane of a device, started at its first use. It sleeps in
//! `vkWaitSemaphores`, or, without tasks, on a condition variable.
#![expect(unsafe_code, reason = "signalling timelines of other devices")]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ash::vk;

use super::host_fence::{Callback, CallbackId, call};
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
}

/// A thread that watches one lane.
#[derive(Debug)]
pub(super) struct Bridge {
    lane: QueueKind,
    last: Duration,
    queue: Arc<TaskQueue>,
    thread: Option<JoinHandle<()>>,
}

/// The tasks of one thread.
#[derive(Debug, Default)]
struct TaskQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tasks: Vec<Task>,
    /// When to stop waiting: set once, when the engine is dropped.
    end: Option<Instant>,
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
    Call { id: CallbackId, callback: Callback },
}

/// How long the thread waits for a device's next step before it checks its tasks again. Without this limit, a
/// task added just after its value was reached would stay until the following step.
const SLICE: Duration = Duration::from_millis(20);
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
        Self { list: Mutex::default(), last }
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
        let bridge = Arc::new(Bridge::start(source, lane, self.last)?);
        list.push((Arc::downgrade(source), Arc::clone(&bridge)));
        Ok(bridge)
    }
}

impl Bridge {
    fn start(source: &Arc<DeviceInner>, lane: QueueKind, last: Duration) -> Result<Self> {
        let queue = Arc::<TaskQueue>::default();
        let (theirs, source) = (Arc::clone(&queue), Arc::clone(source));
        let thread = std::thread::Builder::new()
            .name(format!("peerbuf-bridge-{}", source.id().index()))
            .spawn(move || watch((&source, lane), &theirs))
            .map_err(|error| Error::os("clone (a thread)", errno(&error)))?;
        Ok(Self { lane, last, queue, thread: Some(thread) })
    }

    /// Signals `image` once the watched timeline has reached `value`. `image` is a timeline of `target`, and
    /// only this thread signals it.
    pub(super) fn show(&self, value: u64, target: &Arc<DeviceInner>, image: vk::Semaphore) {
        let action = Action::Show { target: Arc::clone(target), image };
        self.queue.add(Task { value, action });
    }

    /// Calls `callback` on the bridge's thread once the watched timeline has reached `value`.
    pub(super) fn call(&self, value: u64, callback: Callback) -> CallbackId {
        let id = CallbackId::new();
        self.queue.add(Task { value, action: Action::Call { id, callback } });
        id
    }

    /// Removes a callback. Returns whether it was removed before it was called.
    pub(super) fn cancel(&self, id: CallbackId) -> bool {
        let ours = |task: &mut Task| matches!(task.action, Action::Call { id: of, .. } if of == id);
        let cancelled: Vec<_> = self.queue.state().tasks.extract_if(.., ours).collect();
        // Dropped without the lock: the drop of a callback is code of the caller.
        !cancelled.is_empty()
    }
}

impl Drop for Bridge {
    /// Ends the thread. Its tasks are done first, for at most the bound of the end. After that they are done whether or
    /// not the device has reached their values, because other devices must not wait for ever.
    fn drop(&mut self) {
        self.queue.state().end = Some(Instant::now() + self.last);
        self.queue.changed.notify_one();
        let Some(thread) = self.thread.take() else { return };
        // This may run on the bridge's own thread: a callback may have dropped the engine.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("a bridge's thread panicked");
        }
    }
}

impl TaskQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, task: Task) {
        self.state().tasks.push(task);
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

fn watch((source, lane): (&DeviceInner, QueueKind), queue: &TaskQueue) {
    while let Some(end) = queue.next() {
        let over = end.is_some_and(|end| end <= Instant::now());
        if over {
            tracing::error!(
                device = source.name(),
                "device still busy after the timeout; signalling its waiters early"
            );
        }
        let reached = if over { u64::MAX } else { progress((source, lane), queue) };
        for task in queue.due(reached) {
            // After the end time, each task is tried once.
            if let Err(task) = task.carry_out()
                && !over
            {
                queue.add(task);
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Waits for the lane's next step unless a task is due; returns the value that the lane has reached. A lost
/// device counts as having reached every value.
fn progress((source, lane): (&DeviceInner, QueueKind), queue: &TaskQueue) -> u64 {
    let step = || {
        let reached = source.completed(lane)?;
        if queue.state().tasks.iter().any(|task| task.value <= reached) {
            return Ok(reached);
        }
        // Waits for the next step and not for a task's value: a task with an earlier value may be added
        // meanwhile.
        source.wait(lane, reached + 1, SLICE)?;
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
    fn carry_out(self) -> Result<(), Self> {
        let Self { value, action } = self;
        let Action::Show { target, image } = action else {
            if let Action::Call { callback, .. } = action {
                call(callback);
            }
            return Ok(());
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
