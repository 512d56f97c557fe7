//! Operations on many at once: the outcome for each is the one it would have alone.

use peerbuf::{Attachment, Device, DomainId, Error, Mapping};

use crate::World;
use crate::steps::{Faults, attempt, is_fault};
use crate::subject::Expected;

/// Moves several buffers, each to a domain of its own, or none.
pub(crate) fn migrate_many(world: &mut World<'_>, _: usize) -> Option<()> {
    let engine = world.engine;
    let mut plan: Vec<(usize, DomainId, Device, Expected)> = Vec::new();
    // Most go to the same domain and share a submission.
    let common = world.device();
    for index in 0..world.subjects.len() {
        if world.random.one_in(4) {
            continue;
        }
        let target = match world.random.below(4) {
            0 => None,
            1 => Some(world.device()),
            _ => Some(common.clone()),
        };
        let subject = &world.subjects[index];
        let home = target.clone().unwrap_or_else(|| subject.home.clone());
        let to = target.map_or(DomainId::System, |device| DomainId::Vram(device.id()));
        let expected = subject.expect_migration(engine, to, &home);
        plan.push((index, to, home, expected));
    }
    let moving = |plan: &&(_, _, _, Expected)| matches!(plan.3, Expected::Moves { .. });
    let several = plan.iter().filter(moving).count() > 1;
    let ids = plan.iter().map(|(index, to, ..)| format!("{} to {to}", world.subjects[*index].id));
    let text = format!("migrate together: {}", ids.collect::<Vec<_>>().join(", "));
    world.note(text);
    let mut faults = Faults::of(world);
    let moves = plan.iter().map(|(index, to, ..)| (&world.subjects[*index].buffer, *to));
    let moves: Vec<_> = moves.collect();
    faults.arm();
    let results = engine.migrate_many(&moves);
    let may_fail = faults.disarm();
    assert_eq!(results.len(), plan.len());
    for (result, (index, to, home, expected)) in results.into_iter().zip(plan) {
        let subject = &mut world.subjects[index];
        let result = match result {
            Err(error) if may_fail && !faults.met && is_fault(&error) => {
                faults.met = true;
                let now = (subject.buffer.domain(), subject.buffer.generation());
                assert_eq!(now, (subject.domain, subject.generation), "{error}");
                subject.buffer.migrate(to)
            }
            other => other,
        };
        let met = subject.settle(result, expected, home);
        world.met(met);
    }
    if several {
        world.met("moved with others");
    }
    faults.report(world);
    Some(())
}

/// Replaces several mappings of a buffer, each through some attachment. If one cannot be replaced, none is.
pub(crate) fn remap_all(world: &mut World<'_>, at: usize) -> Option<()> {
    let World { subjects, random, .. } = world;
    let subject = &mut subjects[at];
    let attached: Vec<_> = subject.entries.iter().filter(|entry| entry.is_attached()).collect();
    if attached.is_empty() {
        return None;
    }
    let mut pairs = Vec::new();
    for (index, mapped) in subject.mappings.iter().enumerate() {
        let device = mapped.mapping.device();
        let own = attached.iter().find(|entry| entry.device == device);
        // Sometimes an attachment of another device.
        let entry = own.filter(|_| !random.one_in(12)).unwrap_or(random.pick(&attached));
        if !random.one_in(3) {
            pairs.push((index, (entry.id, entry.is_static(), entry.device == device)));
        }
    }
    let fit = pairs.iter().all(|(_, (.., same))| *same);
    let text = format!("remap {} of {} together: {pairs:?}", pairs.len(), subject.id);
    world.note(text);
    let mut faults = Faults::of(world);
    let engine = world.engine;
    let subject = &mut world.subjects[at];
    // Without a mapping, or with one of another device, nothing moves.
    let returns =
        if fit && !pairs.is_empty() { subject.expect_return(engine) } else { Expected::Stays };
    faults.none_if_it_returns(returns);
    let (entries, buffer) = (&subject.entries, &subject.buffer);
    let attachment = |id| -> Option<&Attachment> {
        entries.iter().find(|entry| entry.id == id)?.attachment.as_ref()
    };
    let old: Vec<u32> = subject.mappings.iter().map(|mapped| mapped.generation).collect();
    let mut attachments: Vec<(&Attachment, &mut Mapping)> = Vec::new();
    for (index, mapped) in subject.mappings.iter_mut().enumerate() {
        if let Some((_, (entry, ..))) = pairs.iter().find(|(of, _)| *of == index) {
            attachments.push((attachment(*entry)?, &mut mapped.mapping));
        }
    }
    let result = attempt(&mut faults, buffer, || {
        let result = buffer.remap_all(&mut attachments);
        if result.is_err() {
            let now = attachments.iter().map(|(_, mapping)| mapping.generation());
            assert!(
                now.eq(pairs.iter().map(|(index, _)| old[*index])),
                "a failed call changes none"
            );
        }
        result
    });
    let mut met = None;
    if fit {
        let (remapped, what) = subject.settle_return(result, returns);
        met = what;
        for (index, (entry, fixed, _)) in remapped.into_iter().flat_map(|()| &pairs) {
            let mapped = &mut subject.mappings[*index];
            (mapped.entry, mapped.fixed) = (*entry, *fixed);
            mapped.generation = subject.generation;
        }
    } else {
        let error = result.expect_err("one of another device");
        assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    }
    subject.sweep();
    if fit && pairs.len() > 1 && met != Some("busy") {
        world.met("remapped together");
    }
    met.into_iter().for_each(|what| world.met(what));
    faults.report(world);
    Some(())
}
