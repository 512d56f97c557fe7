//! Auto-migration: a buffer moves to the device that uses it most, or stays, and explains which and why.
//!
//! Software devices all share one memory, so the tests model the speeds of two cards: each reads ten times as
//! fast from its own memory. The third use has saved more than twice the cost of the move, and the next one finds
//! the buffer in the user's memory.

use std::sync::Arc;
use std::time::Duration;

use crate::common::gate::Gate;
use crate::common::turn::turn;
use crate::common::{self, LONG, Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::{Decision, MoveCause, Reason, What};
use peerbuf::transfer::{CopySpeed, CopySpeeds};
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, FenceAndResume,
    Mapping, Placement, Priority, Refault, ResidencyOptions, Result, SharedBuffer,
};

const MIB: u64 = 1 << 20;
const GB: u64 = 1_000_000_000;
/// The number of uses that trigger a move at ten times the speed.
const ENOUGH: u32 = 3;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Models two cards that each read ten times as fast from their own memory, and proves the routes between them.
/// The clock by which use counts age stands still.
fn as_two_cards(engine: &Engine, pair: &[Device; 2]) {
    engine.calls().set_clock(Some(Duration::ZERO));
    for user in pair {
        for owner in pair {
            let speed = if user.id() == owner.id() { 10 * GB } else { GB };
            engine.model_speed(user, vram(owner), Some(speed)).expect("of this engine");
            engine.route(user, owner).expect("proved");
        }
        engine.model_speed(user, DomainId::System, Some(GB)).expect("of this engine");
    }
}

/// A buffer whose home device is the first of two, with content, and an attachment of the second.
fn shared(engine: &Engine, pair: &[Device; 2]) -> (SharedBuffer, Attachment) {
    let buffer = engine.create_buffer(&pair[0], BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 7);
    let attachment =
        buffer.attach_dynamic(&pair[1], Arc::new(Refault::new())).expect("an attachment");
    (buffer, attachment)
}

/// Submits a read of the buffer.
fn read(
    engine: &Engine,
    device: &Device,
    attachment: &Attachment,
    mapping: &mut Mapping,
) -> Result<()> {
    let reads = &mut [(attachment, mapping)];
    engine
        .submit_remapped(device, reads, |submission, mapped| {
            submission.read(mapped[0]).map(|_| ())
        })?
        .wait(LONG)
}

/// The number of uses until the buffer is in `device`'s memory; `None` if 100 are not enough.
fn uses_until_migrated(engine: &Engine, attachment: &Attachment) -> Option<u32> {
    let device = attachment.device();
    let mut mapping = attachment.map(Access::Read).expect("mapped");
    (0..100).find(|_| {
        read(engine, &device, attachment, &mut mapping).expect("usable in any domain");
        attachment.buffer().domain() == vram(&device)
    })
}

#[test]
fn a_buffer_migrates_to_the_device_that_reads_it_most() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    let [first, second] = &pair;
    as_two_cards(engine, &pair);
    let (buffer, attachment) = shared(engine, &pair);
    let owners = buffer.attach_dynamic(first, Arc::new(Refault::new())).expect("an attachment");
    assert_eq!(uses_until_migrated(engine, &attachment), Some(ENOUGH));
    assert_eq!(buffer.home().id(), second.id());
    let moved = engine.moved(MoveCause::AutoMigrated);
    assert_eq!((moved.moves, moved.bytes, moved.copied), (1, MIB, MIB));
    assert_eq!(
        moved.moves,
        MoveCause::ALL.iter().map(|&cause| engine.moved(cause).moves).sum::<u64>()
    );
    // The reason.
    let explained = buffer.explain();
    let decision = explained.decisions[0];
    assert_eq!(
        (decision.what, decision.from, decision.to),
        (What::AutoMigrated, vram(first), vram(second))
    );
    assert_eq!(decision.reason, Reason::UsedMore { by: second.id(), times: ENOUGH, others: 0 });
    assert_eq!(explained.preferred, vram(second), "the new domain is preferred");
    let text = explained.to_string();
    assert!(text.contains("auto-migrated to") && text.contains("has used it 3 times"), "{text}");
    assert!(engine.report().to_string().contains("attracted"), "{}", engine.report());
    // Both devices and the host see the content.
    bytes::assert_sequence(&buffer, 7, "migrated");
    attachment.map(Access::Write).expect("mapped").fill(5).expect("filled");
    let report = owners.map(Access::Read).expect("mapped").verify(5).expect("a pass");
    assert_eq!(report.wrong, 0, "{report:?}");
    // It stays there.
    assert_eq!(uses_until_migrated(engine, &attachment), Some(0));
    buffer.evict().expect("not held");
    assert_eq!(
        uses_until_migrated(engine, &attachment),
        Some(0),
        "it is restored to its preferred domain"
    );
    assert_eq!(engine.moved(MoveCause::AutoMigrated).moves, 1);
    assert_eq!(engine.moved(MoveCause::Restored).moves, 1);
    wait_idle(&[first, second]);
}

#[test]
fn an_auto_migration_is_in_the_trace() {
    // The file is read after the rig's turn has ended.
    let _turn = turn();
    let file = std::env::temp_dir().join(format!("peerbuf-attraction-{}.json", std::process::id()));
    {
        let rig = Rig::with(|descriptor| descriptor.trace(&file));
        let engine = rig.engine();
        let pair = rig.two_of_one_adapter();
        as_two_cards(engine, &pair);
        let (_buffer, attachment) = shared(engine, &pair);
        assert_eq!(uses_until_migrated(engine, &attachment), Some(ENOUGH));
        wait_idle(&[&pair[0], &pair[1]]);
    }
    let text = std::fs::read_to_string(&file).expect("the trace was written");
    std::fs::remove_file(&file).expect("a file");
    for part in [r#""cause":"attracted""#, "auto-migrated to"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn disabled_auto_migration_moves_nothing() {
    let rig = Rig::with(|d| d.residency(ResidencyOptions::new().auto_migration(false)));
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, attachment) = shared(engine, &pair);
    assert_eq!(uses_until_migrated(engine, &attachment), None);
    assert_eq!((buffer.domain(), buffer.generation()), (vram(&pair[0]), 0));
    wait_idle(&[&pair[0], &pair[1]]);
}

/// The measured speeds do not matter: the memory of software devices is host memory.
#[test]
fn software_devices_do_not_trigger_auto_migration() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    for first in &devices {
        for second in &devices {
            engine.route(first, second).expect("proved");
            let buffer =
                engine.create_buffer(first, BufferDescriptor::new(64 << 10)).expect("a buffer");
            let attachment =
                buffer.attach_dynamic(second, Arc::new(Refault::new())).expect("an attachment");
            let mut mapping = attachment.map(Access::Read).expect("mapped");
            for _ in 0..20 {
                read(engine, second, &attachment, &mut mapping).expect("submitted");
            }
        }
    }
    assert_eq!(engine.moved(MoveCause::AutoMigrated).moves, 0);
    wait_idle(&devices.iter().collect::<Vec<_>>());
}

/// A use of a buffer through an attachment.
type Use<'a> = &'a dyn Fn(&SharedBuffer, &Attachment);

#[test]
fn every_kind_of_use_is_counted() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    let [first, second] = &pair;
    as_two_cards(engine, &pair);
    let other = engine.create_buffer(second, BufferDescriptor::new(MIB)).expect("a buffer");
    // A submission on current mappings triggers a move when it ends, the other uses when the next one begins.
    let uses: [(&str, u32, Use<'_>); 4] = [
        ("a pass", 1, &|_, attachment| {
            attachment.map(Access::Read).expect("mapped").checksum().expect("summed");
        }),
        ("an access of its own", 1, &|_, attachment| {
            let mapping = attachment.map(Access::Read).expect("mapped");
            drop(mapping.begin_access(Access::Read).expect("begun"));
        }),
        ("an unordered submission", 0, &|_, attachment| {
            let mapping = attachment.map(Access::Read).expect("mapped");
            let unordered = engine.submit(second, |s| s.unordered(&mapping).map(|_| ()));
            unordered.expect("submitted");
        }),
        ("a copy", 1, &|buffer, _| {
            engine.copy(buffer, &other, CopyRegion::first(MIB)).expect("copied");
        }),
    ];
    for (name, more, use_it) in uses {
        let (buffer, attachment) = shared(engine, &pair);
        for nth in 0..ENOUGH + more {
            assert_eq!(buffer.domain(), vram(first), "{name}, {nth}");
            use_it(&buffer, &attachment);
        }
        assert_eq!(buffer.domain(), vram(second), "{name}");
        bytes::assert_sequence(&buffer, 7, name);
    }
    assert_eq!(engine.moved(MoveCause::AutoMigrated).moves, 4);
    wait_idle(&[first, second]);
}

#[test]
fn a_pinned_or_unreachable_buffer_stays() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, attachment) = shared(engine, &pair);
    let pin = attachment.pin("scanout").expect("pinned");
    assert_eq!(uses_until_migrated(engine, &attachment), None);
    assert_eq!((buffer.domain(), buffer.generation()), (vram(&pair[0]), 0));
    drop(pin);
    assert_eq!(
        uses_until_migrated(engine, &attachment),
        Some(0),
        "uses were counted while it was pinned"
    );
    // A third attachment cannot use another device's memory.
    let (buffer, attachment) = shared(engine, &pair);
    let local_only = buffer.attach_dynamic(&pair[0], common::recorder::Recorder::new(false));
    let local_only = local_only.expect("its own memory is fine");
    assert_eq!(uses_until_migrated(engine, &attachment), None);
    assert_eq!(buffer.domain(), vram(&pair[0]));
    drop(local_only);
    // The uses meanwhile were evaluated, so counting starts again.
    let again = uses_until_migrated(engine, &attachment).expect("all attachments can follow");
    assert!(again <= ENOUGH, "{again}");
    // A buffer that may only be in system memory.
    let system = BufferDescriptor::new(MIB).placement(Placement::System);
    let buffer = engine.create_buffer(&pair[0], system).expect("a buffer");
    let attachment =
        buffer.attach_dynamic(&pair[1], Arc::new(Refault::new())).expect("an attachment");
    assert_eq!(uses_until_migrated(engine, &attachment), None);
    assert_eq!(buffer.domain(), DomainId::System);
    wait_idle(&[&pair[0], &pair[1]]);
}

#[test]
fn a_full_domain_blocks_auto_migration_without_evictions() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    let [first, second] = &pair;
    as_two_cards(engine, &pair);
    engine.model_heap(second, MIB).expect("of this engine");
    let low = BufferDescriptor::new(MIB).priority(Priority::Low);
    let other = engine.create_buffer(second, low).expect("a buffer");
    bytes::write(&other, 1);
    let (buffer, attachment) = shared(engine, &pair);
    assert_eq!(uses_until_migrated(engine, &attachment), None);
    assert_eq!((buffer.domain(), other.domain()), (vram(first), vram(second)));
    assert_eq!(engine.moved(MoveCause::Evicted).moves, 0);
    let decisions = buffer.explain().decisions;
    let stayed = decisions.iter().find(|decision| decision.what == What::Stayed);
    let stayed = stayed.expect("the decision is recorded");
    assert!(matches!(stayed.reason, Reason::NoRoom { budget: MIB, .. }), "{stayed}");
    assert_eq!(decisions.len(), 1, "recorded once: {decisions:?}");
    drop(other);
    let again = uses_until_migrated(engine, &attachment).expect("there is room");
    assert!(again <= ENOUGH, "{again}");
    wait_idle(&[first, second]);
}

#[test]
fn an_explicit_move_doubles_the_threshold() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, attachment) = shared(engine, &pair);
    for _ in 0..10 {
        let mut mapping = attachment.map(Access::Read).expect("mapped");
        for _ in 1..ENOUGH {
            read(engine, &pair[1], &attachment, &mut mapping).expect("submitted");
        }
        buffer.migrate(DomainId::System).expect("not held");
        buffer.migrate(vram(&pair[0])).expect("not held");
        assert_eq!(buffer.domain(), vram(&pair[0]));
    }
    assert_eq!(
        uses_until_migrated(engine, &attachment),
        Some(5),
        "the use that saves four times the move"
    );
    wait_idle(&[&pair[0], &pair[1]]);
}

#[test]
fn alternating_users_do_not_thrash_the_buffer() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, attachment) = shared(engine, &pair);
    let owners = buffer.attach_dynamic(&pair[0], Arc::new(Refault::new())).expect("an attachment");
    let turn = |attachment: &Attachment, uses: u32| {
        let mut mapping = attachment.map(Access::Read).expect("mapped");
        for _ in 0..uses {
            read(engine, &attachment.device(), attachment, &mut mapping).expect("submitted");
        }
    };
    for _ in 0..50 {
        turn(&attachment, 1);
        turn(&owners, 1);
    }
    assert_eq!(engine.moved(MoveCause::AutoMigrated).moves, 0, "neither device uses it more");
    for _ in 0..20 {
        turn(&attachment, 8);
        turn(&owners, 8);
    }
    let moves = engine.moved(MoveCause::AutoMigrated).moves;
    assert!((1..=4).contains(&moves), "{moves} moves in 40 turns");
    bytes::assert_sequence(&buffer, 7, "after moves in both directions");
    wait_idle(&[&pair[0], &pair[1]]);
}

/// Counters are halved, and one doubling of the threshold is forgotten, every few seconds of the engine's clock.
#[test]
fn old_uses_and_old_moves_are_forgotten() {
    const HOUR: Duration = Duration::from_secs(3600);
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    let [first, second] = &pair;
    for later in [false, true] {
        as_two_cards(engine, &pair);
        let advance =
            |age| engine.calls().set_clock(Some(if later { age } else { Duration::ZERO }));
        let (buffer, attachment) = shared(engine, &pair);
        let owners = buffer.attach_dynamic(first, Arc::new(Refault::new())).expect("an attachment");
        let turn = |attachment: &Attachment, uses: u32| {
            let mut mapping = attachment.map(Access::Read).expect("mapped");
            for _ in 0..uses {
                read(engine, &attachment.device(), attachment, &mut mapping).expect("submitted");
            }
        };
        let uses_by_others = |to: &Device| {
            let decisions = buffer.explain().decisions;
            let moved = |of: &&Decision| of.what == What::AutoMigrated && of.to == vram(to);
            match decisions.iter().find(moved).map(|decision| decision.reason) {
                Some(Reason::UsedMore { others, .. }) => others,
                other => panic!("{other:?} in {decisions:?}"),
            }
        };
        // One use less than the move needs, long ago or just now.
        turn(&attachment, ENOUGH - 1);
        advance(HOUR);
        let uses = uses_until_migrated(engine, &attachment);
        assert_eq!(uses, Some(if later { ENOUGH } else { 1 }), "later: {later}");
        // Many uses by the new owner, and its move, long ago or just now.
        turn(&attachment, 20);
        advance(2 * HOUR);
        let uses = uses_until_migrated(engine, &owners);
        assert_eq!(uses, Some(if later { ENOUGH } else { 5 }), "later: {later}");
        assert_eq!(uses_by_others(first) == 0, later, "later: {later}");
        bytes::assert_sequence(&buffer, 7, "after both moves");
    }
    wait_idle(&[first, second]);
}

#[test]
fn auto_migration_neither_delays_nor_fails_a_submission() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    // An importer that stops only when the test signals its fence.
    let (stopped, signal) = engine.host_fence();
    let buffer = engine.create_buffer(&pair[0], BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 7);
    let slow = FenceAndResume::new(Access::Read, move || stopped.clone());
    let slow = Arc::new(slow);
    let attachment =
        buffer.attach_dynamic(&pair[1], Arc::clone(&slow) as _).expect("an attachment");
    assert_eq!(uses_until_migrated(engine, &attachment), None);
    assert_eq!((buffer.domain(), slow.notifications()), (vram(&pair[0]), 1));
    drop(signal);
    // A driver that fails in the middle of the move.
    let (buffer, attachment) = shared(engine, &pair);
    let mut mapping = attachment.map(Access::Read).expect("mapped");
    for _ in 0..ENOUGH {
        read(engine, &pair[1], &attachment, &mut mapping).expect("submitted");
    }
    engine.trim();
    let code = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    engine.calls().fail_nth(Call::AllocateMemory, 1, code);
    read(engine, &pair[1], &attachment, &mut mapping).expect("submitted without a move");
    assert!(!engine.calls().clear_faults(), "a move was started");
    assert_eq!(buffer.domain(), vram(&pair[0]));
    let again = uses_until_migrated(engine, &attachment).expect("the driver works again");
    assert!(again <= ENOUGH, "{again}");
    bytes::assert_sequence(&buffer, 7, "migrated");
    wait_idle(&[&pair[0], &pair[1]]);
}

/// Both drivers import system memory, and neither imports the other's device memory.
#[test]
fn a_buffer_leaves_system_memory_only_if_all_attachments_can_follow() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some(pair) = rig.two_drivers() else { return };
    let [first, second] = &pair;
    as_two_cards(engine, &pair);
    let (buffer, attachment) = shared(engine, &pair);
    assert_eq!(buffer.domain(), DomainId::System, "the domain that both reach");
    let owners = buffer.attach_dynamic(first, Arc::new(Refault::new())).expect("an attachment");
    assert_eq!(uses_until_migrated(engine, &attachment), None);
    assert_eq!(buffer.domain(), DomainId::System);
    drop(owners);
    let uses = uses_until_migrated(engine, &attachment).expect("one attachment is left");
    assert!(uses <= ENOUGH, "{uses}");
    assert_eq!(buffer.home().id(), second.id());
    bytes::assert_sequence(&buffer, 7, "migrated");
    let report = {
        attachment.map(Access::Write).expect("mapped").fill(3).expect("filled");
        attachment.map(Access::Read).expect("mapped").verify(3).expect("a pass")
    };
    assert_eq!(report.wrong, 0, "{report:?}");
    wait_idle(&[first, second]);
}

/// A buffer that the host writes at every round stays in system memory.
#[test]
fn host_use_keeps_a_buffer_in_system_memory() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (buffer, attachment) = shared(engine, &pair);
    buffer.migrate(DomainId::System).expect("not held");
    let mut mapping = attachment.map(Access::Read).expect("mapped");
    for round in 0..30 {
        bytes::write(&buffer, round);
        for _ in 1..ENOUGH {
            read(engine, &pair[1], &attachment, &mut mapping).expect("submitted");
        }
    }
    assert_eq!(buffer.domain(), DomainId::System);
    bytes::write(&buffer, 30);
    assert_eq!(
        uses_until_migrated(engine, &attachment),
        Some(5),
        "moved by request, so twice the benefit is needed"
    );
    bytes::assert_sequence(&buffer, 30, "migrated after the host stopped writing");
    wait_idle(&[&pair[0], &pair[1]]);
}

/// An auto-migration does not measure copy speeds, even if none are configured.
#[test]
fn auto_migration_measures_no_copy_speeds() {
    let rig = Rig::with(|descriptor| descriptor.copy_speeds(None));
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let (_buffer, attachment) = shared(engine, &pair);
    let mut mapping = attachment.map(Access::Read).expect("mapped");
    for _ in 0..2 * ENOUGH {
        let before = engine.calls().made(Call::QueueSubmit);
        read(engine, &pair[1], &attachment, &mut mapping).expect("usable in any domain");
        let submitted = engine.calls().made(Call::QueueSubmit) - before;
        assert!(submitted <= 4, "{submitted} submissions in one use");
    }
    assert_eq!(engine.moved(MoveCause::AutoMigrated).moves, 1);
    assert_eq!(engine.copy_speeds(&pair[1]).expect("of this engine"), None);
    wait_idle(&[&pair[0], &pair[1]]);
}

/// The cap of its group blocks the move, and the recorded decision says so.
#[test]
fn a_group_cap_blocks_auto_migration() {
    let rig = Rig::new();
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    let group = engine.client_group("ours").expect("below the group limit");
    group.set_cap(vram(&pair[1]), Some(0)).expect("of this engine");
    let descriptor = BufferDescriptor::new(MIB).client(&group);
    let buffer = engine.create_buffer(&pair[0], descriptor).expect("a buffer");
    bytes::write(&buffer, 7);
    let attachment =
        buffer.attach_dynamic(&pair[1], Arc::new(Refault::new())).expect("an attachment");
    assert_eq!(uses_until_migrated(engine, &attachment), None);
    let explained = buffer.explain();
    let stayed = explained.decisions.iter().find(|decision| decision.what == What::Stayed);
    let reason = stayed.map(|decision| decision.reason);
    assert!(matches!(reason, Some(Reason::NoRoom { budget: 0, used: 0, .. })), "{explained}");
    wait_idle(&[&pair[0], &pair[1]]);
}

/// If the second half of a split move cannot be submitted, the submitted half still reads the old backing, and
/// its fence is added to the buffer.
#[test]
fn a_half_submitted_move_leaves_its_fence() {
    let row = |bytes, host, device| {
        let [host, device] = [host, device].map(Duration::from_nanos);
        CopySpeed { bytes, host, device }
    };
    let speeds = CopySpeeds::new(&[row(4096, 10, 2000), row(2 * MIB, 2000, 1000)], true);
    let rig = Rig::with(|descriptor| descriptor.copy_speeds(speeds));
    let engine = rig.engine();
    let pair = rig.two_of_one_adapter();
    as_two_cards(engine, &pair);
    // So that the host cannot copy that part instead.
    engine.calls().set_unmappable_device_memory(true);
    let buffer =
        engine.create_buffer(&pair[0], BufferDescriptor::new(8 * MIB)).expect("there is room");
    bytes::write(&buffer, 7);
    let attachment =
        buffer.attach_dynamic(&pair[1], Arc::new(Refault::new())).expect("an attachment");
    let mut mapping = attachment.map(Access::Read).expect("mapped");
    for _ in 0..ENOUGH {
        read(engine, &pair[1], &attachment, &mut mapping).expect("it can be used");
    }
    assert_eq!(buffer.domain(), vram(&pair[0]), "not yet");
    let gate = Gate::close(&pair[1]);
    engine.calls().fail_nth(Call::QueueSubmit, 2, vk::Result::ERROR_OUT_OF_HOST_MEMORY);
    let again = attachment.map(Access::Read);
    assert!(!engine.calls().clear_faults(), "the second half was to be submitted");
    assert_eq!(buffer.domain(), vram(&pair[0]), "it stays");
    let fences = engine.report().buffers[0].fences.clone();
    gate.open();
    drop(again);
    assert!(!fences.is_empty(), "a device reads the backing without a fence");
    wait_idle(&[&pair[0], &pair[1]]);
}
