//! The operations. Each picks what it is done to, knows what must come of it, and tells the shadow. Those on
//! several buffers at once, and revocations, are in files of their own.
#![expect(unsafe_code, reason = "taking in one's own fd")]

use std::any::Any;
use std::os::fd::AsFd;
use std::sync::Arc;

use ash::vk::Result as Code;
use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, HandleType, Placement,
    Result, SharedBuffer,
};

use crate::common::LONG;
use crate::common::reach::Guest;
use crate::common::recorder::Recorder;
use crate::subject::{Chair, Expected, Mapped, Subject};
use crate::{FAILED, World, parts, residency, revocation, together, uses};

/// How many buffers there are at most.
const SUBJECTS: usize = 5;
/// Words, because the compute passes want them; slots of several slabs; the last two large enough to be written
/// by parts.
const SIZES: [u64; 7] = [4, 252, 4096, 12_292, 70_000, 270_000, 330_000];
/// Of seats: dynamic, and peer-to-peer.
const KINDS: [(bool, bool); 4] = [(true, true), (true, true), (true, false), (false, true)];
pub(crate) const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::ReadWrite];

/// Does something to the subject of this index. `None` if there is nothing of the kind to be done to it.
pub(crate) type Step = fn(&mut World<'_>, usize) -> Option<()>;

/// The operations, each as often as it is likely.
const MENU: [(u32, Step); 30] = [
    (1, drop_any),
    (14, attach),
    (4, leave),
    (24, map),
    (7, unmap),
    (6, remap),
    (4, together::remap_all),
    (10, uses::fill),
    (10, uses::fill_by_commands),
    (8, parts::fill),
    (5, uses::fill_by_oneself),
    (8, uses::look_by_device),
    (4, uses::copy_by_device),
    (8, uses::host_write_any),
    (4, uses::host_read),
    (3, uses::open_host),
    (9, uses::close_host),
    (3, pin),
    (9, unpin),
    (14, migrate),
    (6, relocate),
    (8, residency::evict),
    (8, residency::request),
    (12, residency::to_and_fro),
    (7, together::migrate_many),
    (10, revocation::revoke),
    (3, export),
    (9, take_back),
    (12, copy),
    (1, trim),
];

/// What is done to a buffer that was taken away from everybody.
const REVOKED: [(u32, Step); 7] = [
    (1, drop_any),
    (4, leave),
    (2, unpin),
    (2, together::migrate_many),
    (6, revocation::refused),
    (2, revocation::revoke),
    (6, revocation::rearm),
];

/// Does `work` on a buffer while a call may fail. If it does, nothing has changed, and then it is done again.
pub(crate) fn attempt<R>(
    faults: &mut Faults<'_>,
    buffer: &SharedBuffer,
    mut work: impl FnMut() -> Result<R>,
) -> Result<R> {
    if !faults.arm() {
        return work();
    }
    let before = (buffer.domain(), buffer.generation());
    let result = work();
    let happened = faults.disarm();
    match result {
        Err(error) if happened && is_fault(&error) => {
            let now = (buffer.domain(), buffer.generation());
            assert_eq!(now, before, "{error}");
            faults.met = true;
            work()
        }
        other => other,
    }
}

/// What fails next, and whether it made an operation fail.
pub(crate) struct Faults<'a> {
    engine: &'a Engine,
    next: Option<(Call, u64)>,
    pub(crate) met: bool,
}

impl<'a> Faults<'a> {
    pub(crate) fn of(world: &mut World<'a>) -> Self {
        let fault = (*world.random.pick(&Call::ALL), 1 + world.random.below(3));
        let next = (world.faulty && world.random.one_in(2)).then_some(fault);
        Self { engine: world.engine, next, met: false }
    }

    /// From now on. Whether there is anything that fails.
    pub(crate) fn arm(&self) -> bool {
        if let Some((call, nth)) = self.next {
            self.engine.calls().fail_nth(call, nth, Code::ERROR_OUT_OF_HOST_MEMORY);
        }
        self.next.is_some()
    }

    /// Nothing fails any more. Whether something did.
    pub(crate) fn disarm(&self) -> bool {
        !self.engine.calls().clear_faults() && self.next.is_some()
    }

    pub(crate) fn tell(self, world: &mut World<'_>) {
        if self.met {
            world.met(FAILED);
        }
    }
}

pub(crate) fn is_fault(error: &Error) -> bool {
    matches!(
        error,
        Error::Vulkan { .. }
            | Error::Os { .. }
            | Error::OutOfMemory { .. }
            | Error::Staging { .. }
            | Error::Unsupported { .. }
            | Error::ForeignFd { .. }
    )
}

/// Does something.
pub(crate) fn any(world: &mut World<'_>, step: u32) {
    let few = world.subjects.len() < 2;
    if few || world.subjects.len() < SUBJECTS && world.random.one_in(12) {
        create(world);
        return;
    }
    loop {
        let index = world.random.index(world.subjects.len());
        let menu: &[(u32, Step)] = if world.subjects[index].revoked { &REVOKED } else { &MENU };
        let all = menu.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut at = world.random.below(all);
        let chosen = menu.iter().find(|(weight, _)| {
            let here = at < u64::from(*weight);
            at = at.saturating_sub(u64::from(*weight));
            here
        });
        let Some((_, work)) = chosen else { continue };
        if work(world, index).is_some() {
            break;
        }
    }
    // Not every time: a look waits for what is under way.
    if world.random.one_in(3) && !world.subjects.is_empty() {
        let index = world.random.index(world.subjects.len());
        let World { subjects, random, .. } = world;
        subjects[index].look(random);
    }
    if step % 64 == 63 {
        world.look_at_all();
    }
}

fn create(world: &mut World<'_>) {
    let home = world.device();
    let size = *world.random.pick(&SIZES);
    let places = [Placement::VramOrSystem, Placement::Vram, Placement::System];
    let placement = *world.random.pick(&places);
    let id = world.number();
    world.note(format!("create {id}: {size} bytes, {placement:?}, {}", home.name()));
    let descriptor = BufferDescriptor::new(size).placement(placement);
    let buffer = world.engine.create_buffer(&home, descriptor).expect("there is room");
    let domain = match placement {
        Placement::System => DomainId::System,
        _ => DomainId::Vram(home.id()),
    };
    world.subjects.push(Subject {
        id,
        buffer,
        clones: vec![],
        chairs: vec![],
        mappings: vec![],
        pins: vec![],
        exports: vec![],
        host: None,
        // CAST: small.
        bytes: vec![0; size as usize],
        domain,
        wanted: domain,
        home,
        generation: 0,
        alone: false,
        revoked: false,
    });
}

fn drop_any(world: &mut World<'_>, at: usize) -> Option<()> {
    drop_one(world, at);
    Some(())
}

/// Drops a buffer and all that is held of it, in any order.
pub(crate) fn drop_one(world: &mut World<'_>, at: usize) {
    let subject = world.subjects.swap_remove(at);
    world.note(format!("drop {}", subject.id));
    let mut parts: Vec<Box<dyn Any>> = vec![Box::new(subject.buffer), Box::new(subject.host)];
    parts.extend(subject.clones.into_iter().map(|part| Box::new(part) as _));
    parts.extend(subject.chairs.into_iter().map(|part| Box::new(part.attachment) as _));
    parts.extend(subject.mappings.into_iter().map(|part| Box::new(part.mapping) as _));
    parts.extend(subject.pins.into_iter().map(|part| Box::new(part) as _));
    parts.extend(subject.exports.into_iter().map(|part| Box::new(part) as _));
    while !parts.is_empty() {
        let part = world.random.index(parts.len());
        drop(parts.swap_remove(part));
    }
}

// ---- seats ----

fn attach(world: &mut World<'_>, at: usize) -> Option<()> {
    let device = world.device();
    let (dynamic, peer_to_peer) = *world.random.pick(&KINDS);
    let engine = world.engine;
    let chair = world.number();
    let id = world.subjects[at].id;
    world.note(format!(
        "attach {} to {id}, chair {chair}, dynamic {dynamic}, peer-to-peer {peer_to_peer}",
        device.name()
    ));
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let sits = |chair: &Chair| chair.is_taken() && chair.is_static() && chair.device == device;
    let twice = !dynamic && subject.chairs.iter().any(sits);
    let expected = subject.expect_guest(engine, Guest { device: &device, peer_to_peer });
    let recorder = dynamic.then(|| Recorder::new(peer_to_peer));
    let result = attempt(&mut faults, &subject.buffer, || match &recorder {
        Some(recorder) => subject.buffer.attach_dynamic(&device, Arc::clone(recorder) as _),
        None => subject.buffer.attach(&device),
    });
    let mut met = None;
    let attachment = match result {
        Ok(attachment) => {
            assert!(!twice, "a second static seat");
            match expected {
                Expected::Stays => {}
                Expected::Moves { to, .. } => {
                    subject.moved(to, subject.home.clone());
                    met = Some("moved for a newcomer");
                }
                other => panic!("{other:?} expected"),
            }
            attachment
        }
        Err(error) => {
            match error {
                Error::AlreadyAttached { .. } => {
                    assert!(twice, "{error}");
                    world.met("already attached");
                }
                Error::Busy { .. } => {
                    assert_eq!(expected, Expected::Busy, "{error}");
                    subject.assert_busy(&error);
                    world.met("busy");
                }
                Error::Unreachable { .. } => {
                    assert_eq!(expected, Expected::Unreachable, "{error}");
                    world.met("unreachable");
                }
                _ => panic!("{error}"),
            }
            return Some(());
        }
    };
    subject.chairs.push(Chair {
        id: chair,
        device,
        attachment: Some(attachment),
        recorder,
        peer_to_peer,
        told: vec![],
    });
    met.into_iter().for_each(|what| world.met(what));
    faults.tell(world);
    Some(())
}

/// The index of a chair that somebody sits on.
pub(crate) fn taken(world: &mut World<'_>, at: usize) -> Option<usize> {
    let chairs = world.subjects[at].chairs.iter().enumerate();
    let taken: Vec<usize> = chairs.filter(|(_, c)| c.is_taken()).map(|(index, _)| index).collect();
    (!taken.is_empty()).then(|| *world.random.pick(&taken))
}

fn leave(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = taken(world, at)?;
    let anyhow = world.random.one_in(2);
    let (id, chair) = (world.subjects[at].id, world.subjects[at].chairs[index].id);
    world.note(format!("chair {chair} leaves {id}, mapped or not: {anyhow}"));
    let subject = &mut world.subjects[at];
    let mapped = subject.mapped_by(chair);
    let attachment = subject.chairs[index].attachment.take()?;
    let mut met = (mapped > 0).then_some("kept its seat by a mapping");
    if anyhow {
        drop(attachment);
    } else {
        match attachment.detach() {
            Ok(()) => assert_eq!(mapped, 0, "left while it was mapped"),
            Err(refused) => {
                subject.chairs[index].attachment = Some(refused.into_attachment());
                assert!(mapped > 0, "could not leave");
                met = Some("still mapped");
            }
        }
    }
    subject.sweep();
    met.into_iter().for_each(|what| world.met(what));
    Some(())
}

// ---- mappings ----

fn map(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = taken(world, at)?;
    let access = *world.random.pick(&ACCESSES);
    let (id, chair) = (world.subjects[at].id, world.subjects[at].chairs[index].id);
    world.note(format!("map {id} at chair {chair} for {access}"));
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let taken = &subject.chairs[index];
    let attachment = taken.attachment.as_ref()?;
    let mapping = attempt(&mut faults, &subject.buffer, || attachment.map(access));
    let mapping = mapping.expect("whoever sits can map");
    let (fixed, generation) = (taken.is_static(), subject.generation);
    subject.mappings.push(Mapped { mapping, chair, fixed, generation });
    faults.tell(world);
    Some(())
}

/// The index of a mapping.
pub(crate) fn mapped(world: &mut World<'_>, at: usize) -> Option<usize> {
    let len = world.subjects[at].mappings.len();
    (len > 0).then(|| world.random.index(len))
}

fn unmap(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = mapped(world, at)?;
    let id = world.subjects[at].id;
    let subject = &mut world.subjects[at];
    let gone = subject.mappings.swap_remove(index);
    let (chair, generation) = (gone.chair, gone.generation);
    drop(gone);
    subject.sweep();
    world.note(format!("unmap {id} at chair {chair}, generation {generation}"));
    Some(())
}

/// A mapping is replaced, by its own attachment or by another one of the same device.
fn remap(world: &mut World<'_>, at: usize) -> Option<()> {
    let (mapping, chair) = (mapped(world, at)?, taken(world, at)?);
    let subject = &mut world.subjects[at];
    let (old, chair) = (&mut subject.mappings[mapping], &subject.chairs[chair]);
    let text = format!("remap {} of chair {} at chair {}", subject.id, old.chair, chair.id);
    let result = chair.attachment.as_ref()?.remap(&mut old.mapping);
    if old.mapping.device() == chair.device {
        result.expect("whoever sits can map");
        (old.chair, old.fixed) = (chair.id, chair.is_static());
        old.generation = subject.generation;
    } else {
        let error = result.expect_err("of another device");
        assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    }
    subject.sweep();
    world.note(text);
    Some(())
}

// ---- what stays and what moves ----

fn pin(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = taken(world, at)?;
    world.note(format!("pin {}", world.subjects[at].id));
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let attachment = subject.chairs[index].attachment.as_ref()?;
    let pin = attempt(&mut faults, &subject.buffer, || attachment.pin("shadow"));
    subject.pins.push(pin.expect("no quota"));
    faults.tell(world);
    Some(())
}

fn unpin(world: &mut World<'_>, at: usize) -> Option<()> {
    drop(world.subjects[at].pins.pop()?);
    world.note(format!("unpin {}", world.subjects[at].id));
    Some(())
}

fn migrate(world: &mut World<'_>, at: usize) -> Option<()> {
    let target = (!world.random.one_in(3)).then(|| world.device());
    let engine = world.engine;
    let subject = &world.subjects[at];
    let home = target.clone().unwrap_or_else(|| subject.home.clone());
    let to = target.map_or(DomainId::System, |device: Device| DomainId::Vram(device.id()));
    let text = format!("migrate {} from {} to {to}", subject.id, subject.domain);
    let expected = subject.expect_migration(engine, to, &home);
    world.note(text);
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let result = attempt(&mut faults, &subject.buffer, || subject.buffer.migrate(to));
    let met = subject.settle(result, expected, home);
    world.met(met);
    faults.tell(world);
    Some(())
}

/// To other memory of the same place.
fn relocate(world: &mut World<'_>, at: usize) -> Option<()> {
    let subject = &world.subjects[at];
    let (expected, home) = (subject.expect_relocation(world.engine), subject.home.clone());
    world.note(format!("relocate {} within {}", subject.id, subject.domain));
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let result = attempt(&mut faults, &subject.buffer, || subject.buffer.relocate());
    let met = match subject.settle(result, expected, home) {
        "moved" => "moved within its place",
        other => other,
    };
    world.met(met);
    faults.tell(world);
    Some(())
}

// ---- strangers ----

fn export(world: &mut World<'_>, at: usize) -> Option<()> {
    let subject = &world.subjects[at];
    let text = format!("export {}", subject.id);
    world.note(text);
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    // A wait may fail after the move (tests/move_faults).
    faults.next.take_if(|(call, _)| *call == Call::WaitSemaphores);
    let result = attempt(&mut faults, &subject.buffer, || subject.buffer.export_foreign());
    let met = match result {
        Ok(export) => {
            let moves = !subject.alone;
            if moves {
                assert!(!subject.is_held(), "it moved out of its slab");
                subject.moved(subject.domain, subject.home.clone());
            }
            subject.alone = true;
            subject.exports.push(export);
            if moves { "moved out of its slab" } else { "handed out once more" }
        }
        Err(error) => {
            assert!(!subject.alone && subject.is_held(), "{error}");
            subject.assert_busy(&error);
            "busy"
        }
    };
    world.met(met);
    faults.tell(world);
    Some(())
}

/// An fd that was handed out comes back, or is given up.
fn take_back(world: &mut World<'_>, at: usize) -> Option<()> {
    let give_up = world.random.one_in(3);
    let device = world.device();
    let engine = world.engine;
    let id = world.subjects[at].id;
    if give_up {
        drop(world.subjects[at].exports.pop()?);
        world.note(format!("give up an export of {id}"));
        return Some(());
    }
    let (buffer, facts, fd) = {
        let subject = &world.subjects[at];
        let handle = subject.exports.last()?.handle().expect("descriptors are left");
        (subject.buffer.clone(), handle.facts(), handle)
    };
    world.note(format!("{} takes {id} in again", device.name()));
    // SAFETY: the engine's own fd, with its own facts.
    let result = unsafe { engine.import_foreign(&device, fd.as_fd(), facts, None) };
    let adapter = device.adapter();
    let ours =
        adapter.driver_uuid() == facts.driver_uuid && adapter.device_uuid() == facts.device_uuid;
    match result {
        Ok(same) => {
            assert!(same.is_same(&buffer), "another buffer");
            world.subjects[at].clones.push(same);
            world.subjects[at].clones.truncate(2);
        }
        Err(Error::ForeignFd { handle: HandleType::OpaqueFd, .. }) if !ours => {}
        Err(error) => panic!("{error}"),
    }
    Some(())
}

// ---- copies, and the rest ----

/// A copy of any range from any buffer to any.
fn copy(world: &mut World<'_>, at: usize) -> Option<()> {
    let target = world.random.index(world.subjects.len());
    let wait = world.random.one_in(3);
    let (source_len, target_len) =
        (world.subjects[at].bytes.len(), world.subjects[target].bytes.len());
    let (from, len) = uses::range(world, source_len.min(target_len), usize::MAX);
    let (to, _) = uses::range(world, target_len - len, usize::MAX);
    let (source, destination) = (&world.subjects[at], &world.subjects[target]);
    if !source.is_readable() || !destination.is_writable() {
        return None;
    }
    let region = CopyRegion { from, to, len: len as u64 };
    let text = format!("copy {region:?} of {} to {}", source.id, destination.id);
    world.note(text);
    let mut faults = Faults::of(world);
    let (source, destination) = (&world.subjects[at], &world.subjects[target]);
    let result = attempt(&mut faults, &source.buffer, || {
        world.engine.copy(&source.buffer, &destination.buffer, region)
    });
    let overlap = at == target && from < to + region.len && to < from + region.len;
    match result {
        Err(Error::Overlap { .. }) => assert!(overlap, "they do not"),
        Err(error) => panic!("{error}"),
        Ok(fence) => {
            assert!(!overlap || len == 0, "an overlapping copy");
            if wait {
                fence.wait(LONG).expect("it ends");
            }
            // CAST: indices of small buffers.
            let (from, to) = (from as usize, to as usize);
            let moved = source.bytes[from..][..len].to_vec();
            world.subjects[target].bytes[to..][..len].copy_from_slice(&moved);
        }
    }
    faults.tell(world);
    Some(())
}

fn trim(world: &mut World<'_>, _: usize) -> Option<()> {
    world.note("trim".into());
    world.engine.trim();
    Some(())
}
