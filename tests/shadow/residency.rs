//! Eviction and restore on request, and the usage of every domain. Restores by use are tested in
//! `tests/eviction/overcommit.rs`: here the rules allow none, so that a shadow knows where its buffer is.

use peerbuf::observe::{MoveCause, Report};
use peerbuf::{DomainId, EngineDescriptor, Migration, ResidencyOptions};

use crate::steps::{Faults, attempt};
use crate::uses::host_write;
use crate::{World, parts};

/// An engine that restores buffers only on request.
pub(crate) fn no_restores(descriptor: EngineDescriptor) -> EngineDescriptor {
    descriptor.residency(ResidencyOptions::new().bytes_per_submission(0))
}

/// Every byte in use is accounted for.
pub(crate) fn check_accounts(report: &Report) {
    for domain in &report.domains {
        let (id, usage, shares) = (domain.id, domain.usage, domain.shares);
        let sum = shares.resident + shares.clean_copies + shares.ghosts + shares.in_flight;
        assert_eq!(usage.used, sum + shares.integrated, "{id}: {shares:?}");
        assert!(usage.used <= usage.peak && usage.used <= usage.budget, "{id}: {usage:?}");
        assert!(usage.used <= usage.held, "{id}: {usage:?}");
    }
}

/// Evicts to system memory; the preferred domain does not change.
pub(crate) fn evict(world: &mut World<'_>, at: usize) -> Option<()> {
    go(world, at, DomainId::System, MoveCause::Evicted)
}

/// Requests residency in the preferred domain.
pub(crate) fn request(world: &mut World<'_>, at: usize) -> Option<()> {
    let preferred = world.subjects[at].preferred;
    go(world, at, preferred, MoveCause::Requested)
}

/// Restores and evicts three times, without work in between; before the last eviction, the host or a device writes
/// a little.
pub(crate) fn to_and_fro(world: &mut World<'_>, at: usize) -> Option<()> {
    for round in 0..3 {
        request(world, at)?;
        let World { subjects, random, .. } = world;
        subjects[at].check_bytes(random);
        if round == 2 {
            let by_host = world.random.one_in(2);
            if by_host { host_write(world, at, 64) } else { parts::fill_by_home(world, at) }?;
        }
        evict(world, at)?;
    }
    Some(())
}

fn go(world: &mut World<'_>, at: usize, to: DomainId, cause: MoveCause) -> Option<()> {
    let engine = world.engine;
    let subject = &world.subjects[at];
    let text = format!("{} from {} to {to}: {cause}", subject.id, subject.domain);
    world.note(text);
    let subject = &world.subjects[at];
    let home = match to {
        DomainId::Vram(id) => engine.devices().into_iter().find(|device| device.id() == id)?,
        _ => subject.home.clone(),
    };
    let expected = subject.expect_migration(engine, to, &home);
    let mut faults = Faults::of(world);
    let before = engine.moved(cause);
    let subject = &mut world.subjects[at];
    let result = attempt(&mut faults, &subject.buffer, || match cause {
        MoveCause::Evicted => subject.buffer.evict(),
        _ => subject.buffer.request_residency(),
    });
    let moved = matches!(result, Ok(Migration::Done { .. }));
    let preferred = subject.preferred;
    let met = subject.settle(result, expected, home);
    // Neither changes the preferred domain.
    subject.preferred = preferred;
    let copied = engine.moved(cause).copied - before.copied;
    let size = subject.bytes.len() as u64;
    assert!(copied <= size, "{copied} bytes copied");
    world.met(match (moved, cause, copied) {
        (true, MoveCause::Evicted, 0) => "evicted without a copy",
        (true, MoveCause::Evicted, copied) if copied < size => "evicted by parts",
        (true, MoveCause::Evicted, _) => "evicted",
        (true, ..) => "restored",
        _ => met,
    });
    faults.report(world);
    Some(())
}
