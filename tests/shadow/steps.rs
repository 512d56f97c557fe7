//! The operations. Each picks its subject, knows the expected outcome, and updates the shadow. Operations on several
//! buffers at once, exports and revocations are in files of their own.

use std::any::Any;
use std::sync::Arc;

use ash::vk::Result as Code;
use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Placement, Result,
    SharedBuffer,
};

use crate::common::LONG;
use crate::common::reach::AttachCaps;
use crate::common::recorder::Recorder;
use crate::subject::{AttachmentEntry, Expected, Mapped, Subject};
use crate::{FAILED, World, compaction, exports, parts, residency, revocation, together, uses};

/// The maximum number of buffers.
const SUBJECTS: usize = 5;
/// Multiples of a word, as compute passes need; slots of several slabs; the last two large enough to be evicted by
/// parts.
const SIZES: [u64; 7] = [4, 252, 4096, 12_292, 70_000, 270_000, 330_000];
/// Kinds of attachment: dynamic, and peer-to-peer.
const KINDS: [(bool, bool); 4] = [(true, true), (true, true), (true, false), (false, true)];
pub(crate) const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::ReadWrite];

/// An operation on the subject of this index. Returns `None` if it is not applicable to the subject.
pub(crate) type Step = fn(&mut World<'_>, usize) -> Option<()>;

/// The operations with their weights.
const MENU: [(u32, Step); 32] = [
    (1, drop_any),
    (14, attach),
    (4, detach),
    (24, map),
    (7, unmap),
    (6, remap),
    (4, together::remap_all),
    (10, uses::fill),
    (10, uses::fill_by_commands),
    (8, parts::fill),
    (5, uses::fill_unordered),
    (8, uses::check_by_device),
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
    (3, exports::export),
    (9, exports::reimport),
    (12, copy),
    (1, trim),
    (2, compaction::crowd),
    (4, compaction::compact),
];

/// Operations on a revoked buffer.
const REVOKED: [(u32, Step); 7] = [
    (1, drop_any),
    (4, detach),
    (2, unpin),
    (2, together::migrate_many),
    (6, revocation::refused),
    (2, revocation::revoke),
    (6, revocation::unrevoke),
];

/// Runs `work` while a call may fail. If it fails, nothing has changed, and `work` runs again.
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

/// The next call to fail, and whether it made an operation fail.
pub(crate) struct Faults<'a> {
    engine: &'a Engine,
    pub(crate) next: Option<(Call, u64)>,
    pub(crate) met: bool,
}

impl<'a> Faults<'a> {
    pub(crate) fn of(world: &mut World<'a>) -> Self {
        let fault = (*world.random.pick(Call::ALL), 1 + world.random.below(3));
        let next = (world.faulty && world.random.one_in(2)).then_some(fault);
        Self { engine: world.engine, next, met: false }
    }

    /// Injects the fault. Returns whether there is one.
    pub(crate) fn arm(&self) -> bool {
        if let Some((call, nth)) = self.next {
            self.engine.calls().fail_nth(call, nth, Code::ERROR_OUT_OF_HOST_MEMORY);
        }
        self.next.is_some()
    }

    /// Removes the fault. Returns whether the call has failed.
    pub(crate) fn disarm(&self) -> bool {
        !self.engine.calls().clear_faults() && self.next.is_some()
    }

    /// Injects nothing if the operation moves the buffer first: the move may succeed before the call fails.
    pub(crate) fn none_if_it_returns(&mut self, expected: Expected) {
        if expected != Expected::Stays {
            self.next = None;
        }
    }

    pub(crate) fn report(self, world: &mut World<'_>) {
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

/// Runs one random operation.
pub(crate) fn any(world: &mut World<'_>, step: u32) {
    if world.faulty && world.random.one_in(2) {
        // Without unused memory and views the step calls the driver more often, so that more of its calls can fail.
        trim(world, 0);
        compaction::adopt(world);
    }
    let too_few = world.subjects.len() < 2;
    if too_few || world.subjects.len() < SUBJECTS && world.random.one_in(12) {
        create(world);
        return;
    }
    for round in 0.. {
        assert!(round < 10_000, "no step applies to any of {} buffers", world.subjects.len());
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
        let done = work(world, index).is_some();
        compaction::adopt(world);
        if done {
            break;
        }
    }
    exports::leave_exported(world);
    compaction::adopt(world);
    // Not every time: a check waits for work in progress.
    if world.random.one_in(3) && !world.subjects.is_empty() {
        let index = world.random.index(world.subjects.len());
        let World { subjects, random, .. } = world;
        subjects[index].check_bytes(random);
    }
    if step % 64 == 63 {
        world.check_all_bytes();
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
        entries: vec![],
        mappings: vec![],
        pins: vec![],
        exports: vec![],
        host: None,
        // CAST: small.
        bytes: vec![0; size as usize],
        domain,
        preferred: domain,
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
    parts.extend(subject.entries.into_iter().map(|part| Box::new(part.attachment) as _));
    parts.extend(subject.mappings.into_iter().map(|part| Box::new(part.mapping) as _));
    parts.extend(subject.pins.into_iter().map(|part| Box::new(part) as _));
    parts.extend(subject.exports.into_iter().map(|part| Box::new(part) as _));
    while !parts.is_empty() {
        let part = world.random.index(parts.len());
        drop(parts.swap_remove(part));
    }
}

// ---- attachments ----

fn attach(world: &mut World<'_>, at: usize) -> Option<()> {
    let device = world.device();
    let (dynamic, peer_to_peer) = *world.random.pick(&KINDS);
    let engine = world.engine;
    let entry = world.number();
    let id = world.subjects[at].id;
    world.note(format!(
        "attach {} to {id}, entry {entry}, dynamic {dynamic}, peer-to-peer {peer_to_peer}",
        device.name()
    ));
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let same = |entry: &AttachmentEntry| {
        entry.is_attached() && entry.is_static() && entry.device == device
    };
    let twice = !dynamic && subject.entries.iter().any(same);
    let expected = subject.expect_guest(engine, AttachCaps { device: &device, peer_to_peer });
    let recorder = dynamic.then(|| Recorder::new(peer_to_peer));
    let result = attempt(&mut faults, &subject.buffer, || match &recorder {
        Some(recorder) => subject.buffer.attach_dynamic(&device, Arc::clone(recorder) as _),
        None => subject.buffer.attach(&device),
    });
    let mut met = None;
    let attachment = match result {
        Ok(attachment) => {
            assert!(!twice, "a second static attachment");
            match expected {
                Expected::Stays => {}
                Expected::Moves { to, .. } => {
                    let (from, preferred) = (subject.domain, subject.preferred);
                    subject.moved(to, subject.home.clone());
                    // To other memory of the domain: that is no choice of a domain.
                    if to == from {
                        subject.preferred = preferred;
                    }
                    met = Some("moved for a new attachment");
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
    subject.entries.push(AttachmentEntry {
        id: entry,
        device,
        attachment: Some(attachment),
        recorder,
        peer_to_peer,
        notified: vec![],
    });
    met.into_iter().for_each(|what| world.met(what));
    faults.report(world);
    Some(())
}

/// The index of an entry with an attachment.
pub(crate) fn attached(world: &mut World<'_>, at: usize) -> Option<usize> {
    let entries = world.subjects[at].entries.iter().enumerate();
    let attached: Vec<usize> =
        entries.filter(|(_, c)| c.is_attached()).map(|(index, _)| index).collect();
    (!attached.is_empty()).then(|| *world.random.pick(&attached))
}

fn detach(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = attached(world, at)?;
    let by_drop = world.random.one_in(2);
    let (id, entry) = (world.subjects[at].id, world.subjects[at].entries[index].id);
    world.note(format!("entry {entry} of {id} is dropped: {by_drop}, or detached"));
    let subject = &mut world.subjects[at];
    let mapped = subject.mapped_by(entry);
    let attachment = subject.entries[index].attachment.take()?;
    let mut met = (mapped > 0).then_some("kept its entry by a mapping");
    if by_drop {
        drop(attachment);
    } else {
        match attachment.detach() {
            Ok(()) => assert_eq!(mapped, 0, "detached while mapped"),
            Err(refused) => {
                subject.entries[index].attachment = Some(refused.into_attachment());
                assert!(mapped > 0, "detach refused without a mapping");
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
    let index = attached(world, at)?;
    let access = *world.random.pick(&ACCESSES);
    let (id, entry) = (world.subjects[at].id, world.subjects[at].entries[index].id);
    world.note(format!("map {id} at entry {entry} for {access}"));
    let mut faults = Faults::of(world);
    let engine = world.engine;
    let subject = &mut world.subjects[at];
    let returns = subject.expect_return(engine);
    faults.none_if_it_returns(returns);
    let attached = &subject.entries[index];
    let (fixed, attachment) = (attached.is_static(), attached.attachment.as_ref()?);
    let mapping = attempt(&mut faults, &subject.buffer, || attachment.map(access));
    let (mapping, met) = subject.settle_return(mapping, returns);
    if let Some(mapping) = mapping {
        let generation = subject.generation;
        subject.mappings.push(Mapped { mapping, entry, fixed, generation });
    }
    met.into_iter().for_each(|what| world.met(what));
    faults.report(world);
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
    let (entry, generation) = (gone.entry, gone.generation);
    drop(gone);
    subject.sweep();
    world.note(format!("unmap {id} at entry {entry}, generation {generation}"));
    Some(())
}

/// Replaces a mapping through its own attachment or another one of the same device.
fn remap(world: &mut World<'_>, at: usize) -> Option<()> {
    let (mapping, entry) = (mapped(world, at)?, attached(world, at)?);
    let engine = world.engine;
    let subject = &mut world.subjects[at];
    let returns = subject.expect_return(engine);
    let (old, entry) = (&mut subject.mappings[mapping], &subject.entries[entry]);
    let text = format!("remap {} of entry {} at entry {}", subject.id, old.entry, entry.id);
    let result = entry.attachment.as_ref()?.remap(&mut old.mapping);
    let mut met = None;
    if old.mapping.device() == entry.device {
        let (id, fixed) = (entry.id, entry.is_static());
        let (remapped, what) = subject.settle_return(result, returns);
        met = what;
        if remapped.is_some() {
            let old = &mut subject.mappings[mapping];
            (old.entry, old.fixed, old.generation) = (id, fixed, subject.generation);
        }
    } else {
        let error = result.expect_err("of another device");
        assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    }
    subject.sweep();
    world.note(text);
    met.into_iter().for_each(|what| world.met(what));
    Some(())
}

// ---- pins and moves ----

fn pin(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = attached(world, at)?;
    world.note(format!("pin {}", world.subjects[at].id));
    let mut faults = Faults::of(world);
    let engine = world.engine;
    let subject = &mut world.subjects[at];
    let returns = subject.expect_return(engine);
    faults.none_if_it_returns(returns);
    let attachment = subject.entries[index].attachment.as_ref()?;
    let pin = attempt(&mut faults, &subject.buffer, || attachment.pin("shadow"));
    let (pin, met) = subject.settle_return(pin, returns);
    subject.pins.extend(pin);
    met.into_iter().for_each(|what| world.met(what));
    faults.report(world);
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
    faults.report(world);
    Some(())
}

/// Moves the buffer to another backing in the same domain.
fn relocate(world: &mut World<'_>, at: usize) -> Option<()> {
    let subject = &world.subjects[at];
    let (expected, home) = (subject.expect_relocation(world.engine), subject.home.clone());
    world.note(format!("relocate {} within {}", subject.id, subject.domain));
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let result = attempt(&mut faults, &subject.buffer, || subject.buffer.relocate());
    let met = match subject.settle(result, expected, home) {
        "moved" => "moved within its domain",
        other => other,
    };
    world.met(met);
    faults.report(world);
    Some(())
}

// ---- copies, and the rest ----

/// Copies any range of any buffer to any buffer.
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
        Err(Error::Overlap { .. }) => assert!(overlap, "the ranges do not overlap"),
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
    faults.report(world);
    Some(())
}

fn trim(world: &mut World<'_>, _: usize) -> Option<()> {
    world.note("trim".into());
    world.engine.trim();
    Some(())
}
