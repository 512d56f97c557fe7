//! Restores: which evicted buffers return to their preferred domain, when, and at whose cost; and what an eviction
//! must not do to other buffers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::commands::record_fill;
use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::until::until;
use crate::common::{Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::{MoveCause, Reason, StallCause, What};
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Engine, Error, Fence, Importer, Invalidation,
    Migration, Refault, ResidencyOptions, Scope, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

fn refault() -> Arc<Refault> {
    Arc::new(Refault::new())
}

/// The attachment cannot use the domain, so no room is made there.
#[test]
fn an_attach_evicts_nothing_from_an_unusable_domain() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, 4 * MIB).expect("of this engine");
    let all: Vec<_> = (0..4)
        .map(|seed| {
            let b = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
            bytes::write(&b, seed);
            b
        })
        .collect();
    let attachment = all[3].attach_dynamic(&second, Recorder::new(false)).expect("an attachment");
    assert_eq!(all[3].domain(), DomainId::System);
    assert_eq!(engine.moved(MoveCause::Evicted).moves, 0, "nothing had to be evicted");
    drop(attachment);
}

/// A pinned displaced buffer must not evict others, since it cannot move back.
#[test]
fn a_pinned_displaced_buffer_evicts_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, MIB).expect("of this engine");
    let pinned = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&pinned, 1);
    pinned.evict().expect("not held");
    let other = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&other, 2);
    let attachment = pinned.attach_dynamic(&second, refault()).expect("an attachment");
    let pin = attachment.pin("scanout").expect("pinned");
    assert_eq!(other.domain(), vram(&first));
    for _ in 0..8 {
        let mapping = attachment.map(Access::Read).expect("mapped");
        assert_eq!(mapping.buffer().domain(), DomainId::System);
    }
    assert_eq!(other.domain(), vram(&first), "nothing was evicted for a buffer that cannot move");
    drop((pin, attachment));
}

/// A buffer that can never fit must not use up the byte limit for restores.
#[test]
fn a_buffer_that_never_fits_does_not_block_restores() {
    let rig = Rig::with(|d| d.residency(ResidencyOptions::new().bytes_per_ms(1)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, MIB).expect("of this engine");
    let large =
        engine.create_buffer(&first, BufferDescriptor::new(4 * MIB)).expect("in system memory");
    let small = engine.create_buffer(&first, BufferDescriptor::new(100)).expect("a buffer");
    small.evict().expect("not held");
    let attachments =
        [&large, &small].map(|b| b.attach_dynamic(&second, refault()).expect("an attachment"));
    drop(attachments[0].map(Access::Read).expect("mapped"));
    drop(attachments[1].map(Access::Read).expect("mapped"));
    assert_eq!(small.domain(), vram(&first), "there is room, and nothing has moved yet");
}

/// A submission restores at most `bytes_per_submission`.
#[test]
fn a_submission_restores_no_more_than_its_limit() {
    let rig = Rig::with(|d| {
        d.residency(ResidencyOptions::new().bytes_per_submission(64 << 10).bytes_per_ms(1 << 30))
    });
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let all: Vec<_> = (0..8)
        .map(|_| {
            let b =
                engine.create_buffer(&first, BufferDescriptor::new(64 << 10)).expect("a buffer");
            let attachment = b.attach_dynamic(&second, refault()).expect("an attachment");
            (b, attachment)
        })
        .collect();
    let mut mappings: Vec<_> =
        all.iter().map(|(_, attachment)| attachment.map(Access::Write).expect("mapped")).collect();
    engine.evict_all(&first).expect("of this engine");
    let mut pairs: Vec<_> =
        all.iter().map(|(_, attachment)| attachment).zip(mappings.iter_mut()).collect();
    engine
        .submit_remapped(&second, &mut pairs, |submission, mappings| {
            mappings.iter().try_for_each(|m| record_fill(submission, &second, m, 1))
        })
        .expect("submitted");
    let returned = engine.moved(MoveCause::Restored);
    wait_idle(&[&first, &second]);
    assert!(returned.moves <= 1, "{returned:?}");
}

#[test]
fn two_buffers_that_do_not_fit_together_can_be_submitted() {
    for uses in [2, 1] {
        let rules = ResidencyOptions::new().uses_before_return(uses).bytes_per_ms(1 << 40);
        let rig = Rig::with(|d| d.residency(rules.bytes_per_submission(1 << 40)));
        let engine = rig.engine();
        let [first, second] = rig.two_of_one_adapter();
        engine.model_heap(&first, MIB).expect("of this engine");
        let all: Vec<_> = (0..2)
            .map(|_| {
                let b = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
                let attachment = b.attach_dynamic(&second, refault()).expect("an attachment");
                (b, attachment)
            })
            .collect();
        let mut mappings: Vec<_> = all
            .iter()
            .map(|(_, attachment)| attachment.map(Access::Write).expect("mapped"))
            .collect();
        let mut tries = 0;
        for round in 0..30 {
            let mut pairs: Vec<_> =
                all.iter().map(|(_, attachment)| attachment).zip(mappings.iter_mut()).collect();
            let fence = engine.submit_remapped(&second, &mut pairs, |submission, mappings| {
                tries += 1;
                mappings.iter().try_for_each(|m| record_fill(submission, &second, m, 1))
            });
            fence.unwrap_or_else(|e| panic!("uses {uses} round {round} tries {tries}: {e}"));
        }
        assert!(tries <= 60, "{tries} tries for 30 submissions: the buffers evict each other");
        wait_idle(&[&first, &second]);
    }
}

#[test]
fn concurrent_uses_restore_a_buffer_once() {
    struct Slow {
        notified: AtomicBool,
        mapping: AtomicBool,
    }
    impl Importer for Slow {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {
            self.notified.store(true, Ordering::SeqCst);
            until(|| self.mapping.load(Ordering::SeqCst), |&mapping| mapping);
            // Lets the other thread reach the wait for the reservation.
            (0..1000).for_each(|_| std::thread::yield_now());
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 1);
    buffer.evict().expect("not held");
    let importer =
        Arc::new(Slow { notified: AtomicBool::new(false), mapping: AtomicBool::new(false) });
    let attachment =
        buffer.attach_dynamic(&second, Arc::clone(&importer) as _).expect("an attachment");
    let before = buffer.generation();
    std::thread::scope(|scope| {
        let back = scope.spawn(|| buffer.request_residency());
        until(|| importer.notified.load(Ordering::SeqCst), |&notified| notified);
        importer.mapping.store(true, Ordering::SeqCst);
        drop(attachment.map(Access::Read).expect("mapped"));
        assert!(matches!(back.join().expect("no panic"), Ok(Migration::Done { .. })));
    });
    assert_eq!(buffer.generation(), before + 1, "restored once");
}

#[test]
fn a_submission_does_not_wait_for_host_work_on_a_victim() {
    struct Slow(Mutex<Option<Fence>>);
    impl Importer for Slow {
        fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
            if let Some(fence) = self.0.lock().expect("not poisoned").take() {
                invalidation.add_fence(Access::Read, fence);
            }
        }
    }
    // A wait for that work would exceed the watchdog's limit.
    let rig = Rig::with(|d| d.residency(ResidencyOptions::new().uses_before_return(1)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, MIB).expect("of this engine");
    let displaced = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let attachment = displaced.attach_dynamic(&second, refault()).expect("an attachment");
    displaced.evict().expect("not held");
    let victim = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&victim, 1);
    let (fence, signal) = engine.host_fence();
    let other = victim
        .attach_dynamic(&second, Arc::new(Slow(Mutex::new(Some(fence)))))
        .expect("an attachment");
    wait_idle(&[&first, &second]);
    drop(attachment.map(Access::Write).expect("mapped"));
    drop(signal);
    drop(other);
}

#[test]
fn a_panic_while_making_room_leaves_no_buffer_held() {
    struct Panics(AtomicBool);
    impl Importer for Panics {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {
            assert!(self.0.swap(true, Ordering::SeqCst), "injected failure");
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let used = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let attachment = used.attach_dynamic(&first, refault()).expect("an attachment");
    let mapping = attachment.map(Access::Write).expect("mapped");
    mapping.view().expect("ready");
    let victim = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&victim, 1);
    let other = victim
        .attach_dynamic(&second, Arc::new(Panics(AtomicBool::new(false))))
        .expect("an attachment");
    wait_idle(&[&first, &second]);
    let calls = engine.calls();
    calls.fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY);
    calls.fail_nth(Call::QueueSubmit, 2, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        engine.submit(&first, |submission| record_fill(submission, &first, &mapping, 1))
    }));
    assert!(caught.is_err(), "the panic unwinds the thread that makes room");
    drop(mapping);
    match used.evict() {
        Ok(_) => {}
        Err(error @ Error::Busy { .. }) => panic!("still held: {error}"),
        Err(error) => panic!("{error}"),
    }
    drop((attachment, other));
}

/// At most 64 buffers are locked together.
#[test]
fn an_eviction_locks_at_most_one_batch() {
    struct Counts(Mutex<Vec<SharedBuffer>>, Mutex<usize>);
    impl Importer for Counts {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {
            let all = self.0.lock().expect("not poisoned");
            let locked = all.iter().filter(|b| format!("{b:?}").contains("(locked)")).count();
            let mut most = self.1.lock().expect("not poisoned");
            *most = locked.max(*most);
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let all: Vec<_> = (0..150)
        .map(|seed| {
            let b =
                engine.create_buffer(&first, BufferDescriptor::new(128 << 10)).expect("a buffer");
            bytes::write(&b, seed);
            b
        })
        .collect();
    let counts = Arc::new(Counts(Mutex::new(all.clone()), Mutex::new(0)));
    let attachments: Vec<_> = all
        .iter()
        .map(|b| b.attach_dynamic(&second, Arc::clone(&counts) as _).expect("an attachment"))
        .collect();
    engine.evict_all(&first).expect("of this engine");
    let most = *counts.1.lock().expect("not poisoned");
    counts.0.lock().expect("not poisoned").clear();
    drop(attachments);
    assert!(most <= 64, "{most} reservations at once");
}

/// The number of waits, for any cause.
fn waits(engine: &Engine) -> u64 {
    StallCause::ALL.iter().copied().map(|cause| engine.stalls(cause).waits).sum()
}

/// A host fence keeps a reader of the current backing pending.
#[test]
fn a_restore_does_not_wait_for_host_work() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 1);
    let attachments = [&first, &second]
        .map(|device| buffer.attach_dynamic(device, refault()).expect("an attachment"));
    buffer.evict().expect("not held");
    engine.set_cap(vram(&first), Some(0)).expect("of this engine");
    let mapping = attachments[0].map(Access::Read).expect("mapped");
    let (fence, signal) = engine.host_fence();
    let access = mapping.begin_access(Access::Read).expect("current");
    access.end(fence);
    engine.set_cap(vram(&first), None).expect("of this engine");
    wait_idle(&[&first, &second]);
    let before = waits(engine);
    for _ in 0..3 {
        drop(attachments[1].map(Access::Read).expect("readers do not wait for each other"));
    }
    assert_eq!(waits(engine), before, "no call waited");
    assert_eq!(buffer.domain(), DomainId::System, "still being read there");
    drop(signal);
    drop(attachments[1].map(Access::Read).expect("mapped"));
    assert_eq!(buffer.domain(), vram(&first), "restored after the reader ended");
    bytes::assert_sequence(&buffer, 1, "after the restore");
    drop(mapping);
}

/// The copy out has not run yet: the copy back is queued behind it.
#[test]
fn a_restore_does_not_wait_for_copies() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let attachment = buffer.attach_dynamic(&second, refault()).expect("an attachment");
    let mapping = attachment.map(Access::Write).expect("mapped");
    bytes::write(&buffer, 1);
    let gate = Gate::close(&second);
    engine
        .submit(&second, |submission| record_fill(submission, &second, &mapping, 7))
        .expect("submitted");
    drop(mapping);
    buffer.evict().expect("not held");
    let before = waits(engine);
    drop(attachment.map(Access::Read).expect("mapped"));
    assert_eq!(waits(engine), before, "only queues wait");
    assert_eq!(buffer.domain(), vram(&first));
    gate.open();
    wait_idle(&[&first, &second]);
    assert_eq!(bytes::read(&buffer), 7_u32.to_ne_bytes().repeat(1 << 18), "what was filled");
}

/// An importer that delays every restore is not notified at every use, but the restore is retried now and then.
#[test]
fn a_failed_restore_is_not_retried_at_every_use() {
    struct Slow {
        notified: AtomicUsize,
        fence: Mutex<Option<Fence>>,
    }
    impl Importer for Slow {
        fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
            self.notified.fetch_add(1, Ordering::SeqCst);
            if let Some(fence) = self.fence.lock().expect("not poisoned").take() {
                invalidation.add_fence(Access::Read, fence);
            }
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&buffer, 1);
    buffer.evict().expect("not held");
    let importer = Arc::new(Slow { notified: AtomicUsize::new(0), fence: Mutex::default() });
    let attachment =
        buffer.attach_dynamic(&second, Arc::clone(&importer) as _).expect("an attachment");
    wait_idle(&[&first, &second]);
    for _ in 0..40 {
        let (fence, signal) = engine.host_fence();
        *importer.fence.lock().expect("not poisoned") = Some(fence);
        drop(attachment.map(Access::Read).expect("mapped"));
        // No work is in progress at the next use.
        drop(signal);
    }
    assert_eq!(
        importer.notified.load(Ordering::SeqCst),
        1,
        "notified once of a move that did not happen"
    );
    assert_eq!(buffer.domain(), DomainId::System);
    importer.fence.lock().expect("not poisoned").take();
    let mut uses = 0;
    while buffer.domain() == DomainId::System && uses < 1000 {
        drop(attachment.map(Access::Read).expect("mapped"));
        uses += 1;
    }
    assert_eq!(buffer.domain(), vram(&first), "the restore was retried");
    assert_eq!(importer.notified.load(Ordering::SeqCst), 2);
    bytes::assert_sequence(&buffer, 1, "after the restore");
    drop(attachment);
}

/// An importer of a victim that blocks its eviction until the test has done something else.
#[derive(Default)]
pub(super) struct Meanwhile {
    started: AtomicBool,
    over: AtomicBool,
}

impl Importer for Meanwhile {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        self.started.store(true, Ordering::SeqCst);
        until(|| self.over.load(Ordering::SeqCst), |&over| over);
    }
}

impl Meanwhile {
    /// Runs `meanwhile` while `work` is inside the notification, until `meanwhile` has ended or is `far_enough`.
    pub(super) fn during_notification<R: Send>(
        &self,
        work: impl FnOnce() + Send,
        meanwhile: impl FnOnce() -> R + Send,
        far_enough: impl Fn() -> bool,
    ) -> R {
        std::thread::scope(|scope| {
            scope.spawn(work);
            until(|| self.started.load(Ordering::SeqCst), |&started| started);
            let doing = scope.spawn(meanwhile);
            until(|| (doing.is_finished(), far_enough()), |&(finished, enough)| finished || enough);
            self.over.store(true, Ordering::SeqCst);
            doing.join().expect("no panic")
        })
    }
}

#[test]
fn a_buffer_is_not_held_while_room_is_made_for_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let used = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let attachment = used.attach_dynamic(&first, refault()).expect("an attachment");
    let mapping = attachment.map(Access::Write).expect("mapped");
    mapping.view().expect("ready");
    let victim = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    bytes::write(&victim, 2);
    let importer = Arc::new(Meanwhile::default());
    let other = victim.attach_dynamic(&second, Arc::clone(&importer) as _).expect("an attachment");
    wait_idle(&[&first, &second]);
    for nth in [1, 2] {
        let code = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
        engine.calls().fail_nth(Call::QueueSubmit, nth, code);
    }
    let moved = importer.during_notification(
        // The submission may fail because the buffer has moved.
        || drop(engine.submit(&first, |submission| record_fill(submission, &first, &mapping, 1))),
        || used.evict(),
        || false,
    );
    assert!(matches!(moved, Ok(Migration::Done { .. })), "{moved:?}");
    assert_eq!(used.domain(), DomainId::System);
    drop((mapping, other));
}

/// The device is unplugged while another buffer of the submission is restored.
#[test]
fn a_submitted_buffer_is_promoted_during_another_buffers_restore() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let [resident, displaced] = [1, 2].map(|seed| {
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
        bytes::write(&buffer, seed);
        buffer.evict().expect("not held");
        buffer
    });
    let importer = Arc::new(Meanwhile::default());
    let attachments = [
        resident.attach_dynamic(&second, refault()).expect("an attachment"),
        displaced.attach_dynamic(&second, Arc::clone(&importer) as _).expect("an attachment"),
    ];
    engine.set_cap(vram(&first), Some(0)).expect("of this engine");
    let displaced_mapping = attachments[1].map(Access::Read).expect("mapped");
    engine.set_cap(vram(&first), None).expect("of this engine");
    resident.request_residency().expect("there is room");
    let resident_mapping = attachments[0].map(Access::Read).expect("mapped");
    wait_idle(&[&first, &second]);
    let promoted = importer.during_notification(
        || {
            let submitted = engine.submit(&second, |submission| {
                for mapping in [&resident_mapping, &displaced_mapping] {
                    submission.uses(mapping, Access::Read, Scope::ALL)?;
                }
                Ok(())
            });
            drop(submitted.expect("both mappings are current"));
        },
        || engine.unplug(&first).expect("of this engine").promoted,
        || resident.domain() == DomainId::System || resident.is_poisoned(),
    );
    assert!(promoted >= 1 && !resident.is_poisoned(), "{promoted}");
    assert_eq!(resident.domain(), DomainId::System);
    bytes::assert_sequence(&resident, 1, "the content of the clean copy");
    drop((resident_mapping, displaced_mapping, attachments));
}

/// The most recently recorded reason why the buffer was not restored.
fn why_displaced(buffer: &SharedBuffer, to: &Device) -> Reason {
    let explained = buffer.explain();
    let last = explained.decisions[0];
    let expected = (What::Stayed, DomainId::System, vram(to));
    assert_eq!((last.what, last.from, last.to), expected, "{explained}");
    last.reason
}

#[test]
fn a_displaced_buffer_explains_why_once() {
    let rig = Rig::with(|d| d.residency(ResidencyOptions::new().uses_before_return(3)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, MIB).expect("of this engine");
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let attachment = buffer.attach_dynamic(&second, refault()).expect("an attachment");
    buffer.evict().expect("not held");
    let wall = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    let wall_attachment = wall.attach_dynamic(&first, refault()).expect("an attachment");
    let pin = wall_attachment.pin("scanout").expect("pinned");
    wait_idle(&[&first, &second]);
    let use_it = || drop(attachment.map(Access::Read).expect("mapped"));
    use_it();
    assert_eq!(why_displaced(&buffer, &first), Reason::Hysteresis { uses: 1, needed: 3 });
    let before = buffer.explain();
    use_it();
    assert_eq!(buffer.explain(), before, "recorded once");
    assert_eq!(before.decisions[1].what, What::Evicted);
    use_it();
    let by = Some(first.id());
    let full = Reason::NoRoom { budget: MIB, used: MIB, pinned: MIB, by, pins: 1 };
    assert_eq!(why_displaced(&buffer, &first), full);
    let access = buffer.host_access(Access::Read).expect("of this engine");
    use_it();
    assert_eq!(why_displaced(&buffer, &first), Reason::HostAccess);
    drop(access);
    drop(pin);
    engine.set_cap(vram(&first), Some(0)).expect("of this engine");
    engine.set_cap(vram(&first), None).expect("of this engine");
    use_it();
    assert_eq!(buffer.domain(), vram(&first), "there is room");
    assert_eq!(buffer.explain().decisions[0].what, What::Restored);
    drop((attachment, wall_attachment));
}

#[test]
fn a_throttled_restore_is_explained() {
    let rig = Rig::with(|d| d.residency(ResidencyOptions::new().bytes_per_ms(1)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let all = [1, 2].map(|seed| {
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
        bytes::write(&buffer, seed);
        buffer.evict().expect("not held");
        let attachment = buffer.attach_dynamic(&second, refault()).expect("an attachment");
        drop(attachment.map(Access::Read).expect("mapped"));
        buffer
    });
    assert_eq!(all[0].domain(), vram(&first), "restored beyond the limit");
    let reason = why_displaced(&all[1], &first);
    assert!(
        matches!(reason, Reason::Throttled { moved, allowed: 200 } if moved > 200),
        "{reason:?}"
    );
}
