//! What a submission costs, in counts: command buffers that peerbuf records, reads of timelines, allocations. And the
//! submissions whose commands transfer ownership themselves, which need no command buffer of peerbuf's.
#![expect(unsafe_code, reason = "raw command buffers of the test")]

use std::time::Duration;

use ash::vk;
use peerbuf::device::Call;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Fence, Mapping, Result,
    Scope, SharedBuffer, Submission, WaitRoute,
};

use crate::common::commands::copy;
use crate::common::gate::Gate;
use crate::common::heap::allocations;
use crate::common::recorder::Recorder;
use crate::common::{LONG, Rig, bytes, wait_idle};

const SIZE: u64 = 40_000;
/// Up to so many buffers nothing is allocated.
const FEW: usize = 8;

/// Buffers that one device has attached.
struct Buffers {
    all: Vec<SharedBuffer>,
    _attachments: Vec<Attachment>,
    mappings: Vec<Mapping>,
}

impl Buffers {
    fn new(engine: &Engine, home: &Device, user: &Device, count: usize) -> Self {
        let create = |_| engine.create_buffer(home, BufferDescriptor::new(SIZE)).expect("a buffer");
        let all: Vec<_> = (0..count).map(create).collect();
        let attach = |buffer: &SharedBuffer| buffer.attach(user).expect("an attachment");
        let attachments: Vec<_> = all.iter().map(attach).collect();
        let map = |attachment: &Attachment| attachment.map(Access::ReadWrite).expect("mapped");
        let mappings = attachments.iter().map(map).collect();
        Self { all, _attachments: attachments, mappings }
    }

    fn declare(&self, submission: &mut Submission<'_>) -> Result<()> {
        self.mappings.iter().try_for_each(|mapping| {
            submission.uses(mapping, Access::Write, Scope::TRANSFER).map(drop)
        })
    }
}

/// Command buffers of the test.
struct Commands<'a> {
    device: &'a Device,
    pool: vk::CommandPool,
    one: vk::CommandBuffer,
}

impl<'a> Commands<'a> {
    /// One that may be submitted again while it is pending.
    fn record(device: &'a Device, record: impl FnOnce(vk::CommandBuffer)) -> Self {
        let raw = device.raw();
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(device.queue_family());
        // SAFETY: the family exists.
        let pool = unsafe { raw.create_command_pool(&info, None) }.expect("a pool");
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is live.
        let one = unsafe { raw.allocate_command_buffers(&info) }.expect("a command buffer")[0];
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE);
        // SAFETY: new.
        unsafe { raw.begin_command_buffer(one, &begin) }.expect("begun");
        record(one);
        // SAFETY: begun above.
        unsafe { raw.end_command_buffer(one) }.expect("recorded");
        Self { device, pool, one }
    }

    fn empty(device: &'a Device) -> Self {
        Self::record(device, |_| {})
    }

    /// Fills the buffers with a word, and transfers them from and to the outside.
    fn fill_with_transfers(device: &'a Device, mappings: &[Mapping], word: u32) -> Self {
        Self::record(device, |commands| {
            for mapping in mappings {
                let view = mapping.view().expect("usable");
                // SAFETY: being recorded; submitted only behind the buffer's earlier uses.
                unsafe { mapping.acquire(commands, Scope::TRANSFER) }.expect("usable");
                // SAFETY: a live buffer, and the mapping's range.
                unsafe {
                    let raw = device.raw();
                    raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word);
                }
                // SAFETY: acquired above.
                unsafe { mapping.release(commands, Scope::TRANSFER) };
            }
        })
    }
}

impl Drop for Commands<'_> {
    fn drop(&mut self) {
        wait_idle(&[self.device]);
        // SAFETY: nothing is pending.
        unsafe { self.device.raw().destroy_command_pool(self.pool, None) };
    }
}

/// What a submission is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Recorded,
    Commands,
    Both,
    Transfers,
}

impl Form {
    const ALL: [Self; 4] = [Self::Recorded, Self::Commands, Self::Both, Self::Transfers];

    fn submit(
        self,
        engine: &Engine,
        device: &Device,
        buffers: &Buffers,
        commands: &[vk::CommandBuffer],
    ) -> Result<Fence> {
        engine.submit(device, |submission| {
            buffers.declare(submission)?;
            if matches!(self, Self::Recorded | Self::Both) {
                // SAFETY: it records nothing.
                unsafe { submission.record(|_| {}) };
            }
            if self != Self::Recorded {
                // SAFETY: executable, and freed after the device is idle.
                unsafe { submission.commands(commands) };
            }
            if self == Self::Transfers {
                // SAFETY: the command buffer does that, or no buffer is used.
                unsafe { submission.transfers_recorded() };
            }
            Ok(())
        })
    }
}

#[test]
fn command_buffers_are_recorded_only_where_ownership_is_transferred() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let empty = Commands::empty(&device);
        let [some, none] = [3, 0].map(|count| Buffers::new(engine, &device, &device, count));
        let transferring = Commands::fill_with_transfers(&device, &some.mappings, 5);
        let recorded = |form: Form, buffers: &Buffers, commands: vk::CommandBuffer| {
            let made = || {
                let calls = engine.calls();
                [calls.made(Call::BeginCommandBuffer), calls.made(Call::QueueSubmit)]
            };
            let before = made();
            form.submit(engine, &device, buffers, &[commands]).expect("a submission");
            let after = made();
            assert_eq!(after[1] - before[1], 1, "{form:?}: one submission");
            after[0] - before[0]
        };
        // The first use may zero memory.
        Form::Recorded.submit(engine, &device, &some, &[]).expect("a submission");
        let of = |form| match form {
            Form::Transfers => transferring.one,
            _ => empty.one,
        };
        let with_buffers = Form::ALL.map(|form| recorded(form, &some, of(form)));
        assert_eq!(with_buffers, [1, 2, 2, 0], "{}: {:?}", device.name(), Form::ALL);
        let without = Form::ALL.map(|form| recorded(form, &none, empty.one));
        assert_eq!(without, [1, 0, 1, 0], "{}: no buffer", device.name());
        let before = engine.calls().made(Call::BeginCommandBuffer);
        engine.submit(&device, |_| Ok(())).expect("a submission of nothing");
        assert_eq!(engine.calls().made(Call::BeginCommandBuffer), before, "nothing to record");
    }
}

#[test]
fn each_timeline_is_read_once_for_a_submission() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [one, other] = rig.two_of_one_adapter();
    let buffers = Buffers::new(engine, &one, &one, FEW);
    let reads = || engine.calls().made(Call::GetSemaphoreCounterValue);
    let submit = |device: &Device, mappings: &[Mapping]| {
        let before = reads();
        let declared = engine.submit(device, |submission| {
            mappings.iter().try_for_each(|mapping| submission.write(mapping).map(drop))
        });
        declared.expect("a submission");
        reads() - before
    };
    // The first use may zero memory.
    submit(&one, &buffers.mappings);
    let gate = Gate::close(&one);
    submit(&one, &buffers.mappings);
    assert_eq!(submit(&one, &buffers.mappings), 1, "behind eight fences of its own queue");
    gate.open();
    wait_idle(&[&one]);
    // Elsewhere a semaphore for each wait, or a thread, reads timelines as well.
    if engine.wait_route(&one, &other).expect("devices of this engine") != WaitRoute::SharedTimeline
    {
        return;
    }
    let attach = |buffer: &SharedBuffer| buffer.attach(&other).expect("an attachment");
    let theirs: Vec<_> = buffers.all.iter().map(attach).collect();
    let map = |attachment: &Attachment| attachment.map(Access::ReadWrite).expect("mapped");
    let mappings: Vec<_> = theirs.iter().map(map).collect();
    // The first waits import the timelines.
    submit(&other, &mappings);
    submit(&one, &buffers.mappings);
    wait_idle(&[&one, &other]);
    let gate = Gate::close(&one);
    submit(&one, &buffers.mappings);
    assert_eq!(submit(&other, &mappings), 2, "behind eight of another device");
    assert_eq!(submit(&one, &buffers.mappings), 2, "behind that");
    gate.open();
    wait_idle(&[&one, &other]);
}

#[test]
fn a_submission_of_eight_buffers_allocates_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    // So that no driver is asked for its budget meanwhile.
    engine.calls().set_clock(Some(Duration::from_secs(1)));
    for device in rig.all() {
        let buffers = Buffers::new(engine, &device, &device, FEW);
        let empty = Commands::empty(&device);
        let transferring = Commands::fill_with_transfers(&device, &buffers.mappings, 9);
        let of = |form| match form {
            Form::Transfers => transferring.one,
            _ => empty.one,
        };
        // Lists of the queue grow to what is in flight at most, and are kept.
        let gate = Gate::close(&device);
        for _ in 0..4 {
            for form in Form::ALL {
                form.submit(engine, &device, &buffers, &[of(form)]).expect("a submission");
            }
        }
        gate.open();
        wait_idle(&[&device]);
        // It takes back what those used.
        Form::Recorded.submit(engine, &device, &buffers, &[]).expect("a submission");
        wait_idle(&[&device]);
        for held in [false, true] {
            let gate = held.then(|| Gate::close(&device));
            for form in Form::ALL {
                // Twice: the second one has the first one before it.
                for round in 0..2 {
                    let submit = || form.submit(engine, &device, &buffers, &[of(form)]);
                    let (fence, taken) = allocations(submit);
                    drop(fence.expect("a submission"));
                    let what = format!("{}, {form:?}, {round}, held: {held}", device.name());
                    assert_eq!(taken, 0, "{what}");
                }
            }
            drop(gate);
            wait_idle(&[&device]);
        }
    }
}

#[test]
fn a_submission_of_many_buffers_makes_the_calls_of_one_and_allocates_its_lists_alone() {
    /// Lists of a submission, each of them allocated at once or doubled.
    const LISTS: u64 = 20;
    let rig = Rig::new();
    let engine = rig.engine();
    engine.calls().set_clock(Some(Duration::from_secs(1)));
    for device in rig.all() {
        let [one, many] = [1, 128].map(|count| Buffers::new(engine, &device, &device, count));
        let calls = |buffers: &Buffers| {
            let before: Vec<_> = Call::ALL.iter().map(|call| engine.calls().made(*call)).collect();
            let submitted = Form::Recorded.submit(engine, &device, buffers, &[]);
            submitted.expect("a submission");
            let made = Call::ALL.iter().zip(before).filter_map(|(call, before)| {
                let made = engine.calls().made(*call) - before;
                (made > 0).then_some((*call, made))
            });
            made.collect::<Vec<_>>()
        };
        // The first use may zero memory; the second one finds fences that are running.
        for buffers in [&one, &many, &one, &many] {
            Form::Recorded.submit(engine, &device, buffers, &[]).expect("a submission");
        }
        let expected = [
            (Call::QueueSubmit, 1),
            (Call::BeginCommandBuffer, 1),
            (Call::GetSemaphoreCounterValue, 1),
        ];
        for held in [true, false] {
            let gate = held.then(|| Gate::close(&device));
            let what = format!("{}, held: {held}", device.name());
            assert_eq!(calls(&one), expected, "{what}");
            assert_eq!(calls(&many), expected, "{what}");
            let submit = || Form::Recorded.submit(engine, &device, &many, &[]);
            let (fence, taken) = allocations(submit);
            drop(fence.expect("a submission"));
            assert!(taken <= LISTS, "{what}: {taken}");
            drop(gate);
            wait_idle(&[&device]);
        }
    }
}

#[test]
fn many_reservations_are_locked_without_the_heap() {
    const MANY: usize = 32;
    let rig = Rig::new();
    let engine = rig.engine();
    let device = rig.all().swap_remove(0);
    let buffers = Buffers::new(engine, &device, &device, MANY);
    let twice: Vec<&SharedBuffer> = buffers.all.iter().chain(&buffers.all).collect();
    let (locked, taken) = allocations(|| engine.model_lock(&twice, || ()));
    locked.expect("nothing else has them");
    assert_eq!(taken, 0);
    assert!(buffers.all.iter().all(|buffer| !buffer.is_busy(Access::Write)), "they are free again");
}

#[test]
fn each_of_many_buffers_is_used_once_however_often_it_is_declared() {
    const MANY: usize = 100;
    let rig = Rig::new();
    let engine = rig.engine();
    let device = rig.all().swap_remove(0);
    let buffers = Buffers::new(engine, &device, &device, MANY);
    let submitted = engine.submit(&device, |submission| {
        for _ in 0..3 {
            buffers.declare(submission)?;
        }
        let shown = format!("{submission:?}");
        assert!(shown.contains(&format!("buffers: {MANY}")), "{shown}");
        Ok(())
    });
    submitted.expect("a submission").wait(LONG).expect("nothing to do");
}

#[test]
fn commands_that_transfer_ownership_themselves_keep_the_order_across_devices() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    for (writer, reader) in
        devices.iter().flat_map(|one| devices.iter().map(move |other| (one, other)))
    {
        if std::ptr::eq(writer, reader) {
            continue;
        }
        // Attached by both before it is mapped: a mapped buffer does not move.
        let buffer = engine.create_buffer(writer, BufferDescriptor::new(SIZE)).expect("a buffer");
        let [near, far] =
            [writer, reader].map(|device| buffer.attach(device).expect("an attachment"));
        let seen = far.map(Access::Read).expect("mapped");
        let mappings = vec![near.map(Access::ReadWrite).expect("mapped")];
        let mine = Buffers { all: vec![buffer], _attachments: vec![near], mappings };
        let yours = Buffers::new(engine, reader, reader, 1);
        let recorded = Commands::fill_with_transfers(writer, &mine.mappings, 0x0707_0707);
        for round in 0..3 {
            let what = format!("{} to {}, {round}", writer.name(), reader.name());
            bytes::write(&mine.all[0], round);
            let gate = Gate::close(writer);
            let submitted = Form::Transfers.submit(engine, writer, &mine, &[recorded.one]);
            let written = submitted.expect("a submission");
            let copied = copy(engine, reader, &seen, &yours.mappings[0]).expect("a submission");
            assert!(!copied.is_signalled().expect("no error"), "{what}");
            gate.open();
            copied.wait(LONG).expect("the copy");
            assert!(written.is_signalled().expect("no error"), "{what}");
            let expected = vec![7; SIZE as usize];
            bytes::assert_same(&bytes::read(&yours.all[0]), &expected, &what);
        }
    }
}

#[test]
fn commands_recorded_before_a_move_are_refused_after_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let buffer = engine.create_buffer(&device, BufferDescriptor::new(SIZE)).expect("a buffer");
        let attachment =
            buffer.attach_dynamic(&device, Recorder::new(true)).expect("an attachment");
        let mappings = vec![attachment.map(Access::ReadWrite).expect("mapped")];
        let recorded = Commands::fill_with_transfers(&device, &mappings, 0x0303_0303);
        let buffers = Buffers { all: vec![buffer], _attachments: vec![attachment], mappings };
        let submit = || Form::Transfers.submit(engine, &device, &buffers, &[recorded.one]);
        submit().expect("a submission").wait(LONG).expect("the fill");
        bytes::assert_same(&bytes::read(&buffers.all[0]), &vec![3; SIZE as usize], "filled");
        let domain = match buffers.all[0].domain() {
            DomainId::System => DomainId::Vram(device.id()),
            _ => DomainId::System,
        };
        buffers.all[0].migrate(domain).expect("it moves");
        let refused = submit();
        assert!(matches!(refused, Err(Error::Stale { .. })), "{refused:?}");
    }
}

#[test]
fn buffers_that_are_declared_together_are_used_as_each_alone() {
    // More than are loaded ahead at once.
    const MANY: usize = 150;
    let rig = Rig::new();
    let engine = rig.engine();
    engine.calls().set_clock(Some(Duration::from_secs(1)));
    for device in rig.all() {
        let buffers = Buffers::new(engine, &device, &device, MANY);
        let (all, few) = (&buffers.mappings, &buffers.mappings[..FEW]);
        let expected: Vec<_> = all.iter().map(|m| m.view().expect("current")).collect();
        let mut handles = Vec::new();
        let submitted = engine.submit(&device, |submission| {
            submission.uses_all(all, Access::Write, Scope::TRANSFER, |view| handles.push(view))?;
            // All of them are known by now.
            submission.uses_all(all.iter().rev(), Access::Read, Scope::TRANSFER, |_| {})?;
            let (raw, views) = (device.raw(), handles.clone());
            let record = move |commands| {
                for view in &views {
                    // SAFETY: it is being recorded, and the range was declared.
                    unsafe {
                        raw.cmd_fill_buffer(
                            commands,
                            view.buffer,
                            view.offset,
                            view.size,
                            0x1717_1717,
                        );
                    }
                }
            };
            // SAFETY: it records valid commands on what was declared, once each.
            unsafe { submission.record(record) };
            Ok(())
        });
        submitted.expect("a submission");
        assert_eq!(handles, expected, "{}", device.name());
        // Each access waits for the submission, so the buffer was among those that it writes.
        for buffer in &buffers.all {
            bytes::assert_same(&bytes::read(buffer), &vec![0x17; buffer.size() as usize], "filled");
        }
        let submit = || {
            engine.submit(&device, |submission| {
                submission.uses_all(few, Access::Write, Scope::TRANSFER, |_| {})
            })
        };
        drop(submit().expect("a submission"));
        wait_idle(&[&device]);
        let (fence, taken) = allocations(submit);
        drop(fence.expect("a submission"));
        assert_eq!(taken, 0, "{}: up to {FEW} buffers", device.name());
        wait_idle(&[&device]);
        let moved = engine.create_buffer(&device, BufferDescriptor::new(SIZE)).expect("a buffer");
        let attachment = moved.attach_dynamic(&device, Recorder::new(true)).expect("attached");
        let stale = attachment.map(Access::Read).expect("mapped");
        moved.migrate(DomainId::System).expect("not held");
        let mut declared = 0;
        let refused = engine.submit(&device, |submission| {
            let mappings = few.iter().chain([&stale]).chain(few);
            submission.uses_all(mappings, Access::Read, Scope::TRANSFER, |_| declared += 1)
        });
        assert!(matches!(refused, Err(Error::Stale { .. })), "{refused:?}");
        assert_eq!(declared, FEW, "those before it");
        wait_idle(&[&device]);
        drop((stale, attachment));
    }
}

/// Memory that waits for one device's work is looked at when a buffer is created. Each timeline is read once for all of it.
#[test]
fn a_collection_of_retired_memory_reads_each_timeline_once() {
    const RETIRED: usize = 50;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let reads = |count| {
            let buffers = Buffers::new(engine, &device, &device, count);
            let gate = Gate::close(&device);
            let used = engine.submit(&device, |submission| buffers.declare(submission));
            used.expect("a submission");
            drop(buffers);
            let before = engine.calls().made(Call::GetSemaphoreCounterValue);
            drop(engine.create_buffer(&device, BufferDescriptor::new(SIZE)).expect("a buffer"));
            let after = engine.calls().made(Call::GetSemaphoreCounterValue);
            gate.open();
            wait_idle(&[&device]);
            engine.trim();
            after - before
        };
        let (few, many) = (reads(2), reads(RETIRED));
        assert!(few > 0, "what is retired is looked at");
        assert_eq!(few, many, "{}: reads for 2 and for {RETIRED}", device.name());
    }
}
