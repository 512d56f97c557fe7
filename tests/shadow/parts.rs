//! Writers that declare the range they write: what a buffer's clean copy lacks.

use std::ops::Range;

use peerbuf::{Access, Engine, Result};

use crate::World;
use crate::common::commands;
use crate::common::recorder::Recorder;
use crate::subject::{Mapped, Subject};
use crate::uses::write;

/// Fills a part of the buffer by commands that declare the range and are not waited for.
pub(crate) fn fill(world: &mut World<'_>, at: usize) -> Option<()> {
    let part = part(world, at);
    let written = part.clone();
    let submit = move |engine: &Engine, mapped: &Mapped, word| -> Result<_> {
        let device = mapped.mapping.device();
        commands::fill_part(engine, &device, &mapped.mapping, part.clone(), word)
    };
    write(world, at, "by commands, a part", submit, |subject, word| wrote(subject, written, word))
}

/// Fills a part of the buffer by its home device, whose attachment is dropped before the work ends.
pub(crate) fn fill_by_home(world: &mut World<'_>, at: usize) -> Option<()> {
    let (part, word, engine) = (part(world, at), world.number(), world.engine);
    let subject = &mut world.subjects[at];
    if !subject.is_writable() {
        return None;
    }
    let attachment =
        subject.buffer.attach_dynamic(&subject.home, Recorder::new(true)).expect("its own");
    let mapping = attachment.map(Access::Write).expect("mapped");
    let filled = commands::fill_part(engine, &subject.home, &mapping, part.clone(), word);
    filled.expect("a current mapping");
    wrote(subject, part, word);
    Some(())
}

fn wrote(subject: &mut Subject, part: Range<u64>, word: u32) {
    // CAST: a small buffer.
    let part = &mut subject.bytes[part.start as usize..part.end as usize];
    part.as_chunks_mut::<4>().0.fill(word.to_ne_bytes());
}

/// A range of at least one word.
fn part(world: &mut World<'_>, at: usize) -> Range<u64> {
    const MOST: u64 = 20_000;
    let words = world.subjects[at].bytes.len() as u64 / 4;
    let start = world.random.below(words);
    let len = 1 + world.random.below(MOST.min(words - start));
    4 * start..4 * (start + len)
}
