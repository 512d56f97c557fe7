//! Who comes back, when, and at whose cost; and what an eviction may not do to others.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::commands::record_fill;
use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::{Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::{MoveCause, Reason, StallCause, What};
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Engine, Error, Fence, Importer, Invalidation,
    Migration, Refault, Rules, Scope, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

fn refault() -> Arc<Refault> {
    Arc::new(Refault::new())
}

/// Room is made in a place that nobody would accept.
#[test]
fn a_newcomer_who_cannot_be_there_evicts_nobody() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, 4 * MIB).expect("ours");
    let all: Vec<_> = (0..4)
        .map(|seed| {
            let b = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
            bytes::write(&b, seed);
            b
        })
        .collect();
    let seat = all[3].attach_dynamic(&second, Recorder::new(false)).expect("a seat");
    assert_eq!(all[3].domain(), DomainId::System);
    assert_eq!(engine.moved(MoveCause::Evicted).moves, 0, "nobody had to go");
    drop(seat);
}

/// A pinned buffer that is away evicts others, and then cannot come.
#[test]
fn who_cannot_come_back_evicts_nobody() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, MIB).expect("ours");
    let pinned = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&pinned, 1);
    pinned.evict().expect("nobody holds it");
    let other = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&other, 2);
    let seat = pinned.attach_dynamic(&second, refault()).expect("a seat");
    let pin = seat.pin("scanout").expect("pinned");
    assert_eq!(other.domain(), vram(&first));
    for _ in 0..8 {
        let mapping = seat.map(Access::Read).expect("mapped");
        assert_eq!(mapping.buffer().domain(), DomainId::System);
    }
    assert_eq!(other.domain(), vram(&first), "it went for nobody");
    drop((pin, seat));
}

/// A buffer that can never fit eats what others might come back with.
#[test]
fn who_never_fits_keeps_nobody_away() {
    let rig = Rig::with(|d| d.residency(Rules::new().bytes_per_ms(1)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, MIB).expect("ours");
    let large = engine.create_buffer(&first, BufferDescriptor::new(4 * MIB)).expect("elsewhere");
    let small = engine.create_buffer(&first, BufferDescriptor::new(100)).expect("a buffer");
    small.evict().expect("nobody holds it");
    let seats = [&large, &small].map(|b| b.attach_dynamic(&second, refault()).expect("a seat"));
    drop(seats[0].map(Access::Read).expect("mapped"));
    drop(seats[1].map(Access::Read).expect("mapped"));
    assert_eq!(small.domain(), vram(&first), "there is room, and nothing has moved yet");
}

/// What one submission may bring back.
#[test]
fn a_submission_brings_back_no_more_than_it_may() {
    let rig = Rig::with(|d| {
        d.residency(Rules::new().bytes_per_submission(64 << 10).bytes_per_ms(1 << 30))
    });
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let all: Vec<_> = (0..8)
        .map(|_| {
            let b = engine.create_buffer(&first, BufferDescriptor::new(64 << 10)).expect("one");
            let seat = b.attach_dynamic(&second, refault()).expect("a seat");
            (b, seat)
        })
        .collect();
    let mut mappings: Vec<_> =
        all.iter().map(|(_, seat)| seat.map(Access::Write).expect("mapped")).collect();
    engine.evict_all(&first).expect("ours");
    let mut pairs: Vec<_> = all.iter().map(|(_, seat)| seat).zip(mappings.iter_mut()).collect();
    engine
        .submit_remapped(&second, &mut pairs, |submission, mappings| {
            mappings.iter().try_for_each(|m| record_fill(submission, &second, m, 1))
        })
        .expect("submitted");
    let returned = engine.moved(MoveCause::Returned);
    wait_idle(&[&first, &second]);
    assert!(returned.moves <= 1, "{returned:?}");
}

#[test]
fn two_that_do_not_fit_together_can_be_submitted() {
    for uses in [2, 1] {
        let rules = Rules::new().uses_before_return(uses).bytes_per_ms(1 << 40);
        let rig = Rig::with(|d| d.residency(rules.bytes_per_submission(1 << 40)));
        let engine = rig.engine();
        let [first, second] = rig.two_of_one_adapter();
        engine.model_heap(&first, MIB).expect("ours");
        let all: Vec<_> = (0..2)
            .map(|_| {
                let b = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("one");
                let seat = b.attach_dynamic(&second, refault()).expect("a seat");
                (b, seat)
            })
            .collect();
        let mut mappings: Vec<_> =
            all.iter().map(|(_, seat)| seat.map(Access::Write).expect("mapped")).collect();
        let mut tries = 0;
        for round in 0..30 {
            let mut pairs: Vec<_> =
                all.iter().map(|(_, seat)| seat).zip(mappings.iter_mut()).collect();
            let fence = engine.submit_remapped(&second, &mut pairs, |submission, mappings| {
                tries += 1;
                mappings.iter().try_for_each(|m| record_fill(submission, &second, m, 1))
            });
            fence.unwrap_or_else(|e| panic!("uses {uses} round {round} tries {tries}: {e}"));
        }
        assert!(tries <= 60, "{tries} tries for 30 submissions: they take turns at the place");
        wait_idle(&[&first, &second]);
    }
}

#[test]
fn a_buffer_comes_back_once() {
    struct Second {
        told: AtomicBool,
        mapping: AtomicBool,
    }
    impl Importer for Second {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {
            self.told.store(true, Ordering::SeqCst);
            wait_until(|| self.mapping.load(Ordering::SeqCst));
            // So that the other one comes to wait for the reservation.
            (0..1000).for_each(|_| std::thread::yield_now());
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 1);
    buffer.evict().expect("nobody holds it");
    let importer =
        Arc::new(Second { told: AtomicBool::new(false), mapping: AtomicBool::new(false) });
    let seat = buffer.attach_dynamic(&second, Arc::clone(&importer) as _).expect("a seat");
    let before = buffer.generation();
    std::thread::scope(|scope| {
        let back = scope.spawn(|| buffer.request_residency());
        while !importer.told.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        importer.mapping.store(true, Ordering::SeqCst);
        drop(seat.map(Access::Read).expect("mapped"));
        assert!(matches!(back.join().expect("no panic"), Ok(Migration::Done { .. })));
    });
    assert_eq!(buffer.generation(), before + 1, "it came back once");
}

#[test]
fn a_submission_waits_for_no_work_of_the_host_of_somebody_else() {
    struct Slow(Mutex<Option<Fence>>);
    impl Importer for Slow {
        fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
            if let Some(fence) = self.0.lock().expect("ours").take() {
                invalidation.still_using(Access::Read, fence);
            }
        }
    }
    // A wait for that work lasts longer than the watchdog allows.
    let rig = Rig::with(|d| d.residency(Rules::new().uses_before_return(1)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, MIB).expect("ours");
    let away = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let seat = away.attach_dynamic(&second, refault()).expect("a seat");
    away.evict().expect("nobody holds it");
    let victim = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&victim, 1);
    let (fence, signal) = engine.host_fence();
    let other =
        victim.attach_dynamic(&second, Arc::new(Slow(Mutex::new(Some(fence))))).expect("a seat");
    wait_idle(&[&first, &second]);
    drop(seat.map(Access::Write).expect("mapped"));
    drop(signal);
    drop(other);
}

#[test]
fn a_panic_during_relief_leaves_nobody_held() {
    struct Panics(AtomicBool);
    impl Importer for Panics {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {
            assert!(self.0.swap(true, Ordering::SeqCst), "the test says so");
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let used = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let seat = used.attach_dynamic(&first, refault()).expect("a seat");
    let mapping = seat.map(Access::Write).expect("mapped");
    mapping.view().expect("ready");
    let victim = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&victim, 1);
    let other =
        victim.attach_dynamic(&second, Arc::new(Panics(AtomicBool::new(false)))).expect("a seat");
    wait_idle(&[&first, &second]);
    let calls = engine.calls();
    calls.fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY);
    calls.fail_nth(Call::QueueSubmit, 2, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        engine.submit(&first, |submission| record_fill(submission, &first, &mapping, 1))
    }));
    assert!(caught.is_err(), "the panic goes on in whoever made room");
    drop(mapping);
    match used.evict() {
        Ok(_) => {}
        Err(error @ Error::Busy { .. }) => panic!("nobody holds it: {error}"),
        Err(error) => panic!("{error}"),
    }
    drop((seat, other));
}

/// "The reservations of up to 64 buffers" are held together.
#[test]
fn an_eviction_locks_no_more_than_a_batch() {
    struct Counts(Mutex<Vec<SharedBuffer>>, Mutex<usize>);
    impl Importer for Counts {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {
            let all = self.0.lock().expect("ours");
            let locked = all.iter().filter(|b| format!("{b:?}").contains("(locked)")).count();
            let mut most = self.1.lock().expect("ours");
            *most = locked.max(*most);
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let all: Vec<_> = (0..150)
        .map(|seed| {
            let b = engine.create_buffer(&first, BufferDescriptor::new(128 << 10)).expect("one");
            bytes::write(&b, seed);
            b
        })
        .collect();
    let counts = Arc::new(Counts(Mutex::new(all.clone()), Mutex::new(0)));
    let seats: Vec<_> = all
        .iter()
        .map(|b| b.attach_dynamic(&second, Arc::clone(&counts) as _).expect("a seat"))
        .collect();
    engine.evict_all(&first).expect("ours");
    let most = *counts.1.lock().expect("ours");
    counts.0.lock().expect("ours").clear();
    drop(seats);
    assert!(most <= 64, "{most} reservations at once");
}

/// Who waited, for whatever.
fn waits(engine: &Engine) -> u64 {
    StallCause::ALL.into_iter().map(|cause| engine.stalls(cause).waits).sum()
}

/// Somebody reads it where it is, and the host is to say when that is over.
#[test]
fn a_return_waits_for_no_work_of_the_host() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 1);
    let seats =
        [&first, &second].map(|device| buffer.attach_dynamic(device, refault()).expect("a seat"));
    buffer.evict().expect("nobody holds it");
    engine.set_cap(vram(&first), Some(0)).expect("ours");
    let mapping = seats[0].map(Access::Read).expect("mapped");
    let (fence, signal) = engine.host_fence();
    let access = mapping.begin_access(Access::Read).expect("it is there");
    access.end(fence);
    engine.set_cap(vram(&first), None).expect("ours");
    wait_idle(&[&first, &second]);
    let before = waits(engine);
    for _ in 0..3 {
        drop(seats[1].map(Access::Read).expect("readers do not wait for each other"));
    }
    assert_eq!(waits(engine), before, "nobody was kept waiting");
    assert_eq!(buffer.domain(), DomainId::System, "it is being read there");
    drop(signal);
    drop(seats[1].map(Access::Read).expect("mapped"));
    assert_eq!(buffer.domain(), vram(&first), "nothing keeps it");
    bytes::assert_sequence(&buffer, 1, "after its return");
    drop(mapping);
}

/// The copy out has not run yet: the copy back is queued behind it.
#[test]
fn a_return_waits_for_no_copy() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let seat = buffer.attach_dynamic(&second, refault()).expect("a seat");
    let mapping = seat.map(Access::Write).expect("mapped");
    bytes::write(&buffer, 1);
    let gate = Gate::close(&second);
    engine
        .submit(&second, |submission| record_fill(submission, &second, &mapping, 7))
        .expect("submitted");
    drop(mapping);
    buffer.evict().expect("nobody holds it");
    let before = waits(engine);
    drop(seat.map(Access::Read).expect("mapped"));
    assert_eq!(waits(engine), before, "queues wait, and nobody else");
    assert_eq!(buffer.domain(), vram(&first));
    gate.open();
    wait_idle(&[&first, &second]);
    assert_eq!(bytes::read(&buffer), 7_u32.to_ne_bytes().repeat(1 << 18), "what was filled");
}

/// Whoever keeps it away each time is not asked at each use; but now and then.
#[test]
fn a_return_that_failed_is_not_tried_at_each_use() {
    struct Slow {
        told: AtomicUsize,
        fence: Mutex<Option<Fence>>,
    }
    impl Importer for Slow {
        fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
            self.told.fetch_add(1, Ordering::SeqCst);
            if let Some(fence) = self.fence.lock().expect("ours").take() {
                invalidation.still_using(Access::Read, fence);
            }
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 1);
    buffer.evict().expect("nobody holds it");
    let importer = Arc::new(Slow { told: AtomicUsize::new(0), fence: Mutex::default() });
    let seat = buffer.attach_dynamic(&second, Arc::clone(&importer) as _).expect("a seat");
    wait_idle(&[&first, &second]);
    for _ in 0..40 {
        let (fence, signal) = engine.host_fence();
        *importer.fence.lock().expect("ours") = Some(fence);
        drop(seat.map(Access::Read).expect("mapped"));
        // Nothing is under way at the next use.
        drop(signal);
    }
    assert_eq!(importer.told.load(Ordering::SeqCst), 1, "of a move that does not take place");
    assert_eq!(buffer.domain(), DomainId::System);
    importer.fence.lock().expect("ours").take();
    let mut uses = 0;
    while buffer.domain() == DomainId::System && uses < 1000 {
        drop(seat.map(Access::Read).expect("mapped"));
        uses += 1;
    }
    assert_eq!(buffer.domain(), vram(&first), "it was tried again");
    assert_eq!(importer.told.load(Ordering::SeqCst), 2);
    bytes::assert_sequence(&buffer, 1, "after its return");
    drop(seat);
}

/// What happens while room is made for somebody else: the importer of who has to go lets it.
#[derive(Default)]
struct Meanwhile {
    begun: AtomicBool,
    over: AtomicBool,
}

impl Importer for Meanwhile {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        self.begun.store(true, Ordering::SeqCst);
        wait_until(|| self.over.load(Ordering::SeqCst));
    }
}

impl Meanwhile {
    /// Does `meanwhile` while `work` tells it, until that has ended or is `far_enough`.
    fn while_told<R: Send>(
        &self,
        work: impl FnOnce() + Send,
        meanwhile: impl FnOnce() -> R + Send,
        far_enough: impl Fn() -> bool,
    ) -> R {
        std::thread::scope(|scope| {
            scope.spawn(work);
            wait_until(|| self.begun.load(Ordering::SeqCst));
            let doing = scope.spawn(meanwhile);
            wait_until(|| doing.is_finished() || far_enough());
            self.over.store(true, Ordering::SeqCst);
            doing.join().expect("no panic")
        })
    }
}

/// The watchdog ends a wait that does not end.
fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

#[test]
fn what_others_make_room_for_is_held_by_nobody() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let used = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let seat = used.attach_dynamic(&first, refault()).expect("a seat");
    let mapping = seat.map(Access::Write).expect("mapped");
    mapping.view().expect("ready");
    let victim = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&victim, 2);
    let importer = Arc::new(Meanwhile::default());
    let other = victim.attach_dynamic(&second, Arc::clone(&importer) as _).expect("a seat");
    wait_idle(&[&first, &second]);
    for nth in [1, 2] {
        let code = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
        engine.calls().fail_nth(Call::QueueSubmit, nth, code);
    }
    let moved = importer.while_told(
        // It may find that the buffer has moved.
        || drop(engine.submit(&first, |submission| record_fill(submission, &first, &mapping, 1))),
        || used.evict(),
        || false,
    );
    assert!(matches!(moved, Ok(Migration::Done { .. })), "{moved:?}");
    assert_eq!(used.domain(), DomainId::System);
    drop((mapping, other));
}

/// The device goes while another buffer of the submission returns.
#[test]
fn what_is_used_with_one_that_returns_lives_on_as_its_copy() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let [there, away] = [1, 2].map(|seed| {
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
        bytes::write(&buffer, seed);
        buffer.evict().expect("nobody holds it");
        buffer
    });
    let importer = Arc::new(Meanwhile::default());
    let seats = [
        there.attach_dynamic(&second, refault()).expect("a seat"),
        away.attach_dynamic(&second, Arc::clone(&importer) as _).expect("a seat"),
    ];
    engine.set_cap(vram(&first), Some(0)).expect("ours");
    let of_away = seats[1].map(Access::Read).expect("mapped");
    engine.set_cap(vram(&first), None).expect("ours");
    there.request_residency().expect("there is room");
    let of_there = seats[0].map(Access::Read).expect("mapped");
    wait_idle(&[&first, &second]);
    let promoted = importer.while_told(
        || {
            let submitted = engine.submit(&second, |submission| {
                for mapping in [&of_there, &of_away] {
                    submission.uses(mapping, Access::Read, Scope::ALL)?;
                }
                Ok(())
            });
            drop(submitted.expect("both are where they were mapped"));
        },
        || engine.abandon(&first).expect("ours").promoted,
        || there.domain() == DomainId::System || there.is_poisoned(),
    );
    assert!(promoted >= 1 && !there.is_poisoned(), "{promoted}");
    assert_eq!(there.domain(), DomainId::System);
    bytes::assert_sequence(&there, 1, "what the copy had");
    drop((of_there, of_away, seats));
}

/// Why it stays where it is used, and does not return; said last.
fn why_away(buffer: &SharedBuffer, to: &Device) -> Reason {
    let explained = buffer.explain();
    let last = explained.decisions[0];
    let expected = (What::Stayed, DomainId::System, vram(to));
    assert_eq!((last.what, last.from, last.to), expected, "{explained}");
    last.reason
}

#[test]
fn a_buffer_that_stays_away_says_why_and_says_it_once() {
    let rig = Rig::with(|d| d.residency(Rules::new().uses_before_return(3)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, MIB).expect("ours");
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let seat = buffer.attach_dynamic(&second, refault()).expect("a seat");
    buffer.evict().expect("nobody holds it");
    let wall = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let wall_seat = wall.attach_dynamic(&first, refault()).expect("a seat");
    let pin = wall_seat.pin("scanout").expect("pinned");
    wait_idle(&[&first, &second]);
    let use_it = || drop(seat.map(Access::Read).expect("mapped"));
    use_it();
    assert_eq!(why_away(&buffer, &first), Reason::Hysteresis { uses: 1, needed: 3 });
    let before = buffer.explain();
    use_it();
    assert_eq!(buffer.explain(), before, "it was said");
    assert_eq!(before.decisions[1].what, What::Evicted);
    use_it();
    let by = Some(first.id());
    let full = Reason::NoRoom { budget: MIB, used: MIB, pinned: MIB, by, pins: 1 };
    assert_eq!(why_away(&buffer, &first), full);
    let access = buffer.host_access(Access::Read).expect("ours");
    use_it();
    assert_eq!(why_away(&buffer, &first), Reason::HostAccess);
    drop(access);
    drop(pin);
    engine.set_cap(vram(&first), Some(0)).expect("ours");
    engine.set_cap(vram(&first), None).expect("ours");
    use_it();
    assert_eq!(buffer.domain(), vram(&first), "there is room");
    assert_eq!(buffer.explain().decisions[0].what, What::Restored);
    drop((seat, wall_seat));
}

#[test]
fn who_comes_after_too_many_says_so() {
    let rig = Rig::with(|d| d.residency(Rules::new().bytes_per_ms(1)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let all = [1, 2].map(|seed| {
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
        bytes::write(&buffer, seed);
        buffer.evict().expect("nobody holds it");
        let seat = buffer.attach_dynamic(&second, refault()).expect("a seat");
        drop(seat.map(Access::Read).expect("mapped"));
        buffer
    });
    assert_eq!(all[0].domain(), vram(&first), "it went into debt");
    let reason = why_away(&all[1], &first);
    assert!(
        matches!(reason, Reason::Throttled { moved, allowed: 200 } if moved > 200),
        "{reason:?}"
    );
}
