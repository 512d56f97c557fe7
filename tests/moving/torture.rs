//! Everybody at once: four devices, 64 buffers, writers and readers on all of them, guests that come and go,
//! and one thread that moves everything all the time. Every byte is looked at.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::common::note::Note;
use crate::common::random::Random;
use crate::common::recorder::Recorder;
use crate::common::{Rig, bytes, say, soak};
use peerbuf::transfer::pattern_word;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Mapping,
    Migration, Result, SharedBuffer,
};

const BUFFERS: usize = 64;
/// Slots of many slabs, some that fill several pages, and few that have an allocation of their own.
const SIZES: [u64; 8] = [4, 256, 260, 4096, 20_000, 70_004, 300_000, 1 << 20];
const LARGE: u64 = (8 << 20) + 4;

const WRITERS: u64 = 2;
const READERS: u64 = 3;

/// A buffer that is written, read and moved by many.
struct Subject {
    id: usize,
    buffer: SharedBuffer,
    /// At home and at its twin: those of one adapter share all their memory.
    seats: [Attachment; 2],
    recorders: [Arc<Recorder>; 2],
    /// Moves that the mover was told of.
    moves: AtomicU64,
    /// Whether guests come, for whom it may have to move.
    guests: bool,
    /// The seed of the pattern that the last writer left. Writers take turns, and readers look while
    /// nobody writes; moves ask nobody.
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
        let sit = |index: usize| {
            let importer = Arc::clone(&recorders[index]);
            buffer.attach_dynamic(&pair[index], importer).expect("a seat")
        };
        let seats = [sit(0), sit(1)];
        seats[0].map(Access::Write).and_then(|mapping| mapping.fill(0)).expect("a pass");
        let (moves, guests, seed) = (AtomicU64::new(0), id % 4 == 3, RwLock::new(0));
        Self { id, buffer, seats, recorders, moves, guests, seed }
    }

    /// What an importer that refaults does: maps again until nothing came between.
    fn use_at<R>(
        &self,
        seat: &Attachment,
        access: Access,
        work: impl Fn(&Mapping) -> Result<R>,
    ) -> R {
        let mut mapping = patient(|| seat.map(access));
        loop {
            match work(&mapping) {
                Err(Error::Stale { .. }) => patient(|| seat.remap(&mut mapping)),
                other => return other.unwrap_or_else(|error| panic!("{}: {error}", self.id)),
            }
        }
    }

    fn write(&self, random: &mut Random, seed: u32) {
        let mut content = self.seed.write().unwrap_or_else(PoisonError::into_inner);
        if random.one_in(4) {
            let access = self.buffer.host_access(Access::Write).expect("the host writes");
            access.write(0, &pattern(seed, self.buffer.size())).expect("in bounds");
            access.end().expect("it ends");
        } else {
            let seat = random.pick(&self.seats);
            self.use_at(seat, Access::Write, |mapping| mapping.fill(seed));
        }
        *content = seed;
    }

    fn read(&self, engine: &Engine, devices: &[Device], random: &mut Random) {
        let seed = self.seed.read().unwrap_or_else(PoisonError::into_inner);
        match random.below(8) {
            0 => self.look_by_host(*seed),
            1 => self.look_at_a_copy(engine, random.pick(devices), *seed),
            2 if self.guests => self.look_as_a_guest(random.pick(devices), random, *seed),
            _ => self.look(random.pick(&self.seats), *seed),
        }
    }

    fn look(&self, seat: &Attachment, seed: u32) {
        let report = self.use_at(seat, Access::Read, |mapping| mapping.verify(seed));
        assert!(report.is_clean(), "{}: {} sees {report:?}", self.id, seat.device().name());
        assert_eq!(report.words, self.buffer.size() / 4);
    }

    fn look_by_host(&self, seed: u32) {
        let expected = pattern(seed, self.buffer.size());
        let what = format!("subject {} by the host", self.id);
        bytes::assert_same(&bytes::read(&self.buffer), &expected, &what);
    }

    /// Any device looks at a copy of its own, through staging memory where no one sees both.
    fn look_at_a_copy(&self, engine: &Engine, device: &Device, seed: u32) {
        let descriptor = BufferDescriptor::new(self.buffer.size());
        let copy = engine.create_buffer(device, descriptor).expect("there is room");
        let region = CopyRegion::first(self.buffer.size());
        drop(patient(|| engine.copy(&self.buffer, &copy, region)));
        let seat = copy.attach(device).expect("its own");
        let report = seat.map(Access::Read).and_then(|mapping| mapping.verify(seed));
        let report = report.expect("nobody moves the copy");
        assert!(report.is_clean(), "a copy of {}: {} sees {report:?}", self.id, device.name());
    }

    /// Any device sits down, whether or not the buffer has to move for it, looks, and leaves.
    fn look_as_a_guest(&self, device: &Device, random: &mut Random, seed: u32) {
        if random.one_in(2) {
            // It holds the buffer where it is while it looks.
            match patient_with(|| self.buffer.attach(device), is_seat_taken) {
                Some(seat) => self.look(&seat, seed),
                None => self.look_by_host(seed),
            }
            return;
        }
        let recorder = Recorder::new(random.one_in(2));
        let importer = || Arc::clone(&recorder) as _;
        let seat = patient(|| self.buffer.attach_dynamic(device, importer()));
        let since = self.buffer.generation();
        self.look(&seat, seed);
        drop(seat);
        // It was told of moves one after the other; of how many, others decide.
        let told = recorder.told();
        assert!(told.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{told:?}");
        assert!(told.first().is_none_or(|first| *first <= since), "{told:?} after {since}");
    }
}

fn is_seat_taken(error: &Error) -> bool {
    matches!(error, Error::AlreadyAttached { .. })
}

/// Does it until nobody is in the way. Everybody else lets go in bounded time.
fn patient<R>(work: impl FnMut() -> Result<R>) -> R {
    patient_with(work, |_| false).expect("no error is an answer")
}

/// The same; `None` for an error that is an answer.
fn patient_with<R>(
    mut work: impl FnMut() -> Result<R>,
    is_answer: impl Fn(&Error) -> bool,
) -> Option<R> {
    loop {
        match work() {
            Ok(result) => return Some(result),
            Err(error) if is_answer(&error) => return None,
            Err(Error::Busy { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The bytes of the pattern that devices write.
fn pattern(seed: u32, len: u64) -> Vec<u8> {
    // CAST: words of small buffers.
    (0..(len / 4) as u32).flat_map(|index| pattern_word(seed, index).to_le_bytes()).collect()
}

/// Moves everything all the time, until the others have done their work and it has come round twice.
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
            Ok(Migration::None) => {}
            Ok(Migration::Done { .. }) => {
                subject.moves.fetch_add(1, Ordering::Relaxed);
            }
            // Somebody looks at it, or sits there who cannot follow.
            Err(Error::Busy { .. }) => {}
            Err(Error::Unreachable { .. }) => assert!(subject.guests),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What was moved, and who was told.
fn settle(subjects: &[Subject]) {
    let mut moves = 0;
    for subject in subjects {
        let generation = subject.buffer.generation();
        let asked = subject.moves.load(Ordering::Relaxed);
        let told = Vec::from_iter(0..generation);
        for recorder in &subject.recorders {
            assert_eq!(recorder.told(), told, "subject {}: callbacks and moves", subject.id);
        }
        if subject.guests {
            assert!(asked <= generation.into(), "{asked} moves, generation {generation}");
        } else {
            assert_eq!(asked, generation.into(), "subject {}: moves and generation", subject.id);
        }
        moves += generation;
        let seed = subject.seed.read().unwrap_or_else(PoisonError::into_inner);
        subject.seats.iter().for_each(|seat| subject.look(seat, *seed));
        subject.look_by_host(*seed);
    }
    assert!(moves > 0, "nothing moved");
    say(&format!("torture: {moves} moves"));
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
    settle(&subjects);
}

#[test]
fn nothing_tears_while_everything_moves() {
    torture(&Rig::new(), soak::times(1000, 60));
}

#[test]
fn nor_where_the_host_cannot_map_device_memory() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    torture(&rig, soak::times(300, 20));
}
