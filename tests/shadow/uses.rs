//! The operations that use the bytes of a buffer: by a device, by the host, and by copies.

use peerbuf::{Access, Engine, Error, Result};

use crate::World;
use crate::common::{bytes, commands};
use crate::steps::{ACCESSES, Faults, attempt, is_fault, mapped};
use crate::subject::{Mapped, Subject};

/// A device writes if its mapping is current and for writing. `write` does so with a seed, and `bytes` updates the
/// shadow.
pub(crate) fn write<R>(
    world: &mut World<'_>,
    at: usize,
    how: &'static str,
    write: impl Fn(&Engine, &Mapped, u32) -> Result<R>,
    bytes: impl FnOnce(&mut Subject, u32),
) -> Option<()> {
    let index = mapped(world, at)?;
    let (seed, engine) = (world.number(), world.engine);
    let subject = &world.subjects[at];
    let Mapped { entry, generation, .. } = subject.mappings[index];
    let id = subject.id;
    world.note(format!("fill {id} with {seed} {how} at entry {entry}, generation {generation}"));
    let subject = &world.subjects[at];
    let mapped = &subject.mappings[index];
    if !mapped.mapping.access().writes() {
        let error = write(engine, mapped, seed).map(drop).expect_err("for reading alone");
        assert!(matches!(error, Error::WrongAccess { .. }), "{error}");
    } else if !subject.is_current(mapped) {
        let error = write(engine, mapped, seed).map(drop).expect_err("an old mapping");
        subject.assert_stale(&error, mapped.generation);
        world.met("stale");
    } else if subject.is_writable() {
        let mut faults = Faults::of(world);
        let subject = &mut world.subjects[at];
        let mapped = &subject.mappings[index];
        let written = attempt(&mut faults, &subject.buffer, || write(engine, mapped, seed));
        drop(written.expect("a current mapping"));
        bytes(subject, seed);
        faults.report(world);
    } else {
        return None;
    }
    Some(())
}

/// Fills by a compute pass.
pub(crate) fn fill(world: &mut World<'_>, at: usize) -> Option<()> {
    let pass = |_: &Engine, mapped: &Mapped, seed| mapped.mapping.fill(seed);
    write(world, at, "by a pass", pass, Subject::fill)
}

/// Fills by commands of the test's own, which are not waited for.
pub(crate) fn fill_by_commands(world: &mut World<'_>, at: usize) -> Option<()> {
    let submit = |engine: &Engine, mapped: &Mapped, word| {
        commands::fill(engine, &mapped.mapping.device(), &mapped.mapping, word)
    };
    write(world, at, "by commands", submit, Subject::fill_with_word)
}

/// Fills by an unordered submission during an open access, which keeps the buffer from moving.
pub(crate) fn fill_unordered(world: &mut World<'_>, at: usize) -> Option<()> {
    let (fixed, host, pinned) = world.subjects[at].holds();
    let submit = move |engine: &Engine, mapped: &Mapped, word| {
        let (mapping, device) = (&mapped.mapping, mapped.mapping.device());
        let open = mapping.begin_access(Access::Write)?;
        let moved = mapping.buffer().relocate();
        let Err(Error::Busy { mapped, host: at_it, pinned: pins, .. }) = moved else {
            // The checks before the move may fail as well.
            assert!(moved.as_ref().is_err_and(is_fault), "it moved: {moved:?}");
            return moved.map(drop);
        };
        assert_eq!((mapped, at_it, pins), (fixed, host + 1, pinned), "holders");
        commands::fill_unordered(engine, &device, mapping, word)?;
        open.end(device.submitted()?);
        Ok(())
    };
    write(world, at, "unordered", submit, Subject::fill_with_word)
}

/// A device checks all bytes if its mapping is current and for reading.
pub(crate) fn check_by_device(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = mapped(world, at)?;
    let subject = &world.subjects[at];
    let mapped = &subject.mappings[index];
    let text = format!(
        "check the bytes of {} at entry {}, generation {}",
        subject.id, mapped.entry, mapped.generation
    );
    world.note(text);
    let subject = &world.subjects[at];
    let mapped = &subject.mappings[index];
    if !mapped.mapping.access().reads() {
        let error = mapped.mapping.checksum().expect_err("for writing alone");
        assert!(matches!(error, Error::WrongAccess { .. }), "{error}");
    } else if !subject.is_current(mapped) {
        let error = mapped.mapping.checksum().expect_err("an old mapping");
        subject.assert_stale(&error, mapped.generation);
        world.met("stale");
    } else if subject.is_readable() {
        subject.check_bytes_through(mapped);
    } else {
        return None;
    }
    Some(())
}

/// A device copies between two of its mappings, by a compute pass or by commands of the test's own.
pub(crate) fn copy_by_device(world: &mut World<'_>, at: usize) -> Option<()> {
    let by_commands = world.random.one_in(2);
    let to = world.random.index(world.subjects.len());
    let (from, to) = (&world.subjects[at], (to, &world.subjects[to]));
    let fits = from.id != to.1.id && from.bytes.len() <= to.1.bytes.len();
    if !fits || !from.is_readable() || !to.1.is_writable() {
        return None;
    }
    let pairs = from
        .mappings
        .iter()
        .flat_map(|source| to.1.mappings.iter().map(move |target| (source, target)));
    let (source, target) = pairs.into_iter().find(|(source, target)| {
        from.is_current(source)
            && to.1.is_current(target)
            && source.mapping.device() == target.mapping.device()
            && source.mapping.access().reads()
            && target.mapping.access().writes()
    })?;
    let text = if by_commands {
        let (source, target) = (&source.mapping, &target.mapping);
        let copied = commands::copy(world.engine, &source.device(), source, target);
        drop(copied.expect("two current mappings"));
        format!("commands copy {} to {}", from.id, to.1.id)
    } else {
        source.mapping.copy_to(&target.mapping).expect("two current mappings");
        format!("a pass copies {} to {}", from.id, to.1.id)
    };
    let bytes = from.bytes.clone();
    let to = to.0;
    world.subjects[to].bytes[..bytes.len()].copy_from_slice(&bytes);
    world.note(text);
    Some(())
}

// ---- the host ----

/// A random range of a buffer of `len` bytes, of at most `most` bytes.
pub(crate) fn range(world: &mut World<'_>, len: usize, most: usize) -> (u64, usize) {
    let start = world.random.index(len + 1);
    let count = world.random.index(most.min(len - start) + 1);
    (start as u64, count)
}

pub(crate) fn host_write_any(world: &mut World<'_>, at: usize) -> Option<()> {
    host_write(world, at, usize::MAX)
}

/// The host writes at most `most` bytes.
pub(crate) fn host_write(world: &mut World<'_>, at: usize, most: usize) -> Option<()> {
    let (offset, len) = range(world, world.subjects[at].bytes.len(), most);
    let seed = world.random.next();
    let subject = &world.subjects[at];
    if subject.host.as_ref().is_some_and(|guard| !guard.access().writes()) {
        return None;
    }
    let text = format!("the host writes {len} bytes at {offset} of {}", subject.id);
    world.note(text);
    let subject = &mut world.subjects[at];
    let new = bytes::sequence(seed, len as u64);
    match &subject.host {
        // The host has an access already.
        Some(guard) => guard.write(offset, &new).expect("within the buffer"),
        None => {
            let guard = subject.buffer.host_access(Access::Write).expect("no access lasts long");
            guard.write(offset, &new).expect("within the buffer");
            guard.end().expect("it ends");
        }
    }
    // CAST: an index of a small buffer.
    subject.bytes[offset as usize..][..len].copy_from_slice(&new);
    Some(())
}

pub(crate) fn host_read(world: &mut World<'_>, at: usize) -> Option<()> {
    let (offset, len) = range(world, world.subjects[at].bytes.len(), usize::MAX);
    let subject = &world.subjects[at];
    if subject.host.as_ref().is_some_and(|guard| !guard.access().reads()) {
        return None;
    }
    let text = format!("the host reads {len} bytes at {offset} of {}", subject.id);
    world.note(text);
    let subject = &world.subjects[at];
    let mut seen = vec![0; len];
    match &subject.host {
        Some(guard) => guard.read(offset, &mut seen).expect("within the buffer"),
        None => {
            let guard = subject.buffer.host_access(Access::Read).expect("no access lasts long");
            guard.read(offset, &mut seen).expect("within the buffer");
        }
    }
    // CAST: as above.
    bytes::assert_same(&seen, &subject.bytes[offset as usize..][..len], "read by the host");
    Some(())
}

/// Begins a host access that stays open during later operations.
pub(crate) fn open_host(world: &mut World<'_>, at: usize) -> Option<()> {
    if world.subjects[at].host.is_some() {
        return None;
    }
    let access = *world.random.pick(&ACCESSES);
    world.note(format!("the host begins {access} {}", world.subjects[at].id));
    world.subjects[at].open_host(access);
    Some(())
}

pub(crate) fn close_host(world: &mut World<'_>, at: usize) -> Option<()> {
    let guard = world.subjects[at].host.take()?;
    world.note(format!("the host ends its access to {}", world.subjects[at].id));
    guard.end().expect("it ends");
    Some(())
}
