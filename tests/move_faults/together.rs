//! Several buffers: submissions that wait for other devices, moves together, revocations.

use std::sync::Arc;

use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, DomainKind, Engine, Error, Mapping,
    Migration, Result, SharedBuffer,
};

use crate::common::gate::Gate;
use crate::common::reach::{Guest, can_live};
use crate::common::recorder::Recorder;
use crate::common::{bytes, commands};
use crate::{Fault, LONG, is_wrong, read};

/// Three that a device copies, and one that the host copies.
const SIZES: [u64; 4] = [70_000, 70_000, 70_000, 4096];

/// A buffer, with all devices at it.
struct Shared<'a> {
    devices: [&'a Device; 2],
    buffer: SharedBuffer,
    /// Since when they sit there.
    seats: Vec<(Attachment, Arc<Recorder>, u32)>,
    mappings: Vec<Mapping>,
    word: u32,
}

/// All of them.
struct Scene<'a> {
    engine: &'a Engine,
    fault: Fault,
    all: Vec<Shared<'a>>,
    failed: Vec<&'static str>,
}

impl Shared<'_> {
    fn check(&self) {
        let expected = self.word.to_ne_bytes().into_iter().cycle();
        // CAST: a small buffer.
        let expected: Vec<u8> = expected.take(self.buffer.size() as usize).collect();
        // The one fault may be met here as well.
        let actual = read(&self.buffer).or_else(|_| read(&self.buffer)).expect("one fault");
        bytes::assert_same(&actual, &expected, "the host");
    }

    /// Told once of each move, except of those that failed or were none.
    fn check_told(&self) {
        for (_, recorder, since) in &self.seats {
            let mut told = recorder.told();
            told.dedup();
            let now = self.buffer.generation();
            let end = now + u32::from(told.last() == Some(&now));
            assert_eq!(told, Vec::from_iter(*since..end), "callbacks");
        }
    }
}

impl<'a> Scene<'a> {
    /// Does `work`, and a second time if it failed; then it has changed nothing.
    fn step<R>(&mut self, what: &'static str, work: impl FnMut() -> Result<R>) -> R {
        let (result, failed) = self.fault.survive(what, work, || {});
        self.failed.extend(failed);
        result
    }

    fn create(&mut self, devices: [&'a Device; 2], size: u64) {
        let engine = self.engine;
        let buffer =
            self.step("create", || engine.create_buffer(devices[0], BufferDescriptor::new(size)));
        let (mut seats, mut mappings) = (vec![], vec![]);
        for device in devices {
            let recorder = Recorder::new(true);
            let seat =
                self.step("attach", || buffer.attach_dynamic(device, Arc::clone(&recorder) as _));
            seats.push((seat, recorder, buffer.generation()));
        }
        // When nobody moves it any more to take in the next one.
        for (seat, ..) in &seats {
            mappings.push(self.step("map", || seat.map(Access::ReadWrite)));
        }
        // In place and zero before anything stands still.
        self.step("warm", || mappings[0].fill(0));
        let mut shared = Shared { devices, buffer, seats, mappings, word: 0 };
        self.fill(&mut shared, 0, 0x0101_0101);
        self.all.push(shared);
    }

    fn fill(&mut self, shared: &mut Shared<'_>, by: usize, word: u32) {
        let engine = self.engine;
        self.step("fill", || {
            commands::fill(engine, shared.devices[by], &shared.mappings[by], word)
        });
        shared.word = word;
    }

    /// One device writes, and the other one copies what it wrote: behind it, or not at all. Nobody waits:
    /// the writer's queue stands still until both are submitted.
    fn hand_over(&mut self, writer: usize, word: u32) {
        let (engine, fault, reader) = (self.engine, self.fault, 1 - writer);
        let mut all = std::mem::take(&mut self.all);
        let [one, two, ..] = all.as_mut_slice() else { panic!("there are several") };
        let gate = Gate::close(one.devices[writer]);
        self.fill(one, writer, word);
        let copy = || {
            commands::copy(
                engine,
                one.devices[reader],
                &one.mappings[reader],
                &two.mappings[reader],
            )
        };
        let copied = copy();
        gate.open();
        let copied = match copied {
            Ok(fence) => fence,
            Err(error) => {
                assert!(!is_wrong(&error, fault.code), "copy: {error:?}");
                two.check();
                self.failed.push("copy");
                copy().expect("the second time")
            }
        };
        // A wait may be what fails.
        self.step("wait", || copied.wait(LONG));
        two.word = word;
        one.check();
        two.check();
        self.all = all;
    }

    /// All move at once. Whichever fails has not moved, and moves by itself.
    fn migrate_all(&mut self, to: DomainId) {
        let places: Vec<_> =
            self.all.iter().map(|one| (one.buffer.domain(), one.buffer.generation())).collect();
        let moves: Vec<_> = self.all.iter().map(|one| (&one.buffer, to)).collect();
        let results = self.engine.migrate_many(&moves);
        assert_eq!(results.len(), moves.len());
        for ((result, before), one) in results.into_iter().zip(places).zip(&self.all) {
            let moved = result.or_else(|error| {
                assert!(!is_wrong(&error, self.fault.code), "migrate_many: {error:?}");
                assert_eq!((one.buffer.domain(), one.buffer.generation()), before, "{error}");
                self.failed.push("migrate_many");
                one.buffer.migrate(to)
            });
            let generation = before.1 + u32::from(before.0 != to);
            let expected = match before.0 == to {
                true => Migration::None,
                false => Migration::Done { generation },
            };
            assert_eq!(moved.expect("the second time"), expected);
            assert_eq!((one.buffer.domain(), one.buffer.generation()), (to, generation));
        }
        self.remap();
        self.all.iter().for_each(|one| (one.check_told(), one.check()).0);
    }

    fn remap(&mut self) {
        let mut all = std::mem::take(&mut self.all);
        for Shared { buffer, seats, mappings, .. } in &mut all {
            let mut pairs: Vec<_> = seats.iter().map(|(seat, ..)| seat).zip(mappings).collect();
            let old: Vec<_> = pairs.iter().map(|(_, mapping)| mapping.generation()).collect();
            self.step("remap", || {
                let result = buffer.remap_all(&mut pairs);
                let now = pairs.iter().map(|(_, mapping)| mapping.generation());
                assert!(result.is_ok() || now.eq(old.iter().copied()), "they are what they were");
                result
            });
        }
        self.all = all;
    }

    /// One is taken away while it is being written, and given back.
    fn take_away(&mut self, word: u32) {
        let mut one = self.all.remove(0);
        self.fill(&mut one, 0, word);
        one.mappings.clear();
        // After an error of the wait it stays revoked.
        self.step("revoke", || {
            let result = one.buffer.revoke();
            assert!(one.buffer.is_revoked());
            result
        });
        let refused = one.seats[0].0.map(Access::Read).map(drop);
        assert!(matches!(refused, Err(Error::Revoked { .. })), "{refused:?}");
        let refused = one.buffer.migrate(DomainId::System);
        assert!(matches!(refused, Err(Error::Revoked { .. })), "{refused:?}");
        self.step("rearm", || one.buffer.rearm());
        for (seat, ..) in &one.seats {
            one.mappings.push(self.step("map", || seat.map(Access::ReadWrite)));
        }
        one.check_told();
        one.check();
        self.all.push(one);
    }
}

/// Everything, in one go. Returns what failed, and succeeded the second time.
pub(crate) fn play<'a>(
    engine: &'a Engine,
    devices: [&'a Device; 2],
    fault: Fault,
) -> Vec<&'static str> {
    let mut scene = Scene { engine, fault, all: vec![], failed: vec![] };
    SIZES.into_iter().for_each(|size| scene.create(devices, size));
    scene.hand_over(0, 0x0202_0202);
    scene.migrate_all(DomainId::System);
    scene.hand_over(1, 0x0303_0303);
    let guests = devices.map(|device| Guest { device, peer_to_peer: true });
    if can_live(engine, devices[1], DomainKind::Vram, &guests) {
        scene.migrate_all(DomainId::Vram(devices[1].id()));
    }
    scene.take_away(0x0404_0404);
    scene.migrate_all(DomainId::System);
    scene.hand_over(0, 0x0505_0505);
    scene.failed
}
