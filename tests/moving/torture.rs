//! All operations concurrently: four devices, 64 buffers, writers and readers on all of them, temporary
//! attachments, and one thread that moves buffers continuously. Every byte is verified.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::common::note::Note;
use crate::common::random::Random;
use crate::common::recorder::Recorder;
use crate::common::until::rounds;
use crate::common::{Rig, bytes, say, soak};
use peerbuf::observe::MoveCause;
use peerbuf::transfer::pattern_word;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Mapping,
    Migration, Result, SharedBuffer,
};

const BUFFERS: usize = 64;
/// Slots of many slabs, some of several pages, and a few sizes with their own allocation.
const SIZES: [u64; 8] = [4, 256, 260, 4096, 20_000, 70_004, 300_000, 1 << 20];
const LARGE: u64 = (8 << 20) + 4;

const WRITERS: u64 = 2;
const READERS: u64 = 3;

/// A buffer that several threads write, read and move.
struct Subject {
    id: usize,
    buffer: SharedBuffer,
    /// Attachments of the home device and its twin. Devices of one adapter share all their memory.
    attachments: [Attachment; 2],
    recorders: [Arc<Recorder>; 2],
    /// Moves that `migrate` reported as done.
    moves: AtomicU64,
    /// Whether temporary attachments are made, which may require a move.
    transient: bool,
    /// The seed of the last written pattern. The lock orders writers, and readers verify while no writer runs.
    /// Moves do not take it.
    seed: RwLock<u32>,
}

impl Subject {
    fn new(engine: &Engine, pairs: &[[Device; 2]], id: usize) -> Self {
        let pair = &pairs[id % pairs.len()];
        let home = &pair[id / pairs.len() % 2];
        let size = if id % 32 == 7 { LARGE } else { SIZES[id % SIZES.len()] };
        let descriptor = BufferDescriptor::new(size).name(&format!("subject {id}"));
        let buffer = engine.create_buffer(home, descriptor).expect("there is room");
        let recorders = [(); 2].map(|()| Recorder::new(true));
        let attach = |index: usize| {
            let importer = Arc::clone(&recorders[index]);
            buffer.attach_dynamic(&pair[index], importer).expect("attached")
        };
        let attachments = [attach(0), attach(1)];
        attachments[0].map(Access::Write).and_then(|mapping| mapping.fill(0)).expect("a pass");
        let (moves, transient, seed) = (AtomicU64::new(0), id % 4 == 3, RwLock::new(0));
        Self { id, buffer, attachments, recorders, moves, transient, seed }
    }

    /// Remaps until no move interrupts `work`, as a refaulting importer does.
    fn use_at<R>(
        &self,
        attachment: &Attachment,
        access: Access,
        work: impl Fn(&Mapping) -> Result<R>,
    ) -> R {
        let mut mapping = retry_while_busy(|| attachment.map(access));
        for _ in rounds() {
            match work(&mapping) {
                Err(Error::Stale { .. }) => retry_while_busy(|| attachment.remap(&mut mapping)),
                other => return other.unwrap_or_else(|error| panic!("{}: {error}", self.id)),
            }
        }
        panic!("{}: every mapping was stale: {}", self.id, self.buffer.explain());
    }

    fn write(&self, random: &mut Random, seed: u32) {
        let mut content = self.seed.write().unwrap_or_else(PoisonError::into_inner);
        if random.one_in(4) {
            let access = self.buffer.host_access(Access::Write).expect("the host writes");
            access.write(0, &pattern(seed, self.buffer.size())).expect("in range");
            access.end().expect("it ends");
        } else {
            let attachment = random.pick(&self.attachments);
            self.use_at(attachment, Access::Write, |mapping| mapping.fill(seed));
        }
        *content = seed;
    }

    fn read(&self, engine: &Engine, devices: &[Device], random: &mut Random) {
        let seed = self.seed.read().unwrap_or_else(PoisonError::into_inner);
        match random.below(8) {
            0 => self.verify_by_host(*seed),
            1 => self.verify_copy(engine, random.pick(devices), *seed),
            2 if self.transient => self.verify_transient(random.pick(devices), random, *seed),
            _ => self.verify_on(random.pick(&self.attachments), *seed),
        }
    }

    fn verify_on(&self, attachment: &Attachment, seed: u32) {
        let report = self.use_at(attachment, Access::Read, |mapping| mapping.verify(seed));
        assert!(report.is_clean(), "{}: {} sees {report:?}", self.id, attachment.device().name());
        assert_eq!(report.words, self.buffer.size() / 4);
    }

    fn verify_by_host(&self, seed: u32) {
        let expected = pattern(seed, self.buffer.size());
        let what = format!("subject {} by the host", self.id);
        bytes::assert_same(&bytes::read(&self.buffer), &expected, &what);
    }

    /// Verifies a copy on any device. The copy uses staging memory if no device sees both buffers.
    fn verify_copy(&self, engine: &Engine, device: &Device, seed: u32) {
        let descriptor = BufferDescriptor::new(self.buffer.size());
        let copy = engine.create_buffer(device, descriptor).expect("there is room");
        let region = CopyRegion::first(self.buffer.size());
        drop(retry_while_busy(|| engine.copy(&self.buffer, &copy, region)));
        let attachment = copy.attach(device).expect("attached");
        let report = attachment.map(Access::Read).and_then(|mapping| mapping.verify(seed));
        let report = report.expect("the copy does not move");
        assert!(report.is_clean(), "a copy of {}: {} sees {report:?}", self.id, device.name());
    }

    /// Attaches any device, which may move the buffer, verifies, and detaches.
    fn verify_transient(&self, device: &Device, random: &mut Random, seed: u32) {
        if random.one_in(2) {
            // A static mapping pins the buffer while it verifies.
            match retry_while_busy_or(|| self.buffer.attach(device), is_already_attached) {
                Some(attachment) => self.verify_on(&attachment, seed),
                None => self.verify_by_host(seed),
            }
            return;
        }
        let recorder = Recorder::new(random.one_in(2));
        let importer = || Arc::clone(&recorder) as _;
        let attachment = retry_while_busy(|| self.buffer.attach_dynamic(device, importer()));
        let since = self.buffer.generation();
        self.verify_on(&attachment, seed);
        drop(attachment);
        // It was notified of consecutive generations. Their number depends on other threads.
        let notified = recorder.invalidated();
        assert!(notified.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{notified:?}");
        assert!(notified.first().is_none_or(|first| *first <= since), "{notified:?} after {since}");
    }
}

fn is_already_attached(error: &Error) -> bool {
    matches!(error, Error::AlreadyAttached { .. })
}

/// Repeats `work` while the buffer is busy. All other threads release it in bounded time.
fn retry_while_busy<R>(work: impl FnMut() -> Result<R>) -> R {
    retry_while_busy_or(work, |_| false).expect("no error is an answer")
}

/// Repeats `work` while the buffer is busy. Returns `None` for an error that `is_answer` accepts.
fn retry_while_busy_or<R>(
    mut work: impl FnMut() -> Result<R>,
    is_answer: impl Fn(&Error) -> bool,
) -> Option<R> {
    let mut busy = None;
    for _ in rounds() {
        match work() {
            Ok(result) => return Some(result),
            Err(error) if is_answer(&error) => return None,
            Err(error @ Error::Busy { .. }) => busy = Some(error),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it was busy each time: {busy:?}");
}

/// The bytes of the pattern that devices write.
fn pattern(seed: u32, len: u64) -> Vec<u8> {
    // CAST: words of small buffers.
    (0..(len / 4) as u32).flat_map(|index| pattern_word(seed, index).to_le_bytes()).collect()
}

/// Moves buffers until the other threads are done and at least two rounds are over.
fn keep_moving(
    subjects: &[Subject],
    pairs: &[[Device; 2]],
    done: &AtomicBool,
    random: &mut Random,
) {
    let mut asked = 0;
    while asked < 2 * BUFFERS || !done.load(Ordering::Acquire) {
        let subject = if asked < BUFFERS { &subjects[asked] } else { random.pick(subjects) };
        asked += 1;
        let pair = &pairs[subject.id % pairs.len()];
        let to = match random.below(3) {
            0 => DomainId::System,
            side => DomainId::Vram(pair[side as usize - 1].id()),
        };
        match subject.buffer.migrate(to) {
            Ok(Migration::Done { .. }) => {
                subject.moves.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            // A thread uses the buffer, or an attached device cannot reach the target.
            Err(Error::Busy { .. }) => {}
            Err(Error::Unreachable { .. }) => assert!(subject.transient),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Checks that moves, generations and notifications agree. The engine moves buffers by itself to compact, where a provider
/// has no memory left, and to the GPU that uses them most.
fn check_moves(engine: &Engine, subjects: &[Subject]) {
    let by_itself = [MoveCause::Compacted, MoveCause::AutoMigrated];
    let by_itself: u64 = by_itself.map(|cause| engine.moved(cause).moves).iter().sum();
    let (mut moves, mut unasked) = (0, 0);
    for subject in subjects {
        let (id, generation) = (subject.id, subject.buffer.generation());
        let asked = subject.moves.load(Ordering::Relaxed);
        let notified = Vec::from_iter(0..generation);
        for recorder in &subject.recorders {
            assert_eq!(recorder.invalidated(), notified, "subject {id}: callbacks and moves");
        }
        assert!(asked <= generation.into(), "subject {id}: {asked} moves, generation {generation}");
        if !subject.transient {
            unasked += u64::from(generation) - asked;
            let why = subject.buffer.explain();
            assert!(unasked <= by_itself, "subject {id}: {unasked} of {by_itself} moves; {why}");
        }
        moves += generation;
        let seed = subject.seed.read().unwrap_or_else(PoisonError::into_inner);
        subject.attachments.iter().for_each(|attachment| subject.verify_on(attachment, *seed));
        subject.verify_by_host(*seed);
    }
    assert!(moves > 0, "nothing moved");
    say(&format!("torture: {moves} moves, {unasked} of {by_itself} by the engine itself"));
}

fn torture(rig: &Rig, operations: u32) {
    let pairs: Vec<[Device; 2]> =
        rig.twice_each().chunks_exact(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect();
    let devices: Vec<Device> = pairs.iter().flatten().cloned().collect();
    let engine = rig.engine();
    let subjects: Vec<_> = (0..BUFFERS).map(|id| Subject::new(engine, &pairs, id)).collect();
    let (seeds, done) = (AtomicU64::new(1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (subjects, pairs, devices) = (&subjects, &pairs, &devices);
        let (seeds, done) = (&seeds, &done);
        scope.spawn(move || keep_moving(subjects, pairs, done, &mut Random::new(0)));
        let workers = (1..=WRITERS + READERS).map(|thread| {
            scope.spawn(move || {
                let mut random = Random::new(thread);
                for operation in 0..operations {
                    let subject = random.pick(subjects);
                    let _note = Note(format!("thread {thread}, {operation}, {}", subject.id));
                    if thread <= WRITERS {
                        // CAST: seeds of patterns.
                        let seed = seeds.fetch_add(1, Ordering::Relaxed) as u32;
                        subject.write(&mut random, seed);
                    } else {
                        subject.read(engine, devices, &mut random);
                    }
                }
            })
        });
        let ends: Vec<_> = workers.collect::<Vec<_>>().into_iter().map(|w| w.join()).collect();
        done.store(true, Ordering::Release);
        ends.into_iter().for_each(|end| end.expect("no thread fails"));
    });
    check_moves(engine, &subjects);
}

#[test]
fn nothing_tears_while_everything_moves() {
    torture(&Rig::new(), soak::times(1000, 60));
}

#[test]
fn nothing_tears_where_the_host_cannot_map_device_memory() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    torture(&rig, soak::times(300, 20));
}
