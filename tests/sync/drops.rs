//! Mappings, attachments and pins may be dropped anywhere: what has to wait is deferred.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};

use crate::common::app::App;
use crate::common::until::until;
use crate::common::{LONG, Rig, bytes};
use peerbuf::{
    Access, Attachment, BufferDescriptor, DomainId, ForeignExport, Importer, Invalidation, Mapping,
    Pin, Refault,
};

/// An importer that drops what it holds in its callback.
#[derive(Default)]
struct DropsAll(Mutex<Vec<Held>>);

#[expect(dead_code, reason = "held only to be dropped in the callback")]
enum Held {
    Mapping(Mapping),
    Attachment(Attachment),
    Pin(Pin),
    Export(ForeignExport),
}

impl Importer for DropsAll {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        self.0.lock().expect("not poisoned").clear();
    }
}

#[test]
fn an_importer_may_drop_mappings_attachments_pins_and_exports_in_its_callback() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let buffer = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let other = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let exported = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("one");
        bytes::write(&buffer, 1);
        let importer = Arc::new(DropsAll::default());
        let attachment =
            buffer.attach_dynamic(&device, Arc::clone(&importer) as _).expect("attached");
        let its_own = buffer.attach_dynamic(&device, Arc::new(Refault::new())).expect("attached");
        let others = other.attach(&device).expect("attached");
        {
            let mut held = importer.0.lock().expect("not poisoned");
            held.push(Held::Mapping(its_own.map(Access::Read).expect("mapped")));
            held.push(Held::Attachment(its_own));
            held.push(Held::Mapping(others.map(Access::Read).expect("mapped")));
            held.push(Held::Pin(others.pin("scanout").expect("pinned")));
            held.push(Held::Attachment(others));
            held.push(Held::Export(exported.export_foreign().expect("an fd")));
        }
        buffer.migrate(DomainId::System).expect("nothing keeps it");
        let generation = exported.generation();
        bytes::assert_zero(&exported, "it moves first");
        assert!(exported.generation() > generation, "its export is dropped");
        other.migrate(DomainId::System).expect("its pin is dropped");
        bytes::assert_sequence(&buffer, 1, "moved");
        attachment.detach().expect("not mapped");
    }
}

/// The end of an export is deferred while another thread has the reservation. The next use is in other memory, too.
#[test]
fn an_export_may_be_dropped_under_the_queues_lock() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let buffer = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let export = buffer.export_foreign().expect("an fd");
        let attachment = buffer.attach(&device).expect("attached");
        let used = attachment.map(Access::Write).expect("mapped");
        used.view().expect("valid");
        let exported = buffer.generation();
        std::thread::scope(|scope| {
            let submitting = device.with_queue(|_| {
                let submitting = scope.spawn(|| {
                    let submitted = engine.submit(&device, |submission| {
                        submission.write(&used)?;
                        Ok(())
                    });
                    submitted.and_then(|fence| fence.wait(LONG))
                });
                // Until the thread has the reservation.
                until(|| format!("{buffer:?}"), |text| text.contains("locked"));
                drop(export);
                submitting
            });
            submitting.join().expect("no panic").expect("it ends");
        });
        drop(used);
        let pin = attachment.pin("scanout").expect("pinned");
        assert!(buffer.generation() > exported, "moved before the pin");
        drop(pin);
    }
}

/// A thread that submits holds the reservation and the list of submissions while it waits for the queue.
#[test]
fn a_mapping_may_be_dropped_and_a_fence_asked_under_the_queues_lock() {
    let rig = Rig::new();
    for software in rig.all() {
        let app = App::new(&rig, software.adapter(), |_| true);
        let engine = rig.external_engine();
        let device = app.join(&rig, &engine);
        let asked = || app.lock.asked.load(Ordering::Relaxed);
        let buffer = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let attachment = buffer.attach(&device).expect("attached");
        let [mapping, used] = [(); 2].map(|()| attachment.map(Access::Write).expect("mapped"));
        used.view().expect("valid");
        let before = device.submitted().expect("a submission");
        std::thread::scope(|scope| {
            let submitting = device.with_queue(|_| {
                let before_it = asked();
                let submitting = scope.spawn(|| {
                    let submitted = engine.submit(&device, |submission| {
                        submission.write(&used)?;
                        Ok(())
                    });
                    submitted.and_then(|fence| fence.wait(LONG))
                });
                // Until the thread waits for the queue, with the reservation and the list of submissions.
                until(asked, |asked| *asked > before_it);
                assert!(format!("{buffer:?}").contains("locked"));
                drop(mapping);
                before.wait_submitted(LONG).expect("it is submitted");
                submitting
            });
            submitting.join().expect("no panic").expect("it ends");
        });
        drop(used);
        attachment.detach().expect("no mapping is left");
    }
}

thread_local! {
    /// The thread's end drops it after all thread-locals that were used later.
    static KEPT: std::cell::RefCell<Option<Mapping>> = const { std::cell::RefCell::new(None) };
}

#[test]
fn a_thread_may_end_with_a_mapping_in_a_thread_local() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer =
            rig.engine().create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let attachment = buffer.attach(&device).expect("attached");
        std::thread::scope(|scope| {
            let ending = scope.spawn(|| {
                // Used before the first reservation of this thread.
                KEPT.with(|kept| assert!(kept.borrow_mut().take().is_none()));
                let mapping = attachment.map(Access::Read).expect("mapped");
                KEPT.with(|kept| *kept.borrow_mut() = Some(mapping));
            });
            ending.join().expect("no panic");
        });
        attachment.detach().expect("the mapping is gone");
    }
}

/// Maps in its callback, which takes the reservation that the move holds.
struct Maps(OnceLock<Attachment>);

impl Importer for Maps {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        drop(self.0.get().expect("set").map(Access::Read));
    }
}

#[test]
fn an_importer_that_maps_in_its_callback_panics_and_does_not_wait_for_itself() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let buffer = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let importer = Arc::new(Maps(OnceLock::new()));
        let attachment =
            buffer.attach_dynamic(&device, Arc::clone(&importer) as _).expect("attached");
        let second = buffer.attach_dynamic(&device, Arc::new(Refault::new())).expect("attached");
        importer.0.set(second).expect("set once");
        let migrate = std::panic::AssertUnwindSafe(|| buffer.migrate(DomainId::System));
        assert!(std::panic::catch_unwind(migrate).is_err(), "reported, in release builds too");
        drop(attachment);
        drop(importer);
        buffer.migrate(DomainId::System).expect("nothing is locked");
    }
}

/// Waits for another buffer in its callback, which holds a reservation.
struct WaitsFor(peerbuf::SharedBuffer);

impl Importer for WaitsFor {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        self.0.wait(Access::Read, LONG).expect("it is idle");
    }
}

#[test]
fn an_importer_that_waits_for_an_idle_buffer_in_its_callback_panics() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let create = || engine.create_buffer(&device, BufferDescriptor::new(4096));
        let [buffer, idle] = [(); 2].map(|()| create().expect("a buffer"));
        let importer = Arc::new(WaitsFor(idle));
        let attachment = buffer.attach_dynamic(&device, importer).expect("attached");
        let migrate = std::panic::AssertUnwindSafe(|| buffer.migrate(DomainId::System));
        assert!(std::panic::catch_unwind(migrate).is_err(), "it would hold two reservations");
        drop(attachment);
        buffer.migrate(DomainId::System).expect("nothing is locked");
    }
}

/// The numbers of generations come round. A number that a mapping still has is skipped.
#[test]
fn a_generation_that_a_mapping_has_is_not_used_again() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let buffer = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let attachment =
            buffer.attach_dynamic(&device, Arc::new(Refault::new())).expect("attached");
        let vram = DomainId::Vram(device.id());
        buffer.model_generation((1 << 28) - 1);
        let stale = attachment.map(Access::Read).expect("mapped");
        buffer.migrate(DomainId::System).expect("dynamic");
        assert_eq!(buffer.generation(), 0, "the numbers have come round");
        buffer.model_generation((1 << 28) - 2);
        buffer.migrate(vram).expect("dynamic");
        assert_ne!(buffer.generation(), stale.generation());
        assert!(
            stale.view().is_err_and(|error| matches!(error, peerbuf::Error::Stale { .. })),
            "it stays stale"
        );
        let current = attachment.map(Access::Read).expect("mapped");
        drop(stale);
        current.view().expect("the drop of another generation's mapping has not counted here");
        drop(current);
        attachment.detach().expect("not mapped");
    }
}
