//! A buffer is taken away from everybody, and given back.

use peerbuf::{Access, CopyRegion, DomainId, Error, Result};

use crate::World;
use crate::common::recorder::Recorder;
use crate::steps::{Faults, attempt, taken};

/// Only where nobody holds anything: else it would wait for this thread, up to the bound.
pub(crate) fn revoke(world: &mut World<'_>, at: usize) -> Option<()> {
    let subject = &world.subjects[at];
    let handed_out = !subject.exports.is_empty();
    if !handed_out && (!subject.mappings.is_empty() || subject.host.is_some()) {
        return None;
    }
    world.note(format!("revoke {}", subject.id));
    let mut faults = Faults::of(world);
    let subject = &mut world.subjects[at];
    let result = attempt(&mut faults, &subject.buffer, || subject.buffer.revoke());
    let met = match result {
        Ok(()) => {
            assert!(!handed_out, "a stranger has an fd");
            // Whom it was taken away from already is not told again.
            if !subject.revoked {
                subject.taken_away();
            }
            "revoked"
        }
        Err(Error::HandedOut { exports, .. }) => {
            // CAST: a handful.
            assert_eq!(exports, subject.exports.len() as u32);
            assert!(handed_out);
            "handed out"
        }
        Err(error) => panic!("{error}"),
    };
    world.met(met);
    faults.tell(world);
    Some(())
}

pub(crate) fn rearm(world: &mut World<'_>, at: usize) -> Option<()> {
    world.note(format!("arm {} again", world.subjects[at].id));
    let subject = &mut world.subjects[at];
    subject.buffer.rearm().expect("nobody holds it");
    subject.revoked = false;
    world.met("armed again");
    Some(())
}

/// From the beginning of the smallest buffer to its end.
const HALVES: CopyRegion = CopyRegion { from: 0, to: 2, len: 2 };

/// Whatever somebody wants of it: it is revoked, and nothing changes.
pub(crate) fn refused(world: &mut World<'_>, at: usize) -> Option<()> {
    let index = taken(world, at);
    let (device, engine) = (world.device(), world.engine);
    let what = world.random.below(7);
    let subject = &world.subjects[at];
    world.note(format!("operation {what} on {}, which is revoked", subject.id));
    let subject = &world.subjects[at];
    let buffer = &subject.buffer;
    let attachment = |index: usize| subject.chairs[index].attachment.as_ref();
    let result: Result<()> = match (what, index.and_then(attachment)) {
        (0, Some(seat)) => seat.map(Access::Read).map(drop),
        (1, Some(seat)) => seat.pin("shadow").map(drop),
        (2, _) => buffer.host_access(Access::Write).map(drop),
        (3, _) => buffer.export_foreign().map(drop),
        (4, _) => buffer.relocate().map(drop),
        (5, _) => engine.copy(buffer, buffer, HALVES).map(drop),
        (6, _) => buffer.migrate(DomainId::System).map(drop),
        _ => buffer.attach_dynamic(&device, Recorder::new(true)).map(drop),
    };
    let error = result.expect_err("taken away");
    assert!(matches!(error, Error::Revoked { .. }), "{error}");
    Some(())
}
