//! Export and import of fences through a dma-buf's reservation. Requires real dma-bufs.
#![expect(unsafe_code, reason = "importing what the test has exported")]

use std::os::fd::AsFd;

use peerbuf::device::Call;
use peerbuf::{Access, BufferDescriptor, SharedBuffer};

use crate::common::note::Note;
use crate::common::{Rig, bytes, commands, needs_dma_buf, wait_idle};
use crate::{Fault, LONG, codes};

const SIZE: u64 = 16 << 10;
/// A size whose fills take long enough that a wait is pending.
const LARGE: u64 = 4 << 20;

const CALLS: [Call; 6] = [
    Call::Ioctl,
    Call::DuplicateFd,
    Call::QueueSubmit,
    Call::CreateSemaphore,
    Call::GetSemaphoreFd,
    Call::ImportSemaphoreFd,
];

fn assert_word(buffer: &SharedBuffer, word: u32, what: &str) {
    let expected: Vec<u8> = word.to_ne_bytes().into_iter().cycle().take(SIZE as usize).collect();
    bytes::assert_same(&bytes::read(buffer), &expected, what);
}

#[test]
fn any_call_may_fail_while_fences_are_exported_and_imported() {
    let rig = Rig::new();
    let Some(ours) = rig.lavapipe() else { return };
    if !needs_dma_buf(&ours) {
        return;
    }
    let (engine, external) = (rig.engine(), rig.external_engine());
    let theirs = rig.open_on(&external, &ours);
    let buffer = engine.create_buffer(&ours, BufferDescriptor::new(SIZE)).expect("a buffer");
    let large = engine.create_buffer(&ours, BufferDescriptor::new(LARGE)).expect("a buffer");
    let export = buffer.export_foreign().expect("a dma-buf");
    // SAFETY: exported just above, with its own `ForeignInfo`; fences order the two engines.
    let imported = unsafe { external.import_foreign(&theirs, export.as_fd(), export.info(), None) };
    let imported = imported.expect("the same memory");
    let attachments = [
        buffer.attach(&ours).expect("attached"),
        large.attach(&ours).expect("attached"),
        imported.attach(&theirs).expect("attached"),
    ];
    let [mine, work, its] =
        [0, 1, 2].map(|at| attachments[at].map(Access::ReadWrite).expect("mapped"));
    let mut failed = 0;
    for call in CALLS {
        for &code in codes(call) {
            for nth in 1.. {
                assert!(nth < 1000, "{}: each call was made", call.name());
                let _note = Note(format!("{}, no. {nth}: {code:?}", call.name()));
                let fault = Fault { code };
                let mut step = |what, work: &dyn Fn() -> peerbuf::Result<()>| {
                    let (_, failure) = fault.survive(what, work, || {});
                    failed += usize::from(failure.is_some());
                };
                engine.calls().fail_nth(call, nth, code);
                step("fill", &|| commands::fill(engine, &ours, &work, 1).map(drop));
                step("fill", &|| commands::fill(engine, &ours, &mine, 2).map(drop));
                step("export fences", &|| buffer.export_foreign_fences());
                imported.import_foreign_fences().expect("no fault in the external engine");
                let after = commands::fill(&external, &theirs, &its, 3)
                    .expect("no fault in the external engine");
                imported.export_foreign_fences().expect("no fault in the external engine");
                step("import fences", &|| buffer.import_foreign_fences());
                let word = 4 + u32::try_from(nth).expect("a few");
                step("fill", &|| commands::fill(engine, &ours, &mine, word).map(drop));
                let missed = engine.calls().clear_faults();
                assert_word(&buffer, word, "behind the external engine");
                assert!(after.is_signalled().expect("no error"), "behind the external engine");
                buffer.export_foreign_fences().expect("the fault is cleared");
                imported.import_foreign_fences().expect("no fault in the external engine");
                after.wait(LONG).expect("it runs");
                if missed {
                    break;
                }
            }
        }
    }
    assert!(failed > 3, "the operations make calls");
    drop((mine, work, its));
    drop((attachments, imported, export));
    wait_idle(&[&ours, &theirs]);
}
