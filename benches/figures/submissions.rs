//! What a submission costs beside the same barriers by hand.
#![expect(unsafe_code, reason = "raw commands, recorded and submitted through peerbuf")]

use std::sync::{Mutex, PoisonError};

use ash::vk;
use peerbuf::{
    Access, Attachment, Device, Fence, Mapping, RawView, Scope, SharedBuffer, Submission,
};

use crate::Outcome;
use crate::figure::Figure;
use crate::measure::{Compared, Plan, Random, compare};
use crate::queue_by_hand::{Queue, Range, Wait, fill};
use crate::setup::{Setup, TIMEOUT};
use crate::share::create_on;

const SIZE: u64 = 4096;

/// Buffers that their home device alone uses.
struct Ours<'a> {
    setup: &'a Setup,
    device: &'a Device,
    mappings: Vec<Mapping>,
    _attachments: Vec<Attachment>,
    _buffers: Vec<SharedBuffer>,
}

impl<'a> Ours<'a> {
    fn new(setup: &'a Setup, count: usize) -> Outcome<Self> {
        let device = &setup.near;
        let buffers: Vec<_> =
            (0..count).map(|_| create_on(setup, device, SIZE)).collect::<Outcome<_>>()?;
        let attachments: Vec<_> =
            buffers.iter().map(|buffer| Ok(buffer.attach(device)?)).collect::<Outcome<_>>()?;
        let map = |attachment: &Attachment| Ok(attachment.map(Access::ReadWrite)?);
        let mappings = attachments.iter().map(map).collect::<Outcome<_>>()?;
        Ok(Self { setup, device, mappings, _attachments: attachments, _buffers: buffers })
    }

    fn range(&self, index: usize) -> Outcome<Range> {
        let view = self.mappings[index].view()?;
        Ok(Range { buffer: view.buffer, offset: view.offset, size: view.size })
    }

    /// Submits with commands that peerbuf lets the application record. Declares the buffers one by one.
    fn record(&self, indices: &[usize]) -> Outcome<Fence> {
        Ok(self.setup.engine.submit(self.device, |submission| {
            let mut first = None;
            for &index in indices {
                let view =
                    submission.uses(&self.mappings[index], Access::Write, Scope::TRANSFER)?;
                first.get_or_insert(view);
            }
            self.record_fill(submission, first);
            Ok(())
        })?)
    }

    /// As [`Ours::record`], with one declaration for all of the buffers.
    fn record_together(&self, indices: &[usize]) -> Outcome<Fence> {
        let mappings = indices.iter().map(|&index| &self.mappings[index]);
        Ok(self.setup.engine.submit(self.device, |submission| {
            let (access, mut first) = (Access::Write, None);
            submission.uses_all(mappings, access, Scope::TRANSFER, |view| {
                first.get_or_insert(view);
            })?;
            self.record_fill(submission, first);
            Ok(())
        })?)
    }

    /// Records a fill of the first buffer.
    fn record_fill<'s>(&'s self, submission: &mut Submission<'s>, first: Option<RawView>) {
        let record = move |commands| {
            let Some(view) = first else { return };
            let range = Range { buffer: view.buffer, offset: view.offset, size: view.size };
            fill(self.device, commands, range);
        };
        // SAFETY: it records one valid command on what was declared.
        unsafe { submission.record(record) };
    }

    /// Submits a command buffer that was recorded before.
    fn commands(&self, index: usize, commands: vk::CommandBuffer) -> Outcome<Fence> {
        Ok(self.setup.engine.submit(self.device, |submission| {
            submission.uses(&self.mappings[index], Access::Write, Scope::TRANSFER)?;
            // SAFETY: executable, of this device's family, and reset only after the fence has signalled; it uses what
            // was declared.
            unsafe { submission.commands(&[commands]) };
            // SAFETY: it acquires and releases the buffer.
            unsafe { submission.transfers_recorded() };
            Ok(())
        })?)
    }
}

/// `submit_one`, `submit_one_commands`: one declared buffer, submitted and waited for. The rows `…_polled` wait on both
/// sides as peerbuf does.
pub(crate) fn one(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup, 1)?;
    let prerecorded = Prerecorded::new(&ours, 1)?;
    let mut by_hand = Queue::new(ours.device, setup.handle, 1)?;
    let theirs = Ours::new(setup, 1)?;
    by_hand.record(0, &[theirs.range(0)?])?;
    let mut against = |wait, ours: &dyn Fn() -> Outcome<Fence>| -> Outcome<Compared> {
        compare(
            Plan::MICROSECONDS,
            || Ok(ours()?.wait(TIMEOUT)?),
            || {
                let value = by_hand.submit(0)?;
                by_hand.wait(value, wait)
            },
        )
    };
    let record = || ours.record(&[0]);
    let commands = || ours.commands(0, prerecorded.0.commands[0]);
    let what = "one buffer, submit and wait, recorded now";
    let what_commands = "the same, recorded beforehand";
    let by = "recorded beforehand, the same barriers, vkWaitSemaphores";
    let by_polled = "the same, waiting as peerbuf does";
    Ok(vec![
        Figure::speed("submit_one", what, by, Some(1.6), against(Wait::Plain, &record)?),
        Figure::speed(
            "submit_one_polled",
            what,
            by_polled,
            Some(0.95),
            against(Wait::PollFirst, &record)?,
        ),
        Figure::speed(
            "submit_one_commands",
            what_commands,
            by,
            Some(1.6),
            against(Wait::Plain, &commands)?,
        ),
        Figure::speed(
            "submit_one_commands_polled",
            what_commands,
            by_polled,
            Some(0.95),
            against(Wait::PollFirst, &commands)?,
        ),
    ])
}

const QUEUED: usize = 64;

/// `submit_64_queued`: 64 submissions of one buffer each, then one wait.
pub(crate) fn queued(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup, QUEUED)?;
    let prerecorded = Prerecorded::new(&ours, QUEUED)?;
    let theirs = Ours::new(setup, QUEUED)?;
    // CAST: 64.
    let mut by_hand = Queue::new(ours.device, setup.handle, QUEUED as u32)?;
    for index in 0..QUEUED {
        by_hand.record(index, &[theirs.range(index)?])?;
    }
    let mut against = |ours: &dyn Fn(usize) -> Outcome<Fence>| -> Outcome<Compared> {
        compare(
            Plan::MICROSECONDS,
            || {
                let mut last = Fence::signalled();
                for index in 0..QUEUED {
                    last = ours(index)?;
                }
                Ok(last.wait(TIMEOUT)?)
            },
            || {
                let mut last = 0;
                for index in 0..QUEUED {
                    last = by_hand.submit(index)?;
                }
                by_hand.wait(last, Wait::PollFirst)
            },
        )
    };
    let commands = against(&|index| ours.commands(index, prerecorded.0.commands[index]))?;
    let record = against(&|index| ours.record(&[index]))?;
    let by = "the same by hand, recorded beforehand with the same barriers";
    Ok(vec![
        Figure::speed(
            "submit_64_queued",
            "64 submissions, recorded beforehand, one wait",
            by,
            Some(0.7),
            commands,
        ),
        Figure::speed(
            "submit_64_queued_record",
            "64 submissions, recorded now, one wait",
            by,
            None,
            record,
        ),
    ])
}

const ALL: usize = 4096;
const MANY: usize = 128;

/// `submit_128_of_4096`: 128 of 4096 buffers, at random, declared together; `submit_128_of_4096_singly`: declared one by
/// one.
pub(crate) fn many(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup, ALL)?;
    let theirs = Ours::new(setup, ALL)?;
    let ranges: Vec<_> = (0..ALL).map(|index| theirs.range(index)).collect::<Outcome<_>>()?;
    let locks: Vec<_> = (0..ALL).map(|_| Mutex::new(0_u64)).collect();
    let mut by_hand = Queue::new(ours.device, setup.handle, 1)?;
    let mut chosen = Vec::with_capacity(MANY);
    let mut against = |ours: &dyn Fn(&[usize]) -> Outcome<Fence>| {
        let (mut random, mut same) = (Random::new(1), Random::new(1));
        let mut draw = vec![0; MANY];
        let mut draw_of_theirs = draw.clone();
        compare(
            Plan::MICROSECONDS,
            || {
                draw.iter_mut().for_each(|index| *index = random.below(ALL));
                Ok(ours(&draw)?.wait(TIMEOUT)?)
            },
            || {
                draw_of_theirs.iter_mut().for_each(|index| *index = same.below(ALL));
                draw_of_theirs.sort_unstable();
                draw_of_theirs.dedup();
                let mut locked: Vec<_> = draw_of_theirs
                    .iter()
                    .map(|&index| locks[index].lock().unwrap_or_else(PoisonError::into_inner))
                    .collect();
                chosen.clear();
                chosen.extend(draw_of_theirs.iter().map(|&index| ranges[index]));
                by_hand.record(0, &chosen)?;
                let value = by_hand.submit(0)?;
                locked.iter_mut().for_each(|last| **last = value);
                drop(locked);
                draw_of_theirs.resize(MANY, 0);
                by_hand.wait(value, Wait::PollFirst)
            },
        )
    };
    let together = against(&|draw| ours.record_together(draw))?;
    let singly = against(&|draw| ours.record(draw))?;
    let by = "sorted locks and the same barriers by hand";
    Ok(vec![
        Figure::speed(
            "submit_128_of_4096",
            "128 of 4096 buffers, recorded now, submit and wait",
            by,
            Some(0.9),
            together,
        ),
        Figure::speed(
            "submit_128_of_4096_singly",
            "the same, each buffer declared by a call of its own",
            by,
            None,
            singly,
        ),
    ])
}

/// Command buffers of the application, one for each buffer, recorded beforehand.
struct Prerecorded<'a>(Queue<'a>);

impl<'a> Prerecorded<'a> {
    fn new(ours: &Ours<'a>, count: usize) -> Outcome<Self> {
        let raw = ours.device.raw();
        // CAST: 64 at most.
        let queue = Queue::new(ours.device, ours.setup.handle, count as u32)?;
        for (index, &commands) in queue.commands.iter().enumerate() {
            // SAFETY: new.
            unsafe { raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }?;
            let mapping = &ours.mappings[index];
            // SAFETY: being recorded; submitted behind the buffer's earlier uses.
            unsafe { mapping.acquire(commands, Scope::TRANSFER) }?;
            fill(ours.device, commands, ours.range(index)?);
            // SAFETY: acquired above.
            unsafe { mapping.release(commands, Scope::TRANSFER) };
            // SAFETY: begun above.
            unsafe { raw.end_command_buffer(commands) }?;
        }
        Ok(Self(queue))
    }
}
