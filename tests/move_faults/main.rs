//! Fault injection for moves: every call may fail, at any time, with any code.
//!
//! The operation then returns an error and has changed nothing, or takes another path. The next attempt succeeds,
//! every byte is right, and nothing is left behind.
#![expect(unsafe_code, reason = "importing an fd is unsafe")]

#[path = "../common/mod.rs"]
mod common;
mod foreign_fences;
mod together;
mod waits;

use std::os::fd::AsFd;
use std::sync::Arc;

use ash::vk::Result as Code;
use common::fds::OpenFds;
use common::note::Note;
use common::reach::{AttachCaps, can_live};
use common::recorder::Recorder;
use common::{LONG, Rig, alive, bytes, in_vm, say, soak, wait_idle};
use peerbuf::device::Call;
use peerbuf::transfer::pattern_word;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, DomainKind, Engine, Error,
    Mapping, Migration, Result, SharedBuffer,
};

/// The codes with which drivers fail this call. The engine mostly retries after an out-of-memory error, and not
/// after others. For system calls the engine chooses the error.
fn codes(call: Call) -> &'static [Code] {
    const HOST: Code = Code::ERROR_OUT_OF_HOST_MEMORY;
    const DEVICE: Code = Code::ERROR_OUT_OF_DEVICE_MEMORY;
    match call {
        Call::AllocateMemory => &[DEVICE, HOST, Code::ERROR_TOO_MANY_OBJECTS],
        Call::ImportMemory => &[Code::ERROR_INVALID_EXTERNAL_HANDLE, DEVICE, HOST],
        Call::GetMemoryFd => &[Code::ERROR_TOO_MANY_OBJECTS, HOST, DEVICE],
        Call::GetHandleProperties => &[Code::ERROR_INVALID_EXTERNAL_HANDLE, HOST],
        Call::MapMemory => &[Code::ERROR_MEMORY_MAP_FAILED, HOST, DEVICE],
        Call::CreateBuffer | Call::BindBufferMemory => &[HOST, DEVICE],
        // No device loss, since no second attempt can succeed after that (tests/sharing/errors.rs).
        Call::QueueSubmit => &[Code::ERROR_INITIALIZATION_FAILED, HOST, DEVICE],
        Call::WaitSemaphores => &[HOST, DEVICE],
        Call::CreateSemaphore | Call::GetSemaphoreFd | Call::ImportSemaphoreFd => {
            &[HOST, Code::ERROR_TOO_MANY_OBJECTS]
        }
        _ => &[HOST],
    }
}

/// Whether the engine has reported the fault as a usage error, or as a fault of another kind.
fn is_wrong(error: &Error, code: Code) -> bool {
    match error {
        Error::DeviceLost { .. } => code != Code::ERROR_DEVICE_LOST,
        Error::OutOfMemory { .. }
        | Error::Unsupported { .. }
        | Error::Vulkan { .. }
        | Error::Os { .. }
        | Error::Staging { .. }
        | Error::ForeignFd { .. } => false,
        _ => true,
    }
}

/// An attached device, and the state that is expected of it.
struct Participant {
    attachment: Attachment,
    recorder: Arc<Recorder>,
    mapping: Option<Mapping>,
    since: u32,
}

/// A buffer that moves through all domains, and the state that is expected of it.
struct Scene<'a> {
    engine: &'a Engine,
    devices: [&'a Device; 2],
    size: u64,
    buffer: SharedBuffer,
    participants: Vec<Participant>,
    /// The seed of the pattern in the buffer, and its bytes; `None` while the content is unknown.
    content: Option<(u32, Vec<u8>)>,
    fault: Fault,
    /// Operations that failed first and succeeded the second time.
    failed: Vec<&'static str>,
}

/// The code of the single fault.
#[derive(Clone, Copy, Debug)]
struct Fault {
    code: Code,
}

impl Fault {
    /// Runs `work`. If the fault makes it fail, runs `check` on the state, and then `work` again.
    fn survive<R>(
        self,
        what: &'static str,
        mut work: impl FnMut() -> Result<R>,
        check: impl FnOnce(),
    ) -> (R, Option<&'static str>) {
        let error = match work() {
            Ok(result) => return (result, None),
            Err(error) => error,
        };
        assert!(!is_wrong(&error, self.code), "{what}: {error:?}");
        assert!(!error.to_string().is_empty());
        check();
        let again = work().unwrap_or_else(|error| panic!("{what}, the second time: {error}"));
        (again, Some(what))
    }
}

impl<'a> Scene<'a> {
    fn create(engine: &'a Engine, devices: [&'a Device; 2], size: u64, fault: Fault) -> Self {
        let descriptor = || BufferDescriptor::new(size).name("moving");
        let create = || engine.create_buffer(devices[0], descriptor());
        let (buffer, failed) = fault.survive("create", create, || {});
        let failed = failed.into_iter().collect();
        Self { engine, devices, size, buffer, participants: vec![], content: None, fault, failed }
    }

    /// Runs `work`. If it fails, checks that nothing has changed, and runs it again.
    fn step<R>(&mut self, what: &'static str, work: impl Fn(&Self) -> Result<R>) -> R {
        let (domain, generation) = (self.buffer.domain(), self.buffer.generation());
        let check = || {
            let now = (self.buffer.domain(), self.buffer.generation());
            assert_eq!(now, (domain, generation), "{what} failed, but the buffer moved");
            self.check(Notified::OnceMore);
        };
        let (result, failed) = self.fault.survive(what, || work(self), check);
        self.failed.extend(failed);
        result
    }

    /// Checks the bytes and the callbacks. Mappings of the current generation must show the bytes.
    fn check(&self, notified: Notified) {
        let generation = self.buffer.generation();
        for participant in &self.participants {
            // Importers may have been notified of a failed move, and are notified again by the next one.
            let mut generations = participant.recorder.invalidated();
            generations.dedup();
            let end = generation + u32::from(generations.last() == Some(&generation));
            assert!(
                end == generation || notified == Notified::OnceMore,
                "notified of no move: {generations:?}"
            );
            assert_eq!(generations, Vec::from_iter(participant.since..end), "callbacks");
            let current = participant.mapping.as_ref().filter(|m| m.generation() == generation);
            if let (Some(mapping), &Some((seed, _))) = (current, &self.content) {
                // The fault may occur here as well.
                let report = mapping.verify(seed).or_else(|_| mapping.verify(seed));
                let report = report.expect("one fault");
                assert!(report.is_clean(), "{} sees {report:?}", mapping.device().name());
            }
        }
        if let Some((_, expected)) = &self.content {
            let actual = read(&self.buffer).or_else(|_| read(&self.buffer)).expect("one fault");
            bytes::assert_same(&actual, expected, "the host");
        }
    }

    // ---- operations ----

    fn attach(&mut self, device: &Device) {
        let recorder = Recorder::new(true);
        let importer = || Arc::clone(&recorder) as _;
        let attachment = self.step("attach", |this| this.buffer.attach_dynamic(device, importer()));
        let since = self.buffer.generation();
        self.participants.push(Participant { attachment, recorder, mapping: None, since });
    }

    fn map_all(&mut self) {
        for index in 0..self.participants.len() {
            let access = Access::ReadWrite;
            let mapping = self.step("map", |this| this.participants[index].attachment.map(access));
            self.participants[index].mapping = Some(mapping);
        }
    }

    fn remap_all(&mut self) {
        for index in 0..self.participants.len() {
            let mut mapping = self.participants[index].mapping.take().expect("mapped before");
            let attachment = &self.participants[index].attachment;
            let (mut failed, old) = (vec![], mapping.generation());
            let result = attachment.remap(&mut mapping);
            if let Err(error) = result {
                assert!(!is_wrong(&error, self.fault.code), "remap: {error:?}");
                assert_eq!(mapping.generation(), old, "the mapping is unchanged");
                failed.push("remap");
                attachment.remap(&mut mapping).expect("the second time");
            }
            assert_eq!(mapping.generation(), self.buffer.generation());
            self.participants[index].mapping = Some(mapping);
            self.failed.extend(failed);
        }
    }

    fn fill(&mut self, index: usize, seed: u32) {
        // A failed fill may have written a part.
        self.content = None;
        self.step("fill", |this| this.mapping(index).fill(seed));
        self.content = Some((seed, pattern(seed, self.size)));
    }

    fn verify_all(&mut self) {
        let seed = self.content().0;
        for index in 0..self.participants.len() {
            let report = self.step("verify", |this| this.mapping(index).verify(seed));
            assert!(report.is_clean(), "device {index} sees {report:?}");
        }
    }

    fn content(&self) -> &(u32, Vec<u8>) {
        self.content.as_ref().expect("something was written")
    }

    fn mapping(&self, index: usize) -> &Mapping {
        self.participants[index].mapping.as_ref().expect("mapped before")
    }

    fn migrate(&mut self, to: DomainId) {
        // The buffer may be there already: if an allocation failed, another domain was chosen.
        let (here, generation) = (self.buffer.domain(), self.buffer.generation());
        let moved = self.step("migrate", |this| this.buffer.migrate(to));
        assert_eq!(self.buffer.domain(), to);
        let expected = match here == to {
            true => Migration::Unchanged,
            false => Migration::Done { generation: self.buffer.generation() },
        };
        assert_eq!(moved, expected);
        assert!(here == to || self.buffer.generation() > generation);
    }

    fn copy(&mut self) {
        let (near, size) = (self.devices[0], self.size);
        let descriptor = || BufferDescriptor::new(size);
        let target = self.step("create", |this| this.engine.create_buffer(near, descriptor()));
        let region = CopyRegion::first(size);
        drop(self.step("copy", |this| this.engine.copy(&this.buffer, &target, region)));
        let actual = self.step("host access", |_| read(&target));
        bytes::assert_same(&actual, &self.content().1, "a copy");
    }

    fn export_and_import(&mut self) {
        let export = self.step("export", |this| this.buffer.export_foreign());
        let handle = self.step("export again", |_| export.handle());
        let home = self.buffer.home();
        let same = self.step("import", |this| {
            // SAFETY: the engine's own fd with its own `ForeignInfo`.
            unsafe { this.engine.import_foreign(&home, handle.as_fd(), handle.info(), None) }
        });
        assert!(same.is_same(&self.buffer));
        let pin = self.step("pin", |this| this.participants[0].attachment.pin("faults"));
        drop((export, pin));
    }

    fn host_write(&mut self, seed: u32) {
        self.content = None;
        let new = pattern(seed, self.size);
        self.step("host access", |this| {
            let access = this.buffer.host_access(Access::Write)?;
            access.write(0, &new)?;
            access.end()
        });
        self.content = Some((seed, pattern(seed, self.size)));
    }

    /// Runs all operations in sequence.
    fn play(&mut self) {
        let [near, far] = self.devices;
        self.attach(near);
        self.attach(far);
        self.map_all();
        self.fill(0, 1);
        self.verify_all();
        self.migrate(DomainId::System);
        self.remap_all();
        self.verify_all();
        self.fill(1, 2);
        let caps = AttachCaps { device: near, peer_to_peer: true };
        if !can_live(self.engine, far, DomainKind::Vram, &[caps]) {
            // This device could not reach the other one's VRAM.
            drop(self.participants.remove(0));
        }
        self.migrate(DomainId::Vram(far.id()));
        self.remap_all();
        self.verify_all();
        self.copy();
        self.export_and_import();
        self.remap_all();
        self.migrate(DomainId::System);
        self.host_write(3);
        self.migrate(DomainId::Vram(far.id()));
        self.remap_all();
        self.verify_all();
        self.check(Notified::OfMoves);
    }
}

/// The notifications that importers may have received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notified {
    /// One of every move.
    OfMoves,
    /// One more, of a move that failed.
    OnceMore,
}

fn pattern(seed: u32, len: u64) -> Vec<u8> {
    // CAST: words of a small buffer.
    (0..(len / 4) as u32).flat_map(|index| pattern_word(seed, index).to_le_bytes()).collect()
}

fn read(buffer: &SharedBuffer) -> Result<Vec<u8>> {
    // CAST: a small buffer.
    let mut actual = vec![0; buffer.size() as usize];
    let access = buffer.host_access(Access::Read)?;
    access.read(0, &mut actual)?;
    access.end()?;
    Ok(actual)
}

/// The set of faults to inject.
#[derive(Clone, Copy, Debug)]
enum Faults {
    /// The n-th call for every n, with every code.
    All,
    /// The n-th call for n = 1, `factor`, `factor`² and so on, with one code.
    Some { factor: u64 },
    /// The first call that allocates.
    One,
}

impl Faults {
    /// The faults for a slot of a slab. Emulated processors test a selection.
    fn small() -> Self {
        if in_vm() { Self::Some { factor: 2 } } else { Self::All }
    }

    /// The faults for large buffers.
    fn large() -> Self {
        match (in_vm(), soak::factor()) {
            (false, 1) => Self::Some { factor: 4 },
            (false, _) => Self::Some { factor: 2 },
            (true, _) => Self::One,
        }
    }

    fn numbers(self) -> impl Iterator<Item = u64> {
        let next = move |nth: &u64| {
            Some(match self {
                Self::All => nth + 1,
                Self::Some { factor } => nth * factor,
                Self::One => return None,
            })
        };
        // No scene makes this many calls of one kind.
        std::iter::successors(Some(1), next).take_while(|nth| *nth < 1000)
    }

    fn codes(self, call: Call) -> &'static [Code] {
        match self {
            Self::All => codes(call),
            Self::One if call != Call::AllocateMemory => &[],
            Self::Some { .. } | Self::One => &codes(call)[..1],
        }
    }
}

/// Runs all operations with every fault.
fn check(rig: &Rig, devices: [&Device; 2], size: u64, faults: Faults) {
    let engine = rig.engine();
    check_play(engine, devices, faults, |fault| {
        let mut scene = Scene::create(engine, devices, size, fault);
        scene.play();
        scene.failed
    });
}

/// Runs `play` once per fault. `play` returns the operations that failed first and succeeded the second time.
fn check_play(
    engine: &Engine,
    devices: [&Device; 2],
    faults: Faults,
    play: impl Fn(Fault) -> Vec<&'static str>,
) {
    let trim = || {
        wait_idle(&devices);
        engine.trim();
    };
    // Prove the routes, and let drivers create what they keep.
    assert!(play(Fault { code: Code::SUCCESS }).is_empty());
    trim();
    let (before, fds) = (alive(engine.live()), OpenFds::now());
    let (mut injected, mut failed) = (0, 0);
    for &call in Call::ALL {
        for &code in faults.codes(call) {
            for nth in faults.numbers() {
                let [a, b] = devices.map(Device::name);
                let what = format!("{a} and {b}, {}, no. {nth}: {code:?}", call.name());
                let _note = Note(what.clone());
                engine.calls().fail_nth(call, nth, code);
                let failures = play(Fault { code });
                let missed = engine.calls().clear_faults();
                trim();
                assert_eq!(alive(engine.live()), before, "after {failures:?}");
                let open = fds.difference(&OpenFds::now());
                assert_eq!(open, Vec::<String>::new(), "after {failures:?}");
                assert!(failures.len() <= 1, "one fault, and more than one failure: {failures:?}");
                if missed {
                    assert!(failures.is_empty(), "failed without a fault: {failures:?}");
                    break;
                }
                (injected, failed) = (injected + 1, failed + failures.len());
            }
        }
    }
    say(&format!(
        "{} and {}: {injected} faults, {failed} of them made an operation fail",
        devices[0].name(),
        devices[1].name()
    ));
    // The engine retries after out-of-memory errors, so few faults make an operation fail.
    let few = match faults {
        Faults::All => 10,
        Faults::Some { .. } => 5,
        Faults::One => 0,
    };
    assert!(failed > few || matches!(faults, Faults::One), "the operations make calls");
}

/// A slot of a slab.
const SMALL: u64 = 5000;
/// A size with its own allocation.
const LARGE: u64 = (8 << 20) + 4;

#[test]
fn any_call_may_fail_while_a_buffer_moves_between_twins() {
    let rig = Rig::new();
    for device in rig.all() {
        let twin = rig.open(&device.adapter().clone());
        check(&rig, [&device, &twin], SMALL, Faults::small());
    }
}

#[test]
fn any_call_may_fail_while_a_buffer_moves_between_drivers() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    check(&rig, [&lavapipe, &swiftshader], SMALL, Faults::small());
    check(&rig, [&swiftshader, &lavapipe], SMALL, Faults::small());
}

#[test]
fn any_call_may_fail_while_a_buffer_with_its_own_allocation_moves() {
    let rig = Rig::new();
    let [one, two] = rig.two_of_one_adapter();
    check(&rig, [&one, &two], LARGE, Faults::large());
}

#[test]
fn any_call_may_fail_while_many_buffers_are_used_moved_and_revoked() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let twin = rig.open(&device.adapter().clone());
        let devices = [&device, &twin];
        check_play(engine, devices, Faults::small(), |fault| {
            together::play(engine, devices, fault)
        });
    }
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let devices = [&swiftshader, &lavapipe];
    check_play(engine, devices, Faults::small(), |fault| together::play(engine, devices, fault));
}

#[test]
fn any_call_may_fail_where_the_host_cannot_map_device_memory() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let twin = rig.open(&lavapipe.adapter().clone());
    check(&rig, [&lavapipe, &twin], SMALL, Faults::small());
    check(&rig, [&swiftshader, &lavapipe], SMALL, Faults::small());
}
