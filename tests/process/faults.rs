//! Fault injection: every call into a driver or the kernel may fail, at any time. The operation then returns an
//! error or takes another path, nothing is left behind, and the next attempt succeeds.
#![expect(unsafe_code, reason = "importing a memfd as external memory")]

use std::os::fd::{AsFd, OwnedFd};

use crate::common::fds::OpenFds;
use crate::common::reach::imports_files;
use crate::common::{Rig, alive, bytes, in_short_vm, in_vm, say, wait_idle};
use ash::vk::{self, Result as Code};
use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, Engine, Error, ForeignInfo, HandleType,
    Placement, Provider, Result,
};
use rustix::fs::{MemfdFlags, SealFlags};

const SIZE: u64 = 5000;

/// The code with which a driver fails this call.
fn code_of(call: Call) -> Code {
    match call {
        Call::AllocateMemory => Code::ERROR_OUT_OF_DEVICE_MEMORY,
        Call::ImportMemory | Call::GetHandleProperties => Code::ERROR_INVALID_EXTERNAL_HANDLE,
        Call::GetMemoryFd => Code::ERROR_TOO_MANY_OBJECTS,
        Call::MapMemory => Code::ERROR_MEMORY_MAP_FAILED,
        _ => Code::ERROR_OUT_OF_HOST_MEMORY,
    }
}

/// Uses buffers from creation to drop. Wrong bytes are a panic, not an error.
fn scenario(engine: &Engine, a: &Device, b: &Device, theirs: Option<&OwnedFd>) -> Result<()> {
    let buffer = engine.create_buffer(a, BufferDescriptor::new(SIZE))?;
    let (near, far) = (buffer.attach(a)?, buffer.attach(b)?);
    {
        let (writer, reader) = (near.map(Access::ReadWrite)?, far.map(Access::ReadWrite)?);
        writer.fill(1)?;
        assert!(reader.verify(1)?.is_clean(), "{} after {}", b.name(), a.name());
        reader.fill(2)?;
        assert!(writer.verify(2)?.is_clean(), "{} after {}", a.name(), b.name());
    }
    let access = buffer.host_access(Access::ReadWrite)?;
    access.write(0, &bytes::sequence(3, SIZE))?;
    access.end()?;

    let copy = engine.create_buffer(b, BufferDescriptor::new(SIZE).placement(Placement::Vram))?;
    engine.copy(&buffer, &copy, CopyRegion::first(SIZE))?;
    expect_sequence(&copy, 3)?;
    engine.copy(&copy, &buffer, CopyRegion { from: 0, to: 1, len: SIZE - 1 })?;
    drop(copy);

    // Memory without an fd stays where no other memory is reached by both.
    if buffer.provider() == Provider::Anonymous {
        return Ok(());
    }
    let export = buffer.export_foreign()?;
    let handle = export.handle()?;
    // SAFETY: the engine's own fd with its own `ForeignInfo`.
    let back = unsafe { engine.import_foreign(a, handle.as_fd(), handle.info(), None) }?;
    assert!(back.is_same(&buffer));

    let Some(theirs) = theirs else { return Ok(()) };
    let info = ForeignInfo::new(HandleType::HostPointer, SIZE);
    // SAFETY: a sealed memfd that no other code uses.
    let taken = unsafe { engine.import_foreign(b, theirs.as_fd(), info, None) }?;
    engine.copy(&back, &taken, CopyRegion::first(SIZE))?;
    assert_eq!(taken.attach(a)?.map(Access::Read)?.view()?.size, SIZE);
    expect_sequence_from(&taken, 1)
}

fn expect_sequence(buffer: &peerbuf::SharedBuffer, seed: u64) -> Result<()> {
    let mut actual = vec![0; buffer.size() as usize];
    buffer.host_access(Access::Read)?.read(0, &mut actual)?;
    bytes::assert_same(&actual, &bytes::sequence(seed, buffer.size()), "a copy");
    Ok(())
}

/// Checks the content after the copy back with an offset of one.
fn expect_sequence_from(buffer: &peerbuf::SharedBuffer, from: usize) -> Result<()> {
    let mut actual = vec![0; buffer.size() as usize];
    buffer.host_access(Access::Read)?.read(0, &mut actual)?;
    let expected = bytes::sequence(3, SIZE);
    bytes::assert_same(&actual[from..], &expected[..expected.len() - from], "a shifted copy");
    assert_eq!(actual[0], expected[0]);
    Ok(())
}

fn memfd() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("external", flags).expect("a memfd");
    rustix::fs::ftruncate(&fd, 65_536).expect("its size");
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).expect("its seal");
    fd
}

/// Whether the routes are proved before the fault, or while it occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routes {
    Known,
    Unknown,
}

/// Fails the n-th call of each kind, for every n that the scenario reaches.
fn check(rig: &Rig, a: &Device, b: &Device, routes: Routes) {
    let engine = rig.engine();
    let theirs = memfd();
    let import = [a, b].into_iter().all(|device| imports_files(engine, device));
    let run = || scenario(engine, a, b, import.then_some(&theirs));
    let trim = || {
        wait_idle(&[a, b]);
        engine.trim();
    };
    run().expect("without a fault it succeeds");
    trim();
    let (before, fds) = (alive(engine.live()), OpenFds::now());
    let (mut injected, mut survived) = (0, 0);
    // To prove all routes for each fault takes emulated processors minutes; so only calls that dma-bufs have.
    let few = routes == Routes::Unknown && in_short_vm();
    let of_dma_bufs =
        [Call::Ioctl, Call::GetMemoryFd, Call::ImportMemory, Call::GetHandleProperties];
    let calls = if few { &of_dma_bufs[..] } else { Call::ALL };
    for &call in calls {
        for nth in numbers() {
            let what = format!(
                "{} and {}, routes {routes:?}, {} no. {nth}",
                a.name(),
                b.name(),
                call.name()
            );
            if routes == Routes::Unknown {
                engine.forget_routes();
            }
            engine.calls().fail_nth(call, nth, code_of(call));
            let result = run();
            let missed = engine.calls().clear_faults();
            if let Err(error) = &result {
                assert!(!missed, "{what}: failed without a fault: {error}");
                assert!(!error.to_string().is_empty() && !is_wrong(error), "{what}: {error:?}");
            }
            trim();
            let (now, open) = (alive(engine.live()), fds.difference(&OpenFds::now()));
            assert_eq!(now, before, "{what}: {result:?}");
            assert_eq!(open, Vec::<String>::new(), "{what}: {result:?}");
            if missed {
                break;
            }
            (injected, survived) = (injected + 1, survived + usize::from(result.is_ok()));
            if routes == Routes::Known && !in_vm() {
                run().unwrap_or_else(|error| panic!("after {what}: {error}"));
                trim();
            }
        }
    }
    run().expect("after all faults it succeeds");
    trim();
    assert_eq!(alive(engine.live()), before, "after all faults");
    say(&format!(
        "{} and {}, routes {routes:?}: {injected} faults, {survived} of them survived",
        a.name(),
        b.name()
    ));
    assert!(injected > if few { 3 } else { 10 }, "the scenario makes calls");
}

/// The numbers of the calls that fail: 1, 2 and so on. No scenario makes a thousand calls of one kind. Emulated
/// processors test a selection that is denser at the beginning.
fn numbers() -> impl Iterator<Item = u64> {
    let step = |nth: &u64| Some(nth + 1 + if in_vm() { nth / 2 } else { 0 });
    std::iter::successors(Some(1), step).take_while(|nth| *nth < 1000)
}

/// Whether the engine has reported the fault as a usage error.
fn is_wrong(error: &Error) -> bool {
    matches!(
        error,
        Error::AlreadyAttached { .. }
            | Error::StillMapped { .. }
            | Error::OutOfBounds { .. }
            | Error::ForeignEngine { .. }
            | Error::WrongAccess { .. }
            | Error::Busy { .. }
            | Error::DeviceLost { .. }
            | Error::FdLimit { .. }
    )
}

#[test]
fn any_call_may_fail_while_devices_of_one_driver_share() {
    let rig = Rig::new();
    for device in rig.all() {
        let twin = rig.open(&device.adapter().clone());
        check(&rig, &device, &twin, Routes::Known);
    }
}

#[test]
fn any_call_may_fail_while_two_drivers_share() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    check(&rig, &lavapipe, &swiftshader, Routes::Known);
    check(&rig, &swiftshader, &lavapipe, Routes::Known);
}

#[test]
fn any_call_may_fail_where_the_host_cannot_map_device_memory() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    let devices = rig.all();
    let twin = rig.open(&devices[0].adapter().clone());
    check(&rig, &devices[0], &twin, Routes::Known);
}

#[test]
fn any_call_may_fail_while_routes_are_proved() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    check(&rig, &lavapipe, &swiftshader, Routes::Unknown);
}

#[test]
fn a_fault_in_the_first_pass_of_a_device_is_only_an_error() {
    let rig = Rig::new();
    for adapter in rig.engine().adapters() {
        let device = rig.open(adapter);
        // Not an out-of-memory error, since the engine retries the pass after those.
        rig.engine().calls().fail_nth(
            Call::QueueSubmit,
            1,
            vk::Result::ERROR_INITIALIZATION_FAILED,
        );
        let buffer = rig.engine().create_buffer(&device, BufferDescriptor::new(4096));
        let attachment = buffer.and_then(|buffer| buffer.attach(&device)).expect("attached");
        let mapping = attachment.map(Access::ReadWrite).expect("mapped");
        let error = mapping.fill(1).expect_err("the first pass of this device fails");
        assert!(matches!(error, Error::Vulkan { .. }), "{error:?}");
        mapping.fill(1).expect("the second does not");
        assert!(mapping.verify(1).expect("a pass").is_clean());
    }
}
