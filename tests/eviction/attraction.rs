//! Who uses a buffer all the time while it lives elsewhere gets it; and who does not, and why not.
//!
//! Software devices have the same memory everywhere, so the speeds are said to be what they are on two cards:
//! each reads ten times as fast in its own memory. The third use has saved more than twice the move, and the
//! next one finds the buffer there.

use std::sync::Arc;
use std::time::Duration;

use crate::common::gate::Gate;
use crate::common::{self, LONG, Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::{MoveCause, Reason, What};
use peerbuf::transfer::{CopySpeed, CopySpeeds};
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, FenceAndResume,
    Mapping, Placement, Priority, Refault, Result, Rules, SharedBuffer,
};

const MIB: u64 = 1 << 20;
const GB: u64 = 1_000_000_000;
/// How many uses it takes, at ten times the speed.
const ENOUGH: u32 = 3;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Says that each of two reads ten times as fast at home, and finds out how they reach each other. The clock by
/// which uses are forgotten stands still.
fn as_two_cards(engine: &Engine, pair: &[Device; 2]) {
    engine.calls().set_clock(Some(Duration::ZERO));
    for user in pair {
        for owner in pair {
            let speed = if user.id() == owner.id() { 10 * GB } else { GB };
            engine.model_speed(user, vram(owner), Some(speed)).expect("ours");
            engine.route(user, owner).expect("proved");
        }
        engine.model_speed(user, DomainId::System, Some(GB)).expect("ours");
    }
}

/// A buffer at home on the first of two, with bytes of its own, and a seat of the second one.
fn shared(engine: &Engine, pair: &[Device; 2]) -> (SharedBuffer, Attachment) {
    let buffer = engine.create_buffer(&pair[0], BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 7);
    let seat = buffer.attach_dynamic(&pair[1], Arc::new(Refault::new())).expect("a seat");
    (buffer, seat)
}

/// Submits something that reads the buffer.
fn read(engine: &Engine, device: &Device, seat: &Attachment, mapping: &mut Mapping) -> Result<()> {
    let reads = &mut [(seat, mapping)];
    engine
        .submit_remapped(device, reads, |submission, mapped| {
            submission.read(mapped[0]).map(|_| ())
        })?
        .wait(LONG)
}

/// After how many uses it is in `device`'s memory; `None` if 100 do not do.
fn uses_until_drawn(engine: &Engine, seat: &Attachment) -> Option<u32> {
    let device = seat.device();
    let mut mapping = seat.map(Access::Read).expect("mapped");
    (0..100).find(|_| {
        read(engine, &device, seat, &mut mapping).expect("it can be used wherever it is");
        seat.buffer().domain() == vram(&device)
    })
}

#[test]
fn who_reads_it_all_the_time_gets_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    let [first, second] = &pair;
    as_two_cards(engine, &pair);
    let (buffer, seat) = shared(engine, &pair);
    let owners = buffer.attach_dynamic(first, Arc::new(Refault::new())).expect("a seat");
    assert_eq!(uses_until_drawn(engine, &seat), Some(ENOUGH));
    assert_eq!(buffer.home().id(), second.id());
    let moved = engine.moved(MoveCause::Attracted);
    assert_eq!((moved.moves, moved.bytes, moved.copied), (1, MIB, MIB));
    assert_eq!(
        moved.moves,
        MoveCause::ALL.map(|cause| engine.moved(cause).moves).iter().sum::<u64>()
    );
    // Why.
    let explained = buffer.explain();
    let decision = explained.decisions[0];
    assert_eq!(
        (decision.what, decision.from, decision.to),
        (What::Attracted, vram(first), vram(second))
    );
    assert_eq!(decision.reason, Reason::UsedMore { by: second.id(), times: ENOUGH, others: 0 });
    assert_eq!(explained.wanted, vram(second), "it is not to go back by itself");
    let text = explained.to_string();
    assert!(text.contains("auto-migrated to") && text.contains("has used it 3 times"), "{text}");
    assert!(engine.report().to_string().contains("attracted"), "{}", engine.report());
    // What, seen by everybody.
    bytes::assert_sequence(&buffer, 7, "drawn");
    seat.map(Access::Write).expect("mapped").fill(5).expect("filled");
    let report = owners.map(Access::Read).expect("mapped").verify(5).expect("looked");
    assert_eq!(report.wrong, 0, "{report:?}");
    // And there it stays.
    assert_eq!(uses_until_drawn(engine, &seat), Some(0));
    buffer.evict().expect("nobody holds it");
    assert_eq!(uses_until_drawn(engine, &seat), Some(0), "it comes back to where it wants to be");
    assert_eq!(engine.moved(MoveCause::Attracted).moves, 1);
    assert_eq!(engine.moved(MoveCause::Returned).moves, 1);
    wait_idle(&[first, second]);
}

#[test]
fn it_is_in_the_trace() {
    let file = std::env::temp_dir().join(format!("peerbuf-attraction-{}.json", std::process::id()));
    {
        let rig = Rig::with(|descriptor| descriptor.trace(&file));
        let engine = rig.engine();
        let pair = rig.two_of_one_adapter();
        as_two_cards(engine, &pair);
        let (_buffer, seat) = shared(engine, &pair);
        assert_eq!(uses_until_drawn(engine, &seat), Some(ENOUGH));
        wait_idle(&[&pair[0], &pair[1]]);
    }
    let text = std::fs::read_to_string(&file).expect("the trace was written");
    std::fs::remove_file(&file).expect("it was there");
    for part in [r#""cause":"attracted""#, "auto-migrated to"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn who_switches_it_off_has_it_where_it_was_put() {
    let rig = Rig::with(|d| d.residency(Rules::new().attraction(false)));
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, seat) = shared(engine, &pair);
    assert_eq!(uses_until_drawn(engine, &seat), None);
    assert_eq!((buffer.domain(), buffer.generation()), (vram(&pair[0]), 0));
    wait_idle(&[&pair[0], &pair[1]]);
}

/// Whatever was measured: all their memory is the host's.
#[test]
fn software_devices_draw_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    for first in &devices {
        for second in &devices {
            engine.route(first, second).expect("looked at");
            let buffer =
                engine.create_buffer(first, BufferDescriptor::new(64 << 10)).expect("a buffer");
            let seat = buffer.attach_dynamic(second, Arc::new(Refault::new())).expect("a seat");
            let mut mapping = seat.map(Access::Read).expect("mapped");
            for _ in 0..20 {
                read(engine, second, &seat, &mut mapping).expect("submitted");
            }
        }
    }
    assert_eq!(engine.moved(MoveCause::Attracted).moves, 0);
    wait_idle(&devices.iter().collect::<Vec<_>>());
}

/// A use of a buffer, by whoever has the seat.
type Way<'a> = &'a dyn Fn(&SharedBuffer, &Attachment);

#[test]
fn every_way_to_use_it_counts() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    let [first, second] = &pair;
    as_two_cards(engine, &pair);
    let other = engine.create_buffer(second, BufferDescriptor::new(MIB)).expect("a buffer");
    // A submission on given mappings is looked at when it is over, the others when the next use begins.
    let ways: [(&str, u32, Way<'_>); 4] = [
        ("a pass", 1, &|_, seat| {
            seat.map(Access::Read).expect("mapped").checksum().expect("summed");
        }),
        ("an access of its own", 1, &|_, seat| {
            let mapping = seat.map(Access::Read).expect("mapped");
            drop(mapping.begin_access(Access::Read).expect("begun"));
        }),
        ("a submission that orders itself", 0, &|_, seat| {
            let mapping = seat.map(Access::Read).expect("mapped");
            let unordered = engine.submit(second, |s| s.unordered(&mapping).map(|_| ()));
            unordered.expect("submitted");
        }),
        ("a copy", 1, &|buffer, _| {
            engine.copy(buffer, &other, CopyRegion::first(MIB)).expect("copied");
        }),
    ];
    for (name, more, way) in ways {
        let (buffer, seat) = shared(engine, &pair);
        for nth in 0..ENOUGH + more {
            assert_eq!(buffer.domain(), vram(first), "{name}, {nth}");
            way(&buffer, &seat);
        }
        assert_eq!(buffer.domain(), vram(second), "{name}");
        bytes::assert_sequence(&buffer, 7, name);
    }
    assert_eq!(engine.moved(MoveCause::Attracted).moves, 4);
    wait_idle(&[first, second]);
}

#[test]
fn what_is_pinned_or_may_not_go_there_stays() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, seat) = shared(engine, &pair);
    let pin = seat.pin("scanout").expect("pinned");
    assert_eq!(uses_until_drawn(engine, &seat), None);
    assert_eq!((buffer.domain(), buffer.generation()), (vram(&pair[0]), 0));
    drop(pin);
    assert_eq!(uses_until_drawn(engine, &seat), Some(0), "it was drawn all the time");
    // Another device's memory is nothing for the third one who sits there.
    let (buffer, seat) = shared(engine, &pair);
    let shy = buffer.attach_dynamic(&pair[0], common::recorder::Recorder::new(false));
    let shy = shy.expect("its own memory is fine");
    assert_eq!(uses_until_drawn(engine, &seat), None);
    assert_eq!(buffer.domain(), vram(&pair[0]));
    drop(shy);
    // It was looked at in between, and then draws anew.
    let again = uses_until_drawn(engine, &seat).expect("nobody minds any more");
    assert!(again <= ENOUGH, "{again}");
    // And what may be in system memory only.
    let system = BufferDescriptor::new(MIB).placement(Placement::System);
    let buffer = engine.create_buffer(&pair[0], system).expect("a buffer");
    let seat = buffer.attach_dynamic(&pair[1], Arc::new(Refault::new())).expect("a seat");
    assert_eq!(uses_until_drawn(engine, &seat), None);
    assert_eq!(buffer.domain(), DomainId::System);
    wait_idle(&[&pair[0], &pair[1]]);
}

#[test]
fn without_room_it_stays_and_nobody_goes_for_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    let [first, second] = &pair;
    as_two_cards(engine, &pair);
    engine.model_heap(second, MIB).expect("ours");
    let low = BufferDescriptor::new(MIB).priority(Priority::Low);
    let other = engine.create_buffer(second, low).expect("a buffer");
    bytes::write(&other, 1);
    let (buffer, seat) = shared(engine, &pair);
    assert_eq!(uses_until_drawn(engine, &seat), None);
    assert_eq!((buffer.domain(), other.domain()), (vram(first), vram(second)));
    assert_eq!(engine.moved(MoveCause::Evicted).moves, 0);
    let decisions = buffer.explain().decisions;
    let stayed = decisions.iter().find(|decision| decision.what == What::Stayed);
    let stayed = stayed.expect("it says why");
    assert!(matches!(stayed.reason, Reason::NoRoom { budget: MIB, .. }), "{stayed}");
    assert_eq!(decisions.len(), 1, "and does not fill its memory with it: {decisions:?}");
    drop(other);
    let again = uses_until_drawn(engine, &seat).expect("there is room");
    assert!(again <= ENOUGH, "{again}");
    wait_idle(&[first, second]);
}

#[test]
fn where_somebody_has_put_it_it_stays_for_longer() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, seat) = shared(engine, &pair);
    for _ in 0..10 {
        let mut mapping = seat.map(Access::Read).expect("mapped");
        for _ in 1..ENOUGH {
            read(engine, &pair[1], &seat, &mut mapping).expect("submitted");
        }
        buffer.migrate(DomainId::System).expect("nobody holds it");
        buffer.migrate(vram(&pair[0])).expect("nobody holds it");
        assert_eq!(buffer.domain(), vram(&pair[0]));
    }
    assert_eq!(uses_until_drawn(engine, &seat), Some(5), "the use that saves four times the move");
    wait_idle(&[&pair[0], &pair[1]]);
}

#[test]
fn two_who_take_turns_do_not_tear_at_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, seat) = shared(engine, &pair);
    let owners = buffer.attach_dynamic(&pair[0], Arc::new(Refault::new())).expect("a seat");
    let turn = |seat: &Attachment, uses: u32| {
        let mut mapping = seat.map(Access::Read).expect("mapped");
        for _ in 0..uses {
            read(engine, &seat.device(), seat, &mut mapping).expect("submitted");
        }
    };
    for _ in 0..50 {
        turn(&seat, 1);
        turn(&owners, 1);
    }
    assert_eq!(engine.moved(MoveCause::Attracted).moves, 0, "nobody uses it more");
    for _ in 0..20 {
        turn(&seat, 8);
        turn(&owners, 8);
    }
    let moves = engine.moved(MoveCause::Attracted).moves;
    assert!((1..=4).contains(&moves), "{moves} moves in 40 turns");
    bytes::assert_sequence(&buffer, 7, "to and fro");
    wait_idle(&[&pair[0], &pair[1]]);
}

#[test]
fn a_submission_neither_waits_nor_fails_for_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    // An importer that stops when it feels like it.
    let (stopped, signal) = engine.host_fence();
    let buffer = engine.create_buffer(&pair[0], BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 7);
    let slow = FenceAndResume::new(Access::Read, move || stopped.clone());
    let slow = Arc::new(slow);
    let seat = buffer.attach_dynamic(&pair[1], Arc::clone(&slow) as _).expect("a seat");
    assert_eq!(uses_until_drawn(engine, &seat), None);
    assert_eq!((buffer.domain(), slow.times_told()), (vram(&pair[0]), 1));
    drop(signal);
    // Drivers that fail in the middle of it.
    let (buffer, seat) = shared(engine, &pair);
    let mut mapping = seat.map(Access::Read).expect("mapped");
    for _ in 0..ENOUGH {
        read(engine, &pair[1], &seat, &mut mapping).expect("submitted");
    }
    engine.trim();
    let code = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    engine.calls().fail_nth(Call::AllocateMemory, 1, code);
    read(engine, &pair[1], &seat, &mut mapping).expect("submitted where it is");
    assert!(!engine.calls().clear_faults(), "it was about to go");
    assert_eq!(buffer.domain(), vram(&pair[0]));
    let again = uses_until_drawn(engine, &seat).expect("the driver is well again");
    assert!(again <= ENOUGH, "{again}");
    bytes::assert_sequence(&buffer, 7, "drawn at last");
    wait_idle(&[&pair[0], &pair[1]]);
}

/// Both drivers take in system memory, and neither the other's own.
#[test]
fn out_of_system_memory_it_goes_only_where_everybody_follows() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some(pair) = rig.two_drivers() else { return };
    let [first, second] = &pair;
    as_two_cards(engine, &pair);
    let (buffer, seat) = shared(engine, &pair);
    assert_eq!(buffer.domain(), DomainId::System, "where both reach it");
    let owners = buffer.attach_dynamic(first, Arc::new(Refault::new())).expect("a seat");
    assert_eq!(uses_until_drawn(engine, &seat), None);
    assert_eq!(buffer.domain(), DomainId::System);
    drop(owners);
    let uses = uses_until_drawn(engine, &seat).expect("only one is left");
    assert!(uses <= ENOUGH, "{uses}");
    assert_eq!(buffer.home().id(), second.id());
    bytes::assert_sequence(&buffer, 7, "drawn");
    let report = {
        seat.map(Access::Write).expect("mapped").fill(3).expect("filled");
        seat.map(Access::Read).expect("mapped").verify(3).expect("looked")
    };
    assert_eq!(report.wrong, 0, "{report:?}");
    wait_idle(&[first, second]);
}

/// What the host writes all the time is not drawn away from it.
#[test]
fn what_the_host_uses_as_well_stays_in_system_memory() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, seat) = shared(engine, &pair);
    buffer.migrate(DomainId::System).expect("nobody holds it");
    let mut mapping = seat.map(Access::Read).expect("mapped");
    for round in 0..30 {
        bytes::write(&buffer, round);
        for _ in 1..ENOUGH {
            read(engine, &pair[1], &seat, &mut mapping).expect("submitted");
        }
    }
    assert_eq!(buffer.domain(), DomainId::System);
    bytes::write(&buffer, 30);
    assert_eq!(uses_until_drawn(engine, &seat), Some(5), "asked for, so it takes twice as much");
    bytes::assert_sequence(&buffer, 30, "drawn when the host had left it alone");
    wait_idle(&[&pair[0], &pair[1]]);
}

/// A move that a use brings with it measures nothing, though nobody has said how fast copies are.
#[test]
fn who_draws_a_buffer_measures_nothing() {
    let rig = Rig::with(|descriptor| descriptor.copy_speeds(None));
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (_buffer, seat) = shared(engine, &pair);
    let mut mapping = seat.map(Access::Read).expect("mapped");
    for _ in 0..2 * ENOUGH {
        let before = engine.calls().made(Call::QueueSubmit);
        read(engine, &pair[1], &seat, &mut mapping).expect("it can be used wherever it is");
        let submitted = engine.calls().made(Call::QueueSubmit) - before;
        assert!(submitted <= 4, "{submitted} submissions in one use");
    }
    assert_eq!(engine.moved(MoveCause::Attracted).moves, 1);
    assert_eq!(engine.copy_speeds(&pair[1]).expect("ours"), None);
    wait_idle(&[&pair[0], &pair[1]]);
}

/// A group's cap is why its buffer stays, and it says so.
#[test]
fn beyond_its_groups_cap_it_stays() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let group = engine.client_group("ours").expect("few");
    group.set_cap(vram(&pair[1]), Some(0)).expect("ours");
    let descriptor = BufferDescriptor::new(MIB).client(&group);
    let buffer = engine.create_buffer(&pair[0], descriptor).expect("a buffer");
    bytes::write(&buffer, 7);
    let seat = buffer.attach_dynamic(&pair[1], Arc::new(Refault::new())).expect("a seat");
    assert_eq!(uses_until_drawn(engine, &seat), None);
    let explained = buffer.explain();
    let stayed = explained.decisions.iter().find(|decision| decision.what == What::Stayed);
    let reason = stayed.map(|decision| decision.reason);
    assert!(matches!(reason, Some(Reason::NoRoom { budget: 0, used: 0, .. })), "{explained}");
    wait_idle(&[&pair[0], &pair[1]]);
}

/// Half of a move that was submitted, before the other half could not be, still reads the old place: its fence
/// is entered.
#[test]
fn half_of_a_move_that_was_submitted_is_waited_for() {
    let row = |bytes, host, device| {
        let [host, device] = [host, device].map(Duration::from_nanos);
        CopySpeed { bytes, host, device }
    };
    let speeds = CopySpeeds::new(&[row(4096, 10, 2000), row(2 * MIB, 2000, 1000)], true);
    let rig = Rig::with(|descriptor| descriptor.copy_speeds(speeds));
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    // So that the host cannot copy its part after all.
    engine.calls().set_unmappable_device_memory(true);
    let buffer =
        engine.create_buffer(&pair[0], BufferDescriptor::new(8 * MIB)).expect("there is room");
    bytes::write(&buffer, 7);
    let seat = buffer.attach_dynamic(&pair[1], Arc::new(Refault::new())).expect("a seat");
    let mut mapping = seat.map(Access::Read).expect("mapped");
    for _ in 0..ENOUGH {
        read(engine, &pair[1], &seat, &mut mapping).expect("it can be used");
    }
    assert_eq!(buffer.domain(), vram(&pair[0]), "not yet");
    let gate = Gate::close(&pair[1]);
    engine.calls().fail_nth(Call::QueueSubmit, 2, vk::Result::ERROR_OUT_OF_HOST_MEMORY);
    let again = seat.map(Access::Read);
    assert!(!engine.calls().clear_faults(), "the second half was to be submitted");
    assert_eq!(buffer.domain(), vram(&pair[0]), "it stays");
    let fences = engine.report().buffers[0].fences.clone();
    gate.open();
    drop(again);
    assert!(!fences.is_empty(), "a device reads the place, and nobody knows");
    wait_idle(&[&pair[0], &pair[1]]);
}
