//! Submissions in the order in which they run: each is judged after all that it waits for.
//!
//! A submission may wait for a timeline value that is signalled later. So it is kept until its waits are known.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ash::vk;

use super::bytes::{FileId, Stores};
use super::clock::{Clock, QueueId};
use super::part::Mark;
use super::places::{Finding, Op, Places, Running};

/// The number of a semaphore's payload, which several handles may have.
pub(super) type SemaphoreId = u64;

/// How many signals of one semaphore are kept. A wait for an older one counts as one for the next that is kept.
const POINTS: usize = 512;

#[derive(Debug)]
struct Semaphore {
    is_timeline: bool,
    /// It came from somewhere that is not known, and so do its signals.
    is_strange: bool,
    /// A value that the host has seen, of a timeline.
    done: u64,
    /// What has ended at each signal.
    points: BTreeMap<u64, Clock>,
    /// Signals and waits that were submitted, of a binary semaphore: its n-th signal has the value n.
    signals: u64,
    waits: u64,
}

impl Semaphore {
    /// What has ended once a wait for a value has; `None` if the signal is not known yet.
    fn reached(&self, value: u64) -> Option<Clock> {
        if self.is_timeline && value <= self.done {
            return Some(Clock::default());
        }
        if self.is_timeline {
            return self.points.range(value..).next().map(|(_, clock)| clock.clone());
        }
        self.points.get(&value).cloned()
    }
}

/// What a submission waits for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    Point(SemaphoreId, u64),
    /// Something that is not known: it may be anything that came before.
    Everything,
}

/// A batch of a submission, as it is told.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) waits: Vec<(vk::Semaphore, u64)>,
    pub(super) commands: Vec<Arc<Vec<Op>>>,
    pub(super) signals: Vec<(vk::Semaphore, u64)>,
    pub(super) fence: vk::Fence,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    waits: Vec<Wait>,
    commands: Vec<Arc<Vec<Op>>>,
    signals: Vec<(SemaphoreId, u64)>,
    fence: vk::Fence,
    /// What the host knew when it was submitted.
    host: Clock,
    /// The driver has taken it.
    is_accepted: bool,
}

#[derive(Debug)]
struct Queue {
    device: u32,
    family: u32,
    foreign: bool,
    clock: Clock,
    /// Submissions so far.
    submitted: u64,
    pending: VecDeque<Pending>,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    own: SemaphoreId,
    /// Imported until it is waited for.
    temporary: Option<SemaphoreId>,
}

/// All that is known of the devices of the process.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) stores: Stores,
    pub(super) places: Places,
    pub(super) findings: Vec<Finding>,
    names: Vec<String>,
    /// Devices that are lost or destroyed.
    gone: HashSet<u32>,
    /// What has ended as far as the host knows.
    host: Clock,
    queues: BTreeMap<QueueId, Queue>,
    last_queue: QueueId,
    semaphores: HashMap<SemaphoreId, Semaphore>,
    last_semaphore: SemaphoreId,
    handles: HashMap<(u32, vk::Semaphore), Handle>,
    files: HashMap<FileId, SemaphoreId>,
    fds: HashMap<i32, SemaphoreId>,
    fences: HashMap<(u32, vk::Fence), (QueueId, u64, Option<Clock>)>,
}

impl World {
    // ---- devices and queues ----

    pub(super) fn add_device(&mut self, name: &str) -> u32 {
        // CAST: a process makes few devices.
        let id = self.names.len() as u32;
        self.names.push(format!("{name} (device {id})"));
        id
    }

    /// The device is destroyed, or lost: what it has may have ended, and it owns nothing.
    pub(super) fn lose(&mut self, device: u32) {
        self.gone.insert(device);
    }

    pub(super) fn remove_device(&mut self, device: u32) {
        for id in self.queues_of(device) {
            self.force(id, u64::MAX);
            self.queues.remove(&id);
            self.host.forget(id);
        }
        self.gone.insert(device);
        self.handles.retain(|(of, _), _| *of != device);
        self.fences.retain(|(of, _), _| *of != device);
    }

    fn queues_of(&self, device: u32) -> Vec<QueueId> {
        let of = self.queues.iter().filter(|(_, queue)| queue.device == device);
        of.map(|(id, _)| *id).collect()
    }

    pub(super) fn add_queue(&mut self, device: u32, family: u32, foreign: bool) -> QueueId {
        self.last_queue += 1;
        let queue = Queue {
            device,
            family,
            foreign,
            clock: Clock::default(),
            submitted: 0,
            pending: VecDeque::new(),
        };
        self.queues.insert(self.last_queue, queue);
        self.last_queue
    }

    // ---- semaphores ----

    fn new_semaphore(&mut self, timeline: Option<u64>, is_strange: bool) -> SemaphoreId {
        self.last_semaphore += 1;
        let semaphore = Semaphore {
            is_timeline: timeline.is_some(),
            is_strange,
            done: timeline.unwrap_or(0),
            points: BTreeMap::new(),
            signals: 0,
            waits: 0,
        };
        self.semaphores.insert(self.last_semaphore, semaphore);
        self.last_semaphore
    }

    /// A new semaphore; a timeline has a value.
    pub(super) fn create_semaphore(
        &mut self,
        device: u32,
        raw: vk::Semaphore,
        timeline: Option<u64>,
    ) {
        let own = self.new_semaphore(timeline, false);
        self.handles.insert((device, raw), Handle { own, temporary: None });
    }

    pub(super) fn destroy_semaphore(&mut self, device: u32, raw: vk::Semaphore) {
        let Some(handle) = self.handles.remove(&(device, raw)) else { return };
        // An fd may bring it back later: then it is one of unknown origin.
        let has = |other: &Handle| other.own == handle.own || other.temporary == Some(handle.own);
        let is_used = self.handles.values().any(has);
        let is_waited_for = self.queues.values().flat_map(|queue| &queue.pending).any(|pending| {
            let waits = |wait: &Wait| matches!(wait, Wait::Point(id, _) if *id == handle.own);
            pending.waits.iter().any(waits)
        });
        if !is_used && !is_waited_for {
            self.semaphores.remove(&handle.own);
        }
    }

    fn present(&self, device: u32, raw: vk::Semaphore) -> Option<SemaphoreId> {
        let handle = self.handles.get(&(device, raw))?;
        Some(handle.temporary.unwrap_or(handle.own))
    }

    /// Its payload left as an fd, of a file that is told by its inode or not at all.
    pub(super) fn export_semaphore(
        &mut self,
        device: u32,
        raw: vk::Semaphore,
        (fd, file): (i32, Option<FileId>),
        is_copy: bool,
    ) {
        let Some(id) = self.present(device, raw) else { return };
        if is_copy {
            // The fd is a fence of its own, and the semaphore is as after a wait.
            if let Some(semaphore) = self.semaphores.get_mut(&id) {
                semaphore.waits = semaphore.signals;
            }
            self.fds.remove(&fd);
            return;
        }
        match file {
            Some(file) => drop(self.files.insert(file, id)),
            None => drop(self.fds.insert(fd, id)),
        }
    }

    /// A payload came as an fd.
    pub(super) fn import_semaphore(
        &mut self,
        device: u32,
        raw: vk::Semaphore,
        (fd, file): (i32, Option<FileId>),
        is_temporary: bool,
    ) {
        let is_timeline = self
            .handles
            .get(&(device, raw))
            .and_then(|handle| self.semaphores.get(&handle.own))
            .is_some_and(|own| own.is_timeline);
        let known = match file {
            Some(file) => self.files.get(&file).copied(),
            None => self.fds.remove(&fd),
        };
        let id = known.unwrap_or_else(|| self.new_semaphore(is_timeline.then_some(0), true));
        if let Some(handle) = self.handles.get_mut(&(device, raw)) {
            if is_temporary {
                handle.temporary = Some(id);
            } else {
                handle.own = id;
            }
        }
    }

    /// The host signals a timeline.
    pub(super) fn signal(&mut self, device: u32, raw: vk::Semaphore, value: u64) {
        let host = self.host.clone();
        if let Some(id) = self.present(device, raw) {
            self.add_point(id, value, host);
            self.settle();
        }
    }

    fn add_point(&mut self, id: SemaphoreId, value: u64, clock: Clock) {
        if let Some(semaphore) = self.semaphores.get_mut(&id) {
            semaphore.points.insert(value, clock);
            if semaphore.points.len() > POINTS {
                semaphore.points.pop_first();
            }
        }
    }

    // ---- submissions ----

    /// Takes down a batch that is about to be submitted. It counts once it is accepted.
    pub(super) fn submit(&mut self, queue: QueueId, batch: Batch) -> Option<u64> {
        let device = self.queues.get(&queue)?.device;
        let waits =
            batch.waits.iter().map(|(raw, value)| self.wait(device, *raw, *value)).collect();
        let mut signals = Vec::new();
        for (raw, value) in batch.signals {
            let Some(id) = self.present(device, raw) else { continue };
            let Some(semaphore) = self.semaphores.get_mut(&id) else { continue };
            semaphore.signals += 1;
            signals.push((id, if semaphore.is_timeline { value } else { semaphore.signals }));
        }
        let host = self.host.clone();
        let known = self.queues.get_mut(&queue)?;
        known.submitted += 1;
        let number = known.submitted;
        if batch.fence != vk::Fence::null() {
            self.fences.insert((device, batch.fence), (queue, number, None));
        }
        known.pending.push_back(Pending {
            number,
            waits,
            commands: batch.commands,
            signals,
            fence: batch.fence,
            host,
            is_accepted: false,
        });
        Some(number)
    }

    fn wait(&mut self, device: u32, raw: vk::Semaphore, value: u64) -> Wait {
        let Some(handle) = self.handles.get_mut(&(device, raw)) else { return Wait::Everything };
        let id = handle.temporary.take().unwrap_or(handle.own);
        match self.semaphores.get_mut(&id) {
            Some(semaphore) if semaphore.is_strange => Wait::Everything,
            Some(semaphore) if semaphore.is_timeline => Wait::Point(id, value),
            Some(semaphore) if semaphore.waits < semaphore.signals => {
                semaphore.waits = semaphore.signals;
                Wait::Point(id, semaphore.signals)
            }
            // Signalled by what is not seen here.
            _ => Wait::Everything,
        }
    }

    /// The driver has taken the submission, or refused it.
    pub(super) fn accept(&mut self, queue: QueueId, number: u64, is_accepted: bool) {
        let Some(known) = self.queues.get_mut(&queue) else { return };
        let Some(at) = known.pending.iter().position(|pending| pending.number == number) else {
            return;
        };
        if is_accepted {
            known.pending[at].is_accepted = true;
        } else {
            known.pending.remove(at);
        }
        self.settle();
    }

    /// Judges all submissions whose waits are known.
    fn settle(&mut self) {
        loop {
            let ready = self.queues.iter().find_map(|(id, queue)| {
                let first = queue.pending.front().filter(|first| first.is_accepted)?;
                first.waits.iter().all(|wait| self.is_known(*wait)).then_some(*id)
            });
            match ready {
                Some(id) => self.judge_first(id),
                None => return,
            }
        }
    }

    fn is_known(&self, wait: Wait) -> bool {
        let Wait::Point(id, value) = wait else { return true };
        let semaphore = self.semaphores.get(&id).filter(|semaphore| !semaphore.is_strange);
        semaphore.is_none_or(|semaphore| semaphore.reached(value).is_some())
    }

    /// What has ended once a wait has; `None` if its signal is not known yet.
    fn resolve(&self, wait: Wait) -> Option<Clock> {
        match wait {
            Wait::Everything => Some(self.everything()),
            Wait::Point(id, value) => match self.semaphores.get(&id) {
                Some(semaphore) if !semaphore.is_strange => semaphore.reached(value),
                _ => Some(self.everything()),
            },
        }
    }

    fn everything(&self) -> Clock {
        let mut all = self.host.clone();
        for queue in self.queues.values() {
            all.join(&queue.clock);
        }
        all
    }

    /// Judges the submissions of a queue up to one that is known to have ended.
    fn force(&mut self, queue: QueueId, until: u64) {
        while let Some(known) = self.queues.get(&queue)
            && known.pending.front().is_some_and(|first| first.number <= until)
        {
            self.judge_first(queue);
        }
    }

    fn judge_first(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(pending) = queue.pending.pop_front() else { return };
        let mut clock = queue.clock.clone();
        let (device, family, foreign) = (queue.device, queue.family, queue.foreign);
        clock.join(&pending.host);
        for wait in &pending.waits {
            let reached = self.resolve(*wait).unwrap_or_else(|| self.everything());
            clock.join(&reached);
            if let Wait::Point(id, value) = wait
                && let Some(semaphore) = self.semaphores.get_mut(id)
                && !semaphore.is_timeline
            {
                semaphore.points.remove(value);
            }
        }
        let number = pending.number;
        clock.raise(id, number);
        let running = Running {
            mark: Mark { device, family, queue: id, number, command: "", foreign },
            clock: &clock,
            names: &self.names,
            gone: &self.gone,
        };
        for op in pending.commands.iter().flat_map(|commands| commands.iter()) {
            self.places.run(op, &running, &mut self.findings);
        }
        for (semaphore, value) in pending.signals {
            self.add_point(semaphore, value, clock.clone());
        }
        if let Some((of, last, ended)) = self.fences.get_mut(&(device, pending.fence))
            && (*of, *last) == (id, number)
        {
            *ended = Some(clock.clone());
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.clock = clock;
        }
    }

    // ---- what the host sees ----

    /// The host has seen a value of a timeline.
    pub(super) fn saw_value(&mut self, device: u32, raw: vk::Semaphore, value: u64) {
        let Some(id) = self.present(device, raw) else { return };
        let Some(semaphore) = self.semaphores.get(&id) else { return };
        if value <= semaphore.done {
            return;
        }
        if semaphore.points.range(value..).next().is_none() {
            // The submission that signals it has ended, whatever it waited for.
            let signals = |pending: &Pending| {
                pending.signals.iter().any(|(of, to)| *of == id && *to <= value)
            };
            let ended = self.queues.iter().filter_map(|(queue, known)| {
                let last = known.pending.iter().rev().find(|pending| signals(pending))?;
                Some((*queue, last.number))
            });
            let ended: Vec<_> = ended.collect();
            for (queue, number) in ended {
                self.force(queue, number);
            }
        }
        if let Some(semaphore) = self.semaphores.get_mut(&id) {
            semaphore.done = value;
            let later = semaphore.points.split_off(&value.saturating_add(1));
            for clock in std::mem::replace(&mut semaphore.points, later).into_values() {
                self.host.join(&clock);
            }
        }
        self.settle();
    }

    pub(super) fn saw_fence(&mut self, device: u32, fence: vk::Fence) {
        let Some((queue, number, _)) = self.fences.get(&(device, fence)) else { return };
        let (queue, number) = (*queue, *number);
        self.force(queue, number);
        if let Some((_, _, Some(clock))) = self.fences.get(&(device, fence)) {
            self.host.join(clock);
        }
        self.settle();
    }

    pub(super) fn forget_fence(&mut self, device: u32, fence: vk::Fence) {
        self.fences.remove(&(device, fence));
    }

    pub(super) fn saw_queue_idle(&mut self, queue: QueueId) {
        self.force(queue, u64::MAX);
        if let Some(known) = self.queues.get(&queue) {
            self.host.join(&known.clock);
        }
        self.settle();
    }

    pub(super) fn saw_device_idle(&mut self, device: u32) {
        for queue in self.queues_of(device) {
            self.saw_queue_idle(queue);
        }
    }
}
