//! The test rig: an engine under the validation layer, devices found by declared requirements, and a check
//! at the end that nothing is left behind.
//!
//! A test creates its [`Rig`] first, so that it is dropped last. Its drop checks that the process has the file
//! descriptors it began with, that no object of the engine is alive, and that Vulkan reported no fault. A test
//! that lacks a requirement reports that on the real standard error, and fails under `CI=true`: a silent skip
//! is a false pass.
#![expect(dead_code, reason = "every test file uses its own part of the rig")]

pub(crate) mod allowed;
pub(crate) mod app;
pub(crate) mod bound;
pub(crate) mod bytes;
pub(crate) mod child;
pub(crate) mod commands;
pub(crate) mod faulty_queue;
pub(crate) mod fds;
pub(crate) mod gate;
pub(crate) mod heap;
pub(crate) mod image_recorder;
pub(crate) mod note;
pub(crate) mod random;
pub(crate) mod reach;
pub(crate) mod recorder;
pub(crate) mod soak;
pub(crate) mod soft_memory;
pub(crate) mod soft_queues;
pub(crate) mod timeline_export;
pub(crate) mod turn;
pub(crate) mod until;
pub(crate) mod watchdog;

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ash::vk::DriverId;
use peerbuf::device::{Call, Message};
use peerbuf::observe::{Live, Object};
use peerbuf::transfer::CopySpeeds;
use peerbuf::{
    Access, Adapter, Attachment, BufferDescriptor, Device, Engine, EngineDescriptor, HandleType,
    SlabGrouping, Validation,
};

use fds::OpenFds;
use turn::{Turn, turn};
use watchdog::Watchdog;

/// A timeout that is never reached: the watchdog ends a test that hangs earlier.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// One test's engine and devices, and what is needed to check that the test leaves nothing behind.
pub(crate) struct Rig {
    engine: Option<Engine>,
    live: Arc<Live>,
    messages: Messages,
    /// The drivers of opened devices, for the list of allowed messages.
    drivers: Mutex<Vec<DriverId>>,
    /// Error codes that the test provokes and drivers may report.
    provoked: Mutex<Vec<&'static str>>,
    before: OpenFds,
    watchdog: Watchdog,
    // Last, so that the next test begins when all else is dropped.
    _turn: Turn,
}

/// The messages of the validation layer and the drivers.
pub(crate) type Messages = Arc<Mutex<Vec<Message>>>;

/// Keeps the drivers loaded. SwiftShader's compiler opens a memfd (`swiftshader_jit`) once per load of
/// the library and never closes it, and the loader unloads drivers with the last instance.
static WARM: OnceLock<Vec<Adapter>> = OnceLock::new();

impl Rig {
    /// Waits for its turn and opens an engine under the validation layer.
    pub(crate) fn new() -> Self {
        Self::with(|descriptor| descriptor)
    }

    /// Opens an engine with a descriptor modified by `change`.
    pub(crate) fn with(change: impl FnOnce(EngineDescriptor) -> EngineDescriptor) -> Self {
        let turn = turn();
        let watchdog = Watchdog::start();
        // Loaders and drivers keep what they open on first use: caches, compilers, device nodes.
        WARM.get_or_init(warm_up);
        let before = OpenFds::now();
        let messages = Messages::default();
        let engine = open(change(descriptor(&messages)));
        Self {
            live: Arc::clone(engine.live()),
            engine: Some(engine),
            messages,
            drivers: Mutex::default(),
            provoked: Mutex::default(),
            before,
            watchdog,
            _turn: turn,
        }
    }

    /// The engine.
    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine is there until the rig is finished")
    }

    /// Takes the engine out, for tests of drop order.
    pub(crate) fn take_engine(&mut self) -> Engine {
        self.engine.take().expect("the engine is taken once")
    }

    /// Opens a second engine in the same process, which is external to the first.
    pub(crate) fn external_engine(&self) -> Engine {
        open(descriptor(&self.messages))
    }

    /// The list to which further engines of a test add their messages.
    pub(crate) fn messages(&self) -> &Messages {
        &self.messages
    }

    /// Opens a device of the rig's engine.
    pub(crate) fn open(&self, adapter: &Adapter) -> Device {
        let device = self.engine().open_device(adapter).expect("the adapter opens");
        self.know(&device);
        device
    }

    /// Opens a device of another engine on the same adapter as `twin`.
    pub(crate) fn open_on(&self, engine: &Engine, twin: &Device) -> Device {
        let uuid = peerbuf::AdapterSelector::Uuid(twin.adapter().device_uuid());
        let adapter = engine.adapter(uuid).expect("a second engine sees the same adapters");
        let device = engine.open_device(adapter).expect("the adapter opens");
        self.know(&device);
        device
    }

    /// Records the driver of a device, for the list of allowed messages.
    pub(crate) fn know(&self, device: &Device) {
        let driver = device.adapter().driver_id();
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner).push(driver);
    }

    /// Declares that the test makes drivers fail with `code`. Some drivers report their own errors as messages
    /// without a VUID, since no rule is violated.
    pub(crate) fn provokes(&self, code: &'static str) {
        self.provoked.lock().unwrap_or_else(PoisonError::into_inner).push(code);
    }

    // ---- devices by requirement ----

    /// Opens a device of lavapipe; reports it and returns `None` if there is none.
    pub(crate) fn lavapipe(&self) -> Option<Device> {
        self.of_driver(DriverId::MESA_LLVMPIPE, "lavapipe")
    }

    /// Opens a device of SwiftShader; reports it and returns `None` if there is none.
    pub(crate) fn swiftshader(&self) -> Option<Device> {
        self.of_driver(DriverId::GOOGLE_SWIFTSHADER, "SwiftShader")
    }

    /// Opens a device of each of two drivers that share no kind of fd: lavapipe and SwiftShader.
    pub(crate) fn two_drivers(&self) -> Option<[Device; 2]> {
        Some([self.lavapipe()?, self.swiftshader()?])
    }

    /// Opens one device of every usable adapter.
    pub(crate) fn all(&self) -> Vec<Device> {
        // Both drivers are always required, in addition to any others.
        for (driver, name) in DRIVERS {
            if self.find(driver).is_none() {
                missing(name);
            }
        }
        self.usable().map(|adapter| self.open(adapter)).collect()
    }

    /// Opens two devices of every adapter, which stand in for two GPUs each.
    pub(crate) fn twice_each(&self) -> Vec<Device> {
        self.all()
            .into_iter()
            .flat_map(|first| {
                let second = self.open(&first.adapter().clone());
                [first, second]
            })
            .collect()
    }

    /// Opens two devices of the first usable adapter.
    pub(crate) fn two_of_one_adapter(&self) -> [Device; 2] {
        let adapter = self.usable().next().expect("an engine opens with a usable adapter");
        [self.open(adapter), self.open(adapter)]
    }

    fn of_driver(&self, driver: DriverId, name: &str) -> Option<Device> {
        match self.find(driver) {
            Some(adapter) => Some(self.open(adapter)),
            None => {
                missing(name);
                None
            }
        }
    }

    fn find(&self, driver: DriverId) -> Option<&Adapter> {
        self.usable().find(|adapter| adapter.driver_id() == driver)
    }

    fn usable(&self) -> impl Iterator<Item = &Adapter> {
        self.engine().adapters().iter().filter(|adapter| adapter.missing().is_empty())
    }

    // ---- the end ----

    /// The current call counts, for a later comparison.
    pub(crate) fn made(&self) -> Made {
        Made(std::array::from_fn(|at| self.engine().calls().made(Call::ALL[at])))
    }

    /// Ends the rig and checks what is left, as its drop does. For tests that have something to do afterwards.
    pub(crate) fn finish(self) {
        drop(self);
    }

    /// Lists everything that is wrong at the end of the test.
    fn complaints(&mut self) -> Vec<String> {
        self.engine = None;
        let mut complaints = alive(&self.live);
        complaints.extend(self.before.difference(&OpenFds::now()));
        let drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        let provoked = self.provoked.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.extend(
            messages
                .iter()
                .take_while(|message| !allowed::is_timeout_of_the_layer(message))
                .filter(|message| !allowed::is_allowed(message, &drivers))
                .filter(|message| !is_provoked(message, &provoked))
                .map(|message| format!("Vulkan reported: {message}")),
        );
        complaints
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        let complaints = self.complaints();
        self.watchdog.stop();
        if complaints.is_empty() {
            return;
        }
        let list = complaints.join("\n  ");
        let name = watchdog::test_name();
        if failing {
            // The test's own panic reports the failure; this list may help to explain it.
            say(&format!("{name} failed, and at its end:\n  {list}"));
        } else {
            panic!("{name} left something behind:\n  {list}");
        }
    }
}

/// Call counts at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made([u64; Call::ALL.len()]);

impl Made {
    /// The calls made since `earlier`, by name, without the reads of timelines: how many there are depends on time.
    pub(crate) fn since(self, earlier: Self) -> Vec<(&'static str, u64)> {
        Call::ALL
            .iter()
            .zip(self.0.into_iter().zip(earlier.0))
            .filter(|(call, (now, then))| now > then && **call != Call::GetSemaphoreCounterValue)
            .map(|(call, (now, then))| (call.name(), now - then))
            .collect()
    }
}

/// The drivers that the suite always requires.
const DRIVERS: [(DriverId, &str); 2] =
    [(DriverId::MESA_LLVMPIPE, "lavapipe"), (DriverId::GOOGLE_SWIFTSHADER, "SwiftShader")];

/// Whether the suite runs in the virtual machine, which has real dma-bufs.
pub(crate) fn in_vm() -> bool {
    std::env::var_os("PEERBUF_VM").is_some_and(|value| value == "1")
}

/// Whether this is the virtual machine, and the run there that is part of every `make test`: then a test that goes
/// through all cases takes those that only real dma-bufs have. `VM_TESTS=all` and a soak have all of them.
pub(crate) fn in_short_vm() -> bool {
    let all = std::env::var_os("VM_ALL").is_some_and(|value| value == "1");
    in_vm() && !all && soak::factor() == 1
}

/// Whether tests of real dma-bufs can run here. The virtual machine must have them; natively they are
/// run if dma-bufs exist, and are otherwise left to the vm tier.
pub(crate) fn needs_dma_buf(device: &Device) -> bool {
    let nodes = ["/dev/udmabuf", "/dev/dma_heap/system"];
    let absent: Vec<_> =
        nodes.into_iter().filter(|node| !std::path::Path::new(node).exists()).collect();
    let exports = device.adapter().external_buffer(HandleType::DmaBuf).exportable;
    if absent.is_empty() && exports {
        return true;
    }
    let why = format!(
        "no {} here, and {} {} dma-bufs",
        absent.join(", "),
        device.name(),
        if exports { "exports" } else { "does not export" }
    );
    assert!(!in_vm(), "{}: the vm tier must have dma-bufs, but: {why}", watchdog::test_name());
    say(&format!("{} runs in the vm tier: {why}", watchdog::test_name()));
    false
}

/// Reports that a requirement of the test is missing. Under `CI=true` that is a failure.
pub(crate) fn missing(what: &str) {
    let name = watchdog::test_name();
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!ci, "{name} needs {what}, which is missing, and CI=true allows no skip");
    static SAID: Mutex<Vec<(String, String)>> = Mutex::new(vec![]);
    let this = (name, what.to_owned());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&this) {
        say(&format!("{} SKIPPED a part: {what} is missing on this machine", this.0));
        said.push(this);
    }
}

/// Writes to the real standard error, which the test harness does not capture.
pub(crate) fn say(text: &str) {
    // If standard error is closed, nothing can be reported.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Lists the objects of an engine that are still alive.
pub(crate) fn alive(live: &Live) -> Vec<String> {
    Object::ALL
        .iter()
        .copied()
        .filter(|object| live.count(*object) > 0)
        .map(|object| format!("{} {object:?} still alive", live.count(object)))
        .collect()
}

fn is_provoked(message: &Message, provoked: &[&str]) -> bool {
    let is_rule = message.id.contains("VUID");
    !is_rule && provoked.iter().any(|code| message.text.contains(code))
}

fn descriptor(messages: &Messages) -> EngineDescriptor {
    let sink = Arc::clone(messages);
    EngineDescriptor::new()
        .validation(Validation::Required)
        // The same copy path on every machine.
        .copy_speeds(CopySpeeds::host_up_to(64 << 10))
        // The slabs of software devices, whatever kind a simulated one has: an attach moves no buffer.
        .slabs(SlabGrouping::Common)
        .timeout(LONG)
        .messages(Arc::new(move |message: &Message| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
        }))
}

fn open(descriptor: EngineDescriptor) -> Engine {
    match Engine::open(&descriptor) {
        Err(peerbuf::Error::Unsupported { missing: what, .. }) => {
            missing(&what);
            Engine::open(&descriptor.validation(Validation::IfPresent))
        }
        other => other,
    }
    .expect("the engine opens")
}

/// Uses every feature once on every device, so that drivers create what they keep for the life of the process
/// before anything is counted.
fn warm_up() -> Vec<Adapter> {
    let engine = open(descriptor(&Messages::default()));
    for adapter in engine.adapters().iter().filter(|adapter| adapter.missing().is_empty()) {
        let device = engine.open_device(adapter).expect("the adapter opens");
        let buffer = engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let attachment = buffer.attach(&device).expect("a device reaches its own buffer");
        attachment
            .map(Access::ReadWrite)
            .and_then(|mapping| mapping.fill(1))
            .expect("a compute pass runs");
    }
    engine.adapters().to_vec()
}

/// Writes the pattern of `seed` with the device of `attachment`.
pub(crate) fn fill(attachment: &Attachment, seed: u32) {
    let mapping = attachment.map(Access::Write).expect("the device maps it");
    mapping.fill(seed).expect("the pass runs");
}

/// Asserts that the device of `attachment` sees the pattern of `seed` in every word.
pub(crate) fn assert_pattern(attachment: &Attachment, seed: u32, what: &str) {
    let mapping = attachment.map(Access::Read).expect("the device maps it");
    let report = mapping.verify(seed).expect("the pass runs");
    assert!(report.is_clean(), "{what}: {} sees {report:?}", mapping.device().name());
    assert_eq!(report.words, mapping.buffer().size() / 4, "{what}");
}

/// Waits until the devices are idle, the queue for moves included, so that objects they used can be freed.
#[expect(unsafe_code, reason = "waiting for a raw queue")]
pub(crate) fn wait_idle(devices: &[&Device]) {
    for device in devices {
        assert!(device.wait_until_unused(LONG), "the watchdog ends a test that hangs earlier");
        device
            .with_queue(|queue| {
                // SAFETY: the queue is the device's own, and no other code uses it meanwhile.
                unsafe { device.raw().queue_wait_idle(queue) }
            })
            .expect("the device is not lost");
    }
}
