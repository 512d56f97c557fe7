//! Faults with several buffers: submissions that wait for other devices, moves in a batch, revocations.

use std::sync::Arc;

use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, DomainKind, Engine, Error, Mapping,
    Migration, Result, SharedBuffer,
};

use crate::common::gate::Gate;
use crate::common::reach::{AttachCaps, can_live};
use crate::common::recorder::Recorder;
use crate::common::{bytes, commands};
use crate::{Fault, LONG, is_wrong, read};

/// Three buffers that a device copies, and one that the host copies.
const SIZES: [u64; 4] = [70_000, 70_000, 70_000, 4096];

/// A buffer to which all devices are attached.
struct Shared<'a> {
    devices: [&'a Device; 2],
    buffer: SharedBuffer,
    /// Each attachment, its recorder, and the generation at which it attached.
    attachments: Vec<(Attachment, Arc<Recorder>, u32)>,
    mappings: Vec<Mapping>,
    word: u32,
}

/// All buffers of a run.
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
        // The fault may occur here as well.
        let actual = read(&self.buffer).or_else(|_| read(&self.buffer)).expect("one fault");
        bytes::assert_same(&actual, &expected, "the host");
    }

    /// Checks that importers were notified once of each move; a failed move may have notified them as well.
    fn check_notified(&self) {
        for (_, recorder, since) in &self.attachments {
            let mut notified = recorder.invalidated();
            notified.dedup();
            let now = self.buffer.generation();
            let end = now + u32::from(notified.last() == Some(&now));
            assert_eq!(notified, Vec::from_iter(*since..end), "callbacks");
        }
    }
}

impl<'a> Scene<'a> {
    /// Runs `work`, and runs it again if it failed. A failed attempt must have changed nothing.
    fn step<R>(&mut self, what: &'static str, work: impl FnMut() -> Result<R>) -> R {
        let (result, failed) = self.fault.survive(what, work, || {});
        self.failed.extend(failed);
        result
    }

    fn create(&mut self, devices: [&'a Device; 2], size: u64) {
        let engine = self.engine;
        let buffer =
            self.step("create", || engine.create_buffer(devices[0], BufferDescriptor::new(size)));
        let (mut attachments, mut mappings) = (vec![], vec![]);
        for device in devices {
            let recorder = Recorder::new(true);
            let attachment =
                self.step("attach", || buffer.attach_dynamic(device, Arc::clone(&recorder) as _));
            attachments.push((attachment, recorder, buffer.generation()));
        }
        // Map after the last attach, since attaching may move the buffer.
        for (attachment, ..) in &attachments {
            mappings.push(self.step("map", || attachment.map(Access::ReadWrite)));
        }
        // Reach the home device and zero the memory before a gate blocks a queue.
        self.step("warm", || mappings[0].fill(0));
        let mut shared = Shared { devices, buffer, attachments, mappings, word: 0 };
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

    /// One device writes, and the other one copies the result: after the write, or not at all. No submission
    /// blocks: the writer's queue is closed until both are submitted.
    fn copy_behind_writer(&mut self, writer: usize, word: u32) {
        let (engine, fault, reader) = (self.engine, self.fault, 1 - writer);
        let mut all = std::mem::take(&mut self.all);
        let [one, two, ..] = all.as_mut_slice() else { panic!("several buffers") };
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
        // The wait itself may fail.
        self.step("wait", || copied.wait(LONG));
        two.word = word;
        one.check();
        two.check();
        self.all = all;
    }

    /// Moves all buffers in one batch. A buffer whose move fails has not moved, and then moves alone.
    fn migrate_all(&mut self, to: DomainId) {
        let before_move: Vec<_> =
            self.all.iter().map(|one| (one.buffer.domain(), one.buffer.generation())).collect();
        let moves: Vec<_> = self.all.iter().map(|one| (&one.buffer, to)).collect();
        let results = self.engine.migrate_many(&moves);
        assert_eq!(results.len(), moves.len());
        for ((result, before), one) in results.into_iter().zip(before_move).zip(&self.all) {
            let moved = result.or_else(|error| {
                assert!(!is_wrong(&error, self.fault.code), "migrate_many: {error:?}");
                assert_eq!((one.buffer.domain(), one.buffer.generation()), before, "{error}");
                self.failed.push("migrate_many");
                one.buffer.migrate(to)
            });
            let generation = before.1 + u32::from(before.0 != to);
            let expected = match before.0 == to {
                true => Migration::Unchanged,
                false => Migration::Done { generation },
            };
            assert_eq!(moved.expect("the second time"), expected);
            assert_eq!((one.buffer.domain(), one.buffer.generation()), (to, generation));
        }
        self.remap();
        self.all.iter().for_each(|one| (one.check_notified(), one.check()).0);
    }

    fn remap(&mut self) {
        let mut all = std::mem::take(&mut self.all);
        for Shared { buffer, attachments, mappings, .. } in &mut all {
            let mut pairs: Vec<_> =
                attachments.iter().map(|(attachment, ..)| attachment).zip(mappings).collect();
            let old: Vec<_> = pairs.iter().map(|(_, mapping)| mapping.generation()).collect();
            self.step("remap", || {
                let result = buffer.remap_all(&mut pairs);
                let now = pairs.iter().map(|(_, mapping)| mapping.generation());
                assert!(
                    result.is_ok() || now.eq(old.iter().copied()),
                    "the mappings are unchanged"
                );
                result
            });
        }
        self.all = all;
    }

    /// Revokes a buffer while a device writes it, and restores the access.
    fn revoke_and_restore(&mut self, word: u32) {
        let mut one = self.all.remove(0);
        self.fill(&mut one, 0, word);
        one.mappings.clear();
        // If the wait fails, the buffer stays revoked.
        self.step("revoke", || {
            let result = one.buffer.revoke();
            assert!(one.buffer.is_revoked());
            result
        });
        let refused = one.attachments[0].0.map(Access::Read).map(drop);
        assert!(matches!(refused, Err(Error::Revoked { .. })), "{refused:?}");
        let refused = one.buffer.migrate(DomainId::System);
        assert!(matches!(refused, Err(Error::Revoked { .. })), "{refused:?}");
        self.step("unrevoke", || one.buffer.unrevoke());
        for (attachment, ..) in &one.attachments {
            one.mappings.push(self.step("map", || attachment.map(Access::ReadWrite)));
        }
        one.check_notified();
        one.check();
        self.all.push(one);
    }
}

/// Runs all operations. Returns those that failed first and succeeded the second time.
pub(crate) fn play<'a>(
    engine: &'a Engine,
    devices: [&'a Device; 2],
    fault: Fault,
) -> Vec<&'static str> {
    let mut scene = Scene { engine, fault, all: vec![], failed: vec![] };
    SIZES.into_iter().for_each(|size| scene.create(devices, size));
    scene.copy_behind_writer(0, 0x0202_0202);
    scene.migrate_all(DomainId::System);
    scene.copy_behind_writer(1, 0x0303_0303);
    let caps = devices.map(|device| AttachCaps { device, peer_to_peer: true });
    if can_live(engine, devices[1], DomainKind::Vram, &caps) {
        scene.migrate_all(DomainId::Vram(devices[1].id()));
    }
    scene.revoke_and_restore(0x0404_0404);
    scene.migrate_all(DomainId::System);
    scene.copy_behind_writer(0, 0x0505_0505);
    scene.failed
}
