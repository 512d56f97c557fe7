//! The bridge: threads of the host that watch a device's timeline for others.
//!
//! A device that cannot take another one's semaphores in waits for an *image* of its timeline: a timeline
//! of its own that the bridge signals when the other one has come as far. So whoever submits does not
//! block: Vulkan lets a queue wait for a timeline value that nobody has promised yet. One thread per
//! watched lane of a device, started when it is first needed; it sleeps in `vkWaitSemaphores`, or, with nothing to
//! do, on a condition variable.
#![expect(unsafe_code, reason = "signalling timelines of other devices")]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ash::vk;

use super::event::{Callback, CallbackId, call};
use crate::device::{DeviceInner, QueueKind};
use crate::error::{Error, Result};

/// The threads of an engine, for its own devices and for those of others whose fences it was given. They
/// are not the model checker's: what they wait for is a driver.
///
/// Devices are told apart by their addresses, which weak ones keep from being used again: numbers of
/// devices repeat from engine to engine.
#[derive(Debug, Default)]
pub(crate) struct Bridges(Mutex<Vec<(Weak<DeviceInner>, Arc<Bridge>)>>);

/// The thread that watches one lane.
#[derive(Debug)]
pub(super) struct Bridge {
    lane: QueueKind,
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// Where orders lie.
#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    orders: Vec<Order>,
    /// When to stop waiting: set once, when the engine goes.
    end: Option<Instant>,
}

/// Something to do when the watched timeline has reached a value.
struct Order {
    value: u64,
    task: Task,
}

enum Task {
    /// Signal an image of the timeline, on another device.
    Show { target: Arc<DeviceInner>, image: vk::Semaphore },
    /// Call somebody.
    Call { id: CallbackId, callback: Callback },
}

/// How long the thread waits for a device's next step before it looks at its orders again: one of a step
/// that was taken while the order was on its way would otherwise lie there until the next one.
const SLICE: Duration = Duration::from_millis(20);
/// How long it pauses after a call that failed for reasons of its own.
const PAUSE: Duration = Duration::from_millis(1);
/// How long work may still take when the engine goes.
const LAST: Duration = Duration::from_secs(10);

impl Bridges {
    /// The thread that watches a lane of `source`.
    pub(super) fn of(&self, source: &Arc<DeviceInner>, lane: QueueKind) -> Result<Arc<Bridge>> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(of, bridge): &&(Weak<DeviceInner>, Arc<Bridge>)| {
            std::ptr::eq(of.as_ptr(), Arc::as_ptr(source)) && bridge.lane == lane
        };
        if let Some((_, bridge)) = list.iter().find(known) {
            return Ok(Arc::clone(bridge));
        }
        let bridge = Arc::new(Bridge::start(source, lane)?);
        list.push((Arc::downgrade(source), Arc::clone(&bridge)));
        Ok(bridge)
    }
}

impl Bridge {
    fn start(source: &Arc<DeviceInner>, lane: QueueKind) -> Result<Self> {
        let desk = Arc::<Desk>::default();
        let (theirs, source) = (Arc::clone(&desk), Arc::clone(source));
        let thread = std::thread::Builder::new()
            .name(format!("peerbuf-bridge-{}", source.id().index()))
            .spawn(move || watch((&source, lane), &theirs))
            .map_err(|error| Error::os("clone (a thread)", errno(&error)))?;
        Ok(Self { lane, desk, thread: Some(thread) })
    }

    /// Signals `image`, a timeline of `target` that nobody else signals, when the watched one has
    /// reached `value`.
    pub(super) fn show(&self, value: u64, target: &Arc<DeviceInner>, image: vk::Semaphore) {
        let task = Task::Show { target: Arc::clone(target), image };
        self.desk.order(Order { value, task });
    }

    /// Calls `callback` when the watched timeline has reached `value`, on the bridge's thread.
    pub(super) fn call(&self, value: u64, callback: Callback) -> CallbackId {
        let id = CallbackId::new();
        self.desk.order(Order { value, task: Task::Call { id, callback } });
        id
    }

    /// Takes a callback back; whether it had not been called, and now will not be.
    pub(super) fn cancel(&self, id: CallbackId) -> bool {
        let ours = |order: &mut Order| matches!(order.task, Task::Call { id: of, .. } if of == id);
        let cancelled: Vec<_> = self.desk.state().orders.extract_if(.., ours).collect();
        // Dropped without the lock: it is somebody else's code.
        !cancelled.is_empty()
    }
}

impl Drop for Bridge {
    /// Ends the thread. What was ordered is done first, within [`LAST`]; after that it is done whether
    /// or not the device has come so far, since others must not wait for ever.
    fn drop(&mut self) {
        self.desk.state().end = Some(Instant::now() + LAST);
        self.desk.changed.notify_one();
        let Some(thread) = self.thread.take() else { return };
        // A callback may have dropped the last of the engine.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("a bridge's thread panicked");
        }
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        self.state().orders.push(order);
        self.changed.notify_one();
    }

    /// Sleeps until there is an order; `None` if none will come any more.
    fn next(&self) -> Option<Option<Instant>> {
        let idle = |state: &mut State| state.orders.is_empty() && state.end.is_none();
        let waited = self.changed.wait_while(self.state(), idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        (!state.orders.is_empty()).then_some(state.end)
    }

    /// Those orders whose value has been reached, in its order.
    fn due(&self, reached: u64) -> Vec<Order> {
        let mut due: Vec<_> =
            self.state().orders.extract_if(.., |order| order.value <= reached).collect();
        due.sort_by_key(|order| order.value);
        due
    }
}

fn watch((source, lane): (&DeviceInner, QueueKind), desk: &Desk) {
    while let Some(end) = desk.next() {
        let over = end.is_some_and(|end| end <= Instant::now());
        if over {
            tracing::error!(device = source.name(), "did not finish; those who wait are let go");
        }
        let reached = if over { u64::MAX } else { progress((source, lane), desk) };
        for order in desk.due(reached) {
            // At the end it is tried once.
            if let Err(order) = order.carry_out()
                && !over
            {
                desk.order(order);
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Waits for the lane's next step if nothing is due yet; how far it has come. A device that is lost
/// has come to its end.
fn progress((source, lane): (&DeviceInner, QueueKind), desk: &Desk) -> u64 {
    let step = || {
        let reached = source.completed(lane)?;
        if desk.state().orders.iter().any(|order| order.value <= reached) {
            return Ok(reached);
        }
        // The next step and not the ordered value: an earlier one may be ordered meanwhile.
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

impl Order {
    /// Does it. `Err` with the order if it has to be tried again.
    fn carry_out(self) -> Result<(), Self> {
        let Self { value, task } = self;
        let Task::Show { target, image } = task else {
            if let Task::Call { callback, .. } = task {
                call(callback);
            }
            return Ok(());
        };
        let shown = target.timeline_value(image).and_then(|shown| {
            if shown >= value {
                return Ok(());
            }
            // SAFETY: a live timeline of `target`, which is held here; only this thread signals it, and
            // it has not come as far.
            unsafe { target.signal_timeline(image, value) }
        });
        match shown {
            Err(error) if !error.is_device_lost() => {
                tracing::warn!(%error, "signalling across devices is tried again");
                Err(Self { value, task: Task::Show { target, image } })
            }
            // A lost device waits for nothing.
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order").field("value", &self.value).finish_non_exhaustive()
    }
}

fn errno(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::AGAIN)
}
