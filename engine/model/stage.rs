//! The environment of the buffer models: an engine with two devices, and a check at the end that no object
//! is left.
#![expect(unsafe_code, reason = "recording a fill")]

use std::sync::OnceLock;
use std::time::Duration;

use ash::vk::DriverId;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Mutex};

use crate::observe::Object;
use crate::transfer::PairKey;
use crate::{
    Access, Adapter, Attachment, BufferDescriptor, Device, DomainId, Engine, EngineDescriptor,
    Error, Fence, Importer, Invalidation, Mapping, Migration, Result, SharedBuffer, Verdict,
};

/// An engine, two devices, and a buffer whose home is the first device and whose words are all [`FIRST`].
pub(super) struct Stage {
    pub(super) buffer: SharedBuffer,
    pub(super) a: Device,
    pub(super) b: Device,
    pub(super) engine: Engine,
}

/// Initial value of every word of a stage's buffer.
pub(super) const FIRST: u32 = 0x0101_0101;
/// A size that the host may copy, and one that only devices copy.
const SIZES: [u64; 2] = [1 << 10, 68 << 10];

/// Slow setup that all runs share: a loaded driver, and the routes that were proved between its devices.
struct Warm {
    adapter: Adapter,
    to_itself: Verdict,
    to_another: Verdict,
}

static WARM: OnceLock<Warm> = OnceLock::new();

impl Stage {
    pub(super) fn new() -> Self {
        let warm = WARM.get_or_init(Warm::up);
        let engine = Engine::without_instance(&descriptor());
        let open = || engine.open_device(&warm.adapter).expect("the adapter opens");
        let (a, b) = (open(), open());
        for (other, verdict) in [(&a, &warm.to_itself), (&b, &warm.to_another)] {
            let key = PairKey::new(&a.0, &other.0);
            engine.set.core.routes.keep(key, verdict.clone(), Duration::ZERO);
        }
        let size = SIZES[usize::from(thread_rng().gen_bool(0.5))];
        let buffer = create(&engine, &a, size);
        Self { buffer, a, b, engine }
    }

    /// Creates another buffer like the first one.
    pub(super) fn another(&self) -> SharedBuffer {
        create(&self.engine, &self.a, self.buffer.size())
    }

    /// Moves the buffer; `None` if the buffer is busy.
    pub(super) fn move_to(&self, to: DomainId) -> Option<Migration> {
        match self.buffer.migrate(to) {
            Ok(moved) => Some(moved),
            Err(Error::Busy { .. }) => None,
            Err(error) => panic!("the move succeeds, or the buffer is busy: {error}"),
        }
    }

    /// Moves the buffer into system memory, and then to the second device.
    pub(super) fn move_on(&self) -> [Option<Migration>; 2] {
        [DomainId::System, DomainId::Vram(self.b.id())].map(|to| self.move_to(to))
    }

    /// Sets every word, on the device of the attachment; remaps if the buffer has moved.
    pub(super) fn write(&self, attachment: &Attachment, mapping: &mut Mapping, word: u32) {
        self.try_write(attachment, mapping, word).expect("the submission succeeds");
    }

    /// Like [`write`](Self::write), for a buffer that may be purged.
    pub(super) fn try_write(
        &self,
        attachment: &Attachment,
        mapping: &mut Mapping,
        word: u32,
    ) -> Result<Fence> {
        let device = attachment.device();
        self.engine.submit_remapped(&device, &mut [(attachment, mapping)], |work, mapped| {
            let view = work.write(mapped[0])?;
            let raw = device.raw().clone();
            // SAFETY: the commands write the mapping's range and use nothing else.
            unsafe {
                work.record(move |commands| {
                    fill(&raw, commands, view, word);
                });
            }
            Ok(())
        })
    }

    /// The value that all words of the buffer have.
    pub(super) fn word(&self) -> u32 {
        word(&self.buffer)
    }

    /// Drops the stage and checks that no object is left.
    pub(super) fn finish(self) {
        let live = Arc::clone(self.engine.live());
        drop(self);
        for &object in Object::ALL {
            assert_eq!(live.count(object), 0, "{object:?} still alive");
        }
    }
}

fn fill(raw: &ash::Device, commands: ash::vk::CommandBuffer, view: crate::RawView, word: u32) {
    // SAFETY: the range lies within the buffer, which is a transfer destination like all of peerbuf's.
    unsafe { raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word) };
}

fn create(engine: &Engine, home: &Device, size: u64) -> SharedBuffer {
    let buffer = engine.create_buffer(home, BufferDescriptor::new(size));
    let buffer = buffer.expect("there is memory");
    let access = buffer.host_access(Access::Write).expect("the buffer is idle");
    access
        .write(0, &FIRST.to_ne_bytes().repeat(size as usize / 4))
        .expect("the range is in the buffer");
    access.end().expect("the access ends without an error");
    buffer
}

/// The value that all words of `buffer` have. Two values at a time would be a torn move, since no thread writes.
pub(super) fn word(buffer: &SharedBuffer) -> u32 {
    let words = words(buffer);
    assert!(words.iter().all(|word| *word == words[0]), "all words have one value");
    words[0]
}

/// All words of `buffer`.
pub(super) fn words(buffer: &SharedBuffer) -> Vec<u32> {
    let mut bytes = vec![0; buffer.size() as usize];
    let access = buffer.host_access(Access::Read).expect("the host can read the buffer");
    access.read(0, &mut bytes).expect("the range is in the buffer");
    access.end().expect("the access ends without an error");
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
}

impl Warm {
    fn up() -> Self {
        let engine = Engine::open(&descriptor()).expect("there is a Vulkan driver");
        let usable = || engine.adapters().iter().filter(|adapter| adapter.missing().is_empty());
        // SwiftShader opens devices in the shortest time.
        let quick = usable().find(|adapter| adapter.driver_id() == DriverId::GOOGLE_SWIFTSHADER);
        let adapter = quick.or_else(|| usable().next()).expect("one adapter is usable").clone();
        let open = || engine.open_device(&adapter).expect("the adapter opens");
        let (a, b) = (open(), open());
        let prove = |to| Verdict::clone(&engine.route(&a, to).expect("the route is proved"));
        let (to_itself, to_another) = (prove(&a), prove(&b));
        assert!(to_another.route.is_shared(), "two devices of one driver share memory");
        Self { adapter, to_itself, to_another }
    }
}

/// Timeout of waits for a driver. Waits for other threads of a model have none.
pub(super) const DRIVER: Duration = Duration::from_secs(60);

fn descriptor() -> EngineDescriptor {
    EngineDescriptor::new().timeout(DRIVER)
}

/// An importer that records the generations it is notified of.
#[derive(Default)]
pub(super) struct Notified(Mutex<Vec<u32>>);

impl Notified {
    pub(super) fn list(&self) -> Vec<u32> {
        self.0.lock().expect("no thread panicked").clone()
    }

    pub(super) fn has(&self, generation: u32) -> bool {
        self.list().contains(&generation)
    }
}

impl Importer for Notified {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        self.0.lock().expect("no thread panicked").push(invalidation.generation());
    }
}

/// Attaches `device` dynamically, with a [`Notified`] of its own.
pub(super) fn attach_notified(
    buffer: &SharedBuffer,
    device: &Device,
) -> Result<(Attachment, Arc<Notified>)> {
    let notified = Arc::<Notified>::default();
    let attachment = buffer.attach_dynamic(device, Arc::clone(&notified) as Arc<dyn Importer>)?;
    Ok((attachment, notified))
}
