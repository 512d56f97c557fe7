//! Revocation and rearming of a buffer.

use peerbuf::{Access, CopyRegion, DomainId, Error, Result};

use crate::World;
use crate::common::recorder::Recorder;
use crate::steps::{Faults, attached, attempt};

/// Revokes only where nothing is held: otherwise it would wait for this thread, up to the timeout.
pub(crate) fn revoke(world: &mut World<'_>, at: usize) -> Option<()> {
    let subject = &world.subjects[at];
    let exported = !subject.exports.is_empty();
    if !exported && (!subject.mappings.is_empty() || subject.host.is_some()) {
        return None;
    }
    world.note(format!("revoke {}", subject.id));
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let result = attempt(&mut faults, &subject.buffer, || subject.buffer.revoke());
    let met = match result {
        Ok(()) => {
            assert!(!exported, "revoked while exported");
            // A second revocation notifies no importer again.
            if !subject.revoked {
                subject.has_been_revoked();
            }
            "revoked"
        }
        Err(Error::Exported { exports, .. }) => {
            // CAST: a handful.
            assert_eq!(exports, subject.exports.len() as u32);
            assert!(exported);
            "exported"
        }
        Err(error) => panic!("{error}"),
    };
    world.met(met);
    faults.report(world);
    Some(())
}

pub(crate) fn unrevoke(world: &mut World<'_>, at: usize) -> Option<()> {
    world.note(format!("unrevoke {}", world.subjects[at].id));
    let subject = &mut world.subjects[at];
    subject.buffer.unrevoke().expect("not held");
    subject.revoked = false;
    world.met("rearmed");
    Some(())
}

/// Halves of the smallest buffer.
const HALVES: CopyRegion = CopyRegion { from: 0, to: 2, len: 2 };

/// Tries one of many operations on a revoked buffer: it is refused, and nothing changes.
pub(crate) fn refused(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = attached(world, at);
    let (device, engine) = (world.device(), world.engine);
    let what = world.random.below(7);
    let subject = &world.subjects[at];
    world.note(format!("operation {what} on {}, which is revoked", subject.id));
    let subject = &world.subjects[at];
    let buffer = &subject.buffer;
    let attachment = |index: usize| subject.entries[index].attachment.as_ref();
    let result: Result<()> = match (what, index.and_then(attachment)) {
        (0, Some(attachment)) => attachment.map(Access::Read).map(drop),
        (1, Some(attachment)) => attachment.pin("shadow").map(drop),
        (2, _) => buffer.host_access(Access::Write).map(drop),
        (3, _) => buffer.export_foreign().map(drop),
        (4, _) => buffer.relocate().map(drop),
        (5, _) => engine.copy(buffer, buffer, HALVES).map(drop),
        (6, _) => buffer.migrate(DomainId::System).map(drop),
        _ => buffer.attach_dynamic(&device, Recorder::new(true)).map(drop),
    };
    let error = result.expect_err("revoked");
    assert!(matches!(error, Error::Revoked { .. }), "{error}");
    Some(())
}
