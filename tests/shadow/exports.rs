//! Exports, imports of the engine's own files, and what follows the last export.
#![expect(unsafe_code, reason = "imports an fd of the engine's own")]

use std::os::fd::AsFd;

use peerbuf::device::Call;
use peerbuf::{Access, Error, HandleType, Provider};

use crate::World;
use crate::steps::{Faults, attempt};
use crate::subject::Expected;

pub(crate) fn export(world: &mut World<'_>, at: usize) -> Option<()> {
    let subject = &world.subjects[at];
    let text = format!("export {}", subject.id);
    world.note(text);
    let mut faults = Faults::of(world);
    let engine = world.engine;
    let subject = &mut world.subjects[at];
    // A wait may fail after the move (tests/move_faults).
    faults.next.take_if(|(call, _)| *call == Call::WaitSemaphores);
    let returns = subject.expect_return(engine);
    faults.none_if_it_returns(returns);
    // Such memory has no fd. The buffer leaves it, if there is other memory that all attached devices reach.
    let anonymous = !matches!(returns, Expected::Moves { .. })
        && subject.buffer.provider() == Provider::Anonymous;
    let result = attempt(&mut faults, &subject.buffer, || subject.buffer.export_foreign());
    let met = match result {
        Ok(export) => {
            if let Expected::Moves { to, .. } = returns {
                subject.moved(to, subject.home.clone());
            }
            let moves = !subject.alone || anonymous;
            if moves {
                assert!(!subject.is_held(), "it was held, but moved out of its slab");
                let preferred = subject.preferred;
                let from = subject.domain;
                let to = if anonymous { subject.buffer.domain() } else { from };
                subject.moved(to, subject.home.clone());
                // In another domain it prefers that one.
                if to == from {
                    subject.preferred = preferred;
                }
            }
            subject.alone = true;
            subject.exports.push(export);
            if moves { "moved out of its slab" } else { "exported once more" }
        }
        Err(Error::Unsupported { .. }) if anonymous => "without an fd",
        Err(error) => {
            let moves = !subject.alone || anonymous || returns == Expected::Busy;
            assert!(moves && subject.is_held(), "{error}");
            subject.assert_busy(&error);
            "busy"
        }
    };
    world.met(met);
    faults.report(world);
    Some(())
}

/// Imports an exported fd again, or drops the export.
pub(crate) fn reimport(world: &mut World<'_>, at: usize) -> Option<()> {
    let drop_export = world.random.one_in(3);
    let device = world.device();
    let engine = world.engine;
    let id = world.subjects[at].id;
    if drop_export {
        drop(world.subjects[at].exports.pop()?);
        world.note(format!("drop an export of {id}"));
        return Some(());
    }
    let (buffer, info, fd) = {
        let subject = &world.subjects[at];
        let handle = subject.exports.last()?.handle().expect("descriptors are left");
        (subject.buffer.clone(), handle.info(), handle)
    };
    world.note(format!("{} imports {id} again", device.name()));
    // SAFETY: the engine's own fd, with its own `ForeignInfo`.
    let result = unsafe { engine.import_foreign(&device, fd.as_fd(), info, None) };
    let adapter = device.adapter();
    let ours =
        adapter.driver_uuid() == info.driver_uuid && adapter.device_uuid() == info.device_uuid;
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

/// A buffer whose last export was dropped moves before its next use, if it is not held. This is that use, so that all
/// other operations find such a buffer held, revoked, or moved.
pub(crate) fn leave_exported(world: &mut World<'_>) {
    for at in 0..world.subjects.len() {
        let subject = &mut world.subjects[at];
        let leaves = subject.alone && subject.exports.is_empty() && !subject.revoked;
        if !leaves || subject.is_held() {
            continue;
        }
        let access = subject.buffer.host_access(Access::Read).expect("no access lasts long");
        access.end().expect("it ends");
        // The preferred domain does not change.
        let preferred = subject.preferred;
        subject.moved(subject.domain, subject.home.clone());
        subject.preferred = preferred;
        let id = subject.id;
        world.note(format!("{id} leaves the memory that was exported"));
        world.met("left exported memory");
    }
}
